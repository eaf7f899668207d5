//! The methods that a server sends, as far as the client library could choke on them: those with short strings, tables
//! or a frame size in them (AMQP 0-9-1, and RabbitMQ's extensions).

use super::frame::Frame;
use super::table::{self, Reader, push_long, push_short};

/// `Connection.Tune`.
pub(super) const TUNE: (u16, u16) = (10, 30);
/// `Basic.Return`.
pub(super) const RETURN: (u16, u16) = (60, 50);
/// `Basic.Deliver`.
pub(super) const DELIVER: (u16, u16) = (60, 60);
/// `Basic.Get-Ok`.
pub(super) const GET_OK: (u16, u16) = (60, 71);
/// `Channel.Close`, from either side.
pub(super) const CHANNEL_CLOSE: (u16, u16) = (20, 40);
/// `Channel.Close-Ok`, from either side.
pub(super) const CHANNEL_CLOSE_OK: (u16, u16) = (20, 41);

/// One argument of a method.
#[derive(Debug, Clone, Copy)]
enum Argument {
    /// This number of bytes, handed on as they are.
    Fixed(usize),
    Short,
    Long,
    Table,
}

use Argument::{Fixed, Long, Short, Table};

fn arguments(id: (u16, u16)) -> Option<&'static [Argument]> {
    Some(match id {
        // Connection: Start, Open-Ok, Close, Blocked.
        (10, 10) => &[Fixed(2), Table, Long, Long],
        (10, 41) | (10, 60) => &[Short],
        (10, 50) | CHANNEL_CLOSE => &[Fixed(2), Short, Fixed(4)],
        // Queue.Declare-Ok.
        (50, 11) => &[Short, Fixed(8)],
        // Basic: Consume-Ok, Cancel, Cancel-Ok, Return, Deliver, Get-Ok, Get-Empty.
        (60, 21) | (60, 31) | (60, 72) => &[Short],
        (60, 30) => &[Short, Fixed(1)],
        RETURN => &[Fixed(2), Short, Short, Short],
        DELIVER => &[Short, Fixed(9), Short, Short],
        GET_OK => &[Fixed(9), Short, Short, Fixed(4)],
        _ => return None,
    })
}

/// What became of a method's arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Screened {
    /// The library reads it as it is; or it is so wrong that the connection had better end with it.
    AsItIs,
    /// Strings were no text or a table was more than the library can take: this is the whole payload instead.
    Instead(Vec<u8>),
}

/// The class and the method of a method frame's payload.
pub(super) fn id(payload: &[u8]) -> Option<(u16, u16)> {
    let mut reader = Reader::new(payload);
    Some((reader.u16()?, reader.u16()?))
}

/// What the library gets to read of a method. Strings that are no text become text with U+FFFD in it, of a table that it
/// cannot parse, or that is too large for the frame, the entries that are plain are left.
pub(super) fn screen(id: (u16, u16), payload: &[u8], frame_max: usize) -> Screened {
    let Some(arguments) = arguments(id) else { return Screened::AsItIs };
    let is_small = payload.len() + Frame::OVERHEAD <= frame_max;
    let mut reader = Reader::new(payload.get(4..).unwrap_or_default());
    let is_readable = arguments.iter().try_fold(true, |readable, argument| {
        Some(match argument {
            Fixed(len) => reader.take(*len).map(|_| readable)?,
            Short => readable & std::str::from_utf8(reader.short()?).is_ok(),
            Long => reader.long().map(|_| readable)?,
            Table => readable & (is_small && table::check(reader.long()?, b"").is_ok()),
        })
    });
    match is_readable {
        Some(false) => rewrite(arguments, payload, frame_max).map_or(Screened::AsItIs, Screened::Instead),
        // Not whole: the library says so.
        Some(true) | None => Screened::AsItIs,
    }
}

fn rewrite(arguments: &[Argument], payload: &[u8], frame_max: usize) -> Option<Vec<u8>> {
    let (id, rest) = payload.split_at_checked(4)?;
    let mut reader = Reader::new(rest);
    let mut written = id.to_vec();
    for argument in arguments {
        match argument {
            Fixed(len) => written.extend(reader.take(*len)?),
            Short => push_short(&mut written, &text(reader.short()?)),
            Long => push_long(&mut written, reader.long()?),
            Table => {
                let mut entries = Vec::new();
                let is_text = |name: &[u8]| std::str::from_utf8(name).is_ok();
                for entry in table::plain_entries(reader.long()?, frame_max / 8, is_text) {
                    if entries.len() + entry.len() <= frame_max / 4 {
                        entries.extend(entry);
                    }
                }
                push_long(&mut written, &entries);
            }
        }
    }
    Some(written)
}

/// The bytes as text of at most 255 bytes.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let end = text.floor_char_boundary(usize::from(u8::MAX));
    text[..end].to_owned()
}

/// The routing key of a delivery, as it stands.
pub(super) fn routing_key(id: (u16, u16), payload: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(payload.get(4..)?);
    match id {
        DELIVER => {
            reader.short()?;
            reader.take(9)?;
        }
        GET_OK => {
            reader.take(9)?;
        }
        _ => return None,
    }
    reader.short()?;
    reader.short()
}

/// The delivery tag of a delivery, or of an answer to one.
pub(super) fn delivery_tag(id: (u16, u16), payload: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(payload.get(4..)?);
    if id == DELIVER {
        reader.short()?;
    }
    reader.u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_MAX: usize = 4_096;

    fn short(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).expect("short")], bytes].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).expect("long").to_be_bytes()[..], bytes].concat()
    }

    fn payload((class, method): (u16, u16), arguments: &[Vec<u8>]) -> Vec<u8> {
        [&class.to_be_bytes()[..], &method.to_be_bytes()[..], &arguments.concat()].concat()
    }

    fn deliver(routing_key: &[u8]) -> Vec<u8> {
        payload(DELIVER, &[short(b"tag"), vec![0, 0, 0, 0, 0, 0, 0, 7, 1], short(b"x"), short(routing_key)])
    }

    #[test]
    fn a_method_whose_strings_are_text_passes_as_it_is() {
        let delivered = deliver("größe".as_bytes());
        assert_eq!(screen(DELIVER, &delivered, FRAME_MAX), Screened::AsItIs);
        assert_eq!(routing_key(DELIVER, &delivered), Some("größe".as_bytes()));
        assert_eq!(delivery_tag(DELIVER, &delivered), Some(7));
    }

    #[test]
    fn strings_that_are_no_text_become_text() {
        let expected = deliver("gr\u{fffd}\u{fffd}e".as_bytes());
        assert_eq!(screen(DELIVER, &deliver(b"gr\xf6\xdfe"), FRAME_MAX), Screened::Instead(expected));
        let close = |text: &[u8]| payload((10, 50), &[vec![2, 28], short(text), vec![0; 4]]);
        assert_eq!(
            screen((10, 50), &close(b"\xff"), FRAME_MAX),
            Screened::Instead(close("\u{fffd}".as_bytes()))
        );
    }

    #[test]
    fn a_string_that_grows_beyond_what_a_short_string_holds_is_cut_between_characters() {
        let Screened::Instead(written) = screen(DELIVER, &deliver(&[0xff; 255]), FRAME_MAX) else {
            panic!("it is no text");
        };
        assert_eq!(routing_key(DELIVER, &written), Some("\u{fffd}".repeat(85).as_bytes()));
    }

    #[test]
    fn of_server_properties_that_the_library_cannot_take_the_plain_ones_are_left() {
        let deep = (0..3_000).fold(b"V".to_vec(), |inner, _| [b"A".to_vec(), long(&inner)].concat());
        let plain = [short(b"product"), b"S".to_vec(), long(b"RabbitMQ")].concat();
        let start =
            |entries: &[u8]| payload((10, 10), &[vec![0, 9], long(entries), long(b"PLAIN"), long(b"en_US")]);
        let properties = [short(b"deep"), deep, plain.clone(), short(b"\xff"), b"V".to_vec()].concat();
        assert_eq!(screen((10, 10), &start(&properties), 131_072), Screened::Instead(start(&plain)));
        assert_eq!(screen((10, 10), &start(&plain), 131_072), Screened::AsItIs);
    }

    #[test]
    fn server_properties_beyond_the_frame_are_cut() {
        let large = [short(b"large"), b"S".to_vec(), long(&[b'x'; 100_000])].concat();
        let start = payload((10, 10), &[vec![0, 9], long(&large), long(b"PLAIN"), long(b"en_US")]);
        let Screened::Instead(written) = screen((10, 10), &start, FRAME_MAX) else {
            panic!("it is too large")
        };
        assert!(written.len() < FRAME_MAX);
    }

    #[test]
    fn what_is_not_whole_and_what_is_unknown_is_left_to_the_library() {
        let delivered = deliver(b"\xff");
        assert_eq!(screen(DELIVER, &delivered[..delivered.len() - 1], FRAME_MAX), Screened::AsItIs);
        assert_eq!(screen((60, 999), &[0, 60, 3, 231, 0xff], FRAME_MAX), Screened::AsItIs);
        assert_eq!(id(&[0, 60, 0]), None);
    }
}

//! Content headers: the properties and headers of a message, as far as the client library could choke on them.

use super::cut::{Cut, MARK};
use super::frame::Frame;
use super::table::{self, Reader, push_long, push_short};

/// Which properties are short strings, by their bit in the flags and in the order in which they are written. The
/// headers (bit 13), delivery mode, priority and timestamp are not.
const SHORT_STRINGS_BEFORE_HEADERS: [(u16, Cut); 2] =
    [(1 << 15, Cut::Property("content_type")), (1 << 14, Cut::Property("content_encoding"))];
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const SHORT_STRINGS_BEFORE_TIMESTAMP: [(u16, Cut); 4] = [
    (1 << 10, Cut::Property("correlation_id")),
    (1 << 9, Cut::Property("reply_to")),
    (1 << 8, Cut::Property("expiration")),
    (1 << 7, Cut::Property("message_id")),
];
const TIMESTAMP: u16 = 1 << 6;
const SHORT_STRINGS_AFTER_TIMESTAMP: [(u16, Cut); 4] = [
    (1 << 5, Cut::Property("type")),
    (1 << 4, Cut::Property("user_id")),
    (1 << 3, Cut::Property("app_id")),
    (1 << 2, Cut::Property("cluster_id")),
];
/// Nothing that AMQP 0-9-1 knows; the last bit says that more flags follow.
const UNKNOWN: u16 = 0b11;

/// A header of ours is kept when its text is no longer than this. What reads headers takes no longer ones.
const KEPT_VALUE_BYTES_MAX: usize = 4_096;
/// All that is kept of a message's headers.
const KEPT_BYTES_MAX: usize = 16 * 1_024;

/// A content header frame's payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct ContentHeader<'a> {
    class: &'a [u8],
    /// How long the body is that follows.
    pub(super) body_size: u64,
    properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// `None` where it is not even that.
    pub(super) fn read(payload: &'a [u8]) -> Option<ContentHeader<'a>> {
        let mut reader = Reader::new(payload);
        // The weight, which says nothing, goes with the class.
        let class = reader.take(4)?;
        let body_size = reader.u64()?;
        Some(ContentHeader { class, body_size, properties: reader.rest() })
    }

    /// Whether the client library can parse it, in a frame of at most this size, overhead included.
    pub(super) fn check(&self, frame_max: usize) -> Result<(), Cut> {
        if self.class.len() + 8 + self.properties.len() + Frame::OVERHEAD > frame_max {
            return Err(Cut::HeaderFrameTooLarge);
        }
        let mut reader = Reader::new(self.properties);
        let flags = reader.u16().ok_or(Cut::PropertiesNotWhole)?;
        if flags & UNKNOWN != 0 {
            return Err(Cut::PropertiesUnknown);
        }
        check_short_strings(&mut reader, flags, &SHORT_STRINGS_BEFORE_HEADERS)?;
        if flags & HEADERS != 0 {
            table::check(reader.long().ok_or(Cut::PropertiesNotWhole)?, MARK.as_bytes())?;
        }
        for (bit, len) in [(DELIVERY_MODE, 1), (PRIORITY, 1)] {
            skip(&mut reader, flags, bit, len)?;
        }
        check_short_strings(&mut reader, flags, &SHORT_STRINGS_BEFORE_TIMESTAMP)?;
        skip(&mut reader, flags, TIMESTAMP, 8)?;
        check_short_strings(&mut reader, flags, &SHORT_STRINGS_AFTER_TIMESTAMP)?;
        if reader.rest().is_empty() { Ok(()) } else { Err(Cut::PropertiesNotWhole) }
    }

    /// The payload without any property but the headers that are ours (and a stream's offset), as far as they can be
    /// read; with a body of this size, and with a mark that says in words what is missing.
    pub(super) fn rewrite(&self, body_size: u64, mark: &str) -> Vec<u8> {
        let mut entries = Vec::new();
        push_short(&mut entries, MARK);
        entries.push(b'S');
        push_long(&mut entries, mark.as_bytes());
        for entry in table::plain_entries(self.headers(), KEPT_VALUE_BYTES_MAX, is_kept) {
            if entries.len() + entry.len() <= KEPT_BYTES_MAX {
                entries.extend(entry);
            }
        }
        let mut written = self.class.to_vec();
        written.extend(body_size.to_be_bytes());
        written.extend(HEADERS.to_be_bytes());
        push_long(&mut written, &entries);
        written
    }

    /// The entries of the headers; where they break off, as many as there are.
    fn headers(&self) -> &'a [u8] {
        let find = || {
            let mut reader = Reader::new(self.properties);
            let flags = reader.u16()?;
            for (bit, _) in SHORT_STRINGS_BEFORE_HEADERS {
                if flags & bit != 0 {
                    reader.short()?;
                }
            }
            if flags & HEADERS == 0 {
                return None;
            }
            let len = usize::try_from(reader.u32()?).ok()?;
            Some(&reader.rest()[..len.min(reader.rest().len())])
        };
        find().unwrap_or_default()
    }
}

fn check_short_strings(reader: &mut Reader<'_>, flags: u16, properties: &[(u16, Cut)]) -> Result<(), Cut> {
    for (bit, cut) in properties {
        if flags & bit != 0 {
            let text = reader.short().ok_or(Cut::PropertiesNotWhole)?;
            if std::str::from_utf8(text).is_err() {
                return Err(*cut);
            }
        }
    }
    Ok(())
}

fn skip(reader: &mut Reader<'_>, flags: u16, bit: u16, len: usize) -> Result<(), Cut> {
    if flags & bit != 0 {
        reader.take(len).ok_or(Cut::PropertiesNotWhole)?;
    }
    Ok(())
}

/// Whether a header of this name is one that we write ourselves, or that says where in a stream a message lies.
fn is_kept(name: &[u8]) -> bool {
    let is_ours = name.starts_with(b"cancel-") && name.is_ascii() && name != MARK.as_bytes();
    is_ours || matches!(name, b"traceparent" | b"tracestate" | b"x-stream-offset")
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable, ShortString};

    use super::*;

    const FRAME_MAX: usize = 131_072;

    fn header_of(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0][..], &7u64.to_be_bytes(), &flags.to_be_bytes(), properties].concat()
    }

    fn check(payload: &[u8]) -> Result<(), Cut> {
        ContentHeader::read(payload).expect("a header").check(FRAME_MAX)
    }

    /// The properties as the client library reads them from a payload.
    fn read_by_the_library(payload: &[u8]) -> BasicProperties {
        use lapin::protocol::basic::parse_properties;
        let (rest, properties) = parse_properties(&payload[12..]).expect("the library reads it");
        assert!(rest.is_empty());
        properties
    }

    #[test]
    fn every_property_is_known_at_its_place() {
        let short = |text: &[u8]| [&[u8::try_from(text.len()).expect("short")], text].concat();
        let all = |broken: usize| {
            let text = |at: usize| if at == broken { short(b"\xff") } else { short(b"ok") };
            [
                text(0),
                text(1),
                vec![0; 4],
                vec![2],
                vec![5],
                text(2),
                text(3),
                text(4),
                text(5),
                vec![0; 8],
                text(6),
                text(7),
                text(8),
                text(9),
            ]
            .concat()
        };
        let flags = u16::MAX - UNKNOWN;
        assert_eq!(check(&header_of(flags, &all(99))), Ok(()));
        let names = [
            "content_type",
            "content_encoding",
            "correlation_id",
            "reply_to",
            "expiration",
            "message_id",
            "type",
            "user_id",
            "app_id",
            "cluster_id",
        ];
        for (at, name) in names.into_iter().enumerate() {
            assert_eq!(check(&header_of(flags, &all(at))), Err(Cut::Property(name)));
        }
    }

    #[test]
    fn what_is_too_little_too_much_or_unknown_is_named() {
        assert_eq!(check(&header_of(0, b"")), Ok(()));
        assert_eq!(check(&header_of(0, b"x")), Err(Cut::PropertiesNotWhole));
        assert_eq!(check(&header_of(DELIVERY_MODE, b"")), Err(Cut::PropertiesNotWhole));
        assert_eq!(check(&header_of(HEADERS, b"\0\0\0\x09\x01a")), Err(Cut::PropertiesNotWhole));
        assert_eq!(check(&header_of(1, b"\0\0")), Err(Cut::PropertiesUnknown));
        let large = ContentHeader::read(&[0; 4_097 - Frame::OVERHEAD]).expect("a header").check(4_096);
        assert_eq!(large, Err(Cut::HeaderFrameTooLarge));
        assert!(ContentHeader::read(&[0; 11]).is_none());
    }

    #[test]
    fn of_what_cannot_be_read_our_own_headers_are_left_and_a_mark_is_set() {
        let entries = [
            &b"\x0ecancel-attemptl\0\0\0\0\0\0\0\x02"[..],
            b"\x0btraceparentS\0\0\0\x0500-ab",
            b"\x05otherV",
            b"\x0fx-stream-offsetl\0\0\0\0\0\0\0\x05",
            b"\x0acancel-cutS\0\0\0\x06forged",
            b"\x01\xfcV",
        ]
        .concat();
        let len = u32::try_from(entries.len()).expect("small").to_be_bytes();
        let payload = header_of(HEADERS | DELIVERY_MODE, &[&len[..], &entries, &[2]].concat());
        let header = ContentHeader::read(&payload).expect("a header");
        let properties = read_by_the_library(&header.rewrite(64, "what is missing"));
        let expected: FieldTable = std::collections::BTreeMap::from([
            (ShortString::from(MARK), AMQPValue::LongString("what is missing".into())),
            (ShortString::from("cancel-attempt"), AMQPValue::LongLongInt(2)),
            (ShortString::from("traceparent"), AMQPValue::LongString("00-ab".into())),
            (ShortString::from("x-stream-offset"), AMQPValue::LongLongInt(5)),
        ])
        .into();
        assert_eq!(properties, BasicProperties::default().with_headers(expected));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let entries: Vec<u8> = (0..10_000).flat_map(|n| format!("\x0dcancel-{n:06}V").into_bytes()).collect();
        let len = u32::try_from(entries.len()).expect("small").to_be_bytes();
        let payload = header_of(HEADERS, &[&len[..], &entries].concat());
        let rewritten = ContentHeader::read(&payload).expect("a header").rewrite(1, "mark");
        assert!(rewritten.len() < KEPT_BYTES_MAX + 64, "{}", rewritten.len());
    }
}

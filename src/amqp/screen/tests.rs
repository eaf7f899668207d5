use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin::types::AMQPValue;
use proptest::prelude::*;

use super::large::LARGE_BODY_BYTES;
use super::*;

const LIMITS: Limits = Limits { frame_max: 131_072, large_bodies_bytes_max: Some(2 * BODY_BYTES_MAX) };

fn screen() -> Screen {
    Screen::new(LIMITS)
}

/// What the library gets of this input, handed to the screen in chunks of this size.
fn read(screen: &mut Screen, input: &[u8], chunk: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    for chunk in input.chunks(chunk) {
        assert_eq!(screen.read(chunk, &mut out)?, chunk.len());
    }
    Ok(out)
}

/// The frames that the library finds in these bytes.
///
/// # Panics
/// Where it would give the connection up.
fn parsed(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).expect("the library can read it");
        let len = bytes.len() - rest.len();
        assert!(len <= LIMITS.frame_max as usize, "a frame of {len} bytes");
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn frame(frame_type: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_frame(&mut out, frame_type, channel, payload);
    out
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text].concat()
}

fn method((class, id): (u16, u16), arguments: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes(), &id.to_be_bytes(), arguments].concat()
}

fn deliver(channel: u16, tag: u64, routing_key: &[u8]) -> Vec<u8> {
    let arguments =
        [&short(b"ctag")[..], &tag.to_be_bytes(), &[0], &short(b"cancel.intents"), &short(routing_key)]
            .concat();
    frame(Frame::METHOD, channel, &method(method::DELIVER, &arguments))
}

fn returned(channel: u16) -> Vec<u8> {
    let arguments = [&[1, 56][..], &short(b"NO_ROUTE"), &short(b"cancel.announce"), &short(b"key")].concat();
    frame(Frame::METHOD, channel, &method(method::RETURN, &arguments))
}

/// A content header with these headers, as they stand, and a delivery mode.
fn header(channel: u16, body_size: u64, entries: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend(body_size.to_be_bytes());
    payload.extend(0x3000u16.to_be_bytes());
    table::push_long(&mut payload, entries);
    payload.push(2);
    frame(Frame::HEADER, channel, &payload)
}

fn body(channel: u16, body: &[u8]) -> Vec<u8> {
    body.chunks(LIMITS.frame_max as usize - Frame::OVERHEAD)
        .flat_map(|chunk| frame(Frame::BODY, channel, chunk))
        .collect()
}

/// A message as the library sees it: its routing key, the mark if there is one, its body.
fn message(bytes: &[u8]) -> (String, Option<String>, Vec<u8>) {
    use amq_protocol::protocol::{AMQPClass, basic::AMQPMethod};
    let (mut key, mut mark, mut body, mut expected) = (None, None, Vec::new(), None);
    for frame in parsed(bytes) {
        match &frame {
            AMQPFrame::Method(_, AMQPClass::Basic(AMQPMethod::Deliver(deliver))) => {
                key = Some(deliver.routing_key.to_string());
            }
            AMQPFrame::Header(_, header) => {
                expected = Some(header.body_size);
                let headers = header.properties.headers().clone().unwrap_or_default();
                mark = headers.inner().get(MARK).map(|value| {
                    let AMQPValue::LongString(text) = value else {
                        panic!("a mark is text, and not {value:?}")
                    };
                    text.to_string()
                });
            }
            AMQPFrame::Body(_, bytes) => body.extend(bytes),
            AMQPFrame::ProtocolHeader(_)
            | AMQPFrame::Method(..)
            | AMQPFrame::Heartbeat
            | AMQPFrame::InvalidHeartbeat(_) => panic!("{frame:?}"),
        }
    }
    assert_eq!(expected, Some(body.len() as u64));
    (key.expect("a delivery"), mark, body)
}

#[test]
fn what_is_as_it_should_be_passes_unchanged_in_whatever_pieces_it_comes() {
    let entries = b"\x0ecancel-attemptl\0\0\0\0\0\0\0\x02\x05otherF\0\0\0\x00";
    let stream = [
        deliver(1, 1, b"async_cancel"),
        header(1, 3, entries),
        body(1, b"{ }"),
        Frame::WHOLE_HEARTBEAT.to_vec(),
        deliver(2, 1, b"batch_cancel"),
        header(2, 0, b""),
        deliver(2, 2, b"batch_cancel"),
        header(2, 200_000, b""),
        body(2, &[b'x'; 200_000]),
        frame(Frame::METHOD, 1, &method((60, 11), b"")),
    ]
    .concat();
    for chunk in [1, 2, 7, 8, 9, 100, 65_536, stream.len()] {
        assert_eq!(read(&mut screen(), &stream, chunk), Ok(stream.clone()), "{chunk}");
    }
}

#[test]
fn a_letter_whose_properties_are_no_text_loses_them_and_says_so() {
    let letter = [deliver(1, 1, b"async_cancel"), header(1, 3, b"\x01\xfcV"), body(1, b"{ }")].concat();
    let next = [deliver(1, 2, b"async_cancel"), header(1, 0, b"")].concat();
    for chunk in [1, 10, 1_000] {
        let mut screen = screen();
        let (key, mark, body) = message(&read(&mut screen, &letter, chunk).expect("a letter"));
        assert_eq!((key.as_str(), body.as_slice()), ("async_cancel", &b"{ }"[..]));
        assert_eq!(mark.as_deref(), Some("the name of a header is not UTF-8"));
        assert_eq!(read(&mut screen, &next, chunk), Ok(next.clone()), "the next one is not marked");
    }
}

#[test]
fn a_letter_whose_routing_key_is_no_text_says_so() {
    let letter = [deliver(1, 1, b"async\xff"), header(1, 3, b""), body(1, b"{ }")].concat();
    let (key, mark, _) = message(&read(&mut screen(), &letter, 5).expect("a letter"));
    assert_eq!((key.as_str(), mark.as_deref()), ("async\u{fffd}", Some("the routing key is not UTF-8")));
}

#[test]
fn nobody_marks_a_letter_but_the_screen() {
    let forged = [&short(MARK.as_bytes())[..], b"S\0\0\0\x03abc"].concat();
    let letter = [deliver(1, 1, b"async_cancel"), header(1, 3, &forged), body(1, b"{ }")].concat();
    let (_, mark, _) = message(&read(&mut screen(), &letter, 5).expect("a letter"));
    assert_eq!(mark.as_deref(), Some("the header cancel-cut is reserved"));
}

#[test]
fn a_header_frame_that_the_broker_has_made_too_large_is_made_smaller() {
    let large = [&short(b"large")[..], b"S", &long(&[b'x'; 131_072])].concat();
    let letter = [deliver(1, 1, b"async_cancel"), header(1, 3, &large), body(1, b"{ }")].concat();
    let (_, mark, body) = message(&read(&mut screen(), &letter, 1_000).expect("a letter"));
    assert_eq!(mark.as_deref(), Some("the properties are larger than a frame"));
    assert_eq!(body, b"{ }");
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    table::push_long(&mut written, bytes);
    written
}

#[test]
fn a_body_beyond_the_bound_is_cut_and_named_by_its_length_and_digest() {
    let whole = vec![b'x'; usize::try_from(BODY_BYTES_MAX).expect("small") + 1];
    let letter =
        [deliver(1, 1, b"async_cancel"), header(1, whole.len() as u64, b""), body(1, &whole)].concat();
    let expected = format!(
        "the body has 1048577 bytes (SHA-256 {}), of which the first 65536 are kept",
        Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    );
    for chunk in [1_000, 65_536, letter.len()] {
        let mut screen = screen();
        let (_, mark, body) = message(&read(&mut screen, &letter, chunk).expect("a letter"));
        assert_eq!(mark.as_deref(), Some(expected.as_str()));
        assert_eq!(body, vec![b'x'; CUT_BODY_BYTES]);
        assert_eq!(screen.swallowed_bytes(), whole.len() as u64);
        assert_eq!(screen.held_bytes, 0);
    }
}

#[test]
fn a_cut_body_and_bad_properties_are_both_told() {
    let len = BODY_BYTES_MAX + 1;
    let letter = [
        deliver(1, 1, b"async_cancel"),
        header(1, len, b"\x01\xfcV"),
        body(1, &vec![b'x'; usize::try_from(len).expect("small")]),
    ]
    .concat();
    let (_, mark, _) = message(&read(&mut screen(), &letter, 65_536).expect("a letter"));
    let mark = mark.expect("a mark");
    assert!(mark.starts_with("the body has 1048577 bytes"), "{mark}");
    assert!(mark.ends_with("; the name of a header is not UTF-8"), "{mark}");
}

#[test]
fn a_body_of_exactly_the_bound_is_handed_on_whole() {
    let whole = vec![b'x'; usize::try_from(BODY_BYTES_MAX).expect("small")];
    let letter = [deliver(1, 1, b"async_cancel"), header(1, BODY_BYTES_MAX, b""), body(1, &whole)].concat();
    assert_eq!(read(&mut screen(), &letter, 65_536), Ok(letter));
}

#[test]
fn what_the_broker_returns_is_not_cut() {
    let whole = vec![b'x'; usize::try_from(BODY_BYTES_MAX).expect("small") + 1];
    let back = [returned(1), header(1, whole.len() as u64, b""), body(1, &whole)].concat();
    assert_eq!(read(&mut screen(), &back, 65_536), Ok(back));
}

#[test]
fn while_one_body_is_cut_other_channels_go_on() {
    let len = usize::try_from(BODY_BYTES_MAX).expect("small") + 10;
    let large = body(1, &vec![b'x'; len]);
    let (first_half, second_half) = large.split_at(LIMITS.frame_max as usize);
    let other = [deliver(2, 1, b"batch_cancel"), header(2, 3, b""), body(2, b"{ }")].concat();
    let mut screen = screen();
    let begun = [deliver(1, 1, b"async_cancel"), header(1, len as u64, b""), first_half.to_vec()].concat();
    assert_eq!(read(&mut screen, &begun, 1_000), Ok(deliver(1, 1, b"async_cancel")));
    assert_eq!(read(&mut screen, &other, 10), Ok(other.clone()));
    let rest = read(&mut screen, second_half, 1_000).expect("the rest");
    assert_eq!(parsed(&rest).len(), 2, "a header and a body");
}

#[test]
fn the_size_of_a_frame_is_bounded_whatever_the_server_proposes() {
    let tune = |frame_max: u32| {
        let arguments = [&[7, 255][..], &frame_max.to_be_bytes(), &[0, 60]].concat();
        frame(Frame::METHOD, 0, &method(method::TUNE, &arguments))
    };
    for (proposed, agreed) in
        [(0, 131_072), (u32::MAX, 131_072), (131_073, 131_072), (131_072, 131_072), (4_096, 4_096)]
    {
        let mut screen = screen();
        assert_eq!(read(&mut screen, &tune(proposed), 3), Ok(tune(agreed)), "{proposed}");
        assert_eq!(screen.frame_max, agreed as usize);
    }
}

#[test]
fn what_can_only_be_an_attack_ends_the_connection() {
    let too_large = [&[Frame::METHOD, 0, 0][..], &(1024 * 1024 + 1u32).to_be_bytes()].concat();
    assert!(matches!(read(&mut screen(), &too_large, 3), Err(FrameError::TooLarge { bytes: 1_048_577, .. })));
    let large_body = [&[Frame::BODY, 0, 1][..], &131_065u32.to_be_bytes()].concat();
    assert!(matches!(
        read(&mut screen(), &large_body, 3),
        Err(FrameError::BodyFrameTooLarge { bytes: 131_073, .. })
    ));
    let beyond =
        [deliver(1, 1, b"k"), header(1, BODY_BYTES_MAX + 1, b""), body(1, &vec![0; 1_048_600])].concat();
    assert_eq!(read(&mut screen(), &beyond, 1_000), Err(FrameError::BodyBroken));
    let mut unended = [deliver(1, 1, b"k"), header(1, BODY_BYTES_MAX + 1, b""), body(1, b"x")].concat();
    *unended.last_mut().expect("bytes") = 0;
    assert_eq!(read(&mut screen(), &unended, 1_000), Err(FrameError::BodyBroken));
    let many: Vec<u8> = (1..200)
        .flat_map(|channel| [deliver(channel, 1, b"k"), header(channel, BODY_BYTES_MAX + 1, b"")].concat())
        .collect();
    assert_eq!(read(&mut screen(), &many, 1_000), Err(FrameError::TooMuchHeld));
}

#[test]
fn what_is_no_frame_is_the_librarys_to_judge() {
    for stream in
        [&b"AMQP\0\0\x09\x01"[..], b"\x15\x03\x01\0\x02\x02\x28", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    {
        assert_eq!(read(&mut screen(), stream, 1), Ok(stream.to_vec()));
    }
    let mut unended = deliver(1, 1, b"k");
    *unended.last_mut().expect("bytes") = 0;
    let stream = [unended, vec![1, 2, 3]].concat();
    assert_eq!(read(&mut screen(), &stream, 2), Ok(stream));
}

#[test]
fn beyond_its_bound_of_large_letters_nothing_is_read_until_some_are_acked() {
    let letter = |tag: u64| {
        let whole = vec![b'x'; usize::try_from(BODY_BYTES_MAX).expect("small")];
        [deliver(1, tag, b"k"), header(1, BODY_BYTES_MAX, b""), body(1, &whole)].concat()
    };
    let ack = |tag: u64, multiple: u8| {
        let arguments = [&tag.to_be_bytes()[..], &[multiple]].concat();
        frame(Frame::METHOD, 1, &method(Written::ACK, &arguments))
    };
    let mut screen = screen();
    let mut out = Vec::new();
    for tag in [1, 2] {
        screen.read(&letter(tag), &mut out).expect("within the bound");
    }
    assert!(!screen.is_full());
    let third = letter(3);
    let taken = screen.read(&third, &mut out).expect("its header");
    assert!(screen.is_full() && taken < third.len());
    assert_eq!(screen.heartbeat(), Some(Frame::WHOLE_HEARTBEAT));
    screen.wrote(b"AMQP\0\0\x09\x01");
    // An ack that is written in pieces, after something else.
    let written =
        [frame(Frame::METHOD, 2, &method((60, 40), &[b'x'; 50])), body(2, &[0; 500]), ack(2, 0)].concat();
    for byte in written {
        screen.wrote(&[byte]);
    }
    screen.wrote(&Frame::WHOLE_HEARTBEAT);
    assert!(!screen.is_full());
    assert_eq!(screen.read(&third[taken..], &mut out), Ok(third.len() - taken));
    assert_eq!(screen.large.bytes, 2 * BODY_BYTES_MAX);
    screen.wrote(&ack(3, 1));
    screen.wrote(&Frame::WHOLE_HEARTBEAT);
    assert_eq!(screen.large.bytes, 0);
}

#[test]
fn the_letters_of_a_channel_that_is_closed_hold_nothing_up() {
    let mut large = LargeBodies::default();
    large.delivered(1, 1, LARGE_BODY_BYTES + 1, LARGE_BODY_BYTES + 1);
    large.delivered(2, 1, LARGE_BODY_BYTES + 1, 64);
    large.delivered(2, 2, LARGE_BODY_BYTES, LARGE_BODY_BYTES);
    assert_eq!(large.bytes, LARGE_BODY_BYTES + 65);
    large.forget(1);
    assert_eq!(large.bytes, 64);
    large.settled(2, 0, true);
    assert_eq!(large.bytes, 0);
}

/// A value of a header, of any type, with its type before it.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(b"V".to_vec()),
        any::<u8>().prop_map(|byte| vec![b't', byte]),
        any::<[u8; 4]>().prop_map(|bytes| [&b"I"[..], &bytes].concat()),
        any::<[u8; 8]>().prop_map(|bytes| [&b"l"[..], &bytes].concat()),
        any::<[u8; 5]>().prop_map(|bytes| [&b"D"[..], &bytes].concat()),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|text| [&b"S"[..], &long(&text)].concat()),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|text| [&b"x"[..], &long(&text)].concat()),
    ];
    leaf.prop_recursive(8, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| [
                &b"A"[..],
                &long(&values.concat())
            ]
            .concat()),
            prop::collection::vec(("[a-zß]{0,10}", inner), 0..4).prop_map(|fields| [
                &b"F"[..],
                &long(&entries(&fields))
            ]
            .concat()),
        ]
    })
}

fn entries(fields: &[(String, Vec<u8>)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [&short(name.as_bytes())[..], value].concat()).collect()
}

/// The frames of one message within the contract.
fn good_message() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(("[a-z.ß-]{1,20}", value()), 0..6);
    (1u16..4, any::<u64>(), "[a-z_]{0,40}", fields, prop::collection::vec(any::<u8>(), 0..2_000)).prop_map(
        |(channel, tag, key, fields, bytes)| {
            [
                deliver(channel, tag, key.as_bytes()),
                header(channel, bytes.len() as u64, &entries(&fields)),
                body(channel, &bytes),
            ]
            .concat()
        },
    )
}

/// Frames whose lengths are right, and whose contents are anything.
fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let anything = prop::collection::vec(any::<u8>(), 0..300);
    let odd = prop_oneof![
        (1u16..4, anything.clone(), anything.clone(), anything.clone()).prop_map(
            |(channel, key, table, bytes)| {
                let key = &key[..key.len().min(255)];
                [deliver(channel, 1, key), header(channel, bytes.len() as u64, &table), body(channel, &bytes)]
                    .concat()
            }
        ),
        (1u16..4, anything.clone(), anything).prop_map(|(channel, properties, bytes)| {
            let payload =
                [&[0, 60, 0, 0][..], &(bytes.len() as u64).to_be_bytes(), &[0xff, 0xfc], &properties]
                    .concat();
            [deliver(channel, 1, b"k"), frame(Frame::HEADER, channel, &payload), body(channel, &bytes)]
                .concat()
        }),
    ];
    prop::collection::vec(prop_oneof![good_message(), odd], 1..6).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn every_stream_within_the_contract_passes_unchanged(
        messages in prop::collection::vec(good_message(), 1..6), chunk in 1usize..3_000,
    ) {
        let stream = messages.concat();
        prop_assert_eq!(read(&mut screen(), &stream, chunk), Ok(stream));
    }

    #[test]
    fn whatever_a_letter_holds_the_library_can_read_what_comes_out(stream in any_frames(), chunk in 1usize..3_000) {
        let out = read(&mut screen(), &stream, chunk).expect("nothing of it ends the connection");
        let letters = parsed(&out).iter().filter(|frame| matches!(frame, AMQPFrame::Header(..))).count();
        prop_assert!(letters >= 1);
    }

    #[test]
    fn whatever_comes_in_pieces_comes_out_the_same(stream in any_frames(), chunk in 1usize..3_000) {
        let whole = read(&mut screen(), &stream, stream.len());
        prop_assert_eq!(read(&mut screen(), &stream, chunk), whole);
    }

    #[test]
    fn no_bytes_at_all_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..500), first in 1u8..4) {
        let mut screen = screen();
        let mut out = Vec::new();
        let _ = screen.read(&[&[first][..], &bytes].concat(), &mut out);
        screen.wrote(&bytes);
        let _ = screen.heartbeat();
    }
}

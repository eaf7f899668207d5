//! The screen under the client library, fed with raw frames. It never panics, gives out the same whatever the pieces in
//! which its input comes, and what it gives out does not make the library's parser give the connection up, unless the input is no
//! sequence of frames.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/amqp/screen/mod.rs"]
mod screen;

use amq_protocol::frame::parse_frame;
use libfuzzer_sys::fuzz_target;
use screen::{Limits, Screen};

const FRAME_MAX: u32 = 4_096;
const END: u8 = 0xce;
const OVERHEAD: usize = 8;

/// The input as frames: of each piece the first byte chooses type and channel, the next two how long it is.
fn frames(mut input: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [kind, high, low, rest @ ..] = input {
        let len = (usize::from(*high) << 8 | usize::from(*low)) % (2 * FRAME_MAX as usize);
        let (payload, rest) = rest.split_at(len.min(rest.len()));
        let frame_type = [1, 1, 2, 3][usize::from(kind & 3)];
        // A body that is too large for the frame ends the connection, which is tested elsewhere.
        let payload = if frame_type == 3 { &payload[..payload.len().min(FRAME_MAX as usize - OVERHEAD)] } else { payload };
        stream.push(frame_type);
        stream.extend(u16::from(kind >> 2 & 3).to_be_bytes());
        stream.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
        stream.extend(payload);
        stream.push(END);
        input = rest;
    }
    stream
}

fn read(stream: &[u8], chunk: usize, large_bodies_bytes_max: Option<u64>) -> (Vec<u8>, bool) {
    let mut screen = Screen::new(Limits { frame_max: FRAME_MAX, large_bodies_bytes_max });
    let mut out = Vec::new();
    for piece in stream.chunks(chunk) {
        if screen.read(piece, &mut out).is_err() {
            return (out, false);
        }
        screen.wrote(piece);
        let _ = (screen.heartbeat(), screen.is_full(), screen.swallowed_bytes());
    }
    (out, true)
}

/// Whether the library can parse a content header, whatever it is the content of.
fn headers_are_readable(mut bytes: &[u8]) {
    while let [frame_type, _, _, size @ .., ] = bytes {
        let Some(size) = size.first_chunk::<4>() else { return };
        let whole = u32::from_be_bytes(*size) as usize + OVERHEAD;
        let Some((frame, rest)) = bytes.split_at_checked(whole) else { return };
        // A header of less than 12 bytes is none, and is left to the library.
        if *frame_type == 2 && whole >= OVERHEAD + 12 {
            assert!(whole <= FRAME_MAX as usize, "a header frame of {whole} bytes");
            let _ = parse_frame(frame).expect("the library can read the header");
        }
        bytes = rest;
    }
}

fuzz_target!(|input: &[u8]| {
    // As it is: most of it is no frame.
    let _ = read(input, 7, Some(1_000_000));
    let stream = frames(input);
    let _ = read(&stream, 13, Some(1_000_000));
    let (out, lasted) = read(&stream, usize::MAX, None);
    let (pieces, also_lasted) = read(&stream, 11, None);
    assert_eq!((&out, lasted), (&pieces, also_lasted));
    if lasted {
        headers_are_readable(&out);
    }
});

//! What the screen costs a letter that passes unchanged: CPU time of one thread, with it and without.

#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the screen's own file, of which this measures a part"
)]
#[path = "../../src/amqp/screen/mod.rs"]
mod screen;

use std::hint::black_box;
use std::time::{Duration, Instant};

use screen::{Limits, Screen};

const LETTERS: usize = 200_000;
/// What one read of a socket brings.
const READ_BYTES: usize = 16 * 1024;
/// Each is measured so often, one after the other, and the best counts.
const TURNS: usize = 7;
const FRAME_MAX: u32 = 131_072;
const END: u8 = 0xce;

fn frame(frame_type: u8, payload: &[u8], stream: &mut Vec<u8>) {
    stream.push(frame_type);
    stream.extend(1_u16.to_be_bytes());
    stream.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
    stream.extend(payload);
    stream.push(END);
}

fn short(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).expect("short"));
    out.extend(text.as_bytes());
}

/// Deliveries of intents of some 300 bytes, with a content type and a trace.
fn deliveries() -> Vec<u8> {
    let mut stream = Vec::new();
    let body = format!("{:300}", "{}");
    for tag in 1..=LETTERS as u64 {
        let mut method = [60_u16.to_be_bytes(), 60_u16.to_be_bytes()].concat();
        short("cancel.intents.transaction_cancel", &mut method);
        method.extend(tag.to_be_bytes());
        method.push(0);
        short("cancel.intents", &mut method);
        short("transaction_cancel", &mut method);
        frame(1, &method, &mut stream);
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut entries = Vec::new();
        short("traceparent", &mut entries);
        entries.push(b'S');
        entries.extend(u32::try_from(trace.len()).expect("short").to_be_bytes());
        entries.extend(trace.as_bytes());
        let mut header = [60_u16.to_be_bytes(), 0_u16.to_be_bytes()].concat();
        header.extend((body.len() as u64).to_be_bytes());
        header.extend((1_u16 << 15 | 1 << 13 | 1 << 12).to_be_bytes());
        short("application/json", &mut header);
        header.extend(u32::try_from(entries.len()).expect("short").to_be_bytes());
        header.extend(&entries);
        header.push(2);
        frame(2, &header, &mut stream);
        frame(3, body.as_bytes(), &mut stream);
    }
    stream
}

fn best(mut run: impl FnMut()) -> Duration {
    let turn = || {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    std::iter::repeat_with(turn).take(TURNS).min().expect("more than none")
}

fn main() {
    let stream = deliveries();
    let mut out = Vec::with_capacity(READ_BYTES * 2);
    let without = best(|| {
        for piece in stream.chunks(READ_BYTES) {
            out.clear();
            out.extend_from_slice(black_box(piece));
            black_box(&out);
        }
    });
    let with = best(|| {
        // Nothing is acked here.
        let mut screen = Screen::new(Limits { frame_max: FRAME_MAX, large_bodies_bytes_max: None });
        for piece in stream.chunks(READ_BYTES) {
            out.clear();
            screen.read(black_box(piece), &mut out).expect("nothing is wrong with it");
            black_box(&out);
        }
    });
    let each = |all: Duration| all.as_nanos() as f64 / LETTERS as f64;
    println!("{LETTERS} letters of {} bytes on the wire", stream.len() / LETTERS);
    println!("copied:   {:7.1} ns of CPU time a letter", each(without));
    println!("screened: {:7.1} ns of CPU time a letter", each(with));
}

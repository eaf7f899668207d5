//! JSON values one after the other, in one text.

use serde_json::Deserializer;
use serde_json::value::RawValue;

/// The values in this text, each with the line in which it begins, from 1: one a line, or each over lines of its own. What
/// is no value is a piece by itself, up to the next line that begins with `{`, so that it hides no other; and so is a
/// value with whatever stands behind it in its last line.
pub fn split_values(text: &[u8]) -> Vec<(usize, &[u8])> {
    let mut pieces = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(blank) = text.get(at..).and_then(|rest| rest.iter().position(|b| !b.is_ascii_whitespace()))
    {
        line += lines_in(&text[at..at + blank]);
        let rest = &text[at + blank..];
        let mut values = Deserializer::from_slice(rest).into_iter::<&RawValue>();
        let len = match values.next() {
            Some(Ok(_)) => values.byte_offset() + line_end(&rest[values.byte_offset()..]),
            Some(Err(_)) | None => broken_len(rest),
        };
        pieces.push((line, rest[..len].trim_ascii_end()));
        line += lines_in(&rest[..len]);
        at += blank + len;
    }
    pieces
}

fn lines_in(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

fn line_end(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len())
}

/// How long what is no value is: it ends before a line that begins one.
fn broken_len(text: &[u8]) -> usize {
    let begins = text.windows(2).position(|pair| pair == b"\n{");
    begins.unwrap_or(text.len())
}

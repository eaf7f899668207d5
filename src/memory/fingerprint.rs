//! What a letter is recognized by without being kept.

use sha2::{Digest, Sha256};

use crate::wire::envelope::{HeaderValue, Letter, Source};

/// What the broker's own headers begin with.
const OF_THE_BROKER: &str = "x-";

/// A digest of what makes two letters the same. Each part goes into it after its length, so that no two lists of parts
/// are the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of_body(letter: &Letter) -> Fingerprint {
        Fingerprint(Sha256::digest(&letter.body).into())
    }

    /// Of everything but what one delivery says, the broker's flag and its own headers (a quorum queue counts deliveries
    /// in `x-delivery-count`), and but these headers.
    pub(super) fn of_letter(letter: &Letter, is_left_out: impl Fn(&str) -> bool) -> Fingerprint {
        let Letter { source, routing_key, redelivered: _, headers, body } = letter;
        let (queue, kind) = match source {
            Source::Lane(kind) => ("lane", kind.as_str()),
            Source::Returns(kind) => ("returns", kind.as_str()),
            Source::Rescue => ("rescue", ""),
            Source::Announcements => ("announcements", ""),
            Source::Isolation => ("isolation", ""),
        };
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        for part in [queue.as_bytes(), kind.as_bytes(), routing_key.as_bytes(), body] {
            add(part);
        }
        for (name, value) in headers.iter().filter(|(name, _)| !is_of_the_broker(name) && !is_left_out(name))
        {
            add(name.as_bytes());
            match value {
                HeaderValue::Text(text) => [b"text", text.as_bytes()].map(&mut add),
                HeaderValue::Int(int) => [b"int", int.to_be_bytes().as_slice()].map(&mut add),
                HeaderValue::Bool(flag) => [b"bool", [u8::from(*flag)].as_slice()].map(&mut add),
            };
        }
        Fingerprint(digest.finalize().into())
    }
}

fn is_of_the_broker(header: &str) -> bool {
    header.get(..OF_THE_BROKER.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OF_THE_BROKER))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::intent::Kind;
    use crate::memory::fixtures::letter;
    use crate::wire::envelope::{Headers, Redelivered};

    fn with(headers: &[(&str, HeaderValue)]) -> Letter {
        let headers: Headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Letter { headers, ..letter("a") }
    }

    fn of(letter: &Letter) -> Fingerprint {
        Fingerprint::of_letter(letter, |name| name == "left-out")
    }

    #[test]
    fn letters_that_differ_in_any_part_have_different_fingerprints() {
        let from = |source| Letter { source, ..letter("a") };
        let text = |value: &str| HeaderValue::Text(value.to_owned());
        let letters = [
            letter("a"),
            letter("ab"),
            Letter { routing_key: "async_cancela".to_owned(), ..letter("") },
            from(Source::Lane(Kind::BatchCancel)),
            from(Source::Returns(Kind::AsyncCancel)),
            from(Source::Rescue),
            from(Source::Announcements),
            from(Source::Isolation),
            with(&[("a", text("b"))]),
            with(&[("ab", text(""))]),
            with(&[("a", text("")), ("b", text(""))]),
            with(&[("a", text("1"))]),
            with(&[("a", text("\0\0\0\0\0\0\0\u{1}"))]),
            with(&[("a", HeaderValue::Int(1))]),
            with(&[("a", HeaderValue::Bool(true))]),
            with(&[("a", HeaderValue::Bool(false))]),
        ];
        let fingerprints: HashSet<Fingerprint> = letters.iter().map(of).collect();
        assert_eq!(fingerprints.len(), letters.len());
    }

    #[test]
    fn what_one_delivery_says_and_what_is_left_out_make_no_difference() {
        let same = with(&[("X-Delivery-Count", HeaderValue::Int(1)), ("left-out", HeaderValue::Bool(true))]);
        assert_eq!(of(&Letter { redelivered: Redelivered::Yes, ..same }), of(&letter("a")));
    }
}

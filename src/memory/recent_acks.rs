//! The letters whose messages the broker has confirmed, and whose ack may be lost on its way.
//!
//! Nothing confirms an ack. When the connection breaks, the broker may redeliver a letter that was acked. Its decision is
//! announced already; if it were announced again, a letter in a delay queue would exist twice. It only needs another ack.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::bounded::Bounded;
use super::fingerprint::Fingerprint;
use super::{ENTRY_BYTES, lock};
use crate::domain::retry::elapsed;
use crate::wire::envelope::{Letter, Redelivered, Source};
use crate::wire::hop;

/// How long a letter is remembered: until a broker that does not see the end of a connection has missed enough heartbeats to
/// redeliver it. Not longer, since a publisher may send the same bytes again on purpose.
const AGE_MAX: Duration = Duration::from_secs(300);

/// Remembers the proof that a letter is announced, `P`, within a limit of bytes and of time.
#[derive(Debug)]
pub struct RecentAcks<P>(Mutex<Bounded<Fingerprint, RecentAck<P>>>);

#[derive(Debug)]
struct RecentAck<P> {
    announced_at: Timestamp,
    /// The generation of the connection that it was delivered in.
    generation: u64,
    proof: P,
}

impl<P> RecentAcks<P> {
    /// A memory of about this many bytes.
    pub fn new(bytes_max: usize) -> RecentAcks<P> {
        RecentAcks(Mutex::new(Bounded::new(bytes_max)))
    }

    /// Takes out the proof of a letter that is delivered in this generation. Returns it if the letter was announced in an
    /// earlier generation and is redelivered now; any other letter like it is a copy, which gets a step of its own.
    pub fn take(&self, letter: &Letter, generation: u64, now: Timestamp) -> Option<P> {
        let fingerprint = fingerprint(letter)?;
        let known = lock(&self.0).remove(&fingerprint)?;
        // While a generation lasts, the broker does not redeliver a letter that was acked in it.
        let comes_again = letter.redelivered == Redelivered::Yes && known.generation < generation;
        (comes_again && elapsed(known.announced_at, now) <= AGE_MAX).then_some(known.proof)
    }

    /// Remembers that this letter, delivered in this generation, is announced; its ack is sent, or failed.
    pub fn remember(&self, letter: &Letter, generation: u64, proof: P, now: Timestamp) {
        let Some(fingerprint) = fingerprint(letter) else { return };
        let mut acks = lock(&self.0);
        acks.keep(fingerprint, RecentAck { announced_at: now, generation, proof }, ENTRY_BYTES);
        acks.forget_oldest_while(|ack| elapsed(ack.announced_at, now) > AGE_MAX);
    }
}

/// What the letter is recognized by. Before and after a delay queue a letter can be the same but for the hop, which is a part
/// of the fingerprint here. Where nothing distinguishes two steps of a letter, it has none.
fn fingerprint(letter: &Letter) -> Option<Fingerprint> {
    match letter.source {
        Source::Lane(_) => {}
        Source::Returns(_) | Source::Announcements => drop(hop::read(letter)?),
        Source::Isolation | Source::Rescue => return None,
    }
    Some(Fingerprint::of_letter(letter, |_| false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::intent::Kind;
    use crate::domain::retry::later;
    use crate::memory::fixtures::{NOW, letter};
    use crate::wire::envelope::HeaderValue;

    /// A generation of the connection, and the next one.
    const BEFORE: u64 = 7;
    const AFTER: u64 = 8;

    fn back_from(due: &str, letter: Letter) -> Letter {
        let headers = [("cancel-hop", "5s"), ("cancel-hop-due", due)];
        let headers = headers.map(|(name, value)| (name.to_owned(), HeaderValue::Text(value.to_owned())));
        Letter { source: Source::Returns(Kind::AsyncCancel), headers: headers.into(), ..letter }
    }

    fn again(letter: &Letter) -> Letter {
        let mut again = Letter { redelivered: Redelivered::Yes, ..letter.clone() };
        again.headers.insert("x-delivery-count".to_owned(), HeaderValue::Int(1));
        again
    }

    fn memory(announced: &[&Letter]) -> RecentAcks<()> {
        let memory = RecentAcks::new(1_000_000);
        announced.iter().for_each(|letter| memory.remember(letter, BEFORE, (), NOW));
        memory
    }

    #[test]
    fn an_announced_letter_is_known_when_it_is_redelivered() {
        for announced in [letter("a"), back_from("1970-01-01T00:00:05Z", letter("a"))] {
            assert_eq!(memory(&[&announced]).take(&again(&announced), AFTER, NOW), Some(()), "{announced:?}");
        }
    }

    #[test]
    fn a_copy_that_is_delivered_for_the_first_time_gets_a_step_then_and_later() {
        let memory = memory(&[&letter("a")]);
        assert_eq!(memory.take(&letter("a"), AFTER, NOW), None);
        // A call may have been made for the copy before its connection broke.
        assert_eq!(memory.take(&again(&letter("a")), AFTER, NOW), None);
    }

    #[test]
    fn within_a_generation_a_letter_like_it_is_a_copy() {
        let memory = memory(&[&letter("a")]);
        assert_eq!(memory.take(&again(&letter("a")), BEFORE, NOW), None);
    }

    #[test]
    fn the_same_letter_after_another_wait_is_another_one() {
        let announced = back_from("1970-01-01T00:00:05Z", letter("a"));
        let later = back_from("1970-01-01T00:00:10Z", letter("a"));
        assert_eq!(memory(&[&announced]).take(&again(&later), AFTER, NOW), None);
    }

    #[test]
    fn where_nothing_distinguishes_two_steps_nothing_is_known() {
        let sources =
            [Source::Isolation, Source::Rescue, Source::Announcements, Source::Returns(Kind::AsyncCancel)];
        for source in sources {
            let announced = Letter { source, ..letter("a") };
            assert_eq!(memory(&[&announced]).take(&again(&announced), AFTER, NOW), None, "{source:?}");
        }
    }

    #[test]
    fn a_letter_is_forgotten_after_its_time() {
        let announced = letter("a");
        let after = |age: Duration| memory(&[&announced]).take(&again(&announced), AFTER, later(NOW, age));
        assert_eq!(after(AGE_MAX), Some(()));
        assert_eq!(after(AGE_MAX + Duration::from_secs(1)), None);
    }

    #[test]
    fn the_oldest_is_forgotten_where_there_is_no_room() {
        let memory = RecentAcks::new(2 * ENTRY_BYTES);
        for (body, proof) in [("a", 1), ("b", 2), ("c", 3)] {
            memory.remember(&letter(body), BEFORE, proof, NOW);
        }
        assert_eq!(memory.take(&again(&letter("a")), AFTER, NOW), None);
        assert_eq!(memory.take(&again(&letter("c")), AFTER, NOW), Some(3));
    }

    #[test]
    fn letters_that_are_too_old_take_no_room() {
        let memory = memory(&[&letter("a"), &letter("b")]);
        memory.remember(&letter("c"), BEFORE, (), later(NOW, AGE_MAX * 2));
        assert_eq!(lock(&memory.0).len_and_weight(), (1, ENTRY_BYTES));
    }

    #[test]
    fn a_letter_that_is_announced_twice_is_known_as_long_as_the_second_time() {
        let announced = letter("a");
        let memory = memory(&[&announced]);
        let again_at = later(NOW, AGE_MAX);
        memory.remember(&announced, BEFORE, (), again_at);
        memory.remember(&letter("b"), BEFORE, (), later(again_at, Duration::from_secs(1)));
        assert_eq!(memory.take(&again(&announced), AFTER, later(again_at, AGE_MAX)), Some(()));
    }
}

//! The letters whose decisions the broker has confirmed, and whose ack may be lost on its way.
//!
//! Nothing confirms an ack. When the connection breaks, a letter that was acked may come again; what was decided about
//! it is told already, and one that waits would live twice if it were handled, or told, once more. It only needs
//! another ack.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::bounded::Bounded;
use super::fingerprint::Fingerprint;
use super::{ENTRY_BYTES, lock};
use crate::domain::retry::elapsed;
use crate::wire::envelope::{Letter, Redelivered, Source};
use crate::wire::hop;

/// A letter is known so long: until a broker that does not see the end of a connection has missed enough heartbeats to
/// hand it out again. Not longer, for a client may publish the same bytes again and mean it.
const AGE_MAX: Duration = Duration::from_secs(300);

/// Remembers what proves that a letter is told, `P`, within a bound of bytes and of time.
#[derive(Debug)]
pub struct RecentAcks<P>(Mutex<Bounded<Fingerprint, RecentAck<P>>>);

#[derive(Debug)]
struct RecentAck<P> {
    told_at: Timestamp,
    /// The generation of the connection that it was delivered in.
    generation: u64,
    proof: P,
}

impl<P> RecentAcks<P> {
    /// A memory of about this many bytes.
    pub fn new(bytes_max: usize) -> RecentAcks<P> {
        RecentAcks(Mutex::new(Bounded::new(bytes_max)))
    }

    /// Takes a letter in hand that was delivered in this generation: gives the proof that all about it is told, if it
    /// was delivered before, in an earlier one, and forgets it. Any other is a copy that begins anew.
    pub fn take(&self, letter: &Letter, generation: u64, now: Timestamp) -> Option<P> {
        let fingerprint = fingerprint(letter)?;
        let known = lock(&self.0).remove(&fingerprint)?;
        // While a generation lasts, what was acked in it does not come again.
        let comes_again = letter.redelivered == Redelivered::Yes && known.generation < generation;
        (comes_again && elapsed(known.told_at, now) <= AGE_MAX).then_some(known.proof)
    }

    /// Remembers that all about this letter, delivered in this generation, is told; it is acked, or should be.
    pub fn remember(&self, letter: &Letter, generation: u64, proof: P, now: Timestamp) {
        let Some(fingerprint) = fingerprint(letter) else { return };
        let mut acks = lock(&self.0);
        acks.keep(fingerprint, RecentAck { told_at: now, generation, proof }, ENTRY_BYTES);
        acks.forget_oldest_while(|ack| elapsed(ack.told_at, now) > AGE_MAX);
    }
}

/// What this one letter is known by. On its way through delay queues a letter can be the same before and after, but
/// for the hop: that is part of the fingerprint here. Where nothing tells two steps of a letter apart, it has none.
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

    fn memory(told: &[&Letter]) -> RecentAcks<()> {
        let memory = RecentAcks::new(1_000_000);
        told.iter().for_each(|letter| memory.remember(letter, BEFORE, (), NOW));
        memory
    }

    #[test]
    fn a_letter_that_is_told_is_known_when_it_comes_again() {
        for told in [letter("a"), back_from("1970-01-01T00:00:05Z", letter("a"))] {
            assert_eq!(memory(&[&told]).take(&again(&told), AFTER, NOW), Some(()), "{told:?}");
        }
    }

    #[test]
    fn a_copy_that_comes_for_the_first_time_begins_anew_whatever_comes_of_it() {
        let memory = memory(&[&letter("a")]);
        assert_eq!(memory.take(&letter("a"), AFTER, NOW), None);
        // It may have been called for, and then lost with its connection.
        assert_eq!(memory.take(&again(&letter("a")), AFTER, NOW), None);
    }

    #[test]
    fn while_its_generation_lasts_a_letter_like_it_is_another_copy() {
        let memory = memory(&[&letter("a")]);
        assert_eq!(memory.take(&again(&letter("a")), BEFORE, NOW), None);
    }

    #[test]
    fn the_same_letter_after_another_wait_is_another_one() {
        let told = back_from("1970-01-01T00:00:05Z", letter("a"));
        let later = back_from("1970-01-01T00:00:10Z", letter("a"));
        assert_eq!(memory(&[&told]).take(&again(&later), AFTER, NOW), None);
    }

    #[test]
    fn where_nothing_tells_two_steps_apart_nothing_is_known() {
        let sources =
            [Source::Isolation, Source::Rescue, Source::Announcements, Source::Returns(Kind::AsyncCancel)];
        for source in sources {
            let told = Letter { source, ..letter("a") };
            assert_eq!(memory(&[&told]).take(&again(&told), AFTER, NOW), None, "{source:?}");
        }
    }

    #[test]
    fn what_was_told_long_ago_is_not_known() {
        let told = letter("a");
        let after = |age: Duration| memory(&[&told]).take(&again(&told), AFTER, later(NOW, age));
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
    fn what_is_too_old_takes_no_room() {
        let memory = memory(&[&letter("a"), &letter("b")]);
        memory.remember(&letter("c"), BEFORE, (), later(NOW, AGE_MAX * 2));
        assert_eq!(lock(&memory.0).len_and_weight(), (1, ENTRY_BYTES));
    }

    #[test]
    fn a_letter_that_is_told_twice_is_known_as_long_as_the_second_time() {
        let told = letter("a");
        let memory = memory(&[&told]);
        let again_at = later(NOW, AGE_MAX);
        memory.remember(&told, BEFORE, (), again_at);
        memory.remember(&letter("b"), BEFORE, (), later(again_at, Duration::from_secs(1)));
        assert_eq!(memory.take(&again(&told), AFTER, later(again_at, AGE_MAX)), Some(()));
    }
}

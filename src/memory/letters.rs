//! The letters in flight, and those with a decision that may not be settled.
//!
//! When the connection breaks, the broker redelivers all letters that were not settled. What this process knows of such a
//! letter saves a second call, or a doubt without a reason: a decision is announced again with the same bytes; the end of a
//! step in flight is waited for; a letter whose step never began was never called for.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::bounded::Bounded;
use super::fingerprint::Fingerprint;
use super::{entry_bytes, lock};
use crate::wire::envelope::{Letter, Messages, Redelivered};
use crate::wire::hop;

/// Remembers letters, within a bound of bytes.
#[derive(Debug)]
pub struct Letters(Mutex<Bounded<Fingerprint, Known>>);

#[derive(Debug)]
enum Known {
    /// Its step; the receiver notices its end.
    InFlight(watch::Receiver<()>),
    Idle(Before),
}

/// What this process did with a letter before.
#[derive(Debug)]
enum Before {
    /// Decided, and perhaps announced, but not known to be settled.
    Decided(Messages),
    /// Held, and given back without a step.
    Untouched,
}

impl Letters {
    /// A memory of about this many bytes for letters that are not in flight.
    pub fn new(bytes_max: usize) -> Letters {
        Letters(Mutex::new(Bounded::new(bytes_max)))
    }

    /// Begins the step of a letter. If the same letter is in flight, waits for the end of that step first.
    pub async fn begin(self: &Arc<Self>, letter: &Letter) -> Begun {
        let fingerprint = fingerprint(letter);
        loop {
            let mut waiting = {
                let mut known = lock(&self.0);
                if let Some(Known::InFlight(ended)) = known.get(&fingerprint) {
                    ended.clone()
                } else {
                    let before = match known.remove(&fingerprint) {
                        Some(Known::Idle(before)) => Some(before),
                        Some(Known::InFlight(_)) | None => None,
                    };
                    let (ends, ended) = watch::channel(());
                    known.hold(fingerprint, Known::InFlight(ended));
                    return Begun { letters: Arc::clone(self), fingerprint, before, _ends: ends };
                }
            };
            // The other step has ended when its sender is dropped, by a panic too.
            let _ = waiting.changed().await;
        }
    }

    /// Notes that a letter was held and given back without a step: no call was made for it.
    pub fn note_untouched(&self, letter: &Letter) {
        // Another worker may have made a call for a letter that the broker had delivered before.
        if letter.redelivered == Redelivered::Yes {
            return;
        }
        let fingerprint = fingerprint(letter);
        let mut known = lock(&self.0);
        if known.get(&fingerprint).is_none() {
            keep(&mut known, fingerprint, Before::Untouched);
        }
    }
}

fn keep(known: &mut Bounded<Fingerprint, Known>, fingerprint: Fingerprint, before: Before) {
    let bytes = entry_bytes(match &before {
        Before::Decided(messages) => Some(messages),
        Before::Untouched => None,
    });
    known.keep(fingerprint, Known::Idle(before), bytes);
}

/// A letter in flight. Dropping this ends the step; the decision is remembered unless it was settled.
#[derive(Debug)]
pub struct Begun {
    letters: Arc<Letters>,
    fingerprint: Fingerprint,
    before: Option<Before>,
    /// Dropped with this value, which wakes the steps that wait for its end.
    _ends: watch::Sender<()>,
}

impl Begun {
    /// The decision of an earlier step, if its delivery could not be settled then.
    pub fn decided_before(&self) -> Option<&Messages> {
        match &self.before {
            Some(Before::Decided(messages)) => Some(messages),
            Some(Before::Untouched) | None => None,
        }
    }

    /// Whether this process held it before and made no call for it.
    pub fn is_untouched(&self) -> bool {
        matches!(self.before, Some(Before::Untouched))
    }

    /// Remembers the decision until it is settled.
    pub fn decided(&mut self, messages: Messages) {
        self.before = Some(Before::Decided(messages));
    }

    /// It is settled: nothing of it needs to be remembered.
    pub fn settled(mut self) {
        self.before = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut known = lock(&self.letters.0);
        match self.before.take() {
            Some(before) => keep(&mut known, self.fingerprint, before),
            None => drop(known.remove(&self.fingerprint)),
        }
    }
}

/// What the letter is recognized by, without our headers of the hop: a copy that waits again has its own.
fn fingerprint(letter: &Letter) -> Fingerprint {
    Fingerprint::of_letter(letter, hop::tells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ENTRY_BYTES;
    use crate::memory::fixtures::{self, outcome};
    use crate::wire::envelope::{HeaderValue, Headers};

    fn letter(body: &'static str, redelivered: Redelivered) -> Letter {
        Letter { redelivered, ..fixtures::letter(body) }
    }

    fn memory() -> Arc<Letters> {
        Arc::new(Letters::new(1_000_000))
    }

    #[tokio::test]
    async fn a_decision_that_was_not_settled_is_known_when_the_letter_is_redelivered() {
        let memory = memory();
        let mut begun = memory.begin(&letter("a", Redelivered::No)).await;
        begun.decided(outcome());
        drop(begun);
        let again = memory.begin(&letter("a", Redelivered::Yes)).await;
        assert_eq!(again.decided_before(), Some(&outcome()));
    }

    #[tokio::test]
    async fn a_letter_is_known_again_though_the_broker_has_counted_its_deliveries() {
        let memory = memory();
        let count = |count| ("x-delivery-count".to_owned(), HeaderValue::Int(count));
        let attempt = ("cancel-attempt".to_owned(), HeaderValue::Int(1));
        let delivered = |redelivered, headers: Headers| Letter { headers, ..letter("a", redelivered) };
        let mut begun = memory.begin(&delivered(Redelivered::No, Headers::from([attempt.clone()]))).await;
        begun.decided(outcome());
        drop(begun);
        let again = delivered(Redelivered::Yes, Headers::from([attempt, count(1)]));
        assert_eq!(memory.begin(&again).await.decided_before(), Some(&outcome()));
        let another = ("cancel-attempt".to_owned(), HeaderValue::Int(2));
        let another = delivered(Redelivered::Yes, Headers::from([another, count(2)]));
        assert_eq!(memory.begin(&another).await.decided_before(), None);
    }

    #[tokio::test]
    async fn two_copies_with_different_hops_are_one_letter() {
        let memory = memory();
        let sent = |due: &str| {
            let due = ("cancel-hop-due".to_owned(), HeaderValue::Text(due.to_owned()));
            Letter { headers: Headers::from([due]), ..letter("a", Redelivered::No) }
        };
        let _first = memory.begin(&sent("2026-03-01T12:00:00Z")).await;
        let second = sent("2026-03-01T12:00:01Z");
        let mut second = std::pin::pin!(memory.begin(&second));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
    }

    #[tokio::test]
    async fn a_settled_letter_is_forgotten() {
        let memory = memory();
        let mut begun = memory.begin(&letter("a", Redelivered::No)).await;
        begun.decided(outcome());
        begun.settled();
        assert_eq!(memory.begin(&letter("a", Redelivered::No)).await.decided_before(), None);
        assert_eq!(lock(&memory.0).len_and_weight(), (0, 0));
    }

    #[tokio::test]
    async fn the_end_of_a_letter_in_flight_is_waited_for() {
        let memory = memory();
        let mut first = memory.begin(&letter("a", Redelivered::No)).await;
        let again = letter("a", Redelivered::Yes);
        let mut second = std::pin::pin!(memory.begin(&again));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        first.decided(outcome());
        drop(first);
        assert_eq!(second.await.decided_before(), Some(&outcome()));
    }

    #[tokio::test]
    async fn a_step_that_ends_without_a_decision_leaves_nothing_behind() {
        let memory = memory();
        drop(memory.begin(&letter("a", Redelivered::No)).await);
        let again = memory.begin(&letter("a", Redelivered::Yes)).await;
        assert_eq!(again.decided_before(), None);
        assert!(!again.is_untouched());
    }

    #[tokio::test]
    async fn other_letters_are_not_waited_for() {
        let memory = memory();
        let _first = memory.begin(&letter("a", Redelivered::No)).await;
        let second = memory.begin(&letter("b", Redelivered::No)).await;
        assert_eq!(second.decided_before(), None);
    }

    #[tokio::test]
    async fn a_letter_that_was_given_back_without_a_step_is_untouched() {
        let memory = memory();
        memory.note_untouched(&letter("a", Redelivered::No));
        assert!(memory.begin(&letter("a", Redelivered::Yes)).await.is_untouched());
    }

    #[tokio::test]
    async fn a_redelivered_letter_is_never_untouched() {
        let memory = memory();
        memory.note_untouched(&letter("a", Redelivered::Yes));
        assert!(!memory.begin(&letter("a", Redelivered::Yes)).await.is_untouched());
    }

    #[tokio::test]
    async fn the_oldest_is_forgotten_where_there_is_no_room() {
        let memory = Arc::new(Letters::new(2 * ENTRY_BYTES));
        for body in ["a", "b", "c"] {
            memory.note_untouched(&letter(body, Redelivered::No));
        }
        assert!(!memory.begin(&letter("a", Redelivered::Yes)).await.is_untouched());
        assert!(memory.begin(&letter("c", Redelivered::Yes)).await.is_untouched());
    }
}

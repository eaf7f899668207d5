//! The letters that this process has in hand, or has decided about without knowing that they are settled.
//!
//! When the connection breaks, the broker hands out again what was not settled, and says so. What this process knows
//! about such a letter saves a second call, and a doubt that is none: what was decided is announced again with the
//! same bytes; what is still being told is waited for; what was never begun was never called.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::wire::envelope::{Letter, Messages, Redelivered};
use crate::wire::hop;

/// Remembers letters, within a bound of bytes.
#[derive(Debug)]
pub struct Letters {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Letter, Remembered>,
    /// What may be forgotten when the room is full, the oldest first.
    idle: VecDeque<Letter>,
    idle_bytes: usize,
}

#[derive(Debug)]
enum Remembered {
    /// Its step is under way; who waits for its end holds a receiver.
    InHand(watch::Receiver<()>),
    /// Decided, and perhaps announced, but not known to be settled.
    Decided(Messages),
    /// Held, and given back without having been begun.
    Untouched,
}

impl Letters {
    /// A memory for letters that nobody has in hand, of about so many bytes.
    pub fn new(bytes_max: usize) -> Letters {
        Letters { bytes_max, inner: Mutex::default() }
    }

    /// Takes a letter in hand. If this very letter is in hand already, waits until it no longer is.
    pub async fn begin(self: &Arc<Self>, letter: &Letter) -> Begun {
        let name = named(letter);
        loop {
            let mut waiting = {
                let mut inner = self.lock();
                match inner.known.remove(&name) {
                    Some(Remembered::InHand(ended)) => {
                        inner.known.insert(name.clone(), Remembered::InHand(ended.clone()));
                        ended
                    }
                    known => {
                        if known.is_some() {
                            inner.forget_idle(&name);
                        }
                        let (ends, ended) = watch::channel(());
                        inner.known.insert(name.clone(), Remembered::InHand(ended));
                        let decided = match known {
                            Some(Remembered::Decided(messages)) => Before::Decided(messages),
                            Some(Remembered::Untouched) => Before::Untouched,
                            Some(Remembered::InHand(_)) | None => Before::Nothing,
                        };
                        return Begun { letters: Arc::clone(self), name, before: decided, _ends: ends };
                    }
                }
            };
            // It ends when the other's hand is dropped, whatever became of its step.
            let _ = waiting.changed().await;
        }
    }

    /// Notes that a letter was held and given back without having been begun: no call was made for it.
    pub fn note_untouched(&self, letter: &Letter) {
        // What the broker had handed out before may have been called by somebody else.
        if letter.redelivered == Redelivered::Yes {
            return;
        }
        let name = named(letter);
        let mut inner = self.lock();
        if !inner.known.contains_key(&name) {
            inner.keep_idle(name, Remembered::Untouched, self.bytes_max);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Remembers what nobody has in hand, and forgets the oldest of it where there is no room.
    fn keep_idle(&mut self, name: Letter, known: Remembered, bytes_max: usize) {
        self.idle_bytes += weight(&name, &known);
        self.idle.push_back(name.clone());
        self.known.insert(name, known);
        while self.idle_bytes > bytes_max {
            let Some(oldest) = self.idle.pop_front() else { break };
            if let Some(known) = self.known.remove(&oldest) {
                self.idle_bytes = self.idle_bytes.saturating_sub(weight(&oldest, &known));
            }
        }
    }

    fn forget_idle(&mut self, name: &Letter) {
        if let Some(at) = self.idle.iter().position(|idle| idle == name) {
            self.idle.remove(at);
            // The weight of what was removed is found anew where it is kept again.
            self.idle_bytes = self
                .idle
                .iter()
                .map(|name| self.known.get(name).map_or(0, |known| weight(name, known)))
                .sum();
        }
    }
}

/// What is known of a letter that has been taken in hand.
#[derive(Debug, Clone, PartialEq)]
enum Before {
    Nothing,
    Decided(Messages),
    Untouched,
}

/// A letter in hand. Dropping it lets others have it; what was decided about it is remembered until it is settled.
#[derive(Debug)]
pub struct Begun {
    letters: Arc<Letters>,
    name: Letter,
    before: Before,
    /// Dropped with this hand, which wakes those who wait for it.
    _ends: watch::Sender<()>,
}

impl Begun {
    /// What was decided about it before, if its delivery could not be settled then.
    pub fn decided_before(&self) -> Option<&Messages> {
        match &self.before {
            Before::Decided(messages) => Some(messages),
            Before::Nothing | Before::Untouched => None,
        }
    }

    /// Whether this process held it before and made no call for it.
    pub fn is_untouched(&self) -> bool {
        match self.before {
            Before::Untouched => true,
            Before::Nothing | Before::Decided(_) => false,
        }
    }

    /// Remembers what has been decided about it, until it is settled.
    pub fn decided(&mut self, messages: Messages) {
        self.before = Before::Decided(messages);
    }

    /// It is settled: nothing more needs to be known of it.
    pub fn settled(mut self) {
        self.before = Before::Nothing;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut inner = self.letters.lock();
        inner.known.remove(&self.name);
        match std::mem::replace(&mut self.before, Before::Nothing) {
            Before::Nothing => {}
            Before::Decided(messages) => {
                inner.keep_idle(self.name.clone(), Remembered::Decided(messages), self.letters.bytes_max);
            }
            Before::Untouched => {
                inner.keep_idle(self.name.clone(), Remembered::Untouched, self.letters.bytes_max);
            }
        }
    }
}

/// What the broker's own headers begin with.
const OF_THE_BROKER: &str = "x-";

/// The letter as it is known by. What one delivery or one way through a delay queue says is not part of it, for that is
/// what changes: the broker's flag and its own headers (a quorum queue counts deliveries in `x-delivery-count`), and ours
/// of the hop, which a copy that is sent on its way again has of its own.
fn named(letter: &Letter) -> Letter {
    without(letter, hop::tells)
}

/// The letter without what one delivery says, and without these headers.
pub(super) fn without(letter: &Letter, leave_out: impl Fn(&str) -> bool) -> Letter {
    let of_the_broker = |name: &str| {
        name.get(..OF_THE_BROKER.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OF_THE_BROKER))
    };
    let headers = letter.headers.iter().filter(|(name, _)| !of_the_broker(name) && !leave_out(name));
    Letter {
        headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
        redelivered: Redelivered::No,
        source: letter.source,
        routing_key: letter.routing_key.clone(),
        body: letter.body.clone(),
    }
}

/// About so many bytes does a letter take here.
fn weight(name: &Letter, known: &Remembered) -> usize {
    let messages = match known {
        Remembered::Decided(messages) => {
            messages.as_slice().iter().map(|message| message.body.len() + 1_024).sum()
        }
        Remembered::InHand(_) | Remembered::Untouched => 0,
    };
    name.body.len() + 1_024 + messages
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::intent::Kind;
    use crate::wire::envelope::{Address, HeaderValue, Headers, Message, Source};

    fn letter(body: &'static str, redelivered: Redelivered) -> Letter {
        Letter {
            source: Source::Lane(Kind::AsyncCancel),
            routing_key: "async_cancel".to_owned(),
            redelivered,
            headers: Headers::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    fn messages(body: &'static str) -> Messages {
        let message = Message {
            address: Address::Announce,
            routing_key: "async_cancel.cancelled".to_owned(),
            headers: Headers::new(),
            content_type: "application/json",
            message_id: None,
            occasion: None,
            body: Bytes::from_static(body.as_bytes()),
        };
        Messages::new(message, [])
    }

    fn memory() -> Arc<Letters> {
        Arc::new(Letters::new(1_000_000))
    }

    #[tokio::test]
    async fn what_was_decided_and_not_settled_is_known_when_the_letter_comes_again() {
        let memory = memory();
        let mut begun = memory.begin(&letter("a", Redelivered::No)).await;
        begun.decided(messages("said"));
        drop(begun);
        let again = memory.begin(&letter("a", Redelivered::Yes)).await;
        assert_eq!(again.decided_before(), Some(&messages("said")));
    }

    #[tokio::test]
    async fn a_letter_is_known_again_though_the_broker_has_counted_its_deliveries() {
        let memory = memory();
        let count = |count| ("x-delivery-count".to_owned(), HeaderValue::Int(count));
        let attempt = ("cancel-attempt".to_owned(), HeaderValue::Int(1));
        let delivered = |redelivered, headers: Headers| Letter { headers, ..letter("a", redelivered) };
        let mut begun = memory.begin(&delivered(Redelivered::No, Headers::from([attempt.clone()]))).await;
        begun.decided(messages("said"));
        drop(begun);
        let again = delivered(Redelivered::Yes, Headers::from([attempt, count(1)]));
        assert_eq!(memory.begin(&again).await.decided_before(), Some(&messages("said")));
        let another = ("cancel-attempt".to_owned(), HeaderValue::Int(2));
        let another = delivered(Redelivered::Yes, Headers::from([another, count(2)]));
        assert_eq!(memory.begin(&another).await.decided_before(), None);
    }

    #[tokio::test]
    async fn two_copies_that_were_sent_on_their_way_one_after_the_other_are_one_letter() {
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
    async fn what_is_settled_is_forgotten() {
        let memory = memory();
        let mut begun = memory.begin(&letter("a", Redelivered::No)).await;
        begun.decided(messages("said"));
        begun.settled();
        assert_eq!(memory.begin(&letter("a", Redelivered::No)).await.decided_before(), None);
        assert!(memory.lock().idle.is_empty());
    }

    #[tokio::test]
    async fn a_letter_that_is_in_hand_is_waited_for() {
        let memory = memory();
        let mut first = memory.begin(&letter("a", Redelivered::No)).await;
        let again = letter("a", Redelivered::Yes);
        let mut second = std::pin::pin!(memory.begin(&again));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        first.decided(messages("said"));
        drop(first);
        assert_eq!(second.await.decided_before(), Some(&messages("said")));
    }

    #[tokio::test]
    async fn a_story_that_ends_without_a_decision_leaves_nothing_behind() {
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
    async fn a_letter_that_was_given_back_unbegun_is_known_to_be_untouched() {
        let memory = memory();
        memory.note_untouched(&letter("a", Redelivered::No));
        assert!(memory.begin(&letter("a", Redelivered::Yes)).await.is_untouched());
    }

    #[tokio::test]
    async fn a_letter_that_came_redelivered_is_never_taken_for_untouched() {
        let memory = memory();
        memory.note_untouched(&letter("a", Redelivered::Yes));
        assert!(!memory.begin(&letter("a", Redelivered::Yes)).await.is_untouched());
    }

    #[tokio::test]
    async fn the_oldest_is_forgotten_where_there_is_no_room() {
        let memory = Arc::new(Letters::new(3_000));
        for body in ["a", "b", "c"] {
            memory.note_untouched(&letter(body, Redelivered::No));
        }
        assert!(!memory.begin(&letter("a", Redelivered::Yes)).await.is_untouched());
        assert!(memory.begin(&letter("c", Redelivered::Yes)).await.is_untouched());
    }
}

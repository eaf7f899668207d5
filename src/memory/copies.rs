//! Copies of a letter in flight: they wait in a delay queue, and get the outcome that the letter gets.
//!
//! A publisher that receives no confirm publishes the same bytes again, perhaps a hundred times. A copy that waited in this
//! process would hold a permit of its lane, and a hundred copies all of its permits.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::bounded::Bounded;
use super::fingerprint::Fingerprint;
use super::{entry_bytes, lock};
use crate::domain::retry::elapsed;
use crate::wire::envelope::{Address, Letter, Message, Messages, Redelivered, Source};

/// How long a letter is remembered to have copies, with its outcomes: longer than one wait of a copy.
const AGE_MAX: Duration = Duration::from_secs(300);

/// The bodies of the letters in flight, and the outcomes of those that had copies.
#[derive(Debug)]
pub struct Copies(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many steps are in flight for letters of this body.
    in_flight: HashMap<Fingerprint, usize>,
    /// Bodies whose copies were sent to a delay queue.
    known: Bounded<Fingerprint, Copied>,
}

#[derive(Debug)]
struct Copied {
    since: Timestamp,
    /// The outcomes that were announced at the letter's end; `None` before its end.
    outcomes: Option<Messages>,
}

/// What the worker does with a letter that may be a copy.
#[derive(Debug)]
pub enum Copy<'a> {
    /// It is no copy of a letter in flight, and no outcome is known for it: it gets a step of its own.
    None(Original<'a>),
    /// Its letter is in flight: it waits in a delay queue.
    ToWait,
    /// Its letter has ended with these outcomes.
    Answered(Messages),
}

/// A letter whose step is in flight until this is dropped.
#[derive(Debug)]
pub struct Original<'a> {
    copies: &'a Copies,
    body: Fingerprint,
}

impl Copies {
    /// A memory of about this many bytes for outcomes.
    pub fn new(bytes_max: usize) -> Copies {
        Copies(Mutex::new(Inner { in_flight: HashMap::new(), known: Bounded::new(bytes_max) }))
    }

    /// A letter was delivered. `is_fresh`: it has no history of its own, so its letter's outcomes are all that it needs.
    pub fn begin(&self, letter: &Letter, is_fresh: bool, now: Timestamp) -> Copy<'_> {
        let body = Fingerprint::of_body(letter);
        let mut inner = lock(&self.0);
        if may_wait(letter) {
            if inner.in_flight.contains_key(&body) {
                inner.keep(body, None, now);
                return Copy::ToWait;
            }
            if is_fresh
                && let Some(outcomes) = inner.known(&body, now).and_then(|known| known.outcomes.as_ref())
            {
                return Copy::Answered(outcomes.clone());
            }
        }
        *inner.in_flight.entry(body).or_default() += 1;
        Copy::None(Original { copies: self, body })
    }
}

/// Whether a letter may wait for another. A call may have been made for one that the broker has delivered before; one in
/// the isolation was moved there while its letter was in flight.
fn may_wait(letter: &Letter) -> bool {
    let source_waits = match letter.source {
        Source::Lane(_) | Source::Returns(_) => true,
        Source::Rescue | Source::Announcements | Source::Isolation => false,
    };
    source_waits && letter.redelivered == Redelivered::No
}

impl Inner {
    fn known(&self, body: &Fingerprint, now: Timestamp) -> Option<&Copied> {
        self.known.get(body).filter(|known| elapsed(known.since, now) <= AGE_MAX)
    }

    fn keep(&mut self, body: Fingerprint, outcomes: Option<Messages>, now: Timestamp) {
        // Known outcomes stay until the letter's end replaces them.
        let outcomes = outcomes.or_else(|| self.known.remove(&body).and_then(|known| known.outcomes));
        let bytes = entry_bytes(outcomes.as_ref());
        self.known.keep(body, Copied { since: now, outcomes }, bytes);
        self.known.forget_oldest_while(|known| elapsed(known.since, now) > AGE_MAX);
    }
}

impl Original<'_> {
    /// The decision is announced. If it ends the letter, its copies get the same outcomes from now on, where it has any. If
    /// the letter goes on, each copy gets a step of its own.
    pub fn announced(self, messages: &Messages, now: Timestamp) {
        let mut inner = lock(&self.copies.0);
        if inner.known(&self.body, now).is_some()
            && let Some(outcomes) = outcomes_of_an_end(messages)
        {
            inner.keep(self.body, Some(outcomes), now);
        }
    }
}

/// The outcomes, if these messages end the letter.
fn outcomes_of_an_end(messages: &Messages) -> Option<Messages> {
    let mut outcomes: Vec<Message> = Vec::new();
    for message in messages.as_slice() {
        match message.address {
            Address::Announce => outcomes.push(message.clone()),
            Address::DeadLetters => {}
            Address::Delay(_) | Address::Isolation | Address::Intents => return None,
        }
    }
    let mut outcomes = outcomes.into_iter();
    Some(Messages::new(outcomes.next()?, outcomes))
}

impl Drop for Original<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.copies.0);
        if let Some(count) = inner.in_flight.get_mut(&self.body) {
            *count -= 1;
            if *count == 0 {
                inner.in_flight.remove(&self.body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::intent::Kind;
    use crate::domain::retry::{Tier, later};
    use crate::memory::fixtures::{NOW, letter, message, outcome};

    fn on_its_way() -> Messages {
        let tier = Tier { length: Duration::from_secs(5), name: "5s".to_owned() };
        Messages::new(message(Address::Delay(tier)), [])
    }

    fn original<'a>(copies: &'a Copies, letter: &Letter) -> Original<'a> {
        match copies.begin(letter, true, NOW) {
            Copy::None(in_flight) => in_flight,
            other => panic!("{other:?}"),
        }
    }

    fn copies() -> Copies {
        Copies::new(1_000_000)
    }

    #[test]
    fn a_copy_of_a_letter_in_flight_waits_and_then_gets_its_outcomes() {
        let copies = copies();
        let first = original(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&Messages::new(message(Address::DeadLetters), outcome().into_vec()), NOW);
        for _ in 0..2 {
            assert!(
                matches!(copies.begin(&letter("a"), true, NOW), Copy::Answered(outcomes) if outcomes == outcome())
            );
        }
    }

    #[test]
    fn the_source_of_a_copy_does_not_matter() {
        let copies = copies();
        let _first = original(&copies, &letter("a"));
        let returned = Letter { source: Source::Returns(Kind::AsyncCancel), ..letter("a") };
        assert!(matches!(copies.begin(&returned, false, NOW), Copy::ToWait));
    }

    #[test]
    fn a_copy_with_a_history_gets_a_step_when_its_letter_is_not_original() {
        let copies = copies();
        let first = original(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), false, NOW), Copy::ToWait));
        first.announced(&outcome(), NOW);
        assert!(matches!(copies.begin(&letter("a"), false, NOW), Copy::None(_)));
    }

    #[test]
    fn a_copy_of_a_letter_that_goes_on_gets_a_step() {
        let copies = copies();
        let first = original(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&on_its_way(), NOW);
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
    }

    #[test]
    fn outcomes_are_forgotten_after_their_time() {
        let copies = copies();
        let first = original(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&outcome(), NOW);
        let long_after = later(NOW, AGE_MAX + Duration::from_secs(1));
        assert!(matches!(copies.begin(&letter("a"), true, long_after), Copy::None(_)));
    }

    #[test]
    fn a_letter_that_goes_on_gives_its_copies_no_outcomes_though_it_has_announced_one() {
        let copies = copies();
        let first = original(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&Messages::new(message(Address::Announce), on_its_way().into_vec()), NOW);
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
    }

    #[test]
    fn a_letter_without_copies_is_not_remembered() {
        let copies = copies();
        original(&copies, &letter("a")).announced(&outcome(), NOW);
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
        assert_eq!(lock(&copies.0).known.len_and_weight(), (0, 0));
    }

    #[test]
    fn redelivered_letters_and_letters_in_the_isolation_never_wait_here() {
        let copies = copies();
        let _first = original(&copies, &letter("a"));
        let again = Letter { redelivered: Redelivered::Yes, ..letter("a") };
        let alone = Letter { source: Source::Isolation, ..letter("a") };
        for letter in [again, alone] {
            assert!(matches!(copies.begin(&letter, true, NOW), Copy::None(_)), "{letter:?}");
        }
    }

    #[test]
    fn a_copy_gets_a_step_when_its_letter_ended_without_an_announcement() {
        let copies = copies();
        drop(original(&copies, &letter("a")));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
    }

    #[test]
    fn the_oldest_is_forgotten_where_there_is_no_room() {
        let copies = Copies::new(2 * entry_bytes(Some(&outcome())));
        for body in ["a", "b", "c"] {
            let first = original(&copies, &letter(body));
            assert!(matches!(copies.begin(&letter(body), true, NOW), Copy::ToWait));
            first.announced(&outcome(), NOW);
        }
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
        assert!(matches!(copies.begin(&letter("c"), true, NOW), Copy::Answered(_)));
    }
}

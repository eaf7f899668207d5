//! Copies of a letter that is in hand: they wait in the broker, and get the answer that the letter gets.
//!
//! A publisher that heard no confirm publishes the same bytes again, and a hundred times if it must. A copy that waited here for
//! the letter in hand would hold a place of its lane, and a hundred of them all of its places.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::bounded::Bounded;
use super::fingerprint::Fingerprint;
use super::{entry_bytes, lock};
use crate::domain::retry::elapsed;
use crate::wire::envelope::{Address, Letter, Message, Messages, Redelivered, Source};

/// So long is remembered that a letter has copies, and what was told of it: longer than a copy waits at once.
const AGE_MAX: Duration = Duration::from_secs(300);

/// The bodies of the letters in hand, and what became of those that had copies.
#[derive(Debug)]
pub struct Copies(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many steps are being made with a letter of this body.
    in_hand: HashMap<Fingerprint, usize>,
    /// Bodies whose copies were sent to wait.
    known: Bounded<Fingerprint, Copied>,
}

#[derive(Debug)]
struct Copied {
    since: Timestamp,
    /// The outcomes that were told at the letter's end; nothing before that.
    outcomes: Option<Messages>,
}

/// What is to be done with a letter, as far as its copies go.
#[derive(Debug)]
pub enum Copy<'a> {
    /// It is none of a letter in hand, and nothing was told of its letter: its step is made.
    None(InHand<'a>),
    /// Its letter is in hand: it is to wait.
    ToWait,
    /// Its letter has told this.
    Answered(Messages),
}

/// A letter whose step is being made, until it is dropped.
#[derive(Debug)]
pub struct InHand<'a> {
    copies: &'a Copies,
    body: Fingerprint,
}

impl Copies {
    /// A memory of about this many bytes for what was told.
    pub fn new(bytes_max: usize) -> Copies {
        Copies(Mutex::new(Inner { in_hand: HashMap::new(), known: Bounded::new(bytes_max) }))
    }

    /// A letter has come. `is_fresh`: nothing was done with it yet, so that it needs nothing but its letter's answer.
    pub fn begin(&self, letter: &Letter, is_fresh: bool, now: Timestamp) -> Copy<'_> {
        let body = Fingerprint::of_body(letter);
        let mut inner = lock(&self.0);
        if may_wait(letter) {
            if inner.in_hand.contains_key(&body) {
                inner.keep(body, None, now);
                return Copy::ToWait;
            }
            if is_fresh
                && let Some(outcomes) = inner.known(&body, now).and_then(|known| known.outcomes.as_ref())
            {
                return Copy::Answered(outcomes.clone());
            }
        }
        *inner.in_hand.entry(body).or_default() += 1;
        Copy::None(InHand { copies: self, body })
    }
}

/// Whether a letter may be sent to wait for another. What the broker has handed out before may have been called for;
/// what is handled alone was on its way there when its letter was in hand.
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
        // What was told before stands until more is told.
        let outcomes = outcomes.or_else(|| self.known.remove(&body).and_then(|known| known.outcomes));
        let bytes = entry_bytes(outcomes.as_ref());
        self.known.keep(body, Copied { since: now, outcomes }, bytes);
        self.known.forget_oldest_while(|known| elapsed(known.since, now) > AGE_MAX);
    }
}

impl InHand<'_> {
    /// What was decided is announced: if it is the letter's end, its copies get the same outcomes from now on, where it has
    /// any. A letter that goes on leaves its copies to go on themselves.
    pub fn announced(self, messages: &Messages, now: Timestamp) {
        let mut inner = lock(&self.copies.0);
        if inner.known(&self.body, now).is_some()
            && let Some(outcomes) = outcomes_of_an_end(messages)
        {
            inner.keep(self.body, Some(outcomes), now);
        }
    }
}

/// What was told, if the letter does not go on.
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

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.copies.0);
        if let Some(count) = inner.in_hand.get_mut(&self.body) {
            *count -= 1;
            if *count == 0 {
                inner.in_hand.remove(&self.body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::intent::Kind;
    use crate::domain::retry::{Tier, later};
    use crate::memory::fixtures::{NOW, letter, message};

    fn outcome() -> Messages {
        Messages::new(message(Address::Announce), [])
    }

    fn on_its_way() -> Messages {
        let tier = Tier { length: Duration::from_secs(5), name: "5s".to_owned() };
        Messages::new(message(Address::Delay(tier)), [])
    }

    fn in_hand<'a>(copies: &'a Copies, letter: &Letter) -> InHand<'a> {
        match copies.begin(letter, true, NOW) {
            Copy::None(in_hand) => in_hand,
            other => panic!("{other:?}"),
        }
    }

    fn copies() -> Copies {
        Copies::new(1_000_000)
    }

    #[test]
    fn a_copy_of_a_letter_in_hand_waits_and_then_gets_its_answer() {
        let copies = copies();
        let first = in_hand(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&Messages::new(message(Address::DeadLetters), outcome().into_vec()), NOW);
        for _ in 0..2 {
            assert!(
                matches!(copies.begin(&letter("a"), true, NOW), Copy::Answered(said) if said == outcome())
            );
        }
    }

    #[test]
    fn the_source_of_a_copy_does_not_matter() {
        let copies = copies();
        let _first = in_hand(&copies, &letter("a"));
        let returned = Letter { source: Source::Returns(Kind::AsyncCancel), ..letter("a") };
        assert!(matches!(copies.begin(&returned, false, NOW), Copy::ToWait));
    }

    #[test]
    fn a_copy_with_a_history_of_its_own_goes_its_own_way_when_its_letter_is_not_in_hand() {
        let copies = copies();
        let first = in_hand(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), false, NOW), Copy::ToWait));
        first.announced(&outcome(), NOW);
        assert!(matches!(copies.begin(&letter("a"), false, NOW), Copy::None(_)));
    }

    #[test]
    fn where_its_letter_has_told_nothing_a_copy_makes_a_step_of_its_own() {
        let copies = copies();
        let first = in_hand(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&on_its_way(), NOW);
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
    }

    #[test]
    fn an_answer_is_not_remembered_for_ever() {
        let copies = copies();
        let first = in_hand(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&outcome(), NOW);
        let long_after = later(NOW, AGE_MAX + Duration::from_secs(1));
        assert!(matches!(copies.begin(&letter("a"), true, long_after), Copy::None(_)));
    }

    #[test]
    fn a_letter_that_goes_on_answers_for_no_copy_though_it_has_told_something() {
        let copies = copies();
        let first = in_hand(&copies, &letter("a"));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::ToWait));
        first.announced(&Messages::new(message(Address::Announce), on_its_way().into_vec()), NOW);
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
    }

    #[test]
    fn a_letter_without_copies_is_not_remembered() {
        let copies = copies();
        in_hand(&copies, &letter("a")).announced(&outcome(), NOW);
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
        assert_eq!(lock(&copies.0).known.len_and_weight(), (0, 0));
    }

    #[test]
    fn what_the_broker_has_handed_out_before_and_what_is_handled_alone_never_waits_here() {
        let copies = copies();
        let _first = in_hand(&copies, &letter("a"));
        let again = Letter { redelivered: Redelivered::Yes, ..letter("a") };
        let alone = Letter { source: Source::Isolation, ..letter("a") };
        for letter in [again, alone] {
            assert!(matches!(copies.begin(&letter, true, NOW), Copy::None(_)), "{letter:?}");
        }
    }

    #[test]
    fn a_step_that_ends_without_a_word_leaves_its_copy_to_make_its_own() {
        let copies = copies();
        drop(in_hand(&copies, &letter("a")));
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
    }

    #[test]
    fn the_oldest_is_forgotten_where_there_is_no_room() {
        let copies = Copies::new(2 * entry_bytes(Some(&outcome())));
        for body in ["a", "b", "c"] {
            let first = in_hand(&copies, &letter(body));
            assert!(matches!(copies.begin(&letter(body), true, NOW), Copy::ToWait));
            first.announced(&outcome(), NOW);
        }
        assert!(matches!(copies.begin(&letter("a"), true, NOW), Copy::None(_)));
        assert!(matches!(copies.begin(&letter("c"), true, NOW), Copy::Answered(_)));
    }
}

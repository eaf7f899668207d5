//! Which letters are handled alone, since they may have taken a process down.
//!
//! After a crash the broker hands out everything again that the process held, and no count of the broker tells the
//! one letter that did it from its neighbours. So each of them is a suspect once, and is handled alone: the letter
//! that takes the process down there, three times in a row, is the one.

use jiff::Timestamp;

use super::doubt::doubted_unread;
use super::history::History;
use super::intent::Kind;
use super::policy::Policy;

/// This many deaths in a row with one letter in hand are enough.
pub const STRIKES_MAX: u32 = 3;

/// Where a letter comes from, as far as suspicion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A lane, or the returns: among its neighbours.
    Among,
    /// The isolation: alone.
    Alone,
}

/// What the end of the process that held a letter looked like, if there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// The letter was handed out for the first time, or this process knows what became of it.
    None,
    /// It was handed out before and not settled, or its step panicked: it may be what did it.
    Suspect,
}

/// What suspicion makes of a letter, before anything else is done with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Suspicion {
    /// It is handled.
    Clear,
    /// It goes to the isolation with this history.
    Isolate(Box<History>),
    /// It has taken down too many: it is dead, with this history.
    Poison(Box<History>),
}

/// What suspicion makes of a letter with this history.
pub fn suspect(
    kind: Kind,
    history: &History,
    room: Room,
    trace: Trace,
    policy: &Policy,
    now: Timestamp,
) -> Suspicion {
    match (trace, room) {
        (Trace::None, Room::Alone) => Suspicion::Clear,
        // It left the isolation with its strikes, to wait: it comes back into it. Whoever held it here before did
        // nothing with it but that, so it cannot be what took him down.
        (Trace::None | Trace::Suspect, Room::Among) if history.strikes > 0 => {
            Suspicion::Isolate(Box::new(history.clone()))
        }
        (Trace::None, Room::Among) => Suspicion::Clear,
        (Trace::Suspect, Room::Among | Room::Alone) => {
            let strikes = history.strikes.saturating_add(1);
            let history = History { strikes, ..doubted_unread(kind, history, policy, now) };
            if strikes >= STRIKES_MAX {
                Suspicion::Poison(Box::new(history))
            } else {
                Suspicion::Isolate(Box::new(history))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{at, policy};
    use crate::domain::history::{Doubt, Phase};

    fn check(strikes: u32, room: Room, trace: Trace) -> Suspicion {
        let history = History { strikes, ..History::fresh(at(0), 0) };
        suspect(Kind::AsyncCancel, &history, room, trace, &policy(), at(0))
    }

    fn strikes(suspicion: Suspicion) -> u32 {
        match suspicion {
            Suspicion::Clear => panic!("it was cleared"),
            Suspicion::Isolate(history) | Suspicion::Poison(history) => history.strikes,
        }
    }

    #[test]
    fn a_letter_that_nothing_happened_to_is_handled_where_it_is() {
        assert_eq!(check(0, Room::Among, Trace::None), Suspicion::Clear);
        assert_eq!(check(2, Room::Alone, Trace::None), Suspicion::Clear);
    }

    #[test]
    fn a_suspect_is_isolated_in_doubt_with_its_first_strike() {
        let Suspicion::Isolate(history) = check(0, Room::Among, Trace::Suspect) else {
            panic!("it is a suspect")
        };
        assert_eq!(
            (history.strikes, history.doubt, history.phase),
            (1, Doubt::MayHaveHappened, Phase::Settle)
        );
    }

    #[test]
    fn a_second_death_sends_it_to_the_back_and_a_third_to_the_dead_letters() {
        let second = check(1, Room::Alone, Trace::Suspect);
        assert!(matches!(second, Suspicion::Isolate(_)));
        assert_eq!(strikes(second), 2);
        let third = check(2, Room::Alone, Trace::Suspect);
        assert!(matches!(third, Suspicion::Poison(_)));
        assert_eq!(strikes(third), 3);
    }

    #[test]
    fn a_letter_with_strikes_that_comes_from_a_wait_is_isolated_again_without_another_strike() {
        let again = check(1, Room::Among, Trace::None);
        assert!(matches!(again, Suspicion::Isolate(_)));
        assert_eq!(strikes(again), 1);
    }

    #[test]
    fn a_letter_that_was_only_to_be_isolated_when_the_process_died_gets_no_other_strike_for_it() {
        let again = check(2, Room::Among, Trace::Suspect);
        assert!(matches!(again, Suspicion::Isolate(_)));
        assert_eq!(strikes(again), 2);
    }
}

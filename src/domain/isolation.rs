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

/// Where a letter is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Among others: it comes from a lane or from the returns.
    Shared,
    /// Alone: it comes from the isolation.
    Isolated,
}

/// Whether a letter may have crashed the process that held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// It was delivered for the first time, or this process knows what became of it.
    None,
    /// It was delivered before and not settled, or its step panicked.
    Possible,
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
    handling: Handling,
    crash: Crash,
    policy: &Policy,
    now: Timestamp,
) -> Suspicion {
    match (crash, handling) {
        (Crash::None, Handling::Isolated) => Suspicion::Clear,
        // It left the isolation with its strikes, to wait in a delay queue, and goes back there. A process that held it
        // here before did nothing but move it, so this letter cannot have crashed that process.
        (Crash::None | Crash::Possible, Handling::Shared) if history.strikes > 0 => {
            Suspicion::Isolate(Box::new(history.clone()))
        }
        (Crash::None, Handling::Shared) => Suspicion::Clear,
        (Crash::Possible, Handling::Shared | Handling::Isolated) => {
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

    fn check(strikes: u32, handling: Handling, crash: Crash) -> Suspicion {
        let history = History { strikes, ..History::fresh(at(0), 0) };
        suspect(Kind::AsyncCancel, &history, handling, crash, &policy(), at(0))
    }

    fn strikes(suspicion: Suspicion) -> u32 {
        match suspicion {
            Suspicion::Clear => panic!("it was cleared"),
            Suspicion::Isolate(history) | Suspicion::Poison(history) => history.strikes,
        }
    }

    #[test]
    fn a_letter_that_nothing_happened_to_is_handled_where_it_is() {
        assert_eq!(check(0, Handling::Shared, Crash::None), Suspicion::Clear);
        assert_eq!(check(2, Handling::Isolated, Crash::None), Suspicion::Clear);
    }

    #[test]
    fn a_suspect_is_isolated_in_doubt_with_its_first_strike() {
        let Suspicion::Isolate(history) = check(0, Handling::Shared, Crash::Possible) else {
            panic!("it is a suspect")
        };
        assert_eq!(
            (history.strikes, history.doubt, history.phase),
            (1, Doubt::MayHaveHappened, Phase::Settle)
        );
    }

    #[test]
    fn a_second_death_sends_it_to_the_back_and_a_third_to_the_dead_letters() {
        let second = check(1, Handling::Isolated, Crash::Possible);
        assert!(matches!(second, Suspicion::Isolate(_)));
        assert_eq!(strikes(second), 2);
        let third = check(2, Handling::Isolated, Crash::Possible);
        assert!(matches!(third, Suspicion::Poison(_)));
        assert_eq!(strikes(third), 3);
    }

    #[test]
    fn a_letter_with_strikes_that_comes_from_a_wait_is_isolated_again_without_another_strike() {
        let again = check(1, Handling::Shared, Crash::None);
        assert!(matches!(again, Suspicion::Isolate(_)));
        assert_eq!(strikes(again), 1);
    }

    #[test]
    fn a_letter_that_was_only_to_be_isolated_when_the_process_died_gets_no_other_strike_for_it() {
        let again = check(2, Handling::Shared, Crash::Possible);
        assert!(matches!(again, Suspicion::Isolate(_)));
        assert_eq!(strikes(again), 2);
    }
}

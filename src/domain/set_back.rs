//! A clock that was set back: a letter that waited three seconds comes back before it is due, and would wait as long again
//! as the clock was set back. The broker's delay queues keep time by a clock of their own, so the hop tells.

use std::time::Duration;

use jiff::Timestamp;

use super::history::History;
use super::retry::{earlier, elapsed};

/// A smaller difference is one between the clocks of two machines, and costs a letter no more than that.
pub const NOTICED_ABOVE: Duration = Duration::from_secs(5);

/// How far our clock is behind the one by which the hop was to end: a letter does not come back before its delay queue's
/// time is over, so it is at least so much that ours was set back, or that the other was ahead. `None` if it is not more
/// than [`NOTICED_ABOVE`].
pub fn set_back_by(hop_due: Timestamp, now: Timestamp) -> Option<Duration> {
    let early = elapsed(now, hop_due);
    (early > NOTICED_ABOVE).then_some(early)
}

/// The history as our clock would have written it: what it waits for, and what its quiet time is counted from. Ages are
/// left as they are: they grow no sooner than they should.
pub fn corrected(history: &History, by: Duration) -> History {
    History {
        due: history.due.map(|due| earlier(due, by)),
        called_at: history.called_at.map(|called_at| earlier(called_at, by)),
        ..history.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::at;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_letter_that_is_back_more_than_five_seconds_early_shows_by_how_much() {
        for (now, expected) in
            [(20, None), (10, None), (5, None), (4, Some(Duration::from_secs(6))), (10 - 3_600, Some(HOUR))]
        {
            assert_eq!(set_back_by(at(10), at(now)), expected, "due at 10, back at {now}");
        }
        assert!(set_back_by(Timestamp::MAX, Timestamp::MIN).is_some());
    }

    #[test]
    fn what_it_waits_for_and_what_it_counts_from_are_moved_and_nothing_else() {
        let history = History {
            due: Some(at(3_610)),
            called_at: Some(at(3_600)),
            settling_since: Some(at(3_600)),
            ..History::fresh(at(3_590), 0)
        };
        let expected = History { due: Some(at(10)), called_at: Some(at(0)), ..history.clone() };
        assert_eq!(corrected(&history, HOUR), expected);
        let fresh = History::fresh(at(0), 0);
        assert_eq!(corrected(&fresh, HOUR), fresh);
        let extreme = History { due: Some(Timestamp::MIN), ..fresh };
        assert_eq!(corrected(&extreme, HOUR), extreme);
    }
}

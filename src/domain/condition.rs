//! A lasting condition is logged when it begins, once a minute while it lasts, and when it is over; not once for each
//! letter that it affects.
//!
//! No clock is read here: `now` is any time that only goes forward, since a beginning of the caller's choice.

use std::collections::BTreeMap;
use std::time::Duration;

/// What lasts is told again so often, and what comes and goes is told no more often.
pub const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Something that lasts. `C` is what can be told apart of it, a closed list: each is told by itself.
#[derive(Debug, Clone)]
pub struct Condition<C> {
    /// It is over when it was not met for so long, and the opposite was.
    over_after: Duration,
    spell: Option<Spell>,
    causes: BTreeMap<C, Cause>,
}

/// One time that it lasts.
#[derive(Debug, Clone, Copy)]
struct Spell {
    since: Duration,
    met_at: Duration,
    /// The opposite was met since.
    is_clearing: bool,
    is_told: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cause {
    /// How often it was met since it was told.
    untold: u64,
    told_at: Option<Duration>,
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell<C> {
    /// It is so.
    Is {
        /// Which of it.
        cause: C,
        /// How often that was met since it was last told.
        times: u64,
        /// How long it has lasted.
        lasts: Duration,
    },
    /// It is over.
    Over {
        /// How long it lasted, from the first to the last time that it was met.
        lasted: Duration,
    },
}

impl<C: Ord + Copy> Condition<C> {
    /// Nothing was met yet. It will be over when nothing of it was met for `over_after`, and the opposite was.
    pub fn new(over_after: Duration) -> Condition<C> {
        Condition { over_after, spell: None, causes: BTreeMap::new() }
    }

    /// It was met.
    pub fn met(&mut self, cause: C, now: Duration) {
        let spell =
            self.spell.get_or_insert(Spell { since: now, met_at: now, is_clearing: false, is_told: false });
        spell.met_at = now;
        spell.is_clearing = false;
        let cause = self.causes.entry(cause).or_default();
        cause.untold = cause.untold.saturating_add(1);
    }

    /// The opposite was met. Says whether there is anything that may be over by that.
    pub fn cleared(&mut self) -> bool {
        match &mut self.spell {
            Some(spell) => {
                spell.is_clearing = true;
                true
            }
            None => false,
        }
    }

    /// What is to be told now.
    pub fn look(&mut self, now: Duration) -> Vec<Tell<C>> {
        let Some(spell) = &mut self.spell else { return Vec::new() };
        let mut tells = Vec::new();
        for (cause, state) in &mut self.causes {
            if state.untold > 0 && state.due(now).is_zero() {
                let lasts = now.saturating_sub(spell.since);
                tells.push(Tell::Is { cause: *cause, times: state.untold, lasts });
                *state = Cause { untold: 0, told_at: Some(now) };
                spell.is_told = true;
            }
        }
        if spell.is_clearing && now >= spell.met_at.saturating_add(self.over_after) {
            if spell.is_told {
                tells.push(Tell::Over { lasted: spell.met_at.saturating_sub(spell.since) });
            }
            self.spell = None;
        }
        tells
    }

    /// How long it is until something is to be told, unless more is met before; zero if now.
    pub fn next_look(&self, now: Duration) -> Option<Duration> {
        let spell = self.spell.as_ref()?;
        let untold = self.causes.values().filter(|cause| cause.untold > 0).map(|cause| cause.due(now));
        let over =
            spell.is_clearing.then(|| spell.met_at.saturating_add(self.over_after).saturating_sub(now));
        untold.chain(over).min()
    }
}

impl Cause {
    /// How long it is until it may be told again.
    fn due(&self, now: Duration) -> Duration {
        self.told_at.map_or(Duration::ZERO, |at| at.saturating_add(TOLD_EVERY).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OVER_AFTER: Duration = Duration::from_secs(5);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn condition() -> Condition<char> {
        Condition::new(OVER_AFTER)
    }

    fn is(cause: char, times: u64, lasts: u64) -> Tell<char> {
        Tell::Is { cause, times, lasts: s(lasts) }
    }

    fn over(lasted: u64) -> Tell<char> {
        Tell::Over { lasted: s(lasted) }
    }

    #[test]
    fn what_begins_is_told_at_once_and_what_lasts_once_a_minute() {
        let mut condition = condition();
        assert_eq!(condition.next_look(s(0)), None);
        let mut told = Vec::new();
        for second in 10..140 {
            condition.met('a', s(second));
            told.extend(condition.look(s(second)));
        }
        assert_eq!(told, [is('a', 1, 0), is('a', 60, 60), is('a', 60, 120)]);
    }

    #[test]
    fn it_is_over_when_the_opposite_was_met_and_nothing_of_it_for_a_while() {
        let mut condition = condition();
        condition.met('a', s(0));
        condition.met('a', s(2));
        assert_eq!(condition.look(s(2)), [is('a', 2, 2)]);
        assert_eq!(condition.next_look(s(100)), None, "nobody knows yet");
        assert!(condition.cleared());
        assert_eq!(condition.next_look(s(3)), Some(s(4)));
        assert_eq!(condition.look(s(6)), []);
        assert_eq!(condition.look(s(7)), [over(2)]);
        assert!(!condition.cleared());
        assert_eq!(condition.next_look(s(8)), None);
    }

    #[test]
    fn what_comes_and_goes_is_told_no_more_than_once_a_minute_and_counted() {
        let mut condition = condition();
        let mut told = Vec::new();
        for second in 0..120 {
            // Every tenth second it is met; between, the opposite is.
            if second % 10 == 0 {
                condition.met('a', s(second));
            } else {
                condition.cleared();
            }
            told.extend(condition.look(s(second)));
        }
        assert_eq!(told, [is('a', 1, 0), over(0), is('a', 6, 0), over(0)]);
    }

    #[test]
    fn what_is_met_in_turn_with_its_opposite_lasts() {
        let mut condition = condition();
        let mut told = Vec::new();
        for second in 0..70 {
            condition.met('a', s(second));
            condition.cleared();
            told.extend(condition.look(s(second)));
        }
        assert_eq!(told, [is('a', 1, 0), is('a', 60, 60)]);
    }

    #[test]
    fn another_cause_is_news() {
        let mut condition = condition();
        condition.met('a', s(0));
        assert_eq!(condition.look(s(0)), [is('a', 1, 0)]);
        condition.met('a', s(1));
        condition.met('b', s(1));
        condition.met('c', s(1));
        assert_eq!(condition.look(s(1)), [is('b', 1, 1), is('c', 1, 1)]);
        assert_eq!(condition.next_look(s(1)), Some(s(59)));
        assert_eq!(condition.look(s(60)), [is('a', 1, 60)]);
    }

    proptest! {
        /// Whatever happens: two lines about one cause are a minute apart, and an end follows a beginning.
        #[test]
        fn nobody_is_told_more_than_once_a_minute(
            steps in proptest::collection::vec((0u64..20, 0u8..4), 0..400),
        ) {
            let mut condition = condition();
            let mut now = s(0);
            let mut told_at: BTreeMap<char, Duration> = BTreeMap::new();
            let mut is_told = false;
            for (wait, what) in steps {
                now += s(wait);
                match what {
                    0 => condition.met('a', now),
                    1 => condition.met('b', now),
                    _ => drop(condition.cleared()),
                }
                for tell in condition.look(now) {
                    match tell {
                        Tell::Is { cause, times, .. } => {
                            prop_assert!(times > 0);
                            if let Some(before) = told_at.insert(cause, now) {
                                prop_assert!(now - before >= TOLD_EVERY);
                            }
                            is_told = true;
                        }
                        Tell::Over { .. } => {
                            prop_assert!(is_told);
                            is_told = false;
                        }
                    }
                }
                prop_assert_ne!(condition.next_look(now), Some(Duration::ZERO));
            }
        }
    }
}

//! A rate that is never exceeded: the generic cell rate algorithm, as arithmetic.
//!
//! No crate, since what there is reads a clock of its own and is made to be shared by threads without a lock; here
//! `now` comes in from outside, and the lanes take turns anyhow.

use std::time::Duration;

/// Timers are coarse. A call may come this much too early, if the one before came as much too late.
const EARLY_MAX: Duration = Duration::from_millis(5);

/// At most this many calls a second, evenly spread. `now` is any time that only goes forward.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    period: Duration,
    /// When the next call is due, if all come as fast as they may.
    due: Duration,
}

impl Rate {
    /// `per_second` is above zero.
    pub fn new(per_second: f64) -> Rate {
        // No wait is longer than a day, whatever is asked for.
        let seconds = per_second.recip().clamp(0.0, 86_400.0);
        Rate { period: Duration::from_secs_f64(seconds), due: Duration::ZERO }
    }

    /// Takes as many calls as a step makes, at once: a step is never cut in two, and those after it wait for all of
    /// them.
    ///
    /// # Errors
    /// How long it is until it may be tried again. Nothing was taken.
    pub fn take(&mut self, calls: u32, now: Duration) -> Result<(), Duration> {
        let early = self.due.saturating_sub(now);
        if early > EARLY_MAX {
            return Err(early);
        }
        self.due = self.due.max(now).saturating_add(self.period.saturating_mul(calls));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn calls_are_spread_evenly() {
        let mut rate = Rate::new(10.0);
        assert_eq!(rate.take(1, ms(1_000)), Ok(()));
        assert_eq!(rate.take(1, ms(1_000)), Err(ms(100)));
        assert_eq!(rate.take(1, ms(1_060)), Err(ms(40)));
        assert_eq!(rate.take(1, ms(1_100)), Ok(()));
    }

    #[test]
    fn what_was_not_used_is_not_saved() {
        let mut rate = Rate::new(10.0);
        assert_eq!(rate.take(1, ms(60_000)), Ok(()));
        assert_eq!(rate.take(1, ms(60_000)), Err(ms(100)));
    }

    #[test]
    fn a_step_of_many_calls_holds_up_those_after_it() {
        let mut rate = Rate::new(10.0);
        assert_eq!(rate.take(20, ms(0)), Ok(()));
        assert_eq!(rate.take(1, ms(0)), Err(ms(2_000)));
    }

    proptest! {
        #[test]
        fn no_window_has_more_calls_than_the_rate_allows(
            per_second in 0.5_f64..2_000.0,
            gaps in prop::collection::vec(0_u64..200, 1..300),
        ) {
            let mut rate = Rate::new(per_second);
            let mut now = Duration::ZERO;
            let mut taken = Vec::new();
            for gap in gaps {
                now += ms(gap);
                while rate.take(1, now).is_ok() {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let window = (*to - *from + EARLY_MAX).as_secs_f64();
                    #[allow(clippy::cast_precision_loss, reason = "small counts")]
                    let calls = (last - first) as f64;
                    prop_assert!(calls <= window * per_second + 0.001, "{calls} in {window} s");
                }
            }
        }
    }
}

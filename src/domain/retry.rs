//! How long to wait, as arithmetic. The wait itself happens in a delay queue, never in a sleeping task.
//!
//! This is the only module that names `backoff`, and it takes nothing from it but the growth curve: its chance
//! cannot be seeded and goes beyond its own cap, its limit of time is hidden, and it has no limit of attempts.

use std::time::Duration;

use backoff::backoff::Backoff;
use jiff::{SignedDuration, Timestamp};

/// Chance, as far as delays are concerned: a number from 0 up to, but not including, 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// A number; what lies outside of the range is moved to its nearer end.
    pub fn new(value: f64) -> Jitter {
        Jitter(if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0 - f64::EPSILON) })
    }

    /// This part of a whole: spreads a wait below its cap, never above.
    pub fn part_of(self, whole: Duration) -> Duration {
        whole.mul_f64(self.0)
    }

    /// One of `len` things, each as likely as the others. `len` is at least 1.
    fn pick(self, len: usize) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small counts"
        )]
        let index = (self.0 * len as f64) as usize;
        index.min(len.saturating_sub(1))
    }
}

/// One delay queue: how long it holds a letter, and how the configuration writes that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tier {
    /// How long a letter waits in it.
    pub length: Duration,
    /// The length as the configuration writes it: `5s`. Part of the queue's name.
    pub name: String,
}

/// The delay queues, shortest first: at least one, no length twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers(Vec<Tier>);

impl Tiers {
    /// The tiers in order; `None` if there is none, if a length is zero, or if one comes twice.
    pub fn try_new(mut tiers: Vec<Tier>) -> Option<Tiers> {
        tiers.sort();
        let distinct = tiers.windows(2).all(|pair| pair[0].length < pair[1].length);
        let positive = tiers.first().is_some_and(|tier| !tier.length.is_zero());
        (distinct && positive).then_some(Tiers(tiers))
    }

    /// All of them, shortest first.
    pub fn as_slice(&self) -> &[Tier] {
        &self.0
    }

    /// The shortest.
    pub fn shortest(&self) -> &Tier {
        &self.0[0]
    }

    fn longest(&self) -> &Tier {
        &self.0[self.0.len() - 1]
    }

    /// The tier that a letter takes next on its way to `due`: the longest that does not overshoot, or the
    /// shortest. A wait between or beyond the tiers is composed of several.
    pub fn towards(&self, due: Timestamp, now: Timestamp) -> &Tier {
        let remaining = Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO);
        self.0.iter().rev().find(|tier| tier.length <= remaining).unwrap_or_else(|| self.shortest())
    }

    /// The tier for a wait of about `target`: chance chooses between the two neighbouring ones, so that what
    /// failed together does not come back together. Never longer than the longest tier.
    fn about(&self, target: Duration, jitter: Jitter) -> &Tier {
        let above = self.0.iter().position(|tier| tier.length >= target).unwrap_or(self.0.len() - 1);
        let below = above.saturating_sub(1);
        let neighbours = &self.0[below..=above.max(1).min(self.0.len() - 1)];
        &neighbours[jitter.pick(neighbours.len())]
    }

    /// The wait before try `count + 1`, `count` tries having failed: exponential, bounded by the longest tier.
    pub fn after_tries(&self, count: u32, jitter: Jitter) -> Duration {
        self.about(growth(self.shortest().length, self.longest().length, count), jitter).length
    }

    /// The wait where nothing counts tries (nothing was sent, or our keys were not accepted): about as long
    /// again as it has lasted, bounded by the middle tier, so that work goes on soon after the obstacle is gone.
    pub fn after_elapsed(&self, elapsed: Duration, jitter: Jitter) -> Duration {
        let middle = self.0[self.0.len() / 2].length;
        self.about(elapsed.clamp(self.shortest().length, middle), jitter).length
    }

    /// The wait where only a person at the gateway can help: the long tiers.
    pub fn long_after_tries(&self, count: u32, jitter: Jitter) -> Duration {
        let first_long = self.0[self.0.len() * 2 / 3].length;
        self.about(growth(first_long, self.longest().length, count), jitter).length.max(first_long)
    }
}

/// The growth curve: `first`, doubled with every try after the first, never above `longest`.
fn growth(first: Duration, longest: Duration, count: u32) -> Duration {
    let mut curve = backoff::ExponentialBackoff {
        current_interval: first,
        initial_interval: first,
        randomization_factor: 0.0,
        multiplier: 2.0,
        max_interval: longest,
        max_elapsed_time: None,
        ..backoff::ExponentialBackoff::default()
    };
    // The curve is at its cap long before this many tries.
    let steps = count.clamp(1, 64);
    (0..steps).map_while(|_| curve.next_backoff()).last().unwrap_or(longest).min(longest)
}

/// `at` moved by `by` into the future; the far end of time if that is beyond it.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// `at` moved by `by` into the past; the far end of time if that is beyond it.
pub fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_sub(by).ok()).unwrap_or(Timestamp::MIN)
}

/// How long ago `since` was; zero if it lies in the future.
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tiers(seconds: &[u64]) -> Tiers {
        let tiers =
            seconds.iter().map(|s| Tier { length: Duration::from_secs(*s), name: format!("{s}s") }).collect();
        Tiers::try_new(tiers).expect("valid")
    }

    fn default_tiers() -> Tiers {
        tiers(&[1, 2, 5, 10, 30, 60, 120, 300, 900, 1800, 3600])
    }

    #[test]
    fn no_tier_a_zero_length_or_the_same_length_twice_are_refused() {
        let tier = |ms: u64| Tier { length: Duration::from_millis(ms), name: format!("{ms}ms") };
        assert_eq!(Tiers::try_new(vec![]), None);
        assert_eq!(Tiers::try_new(vec![tier(0), tier(5)]), None);
        assert_eq!(Tiers::try_new(vec![tier(5), tier(5)]), None);
    }

    #[test]
    fn the_curve_doubles_up_to_the_longest_tier() {
        let curve: Vec<u64> = (1..=14)
            .map(|count| growth(Duration::from_secs(1), Duration::from_secs(3600), count).as_secs())
            .collect();
        assert_eq!(curve, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
    }

    #[test]
    fn chance_chooses_between_neighbouring_tiers() {
        let at = |value| default_tiers().after_tries(4, Jitter::new(value)).as_secs();
        assert_eq!((at(0.0), at(0.49), at(0.5), at(0.99)), (5, 5, 10, 10));
    }

    #[test]
    fn the_first_wait_is_spread_over_the_two_shortest_tiers() {
        let at = |value| default_tiers().after_tries(1, Jitter::new(value)).as_secs();
        assert_eq!((at(0.0), at(0.99)), (1, 2));
    }

    #[test]
    fn a_single_tier_serves_every_wait() {
        let one = tiers(&[3]);
        for jitter in [0.0, 0.5, 0.99].map(Jitter::new) {
            assert_eq!(one.after_tries(7, jitter).as_secs(), 3);
            assert_eq!(one.long_after_tries(7, jitter).as_secs(), 3);
            assert_eq!(one.after_elapsed(Duration::from_secs(9), jitter).as_secs(), 3);
        }
    }

    #[test]
    fn a_wait_that_only_a_person_can_end_is_long_from_the_start() {
        assert_eq!(default_tiers().long_after_tries(1, Jitter::new(0.0)).as_secs(), 300);
        assert_eq!(default_tiers().long_after_tries(9, Jitter::new(0.99)).as_secs(), 3600);
    }

    #[test]
    fn a_wait_between_the_tiers_is_composed_and_never_overshoots_by_more_than_the_shortest() {
        let tiers = default_tiers();
        let mut now = Timestamp::UNIX_EPOCH;
        let due = later(now, Duration::from_millis(6_700));
        let mut path = Vec::new();
        while now < due {
            let tier = tiers.towards(due, now);
            path.push(tier.name.clone());
            now = later(now, tier.length);
        }
        assert_eq!(path, ["5s", "1s", "1s"]);
    }

    proptest! {
        #[test]
        fn every_wait_is_one_of_the_tiers(count in 0u32..10_000, jitter in 0.0f64..1.0, elapsed_s in 0u64..1_000_000) {
            let tiers = default_tiers();
            let jitter = Jitter::new(jitter);
            let lengths: Vec<Duration> = tiers.as_slice().iter().map(|tier| tier.length).collect();
            prop_assert!(lengths.contains(&tiers.after_tries(count, jitter)));
            prop_assert!(lengths.contains(&tiers.long_after_tries(count, jitter)));
            prop_assert!(tiers.after_elapsed(Duration::from_secs(elapsed_s), jitter) <= Duration::from_secs(60));
        }

        #[test]
        fn with_the_same_luck_a_later_wait_is_never_shorter(count in 1u32..100, jitter in 0.0f64..1.0) {
            let tiers = default_tiers();
            prop_assert!(tiers.after_tries(count, Jitter::new(jitter)) <= tiers.after_tries(count + 1, Jitter::new(jitter)));
        }
    }
}

//! The simulator's own clock: it runs with the machine's, or stands still until somebody moves it.

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

/// How the clock of a new simulator goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockStart {
    /// With the machine's clock. It can still be moved, and frozen, later.
    #[default]
    Real,
    /// It stands at this moment until it is moved.
    FrozenAt(Timestamp),
}

/// A clock that a test can move, so that midnight and long waits need no sleep.
#[derive(Debug, Clone, Copy)]
pub(super) enum SimClock {
    /// The machine's clock, plus what somebody added.
    Running { ahead: SignedDuration },
    /// Always the same moment.
    Frozen { at: Timestamp },
}

impl SimClock {
    pub(super) fn start(how: ClockStart) -> Self {
        match how {
            ClockStart::Real => Self::Running { ahead: SignedDuration::ZERO },
            ClockStart::FrozenAt(at) => Self::Frozen { at },
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        match self {
            Self::Running { ahead } => shifted(machine_now(), *ahead),
            Self::Frozen { at } => *at,
        }
    }

    /// Moves the clock forward (or back, if negative). It keeps running, or standing, as before.
    pub(super) fn advance(&mut self, by: SignedDuration) {
        match self {
            Self::Running { ahead } => *ahead = ahead.saturating_add(by),
            Self::Frozen { at } => *at = shifted(*at, by),
        }
    }

    /// Sets the clock. It keeps running, or standing, as before.
    pub(super) fn set_now(&mut self, now: Timestamp) {
        match self {
            Self::Running { ahead } => *ahead = now.duration_since(machine_now()),
            Self::Frozen { at } => *at = now,
        }
    }

    pub(super) fn freeze(&mut self) {
        *self = Self::Frozen { at: self.now() };
    }

    pub(super) fn run(&mut self) {
        *self = Self::Running { ahead: self.now().duration_since(machine_now()) };
    }
}

/// The one place where the simulator reads the machine's clock.
#[expect(clippy::disallowed_methods, reason = "the simulator is a program of its own: this is its edge")]
fn machine_now() -> Timestamp {
    Timestamp::now()
}

/// `at` moved by `by`, stopping at the ends of time.
pub(super) fn shifted(at: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    at.checked_add(by).unwrap_or(end)
}

/// `at` moved forward by this many milliseconds.
pub(super) fn after_ms(at: Timestamp, ms: u64) -> Timestamp {
    shifted(at, SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
}

/// `at` moved back by this many milliseconds.
pub(super) fn before_ms(at: Timestamp, ms: u64) -> Timestamp {
    shifted(at, SignedDuration::from_millis(i64::try_from(ms).map_or(i64::MIN, |ms| -ms)))
}

/// The zone whose midnight ends the gateway's day.
pub(super) fn istanbul() -> TimeZone {
    // Turkey has had UTC+3 without summer time since 2016, so the fixed zone says the same of any date that matters.
    TimeZone::get("Europe/Istanbul").unwrap_or_else(|_| TimeZone::fixed(jiff::tz::offset(3)))
}

/// The calendar day of a moment.
pub(super) fn day(at: Timestamp, zone: &TimeZone) -> civil::Date {
    at.to_zoned(zone.clone()).date()
}

/// A moment as the gateway prints it: local time, no offset.
pub(super) fn local_text(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_clock_moves_only_when_told() {
        let noon: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let mut clock = SimClock::start(ClockStart::FrozenAt(noon));
        clock.advance(SignedDuration::from_secs(90));
        assert_eq!(clock.now(), "2026-03-01T12:01:30Z".parse().unwrap());
    }

    #[test]
    fn a_running_clock_can_be_set_and_goes_on_from_there() {
        let noon: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let mut clock = SimClock::start(ClockStart::Real);
        clock.set_now(noon);
        assert!(clock.now() >= noon);
        clock.freeze();
        assert_eq!(clock.now(), clock.now());
    }

    #[test]
    fn the_day_ends_at_midnight_in_istanbul() {
        let last: Timestamp = "2026-03-01T20:59:59Z".parse().unwrap();
        assert_eq!(day(last, &istanbul()), civil::date(2026, 3, 1));
        assert_eq!(day(after_ms(last, 1_000), &istanbul()), civil::date(2026, 3, 2));
    }

    #[test]
    fn dates_are_printed_without_an_offset() {
        let at: Timestamp = "2026-03-01T12:00:00.25Z".parse().unwrap();
        assert_eq!(local_text(at, &istanbul()), "2026-03-01T15:00:00.250");
    }
}

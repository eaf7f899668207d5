//! The lock-out: the gateway does not accept our keys, or an address is wrong. It is nobody's payment's fault, so
//! letters wait without burning attempts, and one of them at a time finds out whether it is over.

use std::time::Duration;

use jiff::Timestamp;

use super::history::LastReply;
use super::retry::{Jitter, Tiers, elapsed, later};

/// The lock-out of one merchant from one API, or from one endpoint of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LockOut {
    shut: Option<Shut>,
}

#[derive(Debug, Clone, PartialEq)]
struct Shut {
    since: Timestamp,
    /// What the gateway said last.
    last: LastReply,
    /// How long it is waited from one probe to the next.
    wait: Duration,
    /// Not before this does anybody find out.
    probe_from: Timestamp,
    /// Somebody is finding out, and is given up on at this time.
    probing_until: Option<Timestamp>,
}

/// Whether a letter may call.
#[derive(Debug, Clone, PartialEq)]
pub enum LockOutPass {
    /// It may.
    Open,
    /// It may, as the one that finds out.
    Probe,
    /// It waits, and tells in the end what stood in its way.
    Wait {
        /// Until then.
        until: Timestamp,
        /// What the gateway said last.
        last: LastReply,
    },
}

/// What a reply says about the lock-out.
#[derive(Debug, Clone, PartialEq)]
pub enum LockOutSignal {
    /// It is shut.
    LockedOut(LastReply),
    /// The gateway answered, whatever it said.
    LetIn,
    /// Nothing came back.
    Nothing,
}

/// How the lock-out has changed, for those who want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOutChange {
    /// It is as it was.
    None,
    /// It was found shut, for the first time or again.
    Shut,
    /// It is open again after so long.
    Opened(Duration),
}

impl LockOut {
    /// Whether a letter may call now. A probe is given up on after `probe_max`.
    pub fn pass(&mut self, now: Timestamp, probe_max: Duration) -> LockOutPass {
        let Some(shut) = &mut self.shut else { return LockOutPass::Open };
        // While somebody finds out, the others wait no longer than for the next probe: it may be over in a moment.
        let probing = shut.probing_until.filter(|until| *until > now);
        let until = probing.map_or(shut.probe_from, |until| until.min(later(now, shut.wait)));
        if until > now {
            return LockOutPass::Wait { until, last: shut.last.clone() };
        }
        shut.probing_until = Some(later(now, probe_max));
        LockOutPass::Probe
    }

    /// How long it is until somebody may find out; zero if now. `None`: it is open.
    pub fn next_probe(&self, now: Timestamp) -> Option<Duration> {
        let shut = self.shut.as_ref()?;
        Some(elapsed(now, shut.probing_until.unwrap_or(shut.probe_from)))
    }

    /// Takes note of what a call's reply says about the lock-out.
    pub fn hear(
        &mut self,
        heard: LockOutSignal,
        now: Timestamp,
        tiers: &Tiers,
        jitter: Jitter,
    ) -> LockOutChange {
        match (heard, self.shut.take()) {
            (LockOutSignal::LockedOut(last), before) => {
                let since = before.map_or(now, |shut| shut.since);
                let wait = tiers.after_elapsed(elapsed(since, now), jitter);
                self.shut =
                    Some(Shut { since, last, wait, probe_from: later(now, wait), probing_until: None });
                LockOutChange::Shut
            }
            (LockOutSignal::LetIn, Some(shut)) => LockOutChange::Opened(elapsed(shut.since, now)),
            (LockOutSignal::LetIn | LockOutSignal::Nothing, None) => LockOutChange::None,
            (LockOutSignal::Nothing, Some(shut)) => {
                let probe_from = later(now, tiers.shortest().length);
                self.shut = Some(Shut { probe_from, probing_until: None, ..shut });
                LockOutChange::None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{at, policy};

    const PROBE_MAX: Duration = Duration::from_secs(30);

    fn unauthorised() -> LockOutSignal {
        LockOutSignal::LockedOut(LastReply { http_status: Some(401), ..LastReply::default() })
    }

    fn hear(lockout: &mut LockOut, heard: LockOutSignal, seconds: i64) -> LockOutChange {
        lockout.hear(heard, at(seconds), &policy().tiers, Jitter::new(0.0))
    }

    fn waits(lockout: &mut LockOut, seconds: i64) -> bool {
        matches!(lockout.pass(at(seconds), PROBE_MAX), LockOutPass::Wait { .. })
    }

    fn shut_at_noon() -> LockOut {
        let mut lockout = LockOut::default();
        assert_eq!(hear(&mut lockout, unauthorised(), 0), LockOutChange::Shut);
        lockout
    }

    #[test]
    fn an_open_door_lets_everybody_pass() {
        let mut lockout = LockOut::default();
        assert_eq!(lockout.pass(at(0), PROBE_MAX), LockOutPass::Open);
        assert_eq!(hear(&mut lockout, LockOutSignal::LetIn, 0), LockOutChange::None);
        assert_eq!(hear(&mut lockout, LockOutSignal::Nothing, 0), LockOutChange::None);
        assert_eq!(lockout.pass(at(0), PROBE_MAX), LockOutPass::Open);
    }

    #[test]
    fn behind_a_shut_door_letters_wait_and_know_what_stood_in_their_way() {
        let LockOutPass::Wait { until, last } = shut_at_noon().pass(at(0), PROBE_MAX) else {
            panic!("it is shut")
        };
        assert_eq!((until, last.http_status), (at(1), Some(401)));
    }

    #[test]
    fn one_letter_at_a_time_finds_out() {
        let mut lockout = shut_at_noon();
        assert_eq!(lockout.pass(at(1), PROBE_MAX), LockOutPass::Probe);
        assert!(waits(&mut lockout, 1));
        assert!(waits(&mut lockout, 30));
        // They look again soon, for the probe may be over in a moment.
        let LockOutPass::Wait { until, .. } = lockout.pass(at(2), PROBE_MAX) else {
            panic!("somebody finds out")
        };
        assert_eq!(until, at(3));
        // The probe has died; another one finds out.
        assert_eq!(lockout.pass(at(31), PROBE_MAX), LockOutPass::Probe);
    }

    #[test]
    fn an_answer_opens_the_door_for_everybody() {
        let mut lockout = shut_at_noon();
        assert_eq!(
            hear(&mut lockout, LockOutSignal::LetIn, 60),
            LockOutChange::Opened(Duration::from_secs(60))
        );
        assert_eq!(lockout.pass(at(60), PROBE_MAX), LockOutPass::Open);
    }

    #[test]
    fn the_wait_grows_while_the_door_stays_shut() {
        let mut lockout = shut_at_noon();
        assert_eq!(hear(&mut lockout, unauthorised(), 40), LockOutChange::Shut);
        assert!(waits(&mut lockout, 69));
        assert_eq!(lockout.pass(at(70), PROBE_MAX), LockOutPass::Probe);
    }

    #[test]
    fn a_probe_that_was_not_answered_leaves_the_door_shut_and_frees_the_next() {
        let mut lockout = shut_at_noon();
        assert_eq!(lockout.pass(at(1), PROBE_MAX), LockOutPass::Probe);
        assert_eq!(hear(&mut lockout, LockOutSignal::Nothing, 2), LockOutChange::None);
        assert!(waits(&mut lockout, 2));
        assert_eq!(lockout.pass(at(3), PROBE_MAX), LockOutPass::Probe);
    }
}

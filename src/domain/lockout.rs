//! The lock-out: the gateway does not accept our keys, or an address is wrong. No payment causes it, so
//! letters wait without burning attempts, and one of them at a time finds out whether it is over.

use std::time::Duration;

use super::gate::{Gate, Pass, Probe};
use super::history::LastReply;
use super::retry::{Jitter, Tiers};

/// The lock-out of one merchant from one API, or from one endpoint of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LockOut {
    gate: Gate<Cause>,
}

#[derive(Debug, Clone, PartialEq)]
struct Cause {
    /// What the gateway said last.
    last: LastReply,
    /// How long it is waited from one probe to the next.
    wait: Duration,
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

/// How the lock-out has changed.
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
    pub fn pass(&mut self, now: Duration, probe_max: Duration) -> Pass {
        match (self.gate.pass(now, probe_max), self.gate.cause()) {
            // While a probe finds out, the others wait no longer than for the next one: it may be over in a moment.
            (Pass::Wait(next), Some(cause)) => Pass::Wait(next.min(cause.wait)),
            (pass, _) => pass,
        }
    }

    /// What the gateway said last, while it is shut: a letter that waits tells in the end what stood in its way.
    pub fn last(&self) -> Option<&LastReply> {
        Some(&self.gate.cause()?.last)
    }

    /// How long it is until a probe may pass; zero if now. `None`: it is open.
    pub fn next_probe(&self, now: Duration) -> Option<Duration> {
        self.gate.next_probe(now)
    }

    /// Takes note of what a call's reply says about the lock-out. `probe` is what the caller was given when it passed as one.
    pub fn hear(
        &mut self,
        heard: LockOutSignal,
        probe: Option<Probe>,
        now: Duration,
        tiers: &Tiers,
        jitter: Jitter,
    ) -> LockOutChange {
        match heard {
            LockOutSignal::LockedOut(last) => {
                let wait = tiers.after_elapsed(self.gate.shut_for(now).unwrap_or_default(), jitter);
                self.gate.shut(Cause { last, wait }, now, wait);
                LockOutChange::Shut
            }
            LockOutSignal::LetIn => self.gate.open(now).map_or(LockOutChange::None, LockOutChange::Opened),
            LockOutSignal::Nothing => {
                if self.gate.probing(probe).is_some() {
                    self.gate.probe_again(now, tiers.shortest().length);
                }
                LockOutChange::None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::policy;

    const PROBE_MAX: Duration = Duration::from_secs(30);

    fn unauthorised() -> LockOutSignal {
        LockOutSignal::LockedOut(LastReply { http_status: Some(401), ..LastReply::default() })
    }

    fn hear(
        lockout: &mut LockOut,
        heard: LockOutSignal,
        probe: Option<Probe>,
        seconds: u64,
    ) -> LockOutChange {
        lockout.hear(heard, probe, at(seconds), &policy().tiers, Jitter::new(0.0))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn waits(lockout: &mut LockOut, seconds: u64) -> bool {
        matches!(lockout.pass(at(seconds), PROBE_MAX), Pass::Wait(_))
    }

    fn probe(lockout: &mut LockOut, seconds: u64) -> Option<Probe> {
        match lockout.pass(at(seconds), PROBE_MAX) {
            Pass::Probe(probe) => Some(probe),
            Pass::Open | Pass::Wait(_) => panic!("no probe passes at {seconds}"),
        }
    }

    fn shut_at_the_beginning() -> LockOut {
        let mut lockout = LockOut::default();
        assert_eq!(hear(&mut lockout, unauthorised(), None, 0), LockOutChange::Shut);
        lockout
    }

    #[test]
    fn an_open_door_lets_everybody_pass() {
        let mut lockout = LockOut::default();
        assert_eq!(lockout.pass(at(0), PROBE_MAX), Pass::Open);
        assert_eq!(hear(&mut lockout, LockOutSignal::LetIn, None, 0), LockOutChange::None);
        assert_eq!(hear(&mut lockout, LockOutSignal::Nothing, None, 0), LockOutChange::None);
        assert_eq!(lockout.pass(at(0), PROBE_MAX), Pass::Open);
    }

    #[test]
    fn behind_a_shut_door_letters_wait_and_know_what_stood_in_their_way() {
        let mut lockout = shut_at_the_beginning();
        assert_eq!(lockout.pass(at(0), PROBE_MAX), Pass::Wait(at(1)));
        assert_eq!(lockout.last().and_then(|last| last.http_status), Some(401));
    }

    #[test]
    fn one_letter_at_a_time_finds_out() {
        let mut lockout = shut_at_the_beginning();
        probe(&mut lockout, 1);
        assert!(waits(&mut lockout, 1));
        assert!(waits(&mut lockout, 30));
        // They look again soon, for the probe may be over in a moment.
        assert_eq!(lockout.pass(at(2), PROBE_MAX), Pass::Wait(at(1)));
        // The probe has died; another one finds out.
        probe(&mut lockout, 31);
    }

    #[test]
    fn an_answer_opens_the_door_for_everybody() {
        let mut lockout = shut_at_the_beginning();
        assert_eq!(
            hear(&mut lockout, LockOutSignal::LetIn, None, 60),
            LockOutChange::Opened(Duration::from_secs(60))
        );
        assert_eq!(lockout.pass(at(60), PROBE_MAX), Pass::Open);
    }

    #[test]
    fn the_wait_grows_while_the_door_stays_shut() {
        let mut lockout = shut_at_the_beginning();
        assert_eq!(hear(&mut lockout, unauthorised(), None, 40), LockOutChange::Shut);
        assert!(waits(&mut lockout, 69));
        probe(&mut lockout, 70);
    }

    #[test]
    fn a_probe_that_was_not_answered_leaves_the_door_shut_and_frees_the_next() {
        let mut lockout = shut_at_the_beginning();
        let probe_1 = probe(&mut lockout, 1);
        // Nor does a call that was begun before tell anything new.
        hear(&mut lockout, LockOutSignal::Nothing, None, 2);
        assert_eq!(lockout.next_probe(at(2)), Some(PROBE_MAX - at(1)));
        assert_eq!(hear(&mut lockout, LockOutSignal::Nothing, probe_1, 2), LockOutChange::None);
        assert!(waits(&mut lockout, 2));
        probe(&mut lockout, 3);
    }
}

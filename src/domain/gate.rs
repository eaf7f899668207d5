//! The states that a circuit breaker and a lock-out share. A gate that is shut is what the literature calls an open circuit
//! breaker: no letter may call, except one at a time, the probe (half-open). The breaker ([`super::breaker`]) and the
//! lock-out ([`super::lockout`]) say when it is shut, and for how long.
//!
//! No clock is read here: `now` is any time that only goes forward, since a beginning of the caller's choice.

use std::time::Duration;

/// A gate. `C` is what its owner remembers while it is shut.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate<C> {
    shut: Option<Shut<C>>,
    probes: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Shut<C> {
    since: Duration,
    cause: C,
    /// Not before this does a probe pass.
    probe_from: Duration,
    /// The probe that is under way, and when it is given up on.
    probing: Option<(Probe, Duration)>,
}

/// A letter that finds out whether a gate is open again; each has a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe(u64);

/// Whether a letter may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It may.
    Open,
    /// It may, as the probe.
    Probe(Probe),
    /// It waits. The next probe may pass after so long.
    Wait(Duration),
}

impl<C> Default for Gate<C> {
    fn default() -> Gate<C> {
        Gate { shut: None, probes: 0 }
    }
}

impl<C> Gate<C> {
    /// Whether a letter may pass now. A probe is given up on after `probe_max`.
    pub fn pass(&mut self, now: Duration, probe_max: Duration) -> Pass {
        let Some(shut) = &mut self.shut else { return Pass::Open };
        let next = shut.next_probe(now);
        if !next.is_zero() {
            return Pass::Wait(next);
        }
        self.probes += 1;
        let probe = Probe(self.probes);
        shut.probing = Some((probe, now.saturating_add(probe_max)));
        Pass::Probe(probe)
    }

    /// How long it has been shut, if it is.
    pub fn shut_for(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.shut.as_ref()?.since))
    }

    /// What its owner remembers of it, if it is shut.
    pub fn cause(&self) -> Option<&C> {
        Some(&self.shut.as_ref()?.cause)
    }

    /// How long it is until a probe may pass; zero if now. `None`: it is open.
    pub fn next_probe(&self, now: Duration) -> Option<Duration> {
        Some(self.shut.as_ref()?.next_probe(now))
    }

    /// Shuts it, or keeps it shut; the next probe passes after `wait`.
    pub fn shut(&mut self, cause: C, now: Duration, wait: Duration) {
        let since = self.shut.as_ref().map_or(now, |shut| shut.since);
        self.shut = Some(Shut { since, cause, probe_from: now.saturating_add(wait), probing: None });
    }

    /// Opens it, and says how long it was shut, if it was.
    pub fn open(&mut self, now: Duration) -> Option<Duration> {
        let shut_for = self.shut_for(now);
        self.shut = None;
        shut_for
    }

    /// The probe that is under way, if it is this one: what became of any other tells nothing new.
    pub fn probing(&mut self, probe: Option<Probe>) -> Option<&mut C> {
        let shut = self.shut.as_mut()?;
        let (probing, _) = shut.probing?;
        (probe == Some(probing)).then_some(&mut shut.cause)
    }

    /// The probe that is under way has found out nothing; the next one passes after `wait`.
    pub fn probe_again(&mut self, now: Duration, wait: Duration) {
        if let Some(shut) = &mut self.shut {
            shut.probe_from = now.saturating_add(wait);
            shut.probing = None;
        }
    }
}

impl<C> Shut<C> {
    fn next_probe(&self, now: Duration) -> Duration {
        let from = self.probing.map_or(self.probe_from, |(_, until)| until);
        from.saturating_sub(now)
    }
}

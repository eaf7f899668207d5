//! The letters that this process has published to delay queues, and whether they come back on time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::lock;
use crate::domain::lateness::{Figures, Hop, Lateness, LatenessLimits, News, Seen};
use crate::domain::retry::Tiers;

/// The delay queues. Lost with the process: the next one alarms a stuck queue once it has published another letter to it.
#[derive(Debug)]
pub struct Delays(Mutex<Lateness>);

impl Delays {
    /// No letter is in any of these tiers yet.
    pub fn new(tiers: &Tiers, limits: LatenessLimits) -> Delays {
        Delays(Mutex::new(Lateness::new(tiers, limits)))
    }

    /// These letters are about to be published. They count as published unless the returned value is dropped before
    /// [`arrived`](Going::arrived) is called.
    pub fn going(&self, hops: impl IntoIterator<Item = Hop>) -> Going<'_> {
        let hops: Vec<Hop> = hops.into_iter().collect();
        let mut lateness = lock(&self.0);
        for hop in &hops {
            lateness.gone(hop);
        }
        Going { delays: self, hops }
    }

    /// A letter has come back. Returns how late it is.
    pub fn back(&self, hop: &Hop, now: Timestamp) -> Duration {
        lock(&self.0).back(hop, now)
    }

    /// A letter has come back that the broker had delivered before.
    pub fn back_again(&self, hop: &Hop) {
        lock(&self.0).back_again(hop);
    }

    /// The alarms that follow from a look at the broker's queues.
    pub fn looked(&self, seen: &Seen, now: Timestamp) -> Vec<News> {
        lock(&self.0).looked(seen, now)
    }

    /// The figures of every tier, by its name.
    pub fn figures(&self, now: Timestamp) -> BTreeMap<String, Figures> {
        lock(&self.0).figures(now)
    }
}

/// Letters on their way to delay queues, not confirmed yet.
#[derive(Debug)]
#[must_use = "dropped at once, the letters count as not published"]
pub struct Going<'a> {
    delays: &'a Delays,
    hops: Vec<Hop>,
}

impl Going<'_> {
    /// The broker has confirmed them.
    pub fn arrived(mut self) {
        self.hops.clear();
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if self.hops.is_empty() {
            return;
        }
        let mut lateness = lock(&self.delays.0);
        for hop in &self.hops {
            lateness.not_gone(hop);
        }
    }
}

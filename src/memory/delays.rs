//! Which letters are in the delay queues, as far as this process put them there, and whether they come back on time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

use super::lock;
use crate::domain::lateness::{Figures, Hop, Lateness, LatenessLimits, News, Seen};
use crate::domain::retry::Tiers;

/// The delay queues. Lost with the process: what a stuck queue held before is alarmed when another letter is put in.
#[derive(Debug)]
pub struct Delays(Mutex<Lateness>);

impl Delays {
    /// Nothing has been put into any of these tiers yet.
    pub fn new(tiers: &Tiers, limits: LatenessLimits) -> Delays {
        Delays(Mutex::new(Lateness::new(tiers, limits)))
    }

    /// These letters are about to go. They count as gone unless what is returned is dropped before
    /// [`arrived`](Going::arrived) is said.
    pub fn going(&self, hops: impl IntoIterator<Item = Hop>) -> Going<'_> {
        let hops: Vec<Hop> = hops.into_iter().collect();
        let mut lateness = lock(&self.0);
        for hop in &hops {
            lateness.gone(hop);
        }
        Going { delays: self, hops }
    }

    /// A letter has come back. Says how late it is.
    pub fn back(&self, hop: &Hop, now: Timestamp) -> Duration {
        lock(&self.0).back(hop, now)
    }

    /// A letter has come back that was handed out before.
    pub fn back_again(&self, hop: &Hop) {
        lock(&self.0).back_again(hop);
    }

    /// What follows from a look at the broker's queues.
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
#[must_use = "dropped at once, they count as not gone"]
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

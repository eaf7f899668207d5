//! Whether waits end on time: what is on its way through the delay queues, and what they and the queues behind them hold.

use super::Worker;
use crate::amqp::{Depth, Topology};
use crate::domain::intent::Kind;
use crate::domain::lateness::{Arrived, News, Seen, WayBack};
use crate::domain::retry::Tier;
use crate::telemetry::events;
use crate::wire::envelope::{Address, Letter, Redelivered, Source};
use crate::wire::hop;

impl Worker {
    /// A letter has come, perhaps from a wait.
    pub(super) fn note_arrival(&self, letter: &Letter) {
        let Some(hop) = hop::read(letter) else { return };
        match letter.redelivered {
            Redelivered::No => {
                let now = self.clock.now();
                self.delays.back(&hop, now);
                self.set_backs.back(hop.due, now);
            }
            // It was on time, or late, when it was handed out first.
            Redelivered::Yes => self.delays.back_again(&hop),
        }
    }

    /// The queues whose depths tell whether waits end on time, by their full names.
    pub(super) fn queues_of_waits(&self, topology: &Topology) -> Vec<String> {
        let delays = self.policy.tiers.as_slice().iter().map(|tier| queue_of_wait(topology, tier));
        delays.chain(ways_back().map(|(_, source)| topology.queue_of(source))).collect()
    }

    /// Tells which waits do not end on time, by the depths of those queues.
    pub(super) fn tell_late_waits(&self, topology: &Topology, depths: &[(String, Depth)]) {
        let depth_of =
            |queue: String| depths.iter().find(|(name, _)| *name == queue).map(|(_, depth)| *depth);
        let waiting = |tier: &Tier| Some((tier.name.clone(), depth_of(queue_of_wait(topology, tier))?.ready));
        let arrived = |(way_back, source)| {
            let Depth { ready, consumers } = depth_of(topology.queue_of(source))?;
            Some((way_back, Arrived { ready, consumers }))
        };
        let seen = Seen {
            waiting: self.policy.tiers.as_slice().iter().filter_map(waiting).collect(),
            arrived: ways_back().filter_map(arrived).collect(),
        };
        for news in self.delays.looked(&seen, self.clock.now()) {
            match news {
                News::Late { tier, lateness, letters } => events::delay_late(&tier, lateness, letters),
                News::Stuck { tier, overdue, letters } => events::delay_stuck(&tier, overdue, letters),
                News::OnTimeAgain { tier, after } => events::delay_on_time_again(&tier, after),
            }
        }
    }
}

/// The delay queue of a tier. It has the name of its exchange.
fn queue_of_wait(topology: &Topology, tier: &Tier) -> String {
    topology.exchange_of(&Address::Delay(tier.clone()))
}

/// Every end of a wait, and what its deliveries come from.
fn ways_back() -> impl Iterator<Item = (WayBack, Source)> {
    let returns = Kind::ALL.into_iter().map(|kind| (WayBack::Returns(kind), Source::Returns(kind)));
    returns.chain([(WayBack::Announcements, Source::Announcements)])
}

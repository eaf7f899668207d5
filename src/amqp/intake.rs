//! What is taken in, and how much of it at once: the permits.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::{Semaphore, watch};

use crate::domain::intent::Kind;
use crate::wire::envelope::Source;

/// The prefetch of refused events that are announced again: enough to catch up, too few to slow the lanes down.
const ANNOUNCEMENTS_PREFETCH: u16 = 16;

/// How much of a lane is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumeMode {
    /// As much as there are permits for.
    All,
    /// One letter, if there is one; and then nothing, until this is said again or something else.
    One,
    /// Nothing. What was delivered already is finished.
    Nothing,
}

/// What is taken in: every source with its prefetch, and as many permits. The permits outlive a generation, so that
/// steps which go on while the connection is rebuilt still count.
#[derive(Debug, Clone)]
pub(super) struct Intake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    served: Vec<Served>,
    /// Every delivery that is held has a copy of it.
    held: Arc<()>,
}

#[derive(Debug)]
pub(super) struct Served {
    pub(super) source: Source,
    pub(super) prefetch: u16,
    pub(super) permits: Arc<Semaphore>,
    /// Outlives a generation: the next one begins with the last state.
    pub(super) said: watch::Sender<Said>,
}

/// How much of a source is consumed, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) mode: ConsumeMode,
    /// Whether it is not consumed with the others.
    pub(super) barred: bool,
}

impl Intake {
    /// The lanes of these kinds; beside each its returns, with a quarter of its prefetch, so that a retry never
    /// waits behind a backlog; the rescue, the refused events, and the isolation.
    pub(super) fn new(lanes: &BTreeMap<Kind, u16>) -> Intake {
        let served = lanes.iter().flat_map(|(kind, prefetch)| {
            [(Source::Lane(*kind), *prefetch), (Source::Returns(*kind), (prefetch / 4).max(1))]
        });
        let served = served
            .chain([
                (Source::Rescue, 1),
                (Source::Announcements, ANNOUNCEMENTS_PREFETCH),
                // One at a time: a letter that crashes the process makes no other letter a suspect.
                (Source::Isolation, 1),
            ])
            .map(|(source, prefetch)| Served {
                source,
                prefetch,
                permits: Arc::new(Semaphore::new(usize::from(prefetch))),
                said: watch::Sender::new(Said { mode: ConsumeMode::All, barred: false }),
            });
        Intake(Arc::new(Inner { served: served.collect(), held: Arc::new(()) }))
    }

    /// All sources.
    pub(super) fn served(&self) -> &[Served] {
        &self.0.served
    }

    /// Says how much of a source is taken from now on, in this generation and in the next. Saying the same again
    /// changes nothing, but for [`ConsumeMode::One`]: that is one more.
    pub(super) fn consume(&self, source: Source, mode: ConsumeMode) {
        for served in self.0.served.iter().filter(|served| served.source == source) {
            served.said.send_if_modified(|said| {
                let is_news = said.mode != mode || mode == ConsumeMode::One;
                said.mode = mode;
                is_news
            });
        }
    }

    /// From now on a source is not consumed with the others, in this generation and in the next.
    pub(super) fn bar(&self, source: Source) {
        self.set_barred(source, true);
    }

    /// From now on it is again.
    pub(super) fn unbar(&self, source: Source) {
        self.set_barred(source, false);
    }

    fn set_barred(&self, source: Source, barred: bool) {
        for served in self.0.served.iter().filter(|served| served.source == source) {
            served.said.send_modify(|said| said.barred = barred);
        }
    }

    /// What every delivery that is held upgrades.
    pub(super) fn held_by_deliveries(&self) -> Weak<()> {
        Arc::downgrade(&self.0.held)
    }

    /// How many deliveries can be held at once.
    pub(super) fn held_max(&self) -> usize {
        self.0.served.iter().map(|served| usize::from(served.prefetch)).sum()
    }

    /// How many deliveries are held, of whatever generation. A permit of a consumer that waits is not one.
    pub(super) fn held(&self) -> usize {
        Arc::strong_count(&self.0.held) - 1
    }

    /// Waits until every permit has been given back.
    pub(super) async fn given_back(&self) {
        for served in &self.0.served {
            // Semaphores of this intake are never closed.
            let _ = served.permits.acquire_many(u32::from(served.prefetch)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_returns_beside_it_with_a_quarter_of_its_permits() {
        let intake = Intake::new(&BTreeMap::from([(Kind::AsyncCancel, 100), (Kind::BatchCancel, 2)]));
        let served: Vec<(Source, u16)> =
            intake.served().iter().map(|served| (served.source, served.prefetch)).collect();
        assert_eq!(
            served,
            [
                (Source::Lane(Kind::AsyncCancel), 100),
                (Source::Returns(Kind::AsyncCancel), 25),
                (Source::Lane(Kind::BatchCancel), 2),
                (Source::Returns(Kind::BatchCancel), 1),
                (Source::Rescue, 1),
                (Source::Announcements, ANNOUNCEMENTS_PREFETCH),
                (Source::Isolation, 1),
            ]
        );
        assert_eq!(intake.held(), 0);
    }
}

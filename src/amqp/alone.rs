//! Queues that are not consumed with the others: the broker closes every connection that consumes them. Each is consumed
//! again from time to time, over connections of its own; what it delivers then is handled like any delivery.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::consumer::Delivery;
use super::depths::depth_of;
use super::generation::Ended;
use super::handler::DeliveryHandler;
use super::publisher::Publisher;
use super::session::{Layout, Session};
use super::settings::Means;
use crate::telemetry::events;
use crate::wire::envelope::{Letter, Source};

/// How long before a queue that is stopped is tried again for the first time. Twice as long each time after that.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Never longer than this.
const TRIED_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5 * 60);

/// A queue is consumed with the others again when it was found empty after this, ...
const EMPTY_AFTER: Duration = Duration::from_secs(5);

/// ... or when its connections have lasted for this time.
const LASTED: Duration = Duration::from_secs(60);

/// What comes from a queue that is consumed alone.
pub(super) enum FromAlone {
    Delivery(Delivery, Publisher),
    /// Delivered, and not begun when its connection ended.
    NotBegun(Letter),
}

impl FromAlone {
    /// The same, not to be handled any more.
    pub(super) fn into_given_back(self) -> FromAlone {
        match self {
            FromAlone::Delivery(delivery, publisher) => {
                FromAlone::Delivery(delivery.into_given_back(), publisher)
            }
            FromAlone::NotBegun(letter) => FromAlone::NotBegun(letter),
        }
    }

    /// Hands it on.
    pub(super) fn hand_to(self, handler: &mut impl DeliveryHandler) {
        match self {
            FromAlone::Delivery(delivery, publisher) => handler.begin(delivery, &publisher),
            FromAlone::NotBegun(letter) => handler.not_begun(&letter),
        }
    }
}

/// All queues that are not consumed with the others. Dropping it ends their connections.
pub(super) struct Alone {
    means: Means,
    /// Dropped at the stop: then the channel ends with the last task.
    out: Option<mpsc::Sender<FromAlone>>,
    deliveries: mpsc::Receiver<FromAlone>,
    tasks: JoinSet<()>,
}

impl Alone {
    /// No queue yet.
    pub(super) fn new(means: Means) -> Alone {
        let (out, deliveries) = mpsc::channel(1);
        Alone { means, out: Some(out), deliveries, tasks: JoinSet::new() }
    }

    /// Nothing of this source is consumed with the others from now on; `why` is how its connection ended.
    pub(super) fn stop_lane(&mut self, source: Source, why: &Ended) {
        let Some(out) = self.out.clone() else { return };
        let settings = &self.means.settings;
        settings.intake.bar(source);
        let queue = settings.topology.queue_of(source);
        events::lane_stopped(&queue, why, TRIED_AGAIN_AFTER);
        let lane = Lane { means: self.means.clone(), source, queue, out };
        self.tasks.spawn(lane.try_again());
    }

    /// What comes next. `None` after the stop, when nothing comes any more. Can be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<FromAlone> {
        while self.tasks.try_join_next().is_some() {}
        tokio::select! {
            biased;
            from = self.deliveries.recv() => return from,
            () = self.means.stop.cancelled(), if self.out.is_some() => self.out = None,
        }
        self.deliveries.recv().await
    }
}

/// One of them.
struct Lane {
    means: Means,
    source: Source,
    queue: String,
    out: mpsc::Sender<FromAlone>,
}

/// How a try has ended.
enum Tried {
    /// By a stop.
    Stopped,
    /// The broker cannot be reached, which says nothing about the queue.
    Unreachable,
    /// Its connection was lost again.
    Faulty(Ended),
    /// Nothing is wrong with it any more.
    Sound,
}

impl Lane {
    /// Tries until nothing is wrong with it any more, or until the stop.
    async fn try_again(self) {
        let mut pause = TRIED_AGAIN_AFTER;
        loop {
            // Not all workers of a broker at once.
            let spread = self.means.jitter.draw().part_of(pause / 4);
            tokio::select! {
                biased;
                () = self.means.stop.cancelled() => return,
                () = sleep(pause - spread) => {}
            }
            match self.once().await {
                Tried::Stopped => return,
                Tried::Unreachable => {}
                Tried::Faulty(why) => {
                    pause = (pause * 2).min(TRIED_AGAIN_AFTER_MAX);
                    events::lane_stopped(&self.queue, &why, pause);
                }
                Tried::Sound => {
                    self.means.settings.intake.unbar(self.source);
                    events::lane_consumed_again(&self.queue);
                    return;
                }
            }
        }
    }

    async fn once(&self) -> Tried {
        let (number, layout) = (self.means.numbers.next(), Layout::Only(self.source));
        let mut session =
            match Session::open_unless(&self.means.stop, &self.means.settings, number, 0, layout).await {
                Ok(Some(session)) => session,
                Ok(None) => return Tried::Stopped,
                Err(_) => return Tried::Unreachable,
            };
        let tried = self.consume(&mut session).await;
        match tried {
            Tried::Sound | Tried::Stopped => self.finish(&mut session).await,
            Tried::Unreachable | Tried::Faulty(_) => {}
        }
        for letter in session.give_back().await.letters {
            // The receiver is gone when the process ends.
            let _ = self.out.send(FromAlone::NotBegun(letter)).await;
        }
        tokio::spawn(session.close());
        tried
    }

    async fn consume(&self, session: &mut Session) -> Tried {
        let begun = Instant::now();
        let step = self.means.settings.broker.timeouts.step;
        let mut looked_at = begun + EMPTY_AFTER;
        loop {
            tokio::select! {
                biased;
                () = self.means.stop.cancelled() => return Tried::Stopped,
                delivery = session.next() => match delivery {
                    Some(delivery) => self.hand_on(session, delivery).await,
                    None => return Tried::Faulty(session.ended().await),
                },
                () = sleep_until(looked_at) => {
                    looked_at = Instant::now() + EMPTY_AFTER;
                    let depth = depth_of(&session.consuming, &self.queue, step).await;
                    if depth.is_ok_and(|depth| depth == 0) || begun.elapsed() >= LASTED {
                        return Tried::Sound;
                    }
                }
            }
        }
    }

    async fn hand_on(&self, session: &Session, delivery: Delivery) {
        let from = FromAlone::Delivery(delivery, session.publisher().clone());
        // The receiver is gone when the process ends.
        let _ = self.out.send(from).await;
    }

    /// Takes nothing more, and lets what is in hand be settled.
    async fn finish(&self, session: &mut Session) {
        session.stop_consuming();
        while let Some(delivery) = session.next().await {
            self.hand_on(session, delivery).await;
        }
        // Bounded by the longest that a letter may be in hand; at a stop, by the grace period.
        let handling_max = self.means.settings.requirements().handling_max.unwrap_or(LASTED);
        let _ = timeout(handling_max, session.all_settled()).await;
    }
}

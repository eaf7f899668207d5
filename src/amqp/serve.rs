//! One generation at work: its deliveries are handed on until it ends, and it is drained at the stop.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::alone::{Alone, FromAlone};
use super::depths::poll_depths;
use super::generation::Ended;
use super::handler::DeliveryHandler;
use super::session::{Layout, Session};
use super::settings::{Means, Settings};
use crate::telemetry::events;

/// How long a generation with a connection for each queue lasts where none of them ends: it costs memory.
const APART_MAX: Duration = Duration::from_secs(20);

/// How a run of generations came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that was held is settled.
    Drained,
    /// The grace period, or the connection, ended first.
    GaveBack {
        /// How many deliveries were held then. They come again.
        unsettled: usize,
    },
}

/// What generations are served with, one after the other.
pub(super) struct Serving<H> {
    pub(super) means: Means,
    /// How long what is held may take after the stop.
    pub(super) grace: Duration,
    pub(super) alone: Alone,
    pub(super) handler: H,
}

impl<H: DeliveryHandler> Serving<H> {
    /// Hands deliveries on until the generation ends (then why) or the stop comes (then `None`).
    pub(super) async fn serve(&mut self, session: &mut Session) -> Option<Ended> {
        let Serving { means: Means { settings, stop, .. }, alone, handler, .. } = self;
        let publisher = session.publisher().clone();
        let (out, mut depths) = mpsc::channel(1);
        let step = settings.broker.timeouts.step;
        let consuming = Arc::clone(&session.consuming);
        // A task of its own: a broker that does not answer it must not hold up deliveries.
        session.tasks.spawn(poll_depths(
            consuming,
            settings.topology.unrouted(),
            handler.watched(),
            step,
            out,
        ));
        let unfit = session.unfit.clone();
        let mut regroup = std::pin::pin!(regroup(session.layout));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = unfit.cancelled() => return Some(Ended::Unfit),
                () = &mut regroup => return Some(Ended::Regrouped),
                delivery = session.next() => match delivery {
                    Some(delivery) => handler.begin(delivery, &publisher),
                    None => return Some(session.ended().await),
                },
                Some(from) = alone.next() => from.hand_to(handler),
                Some(depths) = depths.recv() => handler.looked(depths),
            }
        }
    }

    /// Takes nothing more from a connection that is sound, and waits until everything that is held is settled; a stop ends the
    /// wait.
    pub(super) async fn finish_unless_stopped(&mut self, session: &mut Session) {
        let Serving { means: Means { settings, stop, .. }, grace, handler, .. } = self;
        let finishing = timeout(*grace, finish(session, settings, None, handler));
        let _ = stop.run_until_cancelled(finishing).await;
    }

    /// Takes nothing more, lets what is held be finished, and closes.
    pub(super) async fn drain(&mut self, mut session: Session) -> Stopped {
        let Serving { means: Means { settings, .. }, grace, alone, handler } = self;
        let begun = Instant::now();
        events::drain_started(settings.intake.held(), *grace);
        let finishing = finish(&mut session, settings, Some(alone), handler);
        let _ = timeout_at(begun + *grace, finishing).await;
        // In this order, so that none is missed that is just being let go of.
        let held = settings.intake.held();
        let unsettled = held + session.generation().given_back();
        let unsettled = unsettled + session.give_back().await.beyond_permits;
        session.close().await;
        said(unsettled, begun)
    }

    /// There is no connection: nothing can be settled, but what was begun may be finished.
    pub(super) async fn stopped_without_broker(&mut self) -> Stopped {
        let Serving { means: Means { settings, .. }, grace, alone, handler } = self;
        let begun = Instant::now();
        let unsettled = settings.intake.held();
        events::drain_started(unsettled, *grace);
        let finishing = async {
            while let Some(from) = alone.next().await {
                from.hand_to(handler);
            }
            settings.intake.given_back().await;
        };
        let _ = timeout(*grace, finishing).await;
        said(unsettled, begun)
    }
}

/// When the queues of a generation go back to one connection.
async fn regroup(layout: Layout) {
    match layout {
        Layout::Apart => sleep(APART_MAX).await,
        Layout::Joint | Layout::Only(_) => pending().await,
    }
}

/// Takes nothing more, and waits until everything that is held is settled. `alone` has heard the stop, where it is to
/// end too.
async fn finish(
    session: &mut Session,
    settings: &Settings,
    mut alone: Option<&mut Alone>,
    handler: &mut impl DeliveryHandler,
) {
    let publisher = session.publisher().clone();
    session.stop_consuming();
    let mut is_open = true;
    while is_open || alone.is_some() {
        tokio::select! {
            biased;
            delivery = session.next(), if is_open => match delivery {
                Some(delivery) => handler.begin(delivery.into_given_back(), &publisher),
                None => is_open = false,
            },
            from = next_of(&mut alone) => match from {
                Some(from) => from.into_given_back().hand_to(handler),
                None => alone = None,
            },
        }
    }
    tokio::select! {
        biased;
        // Nothing of it can be settled any more.
        _ = session.ended() => {}
        () = settings.intake.given_back() => {}
    }
}

async fn next_of(alone: &mut Option<&mut Alone>) -> Option<FromAlone> {
    match alone {
        Some(alone) => alone.next().await,
        None => pending().await,
    }
}

fn said(unsettled: usize, begun: Instant) -> Stopped {
    if unsettled == 0 {
        events::drain_finished(begun.elapsed());
        Stopped::Drained
    } else {
        events::gave_back(unsettled, begun.elapsed());
        Stopped::GaveBack { unsettled }
    }
}

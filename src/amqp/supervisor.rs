//! Builds one generation after the other, and finds out which queue is to blame where one ends after the other.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::alone::{Alone, FromAlone};
use super::depths::{DEPTHS_READ_EVERY, depths_of, watch_depth};
use super::error::Error;
use super::generation::{Ended, Numbers};
use super::handler::DeliveryHandler;
use super::preflight;
use super::session::{Layout, Session};
use super::settings::Settings;
use super::suspicion::Suspicion;
use crate::clock::JitterSource;
use crate::telemetry::events;

/// The longest pause before the next try to connect. Chance chooses below it, so that the workers of a broker that
/// restarts do not all come at once.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often somebody who waits for a broker hears that we still do.
const WAITING_TOLD_EVERY: Duration = Duration::from_secs(10);

/// The longest pause before the next login after one that was refused: a person has to fix it, and each try costs the
/// broker a line of its log.
const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often it is told that a login is refused.
const LOGIN_TOLD_EVERY: Duration = Duration::from_secs(60);

/// How long before it is looked again whether a broker fits: a person has to fix it.
const UNFIT_PAUSE: Duration = Duration::from_secs(2);

/// How long after the end of a generation it is looked which of its connections have ended: the others must have had
/// the time to end too.
const OTHERS_END_WITHIN: Duration = Duration::from_millis(200);

/// How long a generation lasts whose queues have a connection each, where none of them ends: it costs memory.
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

/// Builds one generation after the other until `stop`, and hands every delivery to `handler` together with the
/// publisher that can announce for it. Starting while there is no broker waits for one, saying so.
///
/// A step may outlive its generation; its permit is back when its delivery is settled or dropped. After `stop`
/// nothing more is taken, and what is held may take until `grace` to be settled.
///
/// Where the broker closes one connection after the other, the next generation has a connection for each queue. A queue
/// whose own connection ends while all others live, twice in a row, is not consumed any more: that is told, and it is
/// tried again from time to time, by connections of its own.
pub async fn run_generations(
    settings: &Settings,
    jitter: &JitterSource,
    stop: &CancellationToken,
    grace: Duration,
    mut handler: impl DeliveryHandler,
) -> Stopped {
    let numbers = Numbers::default();
    let mut suspicion = Suspicion::default();
    let mut alone = Alone::new(settings, jitter, &numbers, stop);
    let mut address = 0;
    loop {
        let number = numbers.next();
        let layout = suspicion.layout();
        let Some(mut session) = wait_for_broker(stop, settings, jitter, number, address, layout).await else {
            return stopped_without_broker(settings, grace, &mut alone, &mut handler).await;
        };
        events::generation_started(number, &session.address(), session.consumers_len());
        let why = serve(&mut session, settings, stop, &mut alone, &mut handler).await;
        match why {
            None => return drain(session, settings, grace, &mut alone, &mut handler).await,
            Some(why) => {
                if let Ended::Unfit | Ended::Regrouped = why {
                    // The connection is sound: what is in hand need not come again.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        _ = timeout(grace, finish(&mut session, settings, None, &mut handler)) => {}
                    }
                    if stop.is_cancelled() {
                        return drain(session, settings, grace, &mut alone, &mut handler).await;
                    }
                }
                events::generation_ended(number, &why, settings.held());
                address = next_address(session.address_number(), &why);
                let blamed = match layout {
                    Layout::Joint => suspicion.joint_ended(Instant::now(), &why),
                    Layout::Apart => {
                        sleep(OTHERS_END_WITHIN).await;
                        suspicion.apart_ended(&why, session.ended_alone())
                    }
                    Layout::Only(_) => None,
                };
                if let Some(source) = blamed {
                    alone.stop_lane(source, &why);
                }
            }
        }
        for letter in session.give_back().await.letters {
            handler.not_begun(&letter);
        }
        // Not waited for: while the broker has an alarm, a close takes its whole deadline.
        tokio::spawn(session.close());
        sleep(pause(jitter)).await;
    }
}

/// The address to begin with after a generation has ended. One that merely lost its connection comes back to where
/// it was, if that is still there; where something was of no use while the connection stood, the next one may do.
fn next_address(at: usize, why: &Ended) -> usize {
    match why {
        Ended::Closed
        | Ended::Unfit
        | Ended::Regrouped
        | Ended::ConnectionLost { .. }
        | Ended::Returned { .. }
        | Ended::Refused { .. }
        | Ended::Unsendable { .. } => at,
        Ended::Silent { .. }
        | Ended::Blocked { .. }
        | Ended::ConsumerCancelled { .. }
        | Ended::ConsumerBroke { .. }
        | Ended::Unconfirmed { .. }
        | Ended::PublishFailed { .. }
        | Ended::AckFailed { .. } => at + 1,
    }
}

/// Tries until a generation stands. `None`: somebody said stop before.
async fn wait_for_broker(
    stop: &CancellationToken,
    settings: &Settings,
    jitter: &JitterSource,
    number: u64,
    first: usize,
    layout: Layout,
) -> Option<Session> {
    let mut tries = 0;
    let mut told: Option<(String, Instant)> = None;
    let mut logins = Logins::default();
    loop {
        tries += 1;
        let error = match Session::open_unless(stop, settings, number, first, layout).await {
            Ok(opened) => return opened,
            Err(error) => error,
        };
        // The same step failing again is no news; how exactly it fails changes all the time.
        let text = error.to_string();
        let known =
            told.as_ref().is_some_and(|(before, at)| *before == text && at.elapsed() < WAITING_TOLD_EVERY);
        let pause = if let Error::Unfit { findings } = &error {
            if !known {
                preflight::tell(&settings.broker.to_string(), findings);
                told = Some((text, Instant::now()));
            }
            UNFIT_PAUSE
        } else if let Error::LoginRefused { user, .. } = &error {
            logins.refused(&settings.broker.to_string(), user, &error);
            logins.pause(jitter)
        } else {
            logins = Logins::default();
            if !known {
                events::waiting_for_broker(&settings.broker.to_string(), &error, tries);
                told = Some((text, Instant::now()));
            }
            pause(jitter)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = sleep(pause) => {}
        }
    }
}

/// Logins that were refused, one after the other.
#[derive(Default)]
struct Logins {
    refused: u32,
    told: Option<Instant>,
}

impl Logins {
    fn refused(&mut self, broker: &str, user: &str, why: &Error) {
        self.refused = self.refused.saturating_add(1);
        if self.told.is_none_or(|told| told.elapsed() >= LOGIN_TOLD_EVERY) {
            self.told = Some(Instant::now());
            events::login_refused(broker, user, why, self.refused);
        }
    }

    /// The longest pause before the next login: twice as long after each refusal.
    fn pause_max(&self) -> Duration {
        PAUSE_MAX.saturating_mul(1 << self.refused.min(10)).min(LOGIN_PAUSE_MAX)
    }

    /// How long before the next login. The half of it by chance.
    fn pause(&self, jitter: &JitterSource) -> Duration {
        let half = self.pause_max() / 2;
        half + jitter.draw().part_of(half)
    }
}

/// How long before the next try to connect.
fn pause(jitter: &JitterSource) -> Duration {
    jitter.draw().part_of(PAUSE_MAX)
}

/// Hands deliveries on until the generation ends (then why) or somebody says stop (then `None`).
async fn serve(
    session: &mut Session,
    settings: &Settings,
    stop: &CancellationToken,
    alone: &mut Alone<'_>,
    handler: &mut impl DeliveryHandler,
) -> Option<Ended> {
    let publisher = session.publisher().clone();
    // A task of its own: a broker that does not answer it must hold up nobody here.
    let step = settings.broker.timeouts.step;
    session.spawn(watch_depth(Arc::clone(session.consuming()), settings.topology.unrouted(), step));
    let mut look = interval_at(Instant::now() + DEPTHS_READ_EVERY, DEPTHS_READ_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (looks, mut looked) = mpsc::channel(1);
    let unfit = session.unfit().clone();
    let mut regroup = std::pin::pin!(regroup_at(session.layout()));
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
            _ = look.tick() => {
                let watched = handler.watched();
                if let Ok(place) = looks.clone().try_reserve_owned()
                    && !watched.is_empty()
                {
                    let consuming = Arc::clone(session.consuming());
                    // Not waited for here: a broker that does not answer it must hold up nobody.
                    session.spawn(async move {
                        place.send(depths_of(&consuming, &watched, step).await);
                    });
                }
            }
            Some(depths) = looked.recv() => handler.looked(depths),
        }
    }
}

/// When the queues of a generation go back to one connection.
async fn regroup_at(layout: Layout) {
    match layout {
        Layout::Apart => sleep_until(Instant::now() + APART_MAX).await,
        Layout::Joint | Layout::Only(_) => pending().await,
    }
}

/// Takes nothing more, lets what is held be finished, and closes.
async fn drain(
    mut session: Session,
    settings: &Settings,
    grace: Duration,
    alone: &mut Alone<'_>,
    handler: &mut impl DeliveryHandler,
) -> Stopped {
    let begun = Instant::now();
    events::drain_started(settings.intake.held(), grace);
    let finishing = finish(&mut session, settings, Some(alone), handler);
    let _ = timeout_at(begun + grace, finishing).await;
    // In this order, so that none is missed that is just being let go of.
    let held = settings.intake.held();
    let unsettled = held + session.generation().given_back();
    let unsettled = unsettled + session.give_back().await.beyond_permits;
    session.close().await;
    said(unsettled, begun)
}

/// Takes nothing more, and waits until everything that is held is settled. `alone` has heard the stop, where it is to
/// end too.
async fn finish(
    session: &mut Session,
    settings: &Settings,
    mut alone: Option<&mut Alone<'_>>,
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

async fn next_of(alone: &mut Option<&mut Alone<'_>>) -> Option<FromAlone> {
    match alone {
        Some(alone) => alone.next().await,
        None => pending().await,
    }
}

/// There is no connection: nothing can be settled, but what was begun may be finished.
async fn stopped_without_broker(
    settings: &Settings,
    grace: Duration,
    alone: &mut Alone<'_>,
    handler: &mut impl DeliveryHandler,
) -> Stopped {
    let begun = Instant::now();
    let unsettled = settings.intake.held();
    events::drain_started(unsettled, grace);
    let finishing = async {
        while let Some(from) = alone.next().await {
            from.hand_to(handler);
        }
        settings.intake.given_back().await;
    };
    let _ = timeout(grace, finishing).await;
    said(unsettled, begun)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::generation::Role;

    #[test]
    fn a_login_that_is_refused_is_tried_less_and_less_often_and_never_given_up() {
        let pause = |refused| Logins { refused, told: None }.pause_max();
        assert_eq!([1, 2, 3, 5].map(pause).map(|pause| pause.as_secs()), [1, 2, 4, 16]);
        assert_eq!([6, 100, u32::MAX].map(pause), [LOGIN_PAUSE_MAX; 3]);
    }

    #[test]
    fn a_lost_connection_comes_back_to_its_address_and_what_was_of_no_use_to_the_next() {
        let role = Role::Consume;
        assert_eq!(next_address(1, &Ended::ConnectionLost { role, source: None }), 1);
        let after = Duration::from_secs(30);
        for why in [
            Ended::Silent { role },
            Ended::Blocked { after },
            Ended::Unconfirmed { after },
            Ended::ConsumerCancelled { queue: "a-queue".to_owned() },
            Ended::AckFailed { source: None },
        ] {
            assert_eq!(next_address(1, &why), 2, "{why}");
        }
    }
}

//! Builds one generation after the other, and finds out which queue is to blame where one ends after the other.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::alone::Alone;
use super::error::Error;
use super::generation::{Ended, Numbers};
use super::handler::DeliveryHandler;
use super::preflight;
use super::serve::{Serving, Stopped};
use super::session::{Layout, Session};
use super::settings::{Means, Settings};
use super::suspicion::Suspicion;
use crate::clock::JitterSource;
use crate::telemetry::events;

/// The longest pause before the next try to connect. Chance chooses below it, so that the workers of a broker that
/// restarts do not all come at once.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often it is told that we still wait for a broker.
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
    handler: impl DeliveryHandler,
) -> Stopped {
    let (settings, jitter, stop) = (settings.clone(), jitter.clone(), stop.clone());
    let means = Means { settings, jitter, numbers: Numbers::default(), stop };
    let mut suspicion = Suspicion::default();
    let mut serving = Serving { means: means.clone(), grace, alone: Alone::new(means.clone()), handler };
    let mut address = 0;
    loop {
        let number = means.numbers.next();
        let layout = suspicion.layout();
        let Some(mut session) = wait_for_broker(&means, number, address, layout).await else {
            return serving.stopped_without_broker().await;
        };
        events::generation_started(number, &session.address(), session.consumers_len);
        let Some(why) = serving.serve(&mut session).await else {
            return serving.drain(session).await;
        };
        if let Ended::Unfit | Ended::Regrouped = why {
            // The connection is sound: what is in hand need not come again.
            serving.finish_unless_stopped(&mut session).await;
            if means.stop.is_cancelled() {
                return serving.drain(session).await;
            }
        }
        events::generation_ended(number, &why, means.settings.held());
        address = next_address(session.at, &why);
        let blamed = match layout {
            Layout::Joint => suspicion.joint_ended(Instant::now(), &why),
            Layout::Apart => {
                sleep(OTHERS_END_WITHIN).await;
                suspicion.apart_ended(&why, session.ended_alone())
            }
            Layout::Only(_) => None,
        };
        if let Some(source) = blamed {
            serving.alone.stop_lane(source, &why);
        }
        for letter in session.give_back().await.letters {
            serving.handler.not_begun(&letter);
        }
        // Not waited for: while the broker has an alarm, a close takes its whole deadline.
        tokio::spawn(session.close());
        sleep(pause(&means.jitter)).await;
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

/// Tries until a generation stands. `None`: the stop came before.
async fn wait_for_broker(means: &Means, number: u64, first: usize, layout: Layout) -> Option<Session> {
    let Means { settings, jitter, stop, .. } = means;
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

//! Notices a broker that says nothing any more: asks it something small again and again, and counts only answers.
//!
//! The heartbeats of the client library are not enough. They end a connection on which nothing *arrives*, after two
//! to two and a half heartbeats; a connection on which nothing of ours *goes out* looks alive to them for as long as
//! the broker talks.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::BasicQosOptions;
use lapin::{Channel, ErrorKind, Event};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{HEARTBEAT_S, Timeouts};
use super::connection::Connection;
use super::error::Error;
use super::generation::{ClientError, Ended, Generation, Role};
use super::reply_code;
use super::step::{sleep_until_if, within};
use super::transport::Held;
use crate::telemetry::events;

/// How often is asked, and how long an answer may take: together less than two heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    every: Duration,
    answer_max: Duration,
}

impl Pace {
    /// By the heartbeat that was agreed on, in seconds. Where there is none, by ours: no wait is without an end.
    fn of(heartbeat_s: u16) -> Pace {
        let heartbeat = match heartbeat_s {
            0 => Duration::from_secs(u64::from(HEARTBEAT_S)),
            seconds => Duration::from_secs(u64::from(seconds)),
        };
        // A busy broker may be slow to answer, so most of the time is left to it.
        Pace { every: heartbeat / 4, answer_max: heartbeat * 3 / 2 }
    }
}

/// Watches a connection as long as `tasks` live: what the client library says of it, and whether the broker answers.
///
/// # Errors
/// When the broker opens no channel for the questions.
pub(super) async fn guard(
    role: Role,
    connection: &Connection,
    timeouts: Timeouts,
    generation: &Generation,
    tasks: &mut JoinSet<()>,
) -> Result<(), Error> {
    tasks.spawn(watch(role, connection.events_listener(), timeouts.blocked, generation.clone()));
    let opening = connection.create_channel();
    let channel = within("open the channel of the watchdog", timeouts.step, opening).await?;
    let pace = Pace::of(connection.configuration().heartbeat());
    tasks.spawn(watch_answers(role, channel, pace, generation.clone(), connection.held().clone()));
    Ok(())
}

/// Ends the generation when an answer does not come in time. `channel` is used for nothing else.
///
/// While `held` says that nothing is read from the connection, no answer can be heard: then silence says nothing.
async fn watch_answers(role: Role, channel: Channel, pace: Pace, generation: Generation, held: Held) {
    let mut blocked = generation.blocked();
    loop {
        sleep(pace.every).await;
        match role {
            Role::Consume => {}
            // During an alarm nothing is written on it, and a broker that takes nothing need not be dead. That it
            // still sends its heartbeats is seen by the client library.
            Role::Publish => {
                if blocked.wait_for(Option::is_none).await.is_err() {
                    return;
                }
            }
        }
        // Set again to the same: any question will do, and this one needs no permission and changes nothing.
        let asking = channel.basic_qos(1, BasicQosOptions { global: false });
        let why = tokio::select! {
            biased;
            answered = timeout(pace.answer_max, asking) => match answered {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Ended::ConnectionLost { role, source: Some(ClientError(error)) },
                Err(_) if held.is_on() => continue,
                Err(_) => Ended::Silent { role },
            },
            // The question lies on our side, or unread on the other.
            _ = blocked.wait_for(Option::is_some), if role == Role::Publish => continue,
        };
        generation.end(why);
        return;
    }
}

/// Watches a connection: its end is the generation's end, and so is an alarm that lasts for `blocked_max`.
pub(super) async fn watch(
    role: Role,
    events: impl Stream<Item = Event> + Send + 'static,
    blocked_max: Duration,
    generation: Generation,
) {
    let mut events = std::pin::pin!(events);
    let mut blocked_until = None;
    let why = loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = sleep_until_if(blocked_until) => break Ended::Blocked { after: blocked_max },
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                generation.note_blocked();
                blocked_until.get_or_insert_with(|| Instant::now() + blocked_max);
                events::broker_blocked(&role.to_string(), &reason);
            }
            Some(Event::ConnectionUnblocked) => {
                generation.note_unblocked();
                blocked_until = None;
                events::broker_unblocked(&role.to_string());
            }
            Some(Event::Error(error)) if matches!(error.kind(), ErrorKind::MissingHeartbeatError) => {
                break Ended::Silent { role };
            }
            // The library tells a channel's error as one of its connection; the caller of the channel hears it, too.
            Some(Event::Error(error)) if is_refused_look(&error) => {}
            Some(Event::Error(error)) => {
                break Ended::ConnectionLost { role, source: Some(ClientError(error)) };
            }
            None => break Ended::ConnectionLost { role, source: None },
            Some(Event::Connected | Event::SendFlow(_)) => {}
            // The client library's enum, and it grows.
            Some(_) => {}
        }
    };
    generation.end(why);
}

/// Whether the broker has refused to declare something, or to look at it: nothing that letters go through needs that right.
/// RabbitMQ 4.3 asks for it also where a declaration is passive.
fn is_refused_look(error: &lapin::Error) -> bool {
    reply_code::of(error) == Some(reply_code::ACCESS_REFUSED)
        && matches!(error.kind(), ErrorKind::ProtocolError(said)
            if said.get_message().as_str().contains("configure access to"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_noticed_within_two_heartbeats() {
        for heartbeat_s in [1, 2, 10, 60, u16::MAX] {
            let Pace { every, answer_max } = Pace::of(heartbeat_s);
            assert!(every + answer_max < 2 * Duration::from_secs(u64::from(heartbeat_s)), "{heartbeat_s} s");
        }
    }

    #[test]
    fn where_heartbeats_are_off_answers_are_still_asked_for() {
        assert_eq!(Pace::of(0), Pace::of(HEARTBEAT_S));
    }
}

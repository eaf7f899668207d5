//! Reads how deep queues are, over the connection that consumes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::Connection;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::connection;
use super::declare::{self, Depth};
use super::error::Error;
use super::step::with_channel;
use crate::telemetry::events;

/// How often the depths of the queues that are watched are read.
const DEPTHS_READ_EVERY: Duration = Duration::from_secs(10);

/// Reads depths again and again: of the queue where nothing should lie, which it tells; and of those that are watched, from
/// the second time on, for as long as the receiver lives.
pub(super) async fn poll_depths(
    connection: Arc<connection::Connection>,
    unrouted: String,
    watched: Vec<String>,
    step: Duration,
    out: mpsc::Sender<Vec<(String, Depth)>>,
) {
    let mut look = interval(DEPTHS_READ_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.tick().await;
    let mut before = look_at_unrouted(&connection, &unrouted, step, 0).await;
    loop {
        look.tick().await;
        let reading = async {
            if !watched.is_empty() && !out.is_closed() {
                let _ = out.send(depths_of(&connection, &watched, step).await).await;
            }
        };
        (before, ()) = tokio::join!(look_at_unrouted(&connection, &unrouted, step, before), reading);
    }
}

/// Tells how many messages lie where nothing should, and when there are none any more. `before`: how many there were.
async fn look_at_unrouted(connection: &Connection, queue: &str, step: Duration, before: u32) -> u32 {
    let depth = match depth_of(connection, queue, step).await {
        Ok(depth) => depth,
        Err(error) => {
            events::depth_unknown(queue, &error);
            return before;
        }
    };
    if depth > 0 {
        events::unrouted(queue, depth);
    } else if before > 0 {
        events::unrouted_cleared(queue);
    }
    depth
}

/// How many messages are ready in a queue. The channel is its own: it ends if the queue is not there.
pub(super) async fn depth_of(connection: &Connection, queue: &str, step: Duration) -> Result<u32, Error> {
    with_channel(connection, step, async |channel| declare::depth(&channel, queue, step).await).await
}

/// The depths of these queues, by their full names. One that cannot be read is left out, and told.
async fn depths_of(connection: &Connection, queues: &[String], step: Duration) -> Vec<(String, Depth)> {
    let looked = with_channel(connection, step, async |channel| {
        let looking = queues.iter().map(|queue| declare::depth_and_consumers(&channel, queue, step));
        Ok(join_all(looking).await)
    });
    let looked = match looked.await {
        Ok(looked) => looked,
        Err(error) => {
            events::depth_unknown("all", &error);
            return Vec::new();
        }
    };
    // One that is not there ends the channel for all that come after it, so the first is told.
    let mut unknown =
        queues.iter().zip(&looked).filter_map(|(queue, depth)| Some((queue, depth.as_ref().err()?)));
    if let Some((queue, error)) = unknown.next() {
        events::depth_unknown(queue, error);
    }
    queues.iter().zip(looked).filter_map(|(queue, depth)| Some((queue.clone(), depth.ok()?))).collect()
}

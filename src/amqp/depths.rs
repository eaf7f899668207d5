//! Reads how deep queues are, over the connection that consumes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::connection::Connection;
use super::declare::{self, Depth};
use super::error::Error;
use super::step::within;
use crate::telemetry::events;

/// How often the depths of the queues that are watched are read.
pub(super) const DEPTHS_READ_EVERY: Duration = Duration::from_secs(10);

/// Reads the depth of the queue where nothing should lie, again and again.
pub(super) async fn watch_depth(connection: Arc<Connection>, queue: String, step: Duration) {
    let mut look = interval_at(Instant::now(), DEPTHS_READ_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut depth_before = 0;
    loop {
        look.tick().await;
        match depth_of(&connection, &queue, step).await {
            Ok(depth) => {
                if depth > 0 {
                    events::unrouted(&queue, depth);
                } else if depth_before > 0 {
                    events::unrouted_cleared(&queue);
                }
                depth_before = depth;
            }
            Err(error) => events::depth_unknown(&queue, &error),
        }
    }
}

pub(super) async fn depth_of(connection: &Connection, queue: &str, step: Duration) -> Result<u32, Error> {
    // A channel of its own: it ends if the queue is not there.
    let opening = connection.create_channel();
    let channel = within("open a channel", step, opening).await?;
    let depth = declare::depth(&channel, queue, step).await?;
    let _ = within("close a channel", step, channel.close(200, "done".into())).await;
    Ok(depth)
}

/// The depths of these queues, by their full names. One that cannot be read is left out, and told.
pub(super) async fn depths_of(
    connection: &Connection,
    queues: &[String],
    step: Duration,
) -> Vec<(String, Depth)> {
    let channel = match within("open a channel", step, connection.create_channel()).await {
        Ok(channel) => channel,
        Err(error) => {
            events::depth_unknown("all", &error);
            return Vec::new();
        }
    };
    let looking = queues.iter().map(|queue| declare::depth_and_consumers(&channel, queue, step));
    let looked = queues.iter().zip(join_all(looking).await);
    let _ = within("close a channel", step, channel.close(200, "done".into())).await;
    let mut depths = Vec::new();
    let mut unknown = None;
    for (queue, depth) in looked {
        match depth {
            Ok(depth) => depths.push((queue.clone(), depth)),
            // One that is not there ends the channel for all that come after it.
            Err(error) => drop(unknown.get_or_insert((queue, error))),
        }
    }
    if let Some((queue, error)) = unknown {
        events::depth_unknown(queue, &error);
    }
    depths
}

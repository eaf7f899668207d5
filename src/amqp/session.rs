//! One generation of the connection, as it stands.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connect::Broker;
use super::connection::Connection;
use super::consumer::Delivery;
use super::depths::depth_of;
use super::error::Error;
use super::generation::{Ended, Generation};
use super::publisher::{PublishSession, Publisher};
use crate::wire::envelope::{Letter, Source};

/// Which connections a generation consumes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One for all queues.
    Joint,
    /// One for each, and one more: a queue whose own connection ends is to blame for that.
    Apart,
    /// One, for the queue of this source alone.
    Only(Source),
}

/// One generation: a connection that publishes, one that consumes (or several), and everything on them.
pub struct Session {
    pub(super) broker: Broker,
    /// The number of the address that it is connected to.
    pub(super) at: usize,
    pub(super) generation: Generation,
    /// Which connections it consumes by.
    pub(super) layout: Layout,
    pub(super) publishing: PublishSession,
    /// The connection that it consumes and looks around by.
    pub(super) consuming: Arc<Connection>,
    /// Where each queue has a connection of its own.
    pub(super) apart: Vec<(Source, Arc<Connection>)>,
    /// How many queues it consumed when it began.
    pub(super) consumers_len: usize,
    pub(super) deliveries: mpsc::Receiver<Delivery>,
    /// The delivery that is next, while an alarm holds it up.
    pub(super) next: Option<Delivery>,
    pub(super) draining: CancellationToken,
    /// One task for each consumer. It ends with the generation, and returns the letters that it has not passed on.
    pub(super) pumps: JoinSet<Vec<Letter>>,
    /// The broker does not fit any more.
    pub(super) unfit: CancellationToken,
    /// Background tasks; [`give_back`](Session::give_back) aborts them.
    pub(super) tasks: JoinSet<()>,
}

impl Session {
    /// The next delivery, of whatever source. `None`: the generation has ended, or it was drained.
    ///
    /// While the broker says that an alarm blocks what we publish, nothing comes out: what is begun could not be
    /// told. Can be dropped while it waits; no delivery is lost by that.
    pub async fn next(&mut self) -> Option<Delivery> {
        let Session { generation, deliveries, next, .. } = self;
        tokio::select! {
            biased;
            // What is still waiting cannot be settled any more, and comes again: beginning its step would only
            // turn it into doubt.
            _ = generation.ended() => None,
            delivery = async {
                if next.is_none() {
                    *next = Some(deliveries.recv().await?);
                }
                // Asked for only now: an alarm that has begun while we waited counts.
                generation.unblocked().await;
                next.take()
            } => delivery,
        }
    }

    /// What publishes in this generation.
    pub fn publisher(&self) -> &Publisher {
        self.publishing.publisher()
    }

    /// The generation itself: its number, and why it ended.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Waits until the generation ends, and says why.
    pub async fn ended(&self) -> Ended {
        self.generation.ended().await
    }

    /// The broker that it is connected to: host, port and virtual host.
    pub fn address(&self) -> String {
        self.broker.shown(self.at)
    }

    /// The source whose own connection has ended, while all others live.
    pub(super) fn ended_alone(&self) -> Option<Source> {
        let mut ended = self.apart.iter().filter(|(_, connection)| !connection.status().connected());
        let (source, _) = ended.next()?;
        let others_live = ended.next().is_none() && self.consuming.status().connected();
        others_live.then_some(*source)
    }

    /// Waits until everything that it has delivered is settled, after it has taken its last.
    pub(super) async fn all_settled(&mut self) {
        while self.pumps.join_next().await.is_some() {}
    }

    /// How many messages are ready in a queue, by its full name.
    ///
    /// # Errors
    /// When the queue is not there, or the broker does not answer.
    pub async fn queue_depth(&self, queue: &str) -> Result<u32, Error> {
        depth_of(&self.consuming, queue, self.broker.timeouts.step).await
    }

    /// Takes nothing more. What the broker has sent already still comes out of [`next`](Session::next), and then
    /// `None`: a letter that was sent and is given back would come again as a suspect.
    ///
    /// A quorum queue may have set one more aside, for an ack that was on its way, without ever sending it. That
    /// one is free again when the session is closed, and then says `redelivered` although it was never delivered.
    pub fn stop_consuming(&self) {
        self.draining.cancel();
    }

    /// Ends the generation, and gives out what was delivered and not begun. It comes again.
    pub async fn give_back(&mut self) -> NotBegun {
        self.generation.end(Ended::Closed);
        let mut letters: Vec<Letter> = Vec::new();
        // The consumer tasks end at once, so their permits are free for the next generation before the connections are
        // closed.
        while let Some(pumped) = self.pumps.join_next().await {
            letters.extend(pumped.unwrap_or_default());
        }
        let beyond_permits = letters.len();
        self.deliveries.close();
        let waiting =
            self.next.take().into_iter().chain(std::iter::from_fn(|| self.deliveries.try_recv().ok()));
        letters.extend(waiting.map(|delivery| delivery.letter));
        self.tasks.abort_all();
        NotBegun { letters, beyond_permits }
    }

    /// Ends the generation and closes both connections, each within its deadline. What is unsettled comes again.
    pub async fn close(mut self) {
        self.give_back().await;
        let apart = join_all(self.apart.iter().map(|(_, connection)| self.broker.close(connection)));
        tokio::join!(self.broker.close(&self.consuming), apart, self.publishing.shut());
    }
}

/// What was delivered and not begun when a generation ended.
#[derive(Debug)]
pub struct NotBegun {
    /// The letters.
    pub letters: Vec<Letter>,
    /// How many of them held no permit: steps of an older generation hold those.
    pub(super) beyond_permits: usize,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.generation.end(Ended::Closed);
    }
}

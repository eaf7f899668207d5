//! The channel that deliveries come through, and what a delivery takes while it is held.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::timeout;

use super::connection::Connection;
use super::depths::depth_of;
use super::error::Error;
use super::generation::Generation;
use super::step::{short, within};

/// How often the queue's depth is read until no delivery of it is on its way.
const IDLE_POLL: Duration = Duration::from_millis(50);

/// No ack is held back for longer.
pub const ACK_HELD_MAX: Duration = Duration::from_secs(5);

/// Whether acks go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acks {
    Flow,
    /// For a moment: each of them would bring the next delivery.
    Wait,
}

/// A channel that deliveries come through. It is one consumer's alone, so that its prefetch is, too.
pub(super) struct ConsumerChannel {
    connection: Arc<Connection>,
    channel: Channel,
    queue: String,
    prefetch: u16,
    step: Duration,
    /// Every delivery that is not settled holds a copy. Nothing is ever sent.
    unsettled: mpsc::Sender<()>,
    all_settled: mpsc::Receiver<()>,
    flow: Arc<watch::Sender<Flow>>,
}

/// What goes through a channel.
#[derive(Debug, Clone, Copy)]
struct Flow {
    acks: Acks,
    /// How many deliveries have come whose ack has not been let out.
    unacked: u16,
}

impl ConsumerChannel {
    /// Opens it. Nothing is consumed yet.
    pub(super) async fn open(
        connection: &Arc<Connection>,
        queue: &str,
        prefetch: u16,
        step: Duration,
    ) -> Result<ConsumerChannel, Error> {
        let opening = connection.create_channel();
        let channel = within(format!("open a channel for queue `{queue}`"), step, opening).await?;
        let (unsettled, all_settled) = mpsc::channel(1);
        let flow = Arc::new(watch::Sender::new(Flow { acks: Acks::Flow, unacked: 0 }));
        let (connection, queue) = (Arc::clone(connection), queue.to_owned());
        Ok(ConsumerChannel { connection, channel, queue, prefetch, step, unsettled, all_settled, flow })
    }

    /// Tells the broker how many deliveries it may send without an ack.
    pub(super) async fn set_prefetch(&self) -> Result<(), Error> {
        let setting = self.channel.basic_qos(self.prefetch, BasicQosOptions { global: false });
        within(format!("set the prefetch for queue `{}`", self.queue), self.step, setting).await
    }

    /// Begins to consume. The tag is the queue's name: it is alone on its channel.
    pub(super) async fn consume(&self) -> Result<lapin::Consumer, Error> {
        let name = short(&self.queue)?;
        let options = BasicConsumeOptions::default();
        let consuming = self.channel.basic_consume(name.clone(), name, options, FieldTable::default());
        within(format!("consume from queue `{}`", self.queue), self.step, consuming).await
    }

    /// Tells the broker to send nothing more. What it has sent already still arrives.
    pub(super) async fn cancel(&self) -> Result<(), Error> {
        let cancelling = self.channel.basic_cancel(short(&self.queue)?, Default::default());
        within(format!("cancel the consumer of queue `{}`", self.queue), self.step, cancelling).await
    }

    /// Asks for one letter, without consuming; `step` says what for.
    pub(super) async fn get(&self, step: String) -> Result<Option<lapin::message::Delivery>, Error> {
        let asking = self.channel.basic_get(short(&self.queue)?, BasicGetOptions::default());
        Ok(within(step, self.step, asking).await?.map(|message| message.delivery))
    }

    /// Lets the acks out that [`hold_acks_until_idle`](ConsumerChannel::hold_acks_until_idle) has held back.
    pub(super) fn release_acks(&self) {
        self.flow.send_modify(|flow| flow.acks = Acks::Flow);
    }

    /// Holds back acks until nothing of its queue is on its way any more: until as much has come as the prefetch allows, or
    /// nothing is left in the queue. A quorum queue that has sent a delivery when its consumer is cancelled sets it aside
    /// until the channel closes, and then it says `redelivered`, although it was never delivered.
    ///
    /// Silence would prove nothing: a broker that writes to its disk can be silent for a second.
    ///
    /// The depth is asked for by a channel of its own, which a broker closes if the right to look is missing.
    pub(super) async fn hold_acks_until_idle(&self) {
        self.flow.send_modify(|flow| flow.acks = Acks::Wait);
        let mut flow = self.flow.subscribe();
        let calming = async {
            loop {
                if flow.borrow_and_update().unacked >= self.prefetch {
                    return;
                }
                let is_empty =
                    depth_of(&self.connection, &self.queue, self.step).await.is_ok_and(|ready| ready == 0);
                // What the queue had handed to the broker's channel by then comes before the next answer of that.
                if is_empty && self.has_answered().await && !flow.has_changed().is_ok_and(|changed| changed) {
                    return;
                }
                let _ = timeout(IDLE_POLL, flow.changed()).await;
            }
        };
        let _ = timeout(ACK_HELD_MAX, calming).await;
    }

    /// Asks the broker something that changes nothing. Says whether it has answered.
    pub(super) async fn has_answered(&self) -> bool {
        self.set_prefetch().await.is_ok()
    }

    /// Waits until every delivery that came through it is settled.
    pub(super) async fn until_settled(&mut self) {
        let (unsettled, all_settled) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.unsettled, unsettled));
        let _ = std::mem::replace(&mut self.all_settled, all_settled).recv().await;
    }

    /// Closes the channel once every delivery that came through it is settled.
    pub(super) async fn close_when_settled(mut self) {
        self.until_settled().await;
        self.close().await;
    }

    /// Closes the channel. Only then does the broker hand on what it may have set aside for a consumer that is cancelled
    /// now; such a letter says `redelivered`, although it was never delivered.
    pub(super) async fn close(self) {
        // If it cannot be closed, its connection is broken, and the watch over the connection ends the generation.
        let _ = within("close a channel", self.step, self.channel.close(200, "done".into())).await;
    }
}

/// What a delivery takes while it is held. Dropped before it was settled, it is a delivery given back.
#[derive(Debug)]
pub(super) struct InFlight {
    /// The generation that has to hear when it is dropped unsettled; `None` once it is settled.
    unsettled_in: Option<Generation>,
    _held: Option<Arc<()>>,
    flow: Arc<watch::Sender<Flow>>,
    channel: Channel,
    prefetch: u16,
    _unsettled: mpsc::Sender<()>,
    // Dropped last: when all permits are back, nothing is held any more.
    _permit: OwnedSemaphorePermit,
}

impl InFlight {
    /// For a delivery that has come through this channel.
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        held: &Weak<()>,
        channel: &ConsumerChannel,
        generation: Generation,
    ) -> InFlight {
        channel.flow.send_modify(|flow| flow.unacked += 1);
        InFlight {
            unsettled_in: Some(generation),
            _held: held.upgrade(),
            flow: Arc::clone(&channel.flow),
            channel: channel.channel.clone(),
            prefetch: channel.prefetch,
            _unsettled: channel.unsettled.clone(),
            _permit: permit,
        }
    }

    /// Waits until its ack may go out, which it then does.
    pub(super) async fn may_be_acked(&self) {
        let mut flow = self.flow.subscribe();
        loop {
            let mut is_let_out = false;
            self.flow.send_if_modified(|flow| {
                is_let_out = flow.acks == Acks::Flow;
                if is_let_out {
                    flow.unacked -= 1;
                }
                false
            });
            // The sender lives in `self`.
            if is_let_out || flow.changed().await.is_err() {
                return;
            }
        }
    }

    /// The ack is sent.
    pub(super) fn settled(&mut self) {
        self.unsettled_in = None;
    }

    /// Waits until the broker has what was sent before: it takes what comes through one channel in order, and so any
    /// question will do. This one changes nothing.
    pub(super) async fn has_arrived(&self) -> lapin::Result<()> {
        self.channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(generation) = &self.unsettled_in {
            generation.note_given_back();
        }
    }
}

//! Deliveries in, as many as we hold permits for. Bodies are not read here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::consumer_channel::{ConsumerChannel, InFlight};
use super::error::Error;
use super::generation::{ClientError, Ended, Generation};
use super::headers::letter;
use super::intake::{ConsumeMode, Intake, Said, Served};
use super::settle::Unsettled;
use crate::wire::envelope::{Letter, Source};

/// The largest prefetch of a queue that is consumed alone.
const ALONE_PREFETCH: u16 = 10;

/// The prefetch from which on acks may come in a burst.
const BURST_BEGINS_AT: u16 = 16;

/// One delivery: what arrived, and the right to announce what is decided about it.
#[derive(Debug)]
#[must_use = "a delivery is settled by announcing what was decided about it"]
pub struct Delivery {
    /// What arrived.
    pub letter: Letter,
    /// The delivery itself, not acked yet.
    pub unsettled: Unsettled,
    /// What it was taken for.
    pub purpose: Purpose,
}

impl Delivery {
    /// The same, not to be handled any more.
    pub(super) fn into_given_back(self) -> Delivery {
        Delivery { purpose: Purpose::GiveBack, ..self }
    }
}

/// What a delivery was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be handled.
    Handle,
    /// To be given back by a confirmed publish, if nothing has been done with it: its queue is not consumed any more. A
    /// letter that is returned to its queue without that comes again as a suspect.
    GiveBack,
}

/// A source in one generation: it is consumed while all of it is taken, and asked for one letter where one is.
#[derive(Clone)]
pub(super) struct Consumer {
    pub(super) connection: Arc<Connection>,
    pub(super) queue: String,
    pub(super) source: Source,
    prefetch: u16,
    permits: Arc<Semaphore>,
    held: Weak<()>,
    said: watch::Receiver<Said>,
    /// It is consumed over a connection of its own, so `barred` does not apply.
    is_alone: bool,
    step: Duration,
}

/// Where deliveries go, and what ends with them.
#[derive(Clone)]
pub(super) struct DeliverySink {
    pub(super) out: mpsc::Sender<Delivery>,
    pub(super) generation: Generation,
    /// Cancelled when nothing more is to be taken in this generation.
    pub(super) draining: CancellationToken,
}

impl Consumer {
    /// A source, not consumed yet.
    pub(super) fn new(
        connection: &Arc<Connection>,
        intake: &Intake,
        served: &Served,
        queue: String,
        step: Duration,
    ) -> Consumer {
        Consumer {
            connection: Arc::clone(connection),
            queue,
            source: served.source,
            prefetch: served.prefetch,
            permits: Arc::clone(&served.permits),
            held: intake.held_by_deliveries(),
            said: served.said.subscribe(),
            is_alone: false,
            step,
        }
    }

    /// The same for a source that is consumed alone, a few letters at once: what is on its way when its connection ends comes
    /// again as a suspect.
    pub(super) fn alone(self) -> Consumer {
        Consumer { is_alone: true, prefetch: self.prefetch.min(ALONE_PREFETCH), ..self }
    }

    /// How much is to be taken now.
    fn mode(&self) -> ConsumeMode {
        self.mode_of(*self.said.borrow())
    }

    fn mode_of(&self, said: Said) -> ConsumeMode {
        if said.barred && !self.is_alone { ConsumeMode::Nothing } else { said.mode }
    }

    /// The channel to consume by, its prefetch set, if all of the source is taken now. Nothing is consumed yet.
    pub(super) async fn prepare(&self) -> Result<Option<ConsumerChannel>, Error> {
        match self.mode() {
            ConsumeMode::All => {
                let channel = self.open().await?;
                channel.set_prefetch().await?;
                Ok(Some(channel))
            }
            ConsumeMode::One | ConsumeMode::Nothing => Ok(None),
        }
    }

    /// Consumes as the mode says, beginning with the consumer that is there, until the generation ends or is drained.
    /// Returns the letters that were delivered while no permit was free.
    pub(super) async fn tend(
        mut self,
        mut consuming: Option<(ConsumerChannel, lapin::Consumer)>,
        sink: DeliverySink,
    ) -> Vec<Letter> {
        let generation = sink.generation.clone();
        let mut channels = JoinSet::new();
        // The pump hears of the end by itself, and has letters to give out then.
        loop {
            let next = match consuming.take() {
                Some(consuming) => Some(consuming),
                None => generation.while_it_lasts(self.next_to_consume(&sink, &mut channels)).await.flatten(),
            };
            let Some((channel, stream)) = next else { break };
            let beyond = self.consume_until_mode_changes(&channel, stream, &sink).await;
            if generation.why().is_some() {
                return beyond;
            }
            channels.spawn(self.clone().close_when_settled(channel, sink.clone()));
        }
        // A channel lives as long as a delivery of it is unsettled: without it there is no ack.
        let _ = generation.while_it_lasts(async { while channels.join_next().await.is_some() {} }).await;
        Vec::new()
    }

    /// Does what is said until that is to consume again; `None` when nothing more is to be taken.
    async fn next_to_consume(
        &mut self,
        sink: &DeliverySink,
        channels: &mut JoinSet<()>,
    ) -> Option<(ConsumerChannel, lapin::Consumer)> {
        loop {
            while channels.try_join_next().is_some() {}
            if sink.draining.is_cancelled() {
                return None;
            }
            self.said.mark_unchanged();
            let done = match self.mode() {
                ConsumeMode::All => match self.prepare_and_consume().await {
                    Ok(Some(consuming)) => return Some(consuming),
                    Ok(None) => continue,
                    Err(error) => Err(error),
                },
                ConsumeMode::One => self.take_one(sink).await.map(|channel| {
                    if let Some(channel) = channel {
                        channels.spawn(channel.close_when_settled());
                    }
                }),
                ConsumeMode::Nothing => Ok(()),
            };
            if let Err(error) = done {
                sink.generation.end(error.into());
                return None;
            }
            self.wait_for_state_change(&sink.draining).await;
        }
    }

    async fn prepare_and_consume(&self) -> Result<Option<(ConsumerChannel, lapin::Consumer)>, Error> {
        let Some(channel) = self.prepare().await? else { return Ok(None) };
        let stream = channel.consume().await?;
        Ok(Some((channel, stream)))
    }

    /// Consumes until it is said otherwise, or nothing more is to be taken; then what the broker had sent already
    /// has been handed on. When the generation ends before, gives out what could not be.
    async fn consume_until_mode_changes(
        &self,
        channel: &ConsumerChannel,
        stream: lapin::Consumer,
        sink: &DeliverySink,
    ) -> Vec<Letter> {
        let mut said = self.said.clone();
        let stopping = CancellationToken::new();
        let pump = self.pump(stream, channel, sink, &stopping);
        let mut pump = std::pin::pin!(pump);
        let mode_changed = async {
            // The sender outlives every generation.
            tokio::select! {
                () = sink.draining.cancelled() => {}
                _ = said.wait_for(|said| self.mode_of(*said) != ConsumeMode::All) => {}
            }
            channel.hold_acks_until_idle().await;
        };
        tokio::select! {
            biased;
            // The generation has ended.
            beyond = &mut pump => return beyond,
            () = mode_changed => {}
        }
        stopping.cancel();
        let cancelling = async {
            if let Err(error) = channel.cancel().await {
                sink.generation.end(error.into());
            }
        };
        let cancelled = async {
            sink.generation.while_it_lasts(cancelling).await;
            channel.release_acks();
        };
        let ((), beyond) = tokio::join!(cancelled, pump);
        beyond
    }

    /// Waits until something is said again, or nothing more is to be taken.
    async fn wait_for_state_change(&mut self, draining: &CancellationToken) {
        tokio::select! {
            biased;
            () = draining.cancelled() => {}
            // The sender outlives every generation.
            _ = self.said.changed() => {}
        }
    }

    /// Asks for one letter, without consuming: nothing else is set aside for us, and nothing has to be cancelled.
    async fn take_one(&self, sink: &DeliverySink) -> Result<Option<ConsumerChannel>, Error> {
        let permit = tokio::select! {
            biased;
            () = sink.draining.cancelled() => return Ok(None),
            permit = Arc::clone(&self.permits).acquire_owned() => permit,
        };
        // Semaphores of the intake are never closed.
        let Ok(permit) = permit else { return Ok(None) };
        if self.mode() != ConsumeMode::One {
            return Ok(None);
        }
        let channel = self.open().await?;
        let step = format!("take one letter from queue `{}`", self.queue);
        self.get(step, &channel, permit, sink, Purpose::Handle).await?;
        Ok(Some(channel))
    }

    /// Closes the channel of a consumer that is cancelled, once every delivery that came through it is settled and the queue
    /// knows of it.
    ///
    /// The broker's channel holds back acks beyond the first 32 of a burst until the quorum queue has written those, and forgets
    /// them when it is closed before: what was acked would come again. What it asks the queue itself (`basic.get`) is
    /// answered when those are written, though perhaps just before the channel hears of that; the second answer comes
    /// after it, and after the rest of the acks. If asking brings a letter, it is given back.
    async fn close_when_settled(self, mut channel: ConsumerChannel, sink: DeliverySink) {
        channel.until_settled().await;
        if self.prefetch > BURST_BEGINS_AT {
            for _ in 0..2 {
                let is_lasting = sink.generation.why().is_none();
                if !is_lasting || self.wait_for_stored_acks(&channel, &sink).await.is_err() {
                    break;
                }
                channel.until_settled().await;
            }
            channel.has_answered().await;
        }
        channel.close().await;
    }

    async fn wait_for_stored_acks(
        &self,
        channel: &ConsumerChannel,
        sink: &DeliverySink,
    ) -> Result<(), Error> {
        // Semaphores of the intake are never closed.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Ok(()) };
        let step = format!("ask queue `{}` for its last word", self.queue);
        self.get(step, channel, permit, sink, Purpose::GiveBack).await
    }

    /// Asks for one letter, and hands it on if there is one.
    async fn get(
        &self,
        step: String,
        channel: &ConsumerChannel,
        permit: OwnedSemaphorePermit,
        sink: &DeliverySink,
        purpose: Purpose,
    ) -> Result<(), Error> {
        if let Some(message) = channel.get(step).await? {
            let delivery = self.delivery(message, channel, permit, &sink.generation);
            // The receiver is gone when the generation has ended.
            let _ = sink.out.send(Delivery { purpose, ..delivery }).await;
        }
        Ok(())
    }

    async fn open(&self) -> Result<ConsumerChannel, Error> {
        ConsumerChannel::open(&self.connection, &self.queue, self.prefetch, self.step).await
    }

    /// Takes a permit, then a delivery, and hands both on. Ends with the stream, or with the generation; then it
    /// gives out the letters that were delivered and that no permit was there for.
    async fn pump(
        &self,
        mut stream: lapin::Consumer,
        channel: &ConsumerChannel,
        sink: &DeliverySink,
        stopping: &CancellationToken,
    ) -> Vec<Letter> {
        let DeliverySink { out, generation, .. } = sink;
        let mut ended = std::pin::pin!(generation.ended());
        loop {
            let next = async {
                // Semaphores of the intake are never closed.
                let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
                Some((permit, stream.next().await))
            };
            let (permit, delivery) = tokio::select! {
                biased;
                _ = &mut ended => break,
                next = next => match next {
                    Some((permit, Some(Ok(delivery)))) => (permit, delivery),
                    Some((_, Some(Err(error)))) => {
                        let queue = self.queue.clone();
                        generation.end(Ended::ConsumerBroke { queue, source: ClientError(error) });
                        break;
                    }
                    // We asked for it.
                    Some((_, None)) if stopping.is_cancelled() => return Vec::new(),
                    Some((_, None)) => {
                        generation.end(Ended::ConsumerCancelled { queue: self.queue.clone() });
                        break;
                    }
                    None => break,
                },
            };
            let delivery = self.delivery(delivery, channel, permit, generation);
            if out.send(delivery).await.is_err() {
                break;
            }
        }
        let mut beyond = Vec::new();
        // What has arrived is there without waiting, up to the error that says why no more comes.
        while let Some(Some(Ok(delivery))) = stream.next().now_or_never() {
            beyond.push(letter(self.source, delivery).0);
        }
        beyond
    }

    fn delivery(
        &self,
        delivery: lapin::message::Delivery,
        channel: &ConsumerChannel,
        permit: OwnedSemaphorePermit,
        generation: &Generation,
    ) -> Delivery {
        let (letter, acker) = letter(self.source, delivery);
        let hold = InFlight::new(permit, &self.held, channel, generation.clone());
        let unsettled = Unsettled::new(acker, generation.clone(), self.step, hold);
        Delivery { letter, unsettled, purpose: Purpose::Handle }
    }
}

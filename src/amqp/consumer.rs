//! Deliveries in, as many as we hold permits for. Bodies are not read here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::consumer_channel::{ConsumerChannel, InFlight};
use super::error::Error;
use super::generation::{ClientError, Ended, Generation};
use super::intake::{ConsumeMode, Intake, Served};
use super::screen;
use super::settle::Unsettled;
use super::step::{short, within};
use crate::wire::envelope::{HeaderValue, Headers, Letter, Redelivered, Source};
use crate::wire::origin;

/// The longest text of a header that is taken. `tracestate` is passed on, and the frames of the publishing
/// connection are small: a stranger's header must not kill it at every delivery.
const HEADER_TEXT_BYTES_MAX: usize = 4_096;

/// So many letters are taken at once from a queue that is consumed alone, at most.
const ALONE_PREFETCH: u16 = 10;

/// From so many letters at once on, their acks may come in a burst.
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
    connection: Arc<Connection>,
    queue: String,
    source: Source,
    prefetch: u16,
    permits: Arc<Semaphore>,
    held: Weak<()>,
    mode: watch::Receiver<ConsumeMode>,
    /// `None`: it is consumed alone, which is what others are barred for.
    barred: Option<watch::Receiver<bool>>,
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
            mode: served.mode.subscribe(),
            barred: Some(served.barred.subscribe()),
            step,
        }
    }

    /// The same for a source that is consumed alone, a few letters at once: what is on its way when its connection ends comes
    /// again as a suspect.
    pub(super) fn alone(self) -> Consumer {
        Consumer { barred: None, prefetch: self.prefetch.min(ALONE_PREFETCH), ..self }
    }

    /// How much is to be taken now.
    fn mode(&self) -> ConsumeMode {
        match &self.barred {
            Some(barred) if *barred.borrow() => ConsumeMode::Nothing,
            Some(_) | None => *self.mode.borrow(),
        }
    }

    /// The channel to consume by, its prefetch set, if all of the source is taken now. Nothing is consumed yet.
    pub(super) async fn prepare(&self) -> Result<Option<ConsumerChannel>, Error> {
        match self.mode() {
            ConsumeMode::All => {
                let line = self.open().await?;
                let setting = line.channel().basic_qos(self.prefetch, BasicQosOptions { global: false });
                within(format!("set the prefetch for queue `{}`", self.queue), self.step, setting).await?;
                Ok(Some(line))
            }
            ConsumeMode::One | ConsumeMode::Nothing => Ok(None),
        }
    }

    /// Whether its connection stands.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// The queue that it is of.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Begins to consume. The tag is the queue's name: it is alone on its channel.
    pub(super) async fn consume(&self, line: &ConsumerChannel) -> Result<lapin::Consumer, Error> {
        let name = short(&self.queue)?;
        let options = BasicConsumeOptions::default();
        let consuming = line.channel().basic_consume(name.clone(), name, options, FieldTable::default());
        within(format!("consume from queue `{}`", self.queue), self.step, consuming).await
    }

    /// Takes as much as is said, beginning with what is being consumed, until the generation ends or is drained.
    /// Gives out the letters that were delivered and that no permit was there for.
    pub(super) async fn tend(
        mut self,
        mut consuming: Option<(ConsumerChannel, lapin::Consumer)>,
        sink: DeliverySink,
    ) -> Vec<Letter> {
        let generation = sink.generation.clone();
        let mut lines = JoinSet::new();
        // The pump hears of the end by itself, and has letters to give out then.
        loop {
            let next = match consuming.take() {
                Some(consuming) => Some(consuming),
                None => generation.while_it_lasts(self.next_to_consume(&sink, &mut lines)).await.flatten(),
            };
            let Some((line, stream)) = next else { break };
            let beyond = self.consume_as_said(&line, stream, &sink).await;
            if generation.why().is_some() {
                return beyond;
            }
            lines.spawn(self.clone().close_when_settled(line, sink.clone()));
        }
        // A line lives as long as a delivery of it is unsettled: without it there is no ack.
        let _ = generation.while_it_lasts(async { while lines.join_next().await.is_some() {} }).await;
        Vec::new()
    }

    /// Does what is said until that is to consume again; `None` when nothing more is to be taken.
    async fn next_to_consume(
        &mut self,
        sink: &DeliverySink,
        lines: &mut JoinSet<()>,
    ) -> Option<(ConsumerChannel, lapin::Consumer)> {
        loop {
            while lines.try_join_next().is_some() {}
            if sink.draining.is_cancelled() {
                return None;
            }
            self.mode.mark_unchanged();
            if let Some(barred) = &mut self.barred {
                barred.mark_unchanged();
            }
            let done = match self.mode() {
                ConsumeMode::All => match self.prepare_and_consume().await {
                    Ok(Some(consuming)) => return Some(consuming),
                    Ok(None) => continue,
                    Err(error) => Err(error),
                },
                ConsumeMode::One => self.take_one(sink).await.map(|line| {
                    if let Some(mut line) = line {
                        let step = self.step;
                        lines.spawn(async move {
                            line.until_settled().await;
                            line.close(step).await;
                        });
                    }
                }),
                ConsumeMode::Nothing => Ok(()),
            };
            if let Err(error) = done {
                sink.generation.end(error.into());
                return None;
            }
            self.wait_for_word(&sink.draining).await;
        }
    }

    async fn prepare_and_consume(&self) -> Result<Option<(ConsumerChannel, lapin::Consumer)>, Error> {
        let Some(line) = self.prepare().await? else { return Ok(None) };
        let stream = self.consume(&line).await?;
        Ok(Some((line, stream)))
    }

    /// Consumes until it is said otherwise, or nothing more is to be taken; then what the broker had sent already
    /// has been handed on. When the generation ends before, gives out what could not be.
    async fn consume_as_said(
        &self,
        line: &ConsumerChannel,
        stream: lapin::Consumer,
        sink: &DeliverySink,
    ) -> Vec<Letter> {
        let mut mode = self.mode.clone();
        let mut barred = self.barred.clone();
        let stopping = CancellationToken::new();
        let pump = self.pump(stream, line, sink, &stopping);
        let mut pump = std::pin::pin!(pump);
        let said_otherwise = async {
            // Who says it outlives every generation.
            tokio::select! {
                () = sink.draining.cancelled() => {}
                _ = mode.wait_for(|mode| *mode != ConsumeMode::All) => {}
                () = until_barred(&mut barred) => {}
            }
            line.calm(&self.connection, &self.queue, self.step).await;
        };
        tokio::select! {
            biased;
            // The generation has ended.
            beyond = &mut pump => return beyond,
            () = said_otherwise => {}
        }
        stopping.cancel();
        let cancelling = async {
            if let Err(error) = self.cancel(line).await {
                sink.generation.end(error.into());
            }
        };
        let cancelled = async {
            sink.generation.while_it_lasts(cancelling).await;
            line.let_acks_flow();
        };
        let ((), beyond) = tokio::join!(cancelled, pump);
        beyond
    }

    /// Waits until something is said again, or nothing more is to be taken.
    async fn wait_for_word(&mut self, draining: &CancellationToken) {
        tokio::select! {
            biased;
            () = draining.cancelled() => {}
            // Who says it outlives every generation.
            _ = self.mode.changed() => {}
            () = changed(&mut self.barred) => {}
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
        let line = self.open().await?;
        let asking = line.channel().basic_get(short(&self.queue)?, BasicGetOptions::default());
        let asked = within(format!("take one letter from queue `{}`", self.queue), self.step, asking).await?;
        if let Some(message) = asked {
            let delivery = self.delivery(message.delivery, &line, permit, &sink.generation);
            // Nobody takes it any more: the generation has ended.
            let _ = sink.out.send(delivery).await;
        }
        Ok(Some(line))
    }

    /// Closes the channel of a consumer that is cancelled, once every delivery that came through it is settled and the queue
    /// knows of it.
    ///
    /// The broker's channel holds back acks beyond the first 32 of a burst until the quorum queue has written those, and forgets
    /// them when it is closed before: what was acked would come again. What it asks the queue itself (`basic.get`) is
    /// answered when those are written, though perhaps just before the channel hears of that; the second answer comes
    /// after it, and after the rest of the acks. If asking brings a letter, it is given back.
    async fn close_when_settled(self, mut line: ConsumerChannel, sink: DeliverySink) {
        line.until_settled().await;
        if self.prefetch > BURST_BEGINS_AT {
            for _ in 0..2 {
                let is_lasting = sink.generation.why().is_none();
                if !is_lasting || self.ask_the_queue(&line, &sink).await.is_err() {
                    break;
                }
                line.until_settled().await;
            }
            line.has_answered(self.step).await;
        }
        line.close(self.step).await;
    }

    async fn ask_the_queue(&self, line: &ConsumerChannel, sink: &DeliverySink) -> Result<(), Error> {
        // Semaphores of the intake are never closed.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Ok(()) };
        let asking = line.channel().basic_get(short(&self.queue)?, BasicGetOptions::default());
        let asked =
            within(format!("ask queue `{}` for its last word", self.queue), self.step, asking).await?;
        if let Some(message) = asked {
            let delivery = self.delivery(message.delivery, line, permit, &sink.generation);
            // Nobody takes it any more: the generation has ended.
            let _ = sink.out.send(delivery.into_given_back()).await;
        }
        Ok(())
    }

    async fn open(&self) -> Result<ConsumerChannel, Error> {
        let opening = self.connection.create_channel();
        let channel =
            within(format!("open a channel for queue `{}`", self.queue), self.step, opening).await?;
        Ok(ConsumerChannel::new(channel, self.prefetch))
    }

    /// Tells the broker to send nothing more. What it has sent already still arrives.
    async fn cancel(&self, line: &ConsumerChannel) -> Result<(), Error> {
        let canceling = line.channel().basic_cancel(short(&self.queue)?, Default::default());
        within(format!("cancel the consumer of queue `{}`", self.queue), self.step, canceling).await
    }

    /// Takes a permit, then a delivery, and hands both on. Ends with the stream, or with the generation; then it
    /// gives out the letters that were delivered and that no permit was there for.
    async fn pump(
        &self,
        mut stream: lapin::Consumer,
        line: &ConsumerChannel,
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
            let delivery = self.delivery(delivery, line, permit, generation);
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
        line: &ConsumerChannel,
        permit: OwnedSemaphorePermit,
        generation: &Generation,
    ) -> Delivery {
        let (letter, acker) = letter(self.source, delivery);
        let hold = InFlight::new(permit, &self.held, line, generation.clone());
        let unsettled = Unsettled::new(acker, generation.clone(), self.step, hold);
        Delivery { letter, unsettled, purpose: Purpose::Handle }
    }
}

async fn until_barred(barred: &mut Option<watch::Receiver<bool>>) {
    match barred {
        // Who says it outlives every generation.
        Some(barred) => drop(barred.wait_for(|barred| *barred).await),
        None => std::future::pending().await,
    }
}

async fn changed(barred: &mut Option<watch::Receiver<bool>>) {
    match barred {
        // Who says it outlives every generation.
        Some(barred) => drop(barred.changed().await),
        None => std::future::pending().await,
    }
}

fn letter(source: Source, delivery: lapin::message::Delivery) -> (Letter, lapin::Acker) {
    let routing_key = delivery.routing_key.to_string();
    let mut headers = delivery.properties.headers().as_ref().map(headers).unwrap_or_default();
    let cut = headers.remove(screen::MARK);
    if !origin::is_believed(source) {
        headers.retain(|name, _| !name.starts_with("cancel-"));
        let properties = &delivery.properties;
        let given = [
            (origin::ROUTING_KEY, Some(routing_key.as_str())),
            (origin::MESSAGE_ID, properties.message_id().as_ref().map(ShortString::as_str)),
            (origin::APP_ID, properties.app_id().as_ref().map(ShortString::as_str)),
            (origin::USER_ID, properties.user_id().as_ref().map(ShortString::as_str)),
        ];
        let given = given.into_iter().filter_map(|(name, text)| Some((name, text?)));
        headers.extend(given.map(|(name, text)| (name.to_owned(), HeaderValue::Text(text.to_owned()))));
    }
    // Of a letter of ours it says what was cut from it when it came.
    if let Some(cut) = cut {
        headers.entry(origin::UNREADABLE.to_owned()).or_insert(cut);
    }
    let letter = Letter {
        source,
        routing_key,
        redelivered: if delivery.redelivered { Redelivered::Yes } else { Redelivered::No },
        headers,
        body: Bytes::from(delivery.data),
    };
    (letter, delivery.acker)
}

/// The headers that we know how to read. Others are left out.
pub(super) fn headers(table: &FieldTable) -> Headers {
    table.inner().iter().filter_map(|(name, value)| Some((name.to_string(), header(value)?))).collect()
}

fn header(value: &AMQPValue) -> Option<HeaderValue> {
    let text = |bytes: &[u8]| {
        let short = bytes.len() <= HEADER_TEXT_BYTES_MAX;
        let text = std::str::from_utf8(bytes).ok().filter(|_| short)?;
        Some(HeaderValue::Text(text.to_owned()))
    };
    match value {
        AMQPValue::Boolean(flag) => Some(HeaderValue::Bool(*flag)),
        AMQPValue::ShortShortInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::ShortShortUInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::ShortInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::ShortUInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::LongInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::LongUInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::LongLongInt(number) => Some(HeaderValue::Int(*number)),
        AMQPValue::ShortString(string) => text(string.as_str().as_bytes()),
        AMQPValue::LongString(string) => text(string.as_bytes()),
        AMQPValue::ByteArray(bytes) => text(bytes.as_slice()),
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::Void => None,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::ShortString;

    use super::*;

    #[test]
    fn a_body_that_the_screen_cuts_is_known_by_its_words() {
        assert_eq!(screen::BODY_CUT, origin::BODY_CUT);
    }

    fn read(value: AMQPValue) -> Option<HeaderValue> {
        let mut table = FieldTable::default();
        table.insert(ShortString::from("header"), value);
        headers(&table).remove("header")
    }

    #[test]
    fn a_trace_parent_is_taken_as_long_string_short_string_or_bytes() {
        let expected = Some(HeaderValue::Text("00-ab-cd-01".to_owned()));
        assert_eq!(read(AMQPValue::LongString("00-ab-cd-01".into())), expected);
        assert_eq!(read(AMQPValue::ShortString("00-ab-cd-01".into())), expected);
        assert_eq!(read(AMQPValue::ByteArray(b"00-ab-cd-01".to_vec().into())), expected);
    }

    #[test]
    fn integers_of_every_width_and_booleans_are_taken() {
        let minus_one = Some(HeaderValue::Int(-1));
        assert_eq!(read(AMQPValue::ShortShortInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::ShortInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::LongInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::LongLongInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::ShortShortUInt(u8::MAX)), Some(HeaderValue::Int(255)));
        assert_eq!(read(AMQPValue::ShortUInt(u16::MAX)), Some(HeaderValue::Int(65_535)));
        assert_eq!(read(AMQPValue::LongUInt(u32::MAX)), Some(HeaderValue::Int(4_294_967_295)));
        assert_eq!(read(AMQPValue::Boolean(true)), Some(HeaderValue::Bool(true)));
    }

    #[test]
    fn everything_else_is_left_out() {
        for value in [
            AMQPValue::Float(1.0),
            AMQPValue::Double(1.0),
            AMQPValue::Timestamp(1),
            AMQPValue::FieldTable(FieldTable::default()),
            AMQPValue::FieldArray(Vec::new().into()),
            AMQPValue::Void,
            AMQPValue::LongString(vec![0xff, 0xfe].into()),
            AMQPValue::ByteArray(vec![0xff, 0xfe].into()),
            AMQPValue::LongString("x".repeat(HEADER_TEXT_BYTES_MAX + 1).into()),
        ] {
            assert_eq!(read(value.clone()), None, "{value:?}");
        }
    }
}

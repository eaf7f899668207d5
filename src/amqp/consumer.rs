//! Deliveries in, as many as we hold permits for. Bodies are not read here.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connect::{Error, short, within};
use super::generation::{Ended, Fault, Generation, Role};
use super::link::Link;
use super::settle::Unsettled;
use crate::domain::breaker::Take;
use crate::domain::intent::Kind;
use crate::wire::envelope::{HeaderValue, Headers, Letter, Redelivered, Source};

/// The longest text of a header that is taken. `tracestate` is passed on, and the frames of the publishing
/// connection are small: a stranger's header must not kill it at every delivery.
const HEADER_TEXT_BYTES_MAX: usize = 4_096;

/// So many refused events are announced again at once: enough to catch up, too few to be felt by the lanes.
const ANNOUNCEMENTS_PREFETCH: u16 = 16;

/// So long has nothing arrived when nothing is on its way any more.
const CALM: Duration = Duration::from_secs(1);

/// No ack is held back for longer.
pub const ACK_HELD_MAX: Duration = Duration::from_secs(5);

/// One delivery: what arrived, and the right to announce what is decided about it.
#[derive(Debug)]
#[must_use = "a delivery is settled by announcing what was decided about it"]
pub struct Delivery {
    /// What arrived.
    pub letter: Letter,
    /// The delivery itself, not acked yet.
    pub unsettled: Unsettled,
}

/// What is taken in: every source with its prefetch, and as many permits. The permits outlive a generation, so that
/// stories which go on while the connection is rebuilt still count.
#[derive(Debug, Clone)]
pub(super) struct Intake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    served: Vec<Served>,
    /// Every delivery that is held has a copy of it.
    held: Arc<()>,
}

#[derive(Debug)]
pub(super) struct Served {
    pub(super) source: Source,
    pub(super) prefetch: u16,
    pub(super) permits: Arc<Semaphore>,
    /// Outlives a generation: the next one begins with what was said last.
    take: watch::Sender<Take>,
}

impl Intake {
    /// The lanes of these kinds; beside each its returns, with a quarter of its prefetch, so that a retry never
    /// waits behind a backlog; the rescue, the refused events, and the isolation.
    pub(super) fn new(lanes: &BTreeMap<Kind, u16>) -> Intake {
        let served = lanes.iter().flat_map(|(kind, prefetch)| {
            [(Source::Lane(*kind), *prefetch), (Source::Returns(*kind), (prefetch / 4).max(1))]
        });
        let served = served
            .chain([
                (Source::Rescue, 1),
                (Source::Announcements, ANNOUNCEMENTS_PREFETCH),
                // One at a time: whatever takes the process down, takes no neighbour's good name with it.
                (Source::Isolation, 1),
            ])
            .map(|(source, prefetch)| Served {
                source,
                prefetch,
                permits: Arc::new(Semaphore::new(usize::from(prefetch))),
                take: watch::Sender::new(Take::All),
            });
        Intake(Arc::new(Inner { served: served.collect(), held: Arc::new(()) }))
    }

    /// All sources.
    pub(super) fn served(&self) -> &[Served] {
        &self.0.served
    }

    /// Says how much of a source is taken from now on, in this generation and in the next. Saying the same again
    /// changes nothing, but for [`Take::One`]: that is one more.
    pub(super) fn take(&self, source: Source, take: Take) {
        for served in self.0.served.iter().filter(|served| served.source == source) {
            served.take.send_if_modified(|now| {
                let is_news = *now != take || take == Take::One;
                *now = take;
                is_news
            });
        }
    }

    /// How many deliveries can be held at once.
    pub(super) fn held_max(&self) -> usize {
        self.0.served.iter().map(|served| usize::from(served.prefetch)).sum()
    }

    /// How many deliveries are held, of whatever generation. A permit of a consumer that waits is not one.
    pub(super) fn held(&self) -> usize {
        Arc::strong_count(&self.0.held) - 1
    }

    /// Waits until every permit has been given back.
    pub(super) async fn given_back(&self) {
        for served in &self.0.served {
            // Semaphores of this intake are never closed.
            let _ = served.permits.acquire_many(u32::from(served.prefetch)).await;
        }
    }
}

/// What a delivery takes while it is held. Dropped before it was settled, it is a delivery given back.
#[derive(Debug)]
pub(super) struct Hold {
    /// Whose delivery it is; nobody's once it is settled.
    unsettled_in: Option<Generation>,
    _held: Option<Arc<()>>,
    acks: watch::Receiver<Acks>,
    channel: Channel,
    prefetch: u16,
    _line: mpsc::Sender<()>,
    // The last to go: whoever has waited for all permits finds nothing held any more.
    _permit: OwnedSemaphorePermit,
}

impl Hold {
    fn new(permit: OwnedSemaphorePermit, held: &Weak<()>, line: &Line, generation: Generation) -> Hold {
        Hold {
            unsettled_in: Some(generation),
            _held: held.upgrade(),
            acks: line.acks.subscribe(),
            channel: line.channel.clone(),
            prefetch: line.prefetch,
            _line: line.unsettled.clone(),
            _permit: permit,
        }
    }

    /// Waits until its ack may go out.
    pub(super) async fn may_be_acked(&self) {
        // A line that is gone holds nothing up.
        let _ = self.acks.clone().wait_for(|acks| *acks == Acks::Flow).await;
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

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(generation) = &self.unsettled_in {
            generation.note_given_back();
        }
    }
}

/// A source in one generation: it is consumed while all of it is taken, and asked for one letter where one is.
pub(super) struct Consumer {
    connection: Arc<Link>,
    queue: String,
    source: Source,
    prefetch: u16,
    permits: Arc<Semaphore>,
    held: Weak<()>,
    take: watch::Receiver<Take>,
    step: Duration,
}

/// Whether acks go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acks {
    Flow,
    /// For a moment: each of them would bring the next delivery.
    Wait,
}

/// A channel that deliveries come through. It is one consumer's alone, so that its prefetch is, too.
pub(super) struct Line {
    channel: Channel,
    prefetch: u16,
    /// Every delivery that is not settled holds a copy. Nothing is ever sent.
    unsettled: mpsc::Sender<()>,
    all_settled: mpsc::Receiver<()>,
    acks: watch::Sender<Acks>,
    /// How many deliveries have come.
    arrived: watch::Sender<u64>,
}

/// Where deliveries go, and what ends with them.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) out: mpsc::Sender<Delivery>,
    pub(super) generation: Generation,
    /// Cancelled when nothing more is to be taken in this generation.
    pub(super) draining: CancellationToken,
}

impl Consumer {
    /// A source, not consumed yet.
    pub(super) fn new(
        connection: &Arc<Link>,
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
            held: Arc::downgrade(&intake.0.held),
            take: served.take.subscribe(),
            step,
        }
    }

    /// The channel to consume by, its prefetch set, if all of the source is taken now. Nothing is consumed yet.
    pub(super) async fn prepare(&self) -> Result<Option<Line>, Error> {
        let take = *self.take.borrow();
        match take {
            Take::All => {
                let line = self.open().await?;
                let setting = line.channel.basic_qos(self.prefetch, BasicQosOptions { global: false });
                within(format!("set the prefetch for queue `{}`", self.queue), self.step, setting).await?;
                Ok(Some(line))
            }
            Take::One | Take::Nothing => Ok(None),
        }
    }

    /// The queue that it is of.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Begins to consume. The tag is the queue's name: it is alone on its channel.
    pub(super) async fn consume(&self, line: &Line) -> Result<lapin::Consumer, Error> {
        let name = short(&self.queue)?;
        let options = BasicConsumeOptions::default();
        let consuming = line.channel.basic_consume(name.clone(), name, options, FieldTable::default());
        within(format!("consume from queue `{}`", self.queue), self.step, consuming).await
    }

    /// Takes as much as is said, beginning with what is being consumed, until the generation ends or is drained.
    /// Gives out the letters that were delivered and that no permit was there for.
    pub(super) async fn tend(
        mut self,
        mut consuming: Option<(Line, lapin::Consumer)>,
        outlet: Outlet,
    ) -> Vec<Letter> {
        let generation = outlet.generation.clone();
        let mut lines = JoinSet::new();
        // The pump hears of the end by itself, and has letters to give out then.
        loop {
            let next = match consuming.take() {
                Some(consuming) => Some(consuming),
                None => generation.while_it_lasts(self.next_to_consume(&outlet, &mut lines)).await.flatten(),
            };
            let Some((line, stream)) = next else { break };
            let beyond = self.consume_as_said(&line, stream, &outlet).await;
            if generation.why().is_some() {
                return beyond;
            }
            lines.spawn(line.close_when_settled(self.step));
        }
        // A line lives as long as a delivery of it is unsettled: without it there is no ack.
        let _ = generation.while_it_lasts(async { while lines.join_next().await.is_some() {} }).await;
        Vec::new()
    }

    /// Does what is said until that is to consume again; `None` when nothing more is to be taken.
    async fn next_to_consume(
        &mut self,
        outlet: &Outlet,
        lines: &mut JoinSet<()>,
    ) -> Option<(Line, lapin::Consumer)> {
        loop {
            while lines.try_join_next().is_some() {}
            if outlet.draining.is_cancelled() {
                return None;
            }
            let take = *self.take.borrow_and_update();
            let done = match take {
                Take::All => match self.prepare_and_consume().await {
                    Ok(Some(consuming)) => return Some(consuming),
                    Ok(None) => continue,
                    Err(error) => Err(error),
                },
                Take::One => self.take_one(outlet).await.map(|line| {
                    if let Some(line) = line {
                        lines.spawn(line.close_when_settled(self.step));
                    }
                }),
                Take::Nothing => Ok(()),
            };
            if let Err(error) = done {
                outlet.generation.end(error.into());
                return None;
            }
            self.wait_for_word(&outlet.draining).await;
        }
    }

    async fn prepare_and_consume(&self) -> Result<Option<(Line, lapin::Consumer)>, Error> {
        let Some(line) = self.prepare().await? else { return Ok(None) };
        let stream = self.consume(&line).await?;
        Ok(Some((line, stream)))
    }

    /// Consumes until it is said otherwise, or nothing more is to be taken; then what the broker had sent already
    /// has been handed on. When the generation ends before, gives out what could not be.
    async fn consume_as_said(&self, line: &Line, stream: lapin::Consumer, outlet: &Outlet) -> Vec<Letter> {
        let mut word = self.take.clone();
        let stopping = CancellationToken::new();
        let pump = self.pump(stream, line, outlet, &stopping);
        let mut pump = std::pin::pin!(pump);
        let said_otherwise = async {
            // Who says it outlives every generation.
            drop(word.wait_for(|take| *take != Take::All).await);
            line.calm().await;
        };
        tokio::select! {
            biased;
            // The generation has ended.
            beyond = &mut pump => return beyond,
            () = outlet.draining.cancelled() => {}
            () = said_otherwise => {}
        }
        stopping.cancel();
        let cancelling = async {
            if let Err(error) = self.cancel(line).await {
                outlet.generation.end(error.into());
            }
        };
        let cancelled = async {
            outlet.generation.while_it_lasts(cancelling).await;
            line.acks.send_replace(Acks::Flow);
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
            _ = self.take.changed() => {}
        }
    }

    /// Asks for one letter, without consuming: nothing else is set aside for us, and nothing has to be cancelled.
    async fn take_one(&self, outlet: &Outlet) -> Result<Option<Line>, Error> {
        let permit = tokio::select! {
            biased;
            () = outlet.draining.cancelled() => return Ok(None),
            permit = Arc::clone(&self.permits).acquire_owned() => permit,
        };
        // Semaphores of the intake are never closed.
        let Ok(permit) = permit else { return Ok(None) };
        let take = *self.take.borrow();
        if take != Take::One {
            return Ok(None);
        }
        let line = self.open().await?;
        let asking = line.channel.basic_get(short(&self.queue)?, BasicGetOptions::default());
        let asked = within(format!("take one letter from queue `{}`", self.queue), self.step, asking).await?;
        if let Some(message) = asked {
            let delivery = self.delivery(message.delivery, &line, permit, &outlet.generation);
            // Nobody takes it any more: the generation has ended.
            let _ = outlet.out.send(delivery).await;
        }
        Ok(Some(line))
    }

    async fn open(&self) -> Result<Line, Error> {
        let opening = self.connection.create_channel();
        let channel =
            within(format!("open a channel for queue `{}`", self.queue), self.step, opening).await?;
        let (unsettled, all_settled) = mpsc::channel(1);
        let acks = watch::Sender::new(Acks::Flow);
        let arrived = watch::Sender::new(0);
        Ok(Line { channel, prefetch: self.prefetch, unsettled, all_settled, acks, arrived })
    }

    /// Tells the broker to send nothing more. What it has sent already still arrives.
    async fn cancel(&self, line: &Line) -> Result<(), Error> {
        let canceling = line.channel.basic_cancel(short(&self.queue)?, Default::default());
        within(format!("cancel the consumer of queue `{}`", self.queue), self.step, canceling).await
    }

    /// Takes a permit, then a delivery, and hands both on. Ends with the stream, or with the generation; then it
    /// gives out the letters that were delivered and that no permit was there for.
    async fn pump(
        &self,
        mut stream: lapin::Consumer,
        line: &Line,
        outlet: &Outlet,
        stopping: &CancellationToken,
    ) -> Vec<Letter> {
        let Outlet { out, generation, .. } = outlet;
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
                        generation.end(Ended::ConsumerBroke { queue, source: Fault(error) });
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
        line: &Line,
        permit: OwnedSemaphorePermit,
        generation: &Generation,
    ) -> Delivery {
        let (letter, acker) = letter(self.source, delivery);
        line.arrived.send_modify(|arrived| *arrived += 1);
        let hold = Hold::new(permit, &self.held, line, generation.clone());
        Delivery { letter, unsettled: Unsettled::new(acker, generation.clone(), self.step, hold) }
    }
}

impl Line {
    /// Holds back acks until nothing more arrives. A quorum queue that has sent a delivery after an ack, when the
    /// consumer is cancelled, sets it aside until the channel closes, and then it says `redelivered`: so nothing
    /// should be on its way then.
    async fn calm(&self) {
        self.acks.send_replace(Acks::Wait);
        let mut arrived = self.arrived.subscribe();
        let calming = async { while timeout(CALM, arrived.changed()).await.is_ok() {} };
        let _ = timeout(ACK_HELD_MAX, calming).await;
    }

    /// Closes the channel once every delivery that came through it is settled. Only then does the broker hand on
    /// what it may have set aside for a consumer that is cancelled now; such a letter says `redelivered`, although
    /// nobody has seen it.
    async fn close_when_settled(self, step: Duration) {
        let Line { channel, prefetch: _, unsettled, mut all_settled, acks: _, arrived: _ } = self;
        drop(unsettled);
        let _ = all_settled.recv().await;
        // If it cannot be closed, its connection is broken, and who watches that tells it.
        let _ = within("close a channel", step, channel.close(200, "done".into())).await;
    }
}

/// A channel that does not do what it must ends the generation.
impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        match error {
            Error::Failed { source, .. } => {
                Ended::ConnectionLost { role: Role::Consume, source: Some(source) }
            }
            Error::Tls { .. } | Error::Late { .. } | Error::Unfit { .. } | Error::NameTooLong { .. } => {
                Ended::ConnectionLost { role: Role::Consume, source: None }
            }
        }
    }
}

fn letter(source: Source, delivery: lapin::message::Delivery) -> (Letter, lapin::Acker) {
    let letter = Letter {
        source,
        routing_key: delivery.routing_key.to_string(),
        redelivered: if delivery.redelivered { Redelivered::Yes } else { Redelivered::No },
        headers: delivery.properties.headers().as_ref().map(headers).unwrap_or_default(),
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

    #[test]
    fn every_lane_has_its_returns_beside_it_with_a_quarter_of_its_permits() {
        let intake = Intake::new(&BTreeMap::from([(Kind::AsyncCancel, 100), (Kind::BatchCancel, 2)]));
        let served: Vec<(Source, u16)> =
            intake.served().iter().map(|served| (served.source, served.prefetch)).collect();
        assert_eq!(
            served,
            [
                (Source::Lane(Kind::AsyncCancel), 100),
                (Source::Returns(Kind::AsyncCancel), 25),
                (Source::Lane(Kind::BatchCancel), 2),
                (Source::Returns(Kind::BatchCancel), 1),
                (Source::Rescue, 1),
                (Source::Announcements, ANNOUNCEMENTS_PREFETCH),
                (Source::Isolation, 1),
            ]
        );
        assert_eq!(intake.held(), 0);
    }
}

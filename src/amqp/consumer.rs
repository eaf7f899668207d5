//! Deliveries in, as many as we hold permits for. Bodies are not read here.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::connect::{Error, short, within};
use super::generation::{Ended, Fault, Generation};
use super::settle::Unsettled;
use crate::domain::intent::Kind;
use crate::wire::envelope::{HeaderValue, Headers, Letter, Redelivered, Source};

/// The longest text of a header that is taken. `tracestate` is passed on, and the frames of the publishing
/// connection are small: a stranger's header must not kill it at every delivery.
const HEADER_TEXT_BYTES_MAX: usize = 4_096;

/// So many refused events are announced again at once: enough to catch up, too few to be felt by the lanes.
const ANNOUNCEMENTS_PREFETCH: u16 = 16;

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
            });
        Intake(Arc::new(Inner { served: served.collect(), held: Arc::new(()) }))
    }

    /// All sources.
    pub(super) fn served(&self) -> &[Served] {
        &self.0.served
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
    // The last to go: whoever has waited for all permits finds nothing held any more.
    _permit: OwnedSemaphorePermit,
}

impl Hold {
    fn new(permit: OwnedSemaphorePermit, held: &Weak<()>, generation: Generation) -> Hold {
        Hold { unsettled_in: Some(generation), _held: held.upgrade(), _permit: permit }
    }

    /// The broker has its ack.
    pub(super) fn settled(mut self) {
        self.unsettled_in = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(generation) = &self.unsettled_in {
            generation.note_given_back();
        }
    }
}

/// A consumer that the broker knows: its channel is its own, so that its prefetch is, too.
pub(super) struct Consumer {
    channel: Channel,
    queue: String,
    source: Source,
    permits: Arc<Semaphore>,
    held: Weak<()>,
}

impl Consumer {
    /// Opens its channel and sets its prefetch. Nothing is consumed yet.
    pub(super) async fn prepare(
        connection: &Connection,
        intake: &Intake,
        served: &Served,
        queue: String,
        step: Duration,
    ) -> Result<Consumer, Error> {
        let opening = connection.create_channel();
        let channel = within(format!("open a channel for queue `{queue}`"), step, opening).await?;
        let setting = channel.basic_qos(served.prefetch, BasicQosOptions { global: false });
        within(format!("set the prefetch for queue `{queue}`"), step, setting).await?;
        Ok(Consumer {
            channel,
            queue,
            source: served.source,
            permits: Arc::clone(&served.permits),
            held: Arc::downgrade(&intake.0.held),
        })
    }

    /// Begins to consume. The tag is the queue's name: it is alone on its channel.
    pub(super) async fn consume(&self, step: Duration) -> Result<lapin::Consumer, Error> {
        let name = short(&self.queue)?;
        let options = BasicConsumeOptions::default();
        let consuming = self.channel.basic_consume(name.clone(), name, options, FieldTable::default());
        within(format!("consume from queue `{}`", self.queue), step, consuming).await
    }

    /// Tells the broker to send nothing more. What it has sent already still arrives.
    pub(super) async fn cancel(&self, step: Duration) -> Result<(), Error> {
        let canceling = self.channel.basic_cancel(short(&self.queue)?, Default::default());
        within(format!("cancel the consumer of queue `{}`", self.queue), step, canceling).await
    }

    /// Takes a permit, then a delivery, and hands both on. Ends with the stream.
    pub(super) fn pump(
        &self,
        mut stream: lapin::Consumer,
        out: mpsc::Sender<Delivery>,
        generation: Generation,
        draining: CancellationToken,
        ack_timeout: Duration,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (source, queue, permits) = (self.source, self.queue.clone(), Arc::clone(&self.permits));
        let held = Weak::clone(&self.held);
        async move {
            loop {
                // Semaphores of the intake are never closed.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                let delivery = match stream.next().await {
                    Some(Ok(delivery)) => delivery,
                    Some(Err(error)) => {
                        generation.end(Ended::ConsumerBroke { queue, source: Fault(error) });
                        return;
                    }
                    // We asked for it.
                    None if draining.is_cancelled() => return,
                    None => {
                        generation.end(Ended::ConsumerCancelled { queue });
                        return;
                    }
                };
                let (letter, acker) = letter(source, delivery);
                let hold = Hold::new(permit, &held, generation.clone());
                let unsettled = Unsettled::new(acker, generation.clone(), ack_timeout, hold);
                if out.send(Delivery { letter, unsettled }).await.is_err() {
                    return;
                }
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

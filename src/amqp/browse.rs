//! Looking, without taking anything away: how deep a queue is, what lies in it, and what passes by.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use uuid::Uuid;

use super::connect::Broker;
use super::connection::Connection;
use super::declare;
use super::error::Error;
use super::generation::{ClientError, Role};
use super::headers::headers;
use super::step::{short, with_channel, within};
use super::topology::{QueueKind, Topology};
use crate::wire::envelope::Headers;

/// How many messages a tail holds at once.
const TAIL_PREFETCH: u16 = 100;

/// How many messages are ready in these queues, by their full names, in their order; over a connection of its own.
///
/// # Errors
/// When one of the queues is not there, or the broker cannot be asked.
pub async fn queue_depths(broker: &Broker, queues: &[&str]) -> Result<Vec<u32>, Error> {
    let step = broker.timeouts.step;
    let looking = async |channel: Channel| {
        let mut depths = Vec::with_capacity(queues.len());
        for queue in queues {
            depths.push(declare::depth(&channel, queue, step).await?);
        }
        Ok(depths)
    };
    broker.with_connection(async |connection, _| with_channel(connection, step, looking).await).await
}

/// The messages that are ready in a queue, by its full name; at most `messages_max` of them, the oldest first. They
/// stay where they are, but say `redelivered` from then on. While this looks, no consumer gets them.
///
/// # Errors
/// When the queue is not there, or the broker cannot be asked.
pub async fn scan(broker: &Broker, queue: &str, messages_max: usize) -> Result<Vec<Passing>, Error> {
    let step = broker.timeouts.step;
    // What is not acked goes back when the channel is closed.
    let looking = async |channel: Channel| {
        let name = short(queue)?;
        let mut found = Vec::new();
        while found.len() < messages_max {
            let getting = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false });
            let Some(message) = within(format!("look into queue `{queue}`"), step, getting).await? else {
                break;
            };
            found.push(passing(message.delivery));
        }
        Ok(found)
    };
    broker.with_connection(async |connection, _| with_channel(connection, step, looking).await).await
}

/// A message that passed by.
#[derive(Debug, Clone, PartialEq)]
pub struct Passing {
    /// The routing key it was published with.
    pub routing_key: String,
    /// Its `message-id`.
    pub message_id: Option<String>,
    /// The headers that we know how to read.
    pub headers: Headers,
    /// Its bytes.
    pub body: Bytes,
}

/// What passes by at an exchange, from now on: a queue of our own, which goes when we go.
pub struct Tail {
    broker: Broker,
    connection: Connection,
    stream: Pin<Box<Consumer>>,
}

impl Tail {
    /// Listens at the taps of the outcomes to what `pattern` matches: `#` is everything, `*.cancelled` the
    /// cancelled ones of all kinds. What is published after this has returned is heard.
    ///
    /// # Errors
    /// The step that failed, and what was said.
    pub async fn open(broker: &Broker, topology: &Topology, pattern: &str) -> Result<Tail, Error> {
        let queue = format!("{}.tail.{}", topology.prefix(), Uuid::new_v4());
        // Exclusive: RabbitMQ 4.3 refuses temporary queues that are neither exclusive nor durable.
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        Tail::at(broker, &topology.taps(), &queue, options, FieldTable::default(), pattern).await
    }

    /// Listens as a ledger does: at the outcomes, with a durable queue of this full name. The queue stays when we
    /// go; [`delete_queue`](declare::delete_queue) takes it away.
    ///
    /// # Errors
    /// The step that failed, and what was said.
    pub async fn as_ledger(
        broker: &Broker,
        topology: &Topology,
        queue: &str,
        pattern: &str,
    ) -> Result<Tail, Error> {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        let quorum = AMQPValue::LongString(QueueKind::Quorum.as_str().into());
        arguments.insert("x-queue-type".into(), quorum);
        Tail::at(broker, &topology.outcomes(), queue, options, arguments, pattern).await
    }

    async fn at(
        broker: &Broker,
        exchange: &str,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
        pattern: &str,
    ) -> Result<Tail, Error> {
        let (connection, _) = broker.connect(Role::Consume, 0).await?;
        let step = broker.timeouts.step;
        let channel = within("open a channel", step, connection.create_channel()).await?;
        let limiting = channel.basic_qos(TAIL_PREFETCH, BasicQosOptions { global: false });
        within("set the prefetch", step, limiting).await?;
        let name = short(queue)?;
        let declaring = channel.queue_declare(name.clone(), options, arguments);
        within("declare a queue for the tail", broker.timeouts.declare, declaring).await?;
        let binding = channel.queue_bind(
            name.clone(),
            short(exchange)?,
            short(pattern)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        within(format!("bind the tail to exchange `{exchange}`"), step, binding).await?;
        let consuming = channel.basic_consume(
            name.clone(),
            name,
            BasicConsumeOptions { exclusive: true, ..Default::default() },
            FieldTable::default(),
        );
        let stream = Box::pin(within("consume the tail", step, consuming).await?);
        Ok(Tail { broker: broker.clone(), connection, stream })
    }

    /// The next message; `None` when the broker has ended it.
    ///
    /// # Errors
    /// What was said when the connection broke.
    pub async fn next(&mut self) -> Result<Option<Passing>, Error> {
        let failed =
            |error| Error::Failed { step: "listen to the tail".to_owned(), source: ClientError(error) };
        let Some(delivery) = self.stream.next().await else { return Ok(None) };
        let delivery = delivery.map_err(failed)?;
        let acking = delivery.acker.ack(BasicAckOptions::default());
        within("ack a message of the tail", self.broker.timeouts.step, acking).await?;
        Ok(Some(passing(delivery)))
    }

    /// Stops listening.
    pub async fn close(self) {
        self.broker.close(&self.connection).await;
    }
}

fn passing(delivery: lapin::message::Delivery) -> Passing {
    Passing {
        routing_key: delivery.routing_key.to_string(),
        message_id: delivery.properties.message_id().as_ref().map(ToString::to_string),
        headers: delivery.properties.headers().as_ref().map(headers).unwrap_or_default(),
        body: Bytes::from(delivery.data),
    }
}

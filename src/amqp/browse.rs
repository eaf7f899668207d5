//! Looking, without taking anything away: how deep a queue is, and what passes by.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, Consumer};
use uuid::Uuid;

use super::connect::{Broker, Error, short, within};
use super::consumer;
use super::declare;
use super::generation::{Fault, Role};
use super::topology::Topology;
use crate::wire::envelope::Headers;

/// How many messages a tail holds at once.
const TAIL_PREFETCH: u16 = 100;

/// How many messages are ready in a queue, by its full name; over a connection of its own.
///
/// # Errors
/// When the queue is not there, or the broker cannot be asked.
pub async fn queue_depth(broker: &Broker, queue: &str) -> Result<u32, Error> {
    let (connection, _) = broker.connect(Role::Consume, 0).await?;
    let step = broker.timeouts.step;
    let depth = async {
        let channel = within("open a channel", step, connection.create_channel()).await?;
        declare::depth(&channel, queue, step).await
    }
    .await;
    broker.close(&connection).await;
    depth
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
        Tail::at(broker, &topology.taps(), &format!("{}.tail.{}", topology.prefix(), Uuid::new_v4()), pattern)
            .await
    }

    async fn at(broker: &Broker, exchange: &str, queue: &str, pattern: &str) -> Result<Tail, Error> {
        let (connection, _) = broker.connect(Role::Consume, 0).await?;
        let step = broker.timeouts.step;
        let channel = within("open a channel", step, connection.create_channel()).await?;
        let limiting = channel.basic_qos(TAIL_PREFETCH, BasicQosOptions { global: false });
        within("set the prefetch", step, limiting).await?;
        let name = short(queue)?;
        // Exclusive: RabbitMQ 4.3 refuses temporary queues that are neither exclusive nor durable.
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let declaring = channel.queue_declare(name.clone(), options, FieldTable::default());
        within("declare a queue for the tail", step, declaring).await?;
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
        let failed = |error| Error::Failed { step: "listen to the tail".to_owned(), source: Fault(error) };
        let Some(delivery) = self.stream.next().await else { return Ok(None) };
        let delivery = delivery.map_err(failed)?;
        let acking = delivery.acker.ack(BasicAckOptions::default());
        within("ack a message of the tail", self.broker.timeouts.step, acking).await?;
        Ok(Some(Passing {
            routing_key: delivery.routing_key.to_string(),
            message_id: delivery.properties.message_id().as_ref().map(ToString::to_string),
            headers: delivery.properties.headers().as_ref().map(consumer::headers).unwrap_or_default(),
            body: Bytes::from(delivery.data),
        }))
    }

    /// The same as a stream, which ends with the first failure.
    pub fn into_stream(self) -> impl Stream<Item = Result<Passing, Error>> + Send {
        futures_util::stream::unfold(Some(self), |tail| async move {
            let mut tail = tail?;
            match tail.next().await {
                Ok(Some(passing)) => Some((Ok(passing), Some(tail))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Stops listening.
    pub async fn close(self) {
        self.broker.close(&self.connection).await;
    }
}

//! Brings the topology to the broker, and asks whether it is there. Nothing is ever changed or deleted in place.

use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use uuid::Uuid;

use super::connect::{Broker, Timeouts};
use super::error::Error;
use super::reply_code::PRECONDITION_FAILED;
use super::step::{short, with_channel, within};
use super::topology::{Argument, Binding, Destination, Exchange, ExchangeKind, Publishers, Queue, Topology};

/// What a look at a queue shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that are ready. Those that are delivered and not acked are not among them.
    pub ready: u32,
    /// How many consumers it has.
    pub consumers: u32,
}

/// Deletes every queue and exchange of the topology, with all that is in them. For tests and for cleaning up; `run`
/// never does it.
///
/// # Errors
/// What the broker says. What is not there is no error.
pub async fn delete_all(broker: &Broker, topology: &Topology) -> Result<(), Error> {
    let Timeouts { step, declare, .. } = broker.timeouts;
    let deleting = async |channel: Channel| {
        try_join_all(topology.queues().iter().map(async |queue| {
            let deleting = channel.queue_delete(short(&queue.name)?, QueueDeleteOptions::default());
            within(format!("delete queue `{}`", queue.name), declare, deleting).await
        }))
        .await?;
        try_join_all(topology.exchanges().iter().map(async |exchange| {
            let deleting = channel.exchange_delete(short(&exchange.name)?, ExchangeDeleteOptions::default());
            within(format!("delete exchange `{}`", exchange.name), step, deleting).await
        }))
        .await
    };
    broker.with_connection(async |connection, _| with_channel(connection, step, deleting).await).await?;
    Ok(())
}

/// Deletes one queue by its full name, with all that is in it: one that is not of the topology, as a ledger's.
///
/// # Errors
/// What the broker says. That it is not there is no error.
pub async fn delete_queue(broker: &Broker, queue: &str) -> Result<(), Error> {
    let Timeouts { step, declare, .. } = broker.timeouts;
    let deleting = async |channel: Channel| {
        let deleting = channel.queue_delete(short(queue)?, QueueDeleteOptions::default());
        within(format!("delete queue `{queue}`"), declare, deleting).await
    };
    broker.with_connection(async |connection, _| with_channel(connection, step, deleting).await).await?;
    Ok(())
}

/// Declares on a connection that is there: exchanges, then queues, then bindings, each lot at once. It ends with the
/// first thing that the broker has something against.
pub(super) async fn declare(
    broker: &Broker,
    connection: &Connection,
    topology: &Topology,
) -> Result<(), Error> {
    let step = broker.timeouts.step;
    let channel = within("open a channel for the topology", step, connection.create_channel()).await?;
    // One deadline for the whole: a quorum queue that is new takes its time.
    let limit = broker.timeouts.declare;
    let declared = tokio::time::timeout(limit, async {
        try_join_all(topology.exchanges().iter().map(|exchange| declare_exchange(&channel, exchange, limit)))
            .await?;
        try_join_all(topology.queues().iter().map(|queue| declare_queue(&channel, queue, limit))).await?;
        try_join_all(topology.bindings().iter().map(|binding| bind(&channel, binding, limit))).await
    })
    .await;
    match declared {
        Ok(Ok(_)) => {
            // If it cannot be closed, the next use of the connection fails.
            let _ =
                within("close the channel of the topology", step, channel.close(200, "done".into())).await;
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Late { step: "declare the topology".to_owned(), after: limit }),
    }
}

/// Asks whether every exchange and queue is there, all at once. It ends with the first that is not.
pub(super) async fn all_are_there(
    broker: &Broker,
    connection: &Connection,
    topology: &Topology,
) -> Result<(), Error> {
    let step = broker.timeouts.step;
    let channel = within("open a channel for the topology", step, connection.create_channel()).await?;
    let looks = topology.exchanges().iter().map(|exchange| look_at_exchange(&channel, &exchange.name, step));
    try_join_all(looks).await?;
    try_join_all(topology.queues().iter().map(|queue| depth(&channel, &queue.name, step))).await?;
    let _ = within("close the channel of the topology", step, channel.close(200, "done".into())).await;
    Ok(())
}

/// How many messages are ready in a queue. Asks for no permission, and changes nothing.
pub(super) async fn depth(channel: &Channel, queue: &str, step: Duration) -> Result<u32, Error> {
    Ok(depth_and_consumers(channel, queue, step).await?.ready)
}

/// The same, and how many take from it.
pub(super) async fn depth_and_consumers(
    channel: &Channel,
    queue: &str,
    step: Duration,
) -> Result<Depth, Error> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let asking = channel.queue_declare(short(queue)?, options, FieldTable::default());
    let found = within(format!("look at queue `{queue}`"), step, asking).await?;
    Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
}

/// Asks whether an exchange is there. Asks for no permission, and changes nothing.
pub(super) async fn look_at_exchange(channel: &Channel, exchange: &str, step: Duration) -> Result<(), Error> {
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    // Of what is only looked at, the broker does not compare the type.
    let kind = lapin::ExchangeKind::Topic;
    let asking = channel.exchange_declare(short(exchange)?, kind, options, FieldTable::default());
    within(format!("look at exchange `{exchange}`"), step, asking).await
}

pub(super) async fn declare_exchange(
    channel: &Channel,
    exchange: &Exchange,
    step: Duration,
) -> Result<(), Error> {
    let options = ExchangeDeclareOptions {
        durable: true,
        internal: match exchange.publishers {
            Publishers::Clients => false,
            Publishers::Broker => true,
        },
        ..Default::default()
    };
    let mut arguments = FieldTable::default();
    if let Some(alternate) = &exchange.alternate {
        arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.as_str().into()));
    }
    let declaring = channel.exchange_declare(short(&exchange.name)?, kind(exchange), options, arguments);
    within(format!("declare exchange `{}`", exchange.name), step, declaring).await
}

/// Asks whether we may declare an exchange, and declares nothing: the broker looks at the permission first, and then
/// refuses an alternate exchange that is a number, whether the exchange is there or not.
pub(super) async fn may_declare_exchange(
    channel: &Channel,
    exchange: &Exchange,
    step: Duration,
) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongLongInt(0));
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let asking = channel.exchange_declare(short(&exchange.name)?, kind(exchange), options, arguments);
    let asked = within(format!("ask about exchange `{}`", exchange.name), step, asking).await;
    refused_as_meant(asked, "alternate-exchange")
}

fn kind(exchange: &Exchange) -> lapin::ExchangeKind {
    match exchange.kind {
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
    }
}

pub(super) async fn declare_queue(channel: &Channel, queue: &Queue, limit: Duration) -> Result<(), Error> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let declaring = channel.queue_declare(short(&queue.name)?, options, arguments(queue));
    within(format!("declare queue `{}`", queue.name), limit, declaring).await.map(|_| ())
}

/// Asks whether we may declare a queue, and declares nothing: the broker looks at the permissions first, of where it
/// dead-letters to as well, and then refuses a queue that expires before it begins, whether it is there or not.
pub(super) async fn may_declare_queue(channel: &Channel, queue: &Queue, step: Duration) -> Result<(), Error> {
    const EXPIRES: &str = "x-expires";
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = arguments(queue);
    arguments.insert(EXPIRES.into(), AMQPValue::LongLongInt(-1));
    let asking = channel.queue_declare(short(&queue.name)?, options, arguments);
    let asked = within(format!("ask about queue `{}`", queue.name), step, asking).await;
    refused_as_meant(asked.map(|_| ()), EXPIRES)
}

/// What was refused for this argument alone was permitted.
fn refused_as_meant(asked: Result<(), Error>, argument: &str) -> Result<(), Error> {
    match asked {
        Err(error) => match error.said() {
            Some((PRECONDITION_FAILED, text)) if text.contains(&format!("'{argument}'")) => Ok(()),
            Some(_) | None => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

fn arguments(queue: &Queue) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue.kind.as_str().into()));
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Int(value) => AMQPValue::LongLongInt(*value),
            Argument::Text(value) => AMQPValue::LongString(value.as_str().into()),
        };
        arguments.insert((*name).into(), value);
    }
    arguments
}

pub(super) async fn bind(channel: &Channel, binding: &Binding, step: Duration) -> Result<(), Error> {
    let (source, key) = (short(&binding.source)?, short(&binding.key)?);
    match &binding.destination {
        Destination::Queue(name) => {
            let options = QueueBindOptions::default();
            let binding = channel.queue_bind(short(name)?, source, key, options, FieldTable::default());
            within(format!("bind queue `{name}`"), step, binding).await
        }
        Destination::Exchange(name) => {
            let options = ExchangeBindOptions::default();
            let binding = channel.exchange_bind(short(name)?, source, key, options, FieldTable::default());
            within(format!("bind exchange `{name}`"), step, binding).await
        }
    }
}

/// Asks whether we may declare a binding, and declares nothing: to take a binding away that was never made needs the
/// same permissions, and changes nothing.
pub(super) async fn may_bind(channel: &Channel, binding: &Binding, step: Duration) -> Result<(), Error> {
    let (source, key) = (short(&binding.source)?, short(&binding.key)?);
    let mut nobodys = FieldTable::default();
    nobodys.insert("cancel-asking".into(), AMQPValue::LongString(Uuid::new_v4().to_string().into()));
    match &binding.destination {
        Destination::Queue(name) => {
            let asking = channel.queue_unbind(short(name)?, source, key, nobodys);
            within(format!("ask about the binding of queue `{name}`"), step, asking).await
        }
        Destination::Exchange(name) => {
            let options = ExchangeUnbindOptions::default();
            let asking = channel.exchange_unbind(short(name)?, source, key, options, nobodys);
            within(format!("ask about the binding of exchange `{name}`"), step, asking).await
        }
    }
}

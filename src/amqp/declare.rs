//! Brings the topology to the broker, and looks whether it is there. Nothing is ever changed or deleted in place:
//! what differs is named.

use std::fmt;
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use super::connect::{Broker, Error, short, within};
use super::generation::Role;
use super::topology::{Argument, Binding, Destination, Exchange, ExchangeKind, Publishers, Queue, Topology};

/// AMQP's numbers for what can be wrong with a declaration.
pub(super) const NOT_ALLOWED: u16 = 403;
const NOT_FOUND: u16 = 404;
const DIFFERS: u16 = 406;

/// Something about the topology at the broker that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is not there.
    Missing {
        /// `queue` or `exchange`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It is there, and it is different.
    Differs {
        /// `queue` or `exchange`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What the broker says; names the argument.
        text: String,
    },
    /// A worker must be able to do this, and we may not.
    NotPermitted {
        /// What may not be done, up to the name.
        doing: &'static str,
        /// The name of the queue or exchange.
        name: String,
        /// What the broker says.
        text: String,
    },
    /// It is there, but we are not allowed to ask for its arguments.
    NotAllowed {
        /// `queue` or `exchange`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What the broker says.
        text: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing { what, name } => write!(f, "{what} `{name}` is missing"),
            Finding::NotPermitted { doing, name, text } => {
                write!(f, "no permission to {doing} `{name}`: {text}")
            }
            Finding::Differs { what, name, text } => write!(f, "{what} `{name}` differs: {text}"),
            Finding::NotAllowed { what, name, text } => {
                write!(f, "{what} `{name}` cannot be compared: {text}")
            }
        }
    }
}

/// Declares what is missing. What is there stays as it is.
///
/// # Errors
/// [`Error::Differs`] when something of one of our names is there and is not what it must be.
pub async fn apply(broker: &Broker, topology: &Topology) -> Result<(), Error> {
    let (connection, _) = broker.connect(Role::Consume, 0).await?;
    let applied = declare(broker, &connection, topology).await;
    broker.close(&connection).await;
    applied
}

/// Looks what is missing or different, and changes nothing. Bindings, policies and the consumer timeout are not
/// among it: AMQP cannot read them.
///
/// # Errors
/// When the broker cannot be asked.
pub async fn verify(broker: &Broker, topology: &Topology) -> Result<Vec<Finding>, Error> {
    let (connection, _) = broker.connect(Role::Consume, 0).await?;
    let findings = look(broker, &connection, topology).await;
    broker.close(&connection).await;
    findings
}

/// Deletes every queue and exchange of the topology, with all that is in them. For tests and for cleaning up; `run`
/// never does it.
///
/// # Errors
/// What the broker says. What is not there is no error.
pub async fn delete_all(broker: &Broker, topology: &Topology) -> Result<(), Error> {
    let (connection, _) = broker.connect(Role::Consume, 0).await?;
    let deleted = delete(broker, &connection, topology).await;
    broker.close(&connection).await;
    deleted
}

/// Deletes one queue by its full name, with all that is in it: one that is not of the topology, as a ledger's.
///
/// # Errors
/// What the broker says. That it is not there is no error.
pub async fn delete_queue(broker: &Broker, queue: &str) -> Result<(), Error> {
    let (connection, _) = broker.connect(Role::Consume, 0).await?;
    let deleted = async {
        let step = broker.timeouts.step;
        let channel = within("open a channel", step, connection.create_channel()).await?;
        let deleting = channel.queue_delete(short(queue)?, QueueDeleteOptions::default());
        within(format!("delete queue `{queue}`"), broker.timeouts.declare, deleting).await
    }
    .await;
    broker.close(&connection).await;
    deleted.map(|_| ())
}

/// Declares on a connection that is there: exchanges, then queues, then bindings, each lot at once.
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
            // That it cannot be closed would be noticed by whoever uses the connection next.
            let _ =
                within("close the channel of the topology", step, channel.close(200, "done".into())).await;
            Ok(())
        }
        Ok(Err(error)) => match error.said() {
            Some((DIFFERS, text)) => Err(Error::Differs { text }),
            Some(_) | None => Err(error),
        },
        Err(_) => Err(Error::Late { step: "declare the topology".to_owned(), after: limit }),
    }
}

async fn look(broker: &Broker, connection: &Connection, topology: &Topology) -> Result<Vec<Finding>, Error> {
    let step = broker.timeouts.step;
    let mut findings = Vec::new();
    // A channel ends with the first thing that is wrong.
    let mut channel = within("open a channel", step, connection.create_channel()).await?;
    for exchange in topology.exchanges() {
        let finding = match passive_exchange(&channel, exchange, step).await {
            Ok(()) => declare_exchange(&channel, exchange, step).await,
            Err(error) => Err(error),
        };
        if let Err(error) = finding {
            findings.push(finding_of("exchange", &exchange.name, error)?);
            channel = within("open a channel", step, connection.create_channel()).await?;
        }
    }
    for queue in topology.queues() {
        let finding = match depth(&channel, &queue.name, step).await {
            Ok(_) => declare_queue(&channel, queue, step).await,
            Err(error) => Err(error),
        };
        if let Err(error) = finding {
            findings.push(finding_of("queue", &queue.name, error)?);
            channel = within("open a channel", step, connection.create_channel()).await?;
        }
    }
    Ok(findings)
}

fn finding_of(what: &'static str, name: &str, error: Error) -> Result<Finding, Error> {
    let name = name.to_owned();
    match error.said() {
        Some((NOT_FOUND, _)) => Ok(Finding::Missing { what, name }),
        Some((DIFFERS, text)) => Ok(Finding::Differs { what, name, text }),
        Some((NOT_ALLOWED, text)) => Ok(Finding::NotAllowed { what, name, text }),
        Some(_) | None => Err(error),
    }
}

async fn delete(broker: &Broker, connection: &Connection, topology: &Topology) -> Result<(), Error> {
    let step = broker.timeouts.step;
    let channel = within("open a channel", step, connection.create_channel()).await?;
    try_join_all(topology.queues().iter().map(|queue| async {
        let deleting = channel.queue_delete(short(&queue.name)?, QueueDeleteOptions::default());
        within(format!("delete queue `{}`", queue.name), broker.timeouts.declare, deleting).await
    }))
    .await?;
    try_join_all(topology.exchanges().iter().map(|exchange| async {
        let deleting = channel.exchange_delete(short(&exchange.name)?, ExchangeDeleteOptions::default());
        within(format!("delete exchange `{}`", exchange.name), step, deleting).await
    }))
    .await?;
    Ok(())
}

/// How many messages are ready in a queue. Asks for no permission, and changes nothing.
pub(super) async fn depth(channel: &Channel, queue: &str, step: Duration) -> Result<u32, Error> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let asking = channel.queue_declare(short(queue)?, options, FieldTable::default());
    let found = within(format!("look at queue `{queue}`"), step, asking).await?;
    Ok(found.message_count())
}

async fn passive_exchange(channel: &Channel, exchange: &Exchange, step: Duration) -> Result<(), Error> {
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let asking =
        channel.exchange_declare(short(&exchange.name)?, kind(exchange), options, FieldTable::default());
    within(format!("look at exchange `{}`", exchange.name), step, asking).await
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange, step: Duration) -> Result<(), Error> {
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

fn kind(exchange: &Exchange) -> lapin::ExchangeKind {
    match exchange.kind {
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
    }
}

async fn declare_queue(channel: &Channel, queue: &Queue, limit: Duration) -> Result<(), Error> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue.kind.as_str().into()));
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Int(value) => AMQPValue::LongLongInt(*value),
            Argument::Text(value) => AMQPValue::LongString(value.as_str().into()),
        };
        arguments.insert((*name).into(), value);
    }
    let declaring = channel.queue_declare(short(&queue.name)?, options, arguments);
    within(format!("declare queue `{}`", queue.name), limit, declaring).await.map(|_| ())
}

async fn bind(channel: &Channel, binding: &Binding, step: Duration) -> Result<(), Error> {
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

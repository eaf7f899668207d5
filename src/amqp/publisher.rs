//! Messages out: persistent, mandatory, confirmed. What is refused is parked where the caller
//! knows how; what cannot be parked interrupts the generation.

use std::sync::Arc;

use lapin::options::ConfirmSelectOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, ErrorKind};
use tokio::task::JoinSet;

use super::confirms::{Confirms, Outgoing, Unconfirmed};
use super::connect::Broker;
use super::connection::Connection;
use super::error::Error;
use super::generation::{ClientError, Ended, Generation, Interrupted, Role};
use super::headers::field_table;
use super::permissions::{Obstacle, obstacle};
use super::settle::{Announced, Unsettled};
use super::step::within;
use super::topology::{Topology, Who};
use super::watchdog::guard;
use crate::wire::envelope::{Message, Messages, Occasion};

/// AMQP's number for *keep it on disk*.
const PERSISTENT: u8 = 2;

/// Publishes for one generation. Cheap to clone; all clones share one channel, which only one task touches.
#[derive(Debug, Clone)]
pub struct Publisher {
    confirms: Confirms,
    topology: Arc<Topology>,
    generation: Generation,
}

/// What became of messages that were published by themselves, for no delivery.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The broker has no queue for one of them. None of them counts as published.
    #[error("the broker has no route from exchange `{exchange}` for routing key `{routing_key}`")]
    Returned {
        /// Where it was published to.
        exchange: String,
        /// The key it was published with.
        routing_key: String,
    },
    /// The broker refused some of them: a queue is full. It has taken the others.
    #[error("the broker refused {} of the messages: a queue is full", refused.len())]
    Refused {
        /// Which ones, by their index among the messages.
        refused: Vec<usize>,
    },
    /// The exchange is not there.
    #[error(
        "exchange `{exchange}` is missing at the broker, and nothing was published. `cancel-worker topology apply` declares \
         it, and so does `cancel-worker run`; or is it another virtual host, or another prefix?"
    )]
    NoExchange {
        /// Which one.
        exchange: String,
    },
    /// The user may not publish there.
    #[error(
        "we have no permission to publish to exchange `{exchange}` with routing key `{routing_key}`. To fix it: {fix}"
    )]
    NotPermitted {
        /// Which one.
        exchange: String,
        /// The key that it was tried with.
        routing_key: String,
        /// The command that gives the least that is needed.
        fix: String,
    },
    /// It is not known what became of them. To publish the same bytes again is right.
    #[error("the connection was lost before the broker confirmed: publish the same bytes again")]
    Interrupted(#[source] Interrupted),
    /// A message that AMQP cannot carry.
    #[error("a message cannot be sent: {what}")]
    Unsendable {
        /// What is wrong with it; no values.
        what: &'static str,
    },
}

impl Publisher {
    /// Publishes what was decided about a delivery, and waits until the broker has confirmed all of it.
    ///
    /// What the broker refuses (a ledger's queue is full) is parked: `park` makes of it a message that waits in a
    /// delay queue, or nothing, where it is none that can wait. What is parked counts as announced, once the broker
    /// has confirmed that it holds it: it is announced again, by itself, until it is taken.
    ///
    /// # Errors
    /// When not all of it was confirmed or parked. The generation has ended then, and the delivery comes again.
    pub async fn announce(
        &self,
        unsettled: Unsettled,
        messages: Messages,
        park: impl Fn(&Message) -> Option<Message> + Send,
    ) -> Result<Announced, Interrupted> {
        // Its channel is gone: it could not be acked, so saying it now would only say it twice.
        if !unsettled.generation().is(&self.generation) {
            return Err(unsettled.generation().interrupted());
        }
        let outgoing = match self.outgoing(&messages) {
            Ok(outgoing) => outgoing,
            Err(what) => return Err(self.interrupt(Ended::Unsendable { what })),
        };
        match self.confirms.confirm(outgoing).await {
            Ok(confirmed) => Ok(Announced::new(unsettled, confirmed)),
            Err(Unconfirmed::Interrupted(interrupted)) => Err(interrupted),
            Err(Unconfirmed::Refused(refused)) => {
                // The broker has taken the others.
                let refused_messages = refused.iter().filter_map(|index| messages.as_slice().get(*index));
                let parked: Option<Vec<Outgoing>> =
                    refused_messages.map(|message| self.encode(&park(message)?).ok()).collect();
                if let Some(parked) = parked
                    && let Ok(confirmed) = self.confirms.confirm(parked).await
                {
                    return Ok(Announced::new(unsettled, confirmed));
                }
                let first = refused.first().and_then(|index| messages.as_slice().get(*index));
                Err(self.interrupt(Ended::Refused {
                    exchange: first
                        .map(|message| self.topology.exchange_of(&message.address))
                        .unwrap_or_default(),
                    routing_key: first.map(|message| message.routing_key.clone()).unwrap_or_default(),
                }))
            }
        }
    }

    /// Publishes messages that belong to no delivery, and waits until the broker has confirmed all of them.
    ///
    /// # Errors
    /// Apart: what has no route, what a full queue refused, and what became of it is not known.
    pub async fn publish(&self, messages: Messages) -> Result<(), PublishError> {
        let outgoing = self.outgoing(&messages).map_err(|what| PublishError::Unsendable { what })?;
        match self.confirms.confirm(outgoing).await {
            Ok(_confirmed) => Ok(()),
            Err(Unconfirmed::Refused(refused)) => Err(PublishError::Refused { refused }),
            Err(Unconfirmed::Interrupted(interrupted)) => Err(self.told_apart(&messages, interrupted)),
        }
    }

    /// The generation that it publishes for.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    fn interrupt(&self, why: Ended) -> Interrupted {
        self.generation.end(why);
        self.generation.interrupted()
    }

    /// A return ends the generation for all messages in it; it is an answer only to the caller whose message came back.
    fn told_apart(&self, messages: &Messages, interrupted: Interrupted) -> PublishError {
        if let Ended::Returned { exchange, routing_key } = &interrupted.why
            && messages.as_slice().iter().any(|message| {
                message.routing_key == *routing_key
                    && self.topology.exchange_of(&message.address) == *exchange
            })
        {
            return PublishError::Returned { exchange: exchange.clone(), routing_key: routing_key.clone() };
        }
        PublishError::Interrupted(interrupted)
    }

    fn outgoing(&self, messages: &Messages) -> Result<Vec<Outgoing>, &'static str> {
        messages.as_slice().iter().map(|message| self.encode(message)).collect()
    }

    fn encode(&self, message: &Message) -> Result<Outgoing, &'static str> {
        let short = |text: &str, what| ShortString::try_new(text).map_err(|_| what);
        let content_type = short(message.content_type, "its content type is longer than 255 bytes")?;
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(content_type)
            .with_headers(field_table(&message.headers)?);
        if let Some(id) = &message.message_id {
            properties = properties.with_message_id(short(id, "its message id is longer than 255 bytes")?);
        }
        if let Some(Occasion { correlation_id, at }) = &message.occasion {
            properties = properties
                .with_correlation_id(short(correlation_id, "its correlation id is longer than 255 bytes")?)
                .with_timestamp(u64::try_from(at.as_second()).unwrap_or_default())
                .with_type(ShortString::from(OUTCOME_TYPE))
                .with_app_id(ShortString::from(APP_ID));
        }
        Ok(Outgoing {
            exchange: short(
                &self.topology.exchange_of(&message.address),
                "its exchange's name is longer than 255 bytes",
            )?,
            routing_key: short(&message.routing_key, "its routing key is longer than 255 bytes")?,
            properties,
            body: message.body.clone(),
        })
    }
}

/// `type` of an outcome event, as in its body.
const OUTCOME_TYPE: &str = "cancel.outcome.v1";

/// `app-id` of an outcome event.
const APP_ID: &str = "cancel-worker";

/// A connection that only publishes: half of a session, or all that a command needs.
pub struct PublishSession {
    broker: Broker,
    publisher: Publisher,
    connection: Connection,
    // Stopped when it is dropped.
    _tasks: JoinSet<()>,
}

impl PublishSession {
    /// Connects at the first address that answers.
    ///
    /// # Errors
    /// What the broker says, or that it says nothing.
    pub async fn open(broker: &Broker, topology: &Topology) -> Result<PublishSession, Error> {
        let (connection, _) = broker.connect(Role::Publish, 0).await?;
        PublishSession::on(broker, connection, Arc::new(topology.clone()), Generation::new(1)).await
    }

    /// Builds on a connection that nothing else uses.
    pub(super) async fn on(
        broker: &Broker,
        connection: Connection,
        topology: Arc<Topology>,
        generation: Generation,
    ) -> Result<PublishSession, Error> {
        let mut tasks = JoinSet::new();
        let timeouts = broker.timeouts;
        guard(Role::Publish, &connection, timeouts, &generation, &mut tasks).await?;
        let step = timeouts.step;
        let channel = within("open the publishing channel", step, connection.create_channel()).await?;
        let confirming = channel.confirm_select(ConfirmSelectOptions::default());
        within("switch the confirms on", step, confirming).await?;
        let confirms = Confirms::start(channel, timeouts, generation.clone(), &mut tasks);
        let publisher = Publisher { confirms, topology, generation };
        Ok(PublishSession { broker: broker.clone(), publisher, connection, _tasks: tasks })
    }

    /// Publishes messages that belong to no delivery, and waits until the broker has confirmed all of them.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; and where the broker takes nothing at all from us, why.
    pub async fn publish(&self, messages: Messages) -> Result<(), PublishError> {
        let Publisher { topology, .. } = &self.publisher;
        let mut addresses: Vec<(String, String)> = Vec::new();
        for Message { address, routing_key, .. } in messages.as_slice() {
            let address = (topology.exchange_of(address), routing_key.clone());
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let error = match self.publisher.publish(messages).await {
            Err(PublishError::Interrupted(interrupted)) => interrupted,
            published => return published,
        };
        // The channel is gone, mostly before what was said against the first could be heard; and whether
        // the publisher hears of it first, or the watch over its connection, is chance.
        let is_said = |fault: &ClientError| matches!(fault.0.kind(), ErrorKind::ProtocolError(_));
        if matches!(&error.why, Ended::PublishFailed { .. })
            || matches!(&error.why, Ended::ConnectionLost { source: Some(fault), .. } if is_said(fault))
        {
            for (exchange, routing_key) in addresses {
                match obstacle(&self.connection, self.broker.timeouts.step, &exchange, &routing_key).await {
                    Some(Obstacle::Missing) => return Err(PublishError::NoExchange { exchange }),
                    Some(Obstacle::NotPermitted) => {
                        let vhost = self.broker.first_vhost();
                        let fix = topology.grants(Who::OrderSystem, vhost, "USER").join(" and ");
                        return Err(PublishError::NotPermitted { exchange, routing_key, fix });
                    }
                    None => {}
                }
            }
        }
        Err(PublishError::Interrupted(error))
    }

    /// What publishes on it.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Closes it. What is not confirmed yet is interrupted.
    pub async fn close(self) {
        self.shut().await;
    }

    /// The same by reference.
    pub(super) async fn shut(&self) {
        self.publisher.generation.end(Ended::Closed);
        self.publisher.confirms.over().await;
        // A broker that reads nothing from this connection does not read its close either.
        if !self.publisher.generation.is_blocked() {
            self.broker.close(&self.connection).await;
        }
    }
}

impl Drop for PublishSession {
    fn drop(&mut self) {
        self.publisher.generation.end(Ended::Closed);
    }
}

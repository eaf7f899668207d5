//! A ledger: a durable queue bound to all outcomes, and everything that has come through it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use cancel_worker::clock::Clock;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use lapin::Connection;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::broker::Broker;

/// Deliveries in hand at once.
const PREFETCH: u16 = 500;
/// How long one answer of the broker may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The pause before a ledger whose connection was lost connects again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What the audit need of an outcome event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) subject: String,
    pub(crate) intent: Uuid,
    pub(crate) of_item: bool,
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) terminal: bool,
    pub(crate) order: Option<String>,
    pub(crate) decided_at: Option<Timestamp>,
    /// When, by the machine's clock.
    pub(crate) heard_at: Timestamp,
}

impl Event {
    /// Reads an event. `None`: it is none, or lacks what the contract promises.
    pub(crate) fn read(body: &[u8]) -> Option<Event> {
        let event: Value = serde_json::from_slice(body).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let data = &event["data"];
        Some(Event {
            id: text(&event["id"])?,
            subject: text(&event["subject"])?,
            intent: data["intentId"].as_str()?.parse().ok()?,
            of_item: !data["item"].is_null(),
            kind: text(&data["kind"])?,
            status: text(&data["status"])?,
            reason: text(&data["reason"]["code"]),
            terminal: data["terminal"].as_bool()?,
            order: text(&data["reference"]["order"]),
            decided_at: data["decidedAt"].as_str()?.parse().ok(),
            heard_at: Clock::system().now(),
        })
    }

    /// Whether nothing more is expected: it is terminal, or lies in the dead letters.
    pub(crate) fn is_end(&self) -> bool {
        self.terminal || matches!(self.status.as_str(), "given_up" | "unresolved")
    }

    /// Its status, with its reason where it has one: `rejected/not_found`.
    pub(crate) fn said(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}/{reason}", self.status),
            None => self.status.clone(),
        }
    }
}

/// Everything that came, and who has ended by it.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<Event>>,
    ended: Mutex<HashSet<Uuid>>,
    ended_count: watch::Sender<usize>,
}

/// A ledger; it stops consuming when it is dropped.
pub(crate) struct Ledger {
    broker: Arc<Broker>,
    queue: String,
    outcomes: String,
    heard: Arc<Heard>,
    booking: Mutex<Option<JoinHandle<()>>>,
}

impl Ledger {
    /// Declares and binds the queue of a ledger. `length_max`: the queue refuses more than so many events.
    pub(crate) async fn bind(
        broker: &Arc<Broker>,
        outcomes: &str,
        queue: &str,
        length_max: Option<i64>,
    ) -> Result<Ledger> {
        let ledger = Ledger {
            broker: Arc::clone(broker),
            queue: queue.to_owned(),
            outcomes: outcomes.to_owned(),
            heard: Arc::default(),
            booking: Mutex::default(),
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        if let Some(length_max) = length_max {
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(length_max));
            arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        }
        let declare = |connection: Arc<Connection>| async move {
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            connection.create_channel().await?.queue_declare(queue.into(), durable, arguments).await?;
            Ok(())
        };
        broker.visit(declare).await?;
        ledger.bind_again().await?;
        Ok(ledger)
    }

    /// Binds its queue to the outcomes.
    pub(crate) async fn bind_again(&self) -> Result<()> {
        let (queue, outcomes) = (self.queue.as_str(), self.outcomes.as_str());
        let bind = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue.into(), outcomes.into(), "#".into(), options, FieldTable::default())
                .await?;
            Ok(())
        };
        self.broker.visit(bind).await
    }

    /// Its queue hears of nothing new any more.
    pub(crate) async fn unbind(&self) -> Result<()> {
        let (queue, outcomes) = (self.queue.as_str(), self.outcomes.as_str());
        let unbind = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            channel.queue_unbind(queue.into(), outcomes.into(), "#".into(), FieldTable::default()).await?;
            Ok(())
        };
        self.broker.visit(unbind).await
    }

    /// Audit what comes, over as many connections as it takes.
    pub(crate) fn book(&self) {
        let (broker, queue, heard) = (Arc::clone(&self.broker), self.queue.clone(), Arc::clone(&self.heard));
        let booking = tokio::spawn(async move {
            loop {
                // Whatever breaks, what was not acked comes again.
                let _ = book(&broker, &queue, &heard).await;
                sleep(AGAIN_AFTER).await;
            }
        });
        if let Some(before) = locked(&self.booking).replace(booking) {
            before.abort();
        }
    }

    /// Reads nothing more, until it audit again.
    pub(crate) fn pause(&self) {
        if let Some(booking) = locked(&self.booking).take() {
            booking.abort();
        }
    }

    /// Everything so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        locked(&self.heard.events).clone()
    }

    /// Audit events that were found elsewhere: somebody moved them here.
    pub(crate) fn move_here(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.heard.note(event);
        }
    }

    /// How many intents have ended, and a way to wait for more.
    pub(crate) fn ended(&self) -> watch::Receiver<usize> {
        self.heard.ended_count.subscribe()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Heard {
    fn note(&self, event: Event) {
        if event.is_end() && !event.of_item {
            let mut ended = locked(&self.ended);
            if ended.insert(event.intent) {
                self.ended_count.send_replace(ended.len());
            }
        }
        locked(&self.events).push(event);
    }
}

async fn book(broker: &Broker, queue: &str, heard: &Heard) -> Result<()> {
    let connection = broker.connect().await?;
    let consuming = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.into(), "ledger".into(), options, arguments).await?;
        // The channel lives as long as somebody holds it.
        anyhow::Ok((channel, consumer))
    };
    let (_channel, mut consumer) = timeout(ANSWER_MAX, consuming).await??;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let event = Event::read(&delivery.data).context("not an outcome event")?;
        heard.note(event);
        timeout(ANSWER_MAX, delivery.acker.ack(BasicAckOptions::default())).await??;
    }
    Ok(())
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Everything that a story needs around the worker: a simulator, a topology of its own, a ledger that listens, and
//! a publisher. The worker itself runs in this process, or as a process of its own from [`Stage::toml`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use cancel_worker::amqp::preflight::apply;
use cancel_worker::amqp::{PublishSession, Settings, Stopped, Timeouts, Topology};
use cancel_worker::clock::{Clock, JitterSource};
use cancel_worker::config::{self, Config};
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::lateness::LatenessLimits;
use cancel_worker::gateway::Gateway;
use cancel_worker::memory::{Delays, SetBacks};
use cancel_worker::wire::envelope::{Address, Headers, Message, Messages, Source};
use cancel_worker::worker::{self, Worker};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use paywall_simulator::{Merchant, Simulator, SimulatorConfig};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Context;

/// No test waits longer for one thing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// How often a queue is looked at, of which nothing tells when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Settings that make a test short: a call may take 600 ms, and an absence counts 700 ms after it.
pub(crate) const QUICK: &str = r#"
[gateway]
call_timeout = "600ms"
connect_timeout = "300ms"
[retry]
delays = ["50ms", "100ms", "250ms", "500ms", "1s"]
attempts_max = 4
age_max = "60s"
[inquiry]
quiet = "700ms"
age_max = "60s"
[rollback]
wait = "200ms"
"#;

/// Over it where nothing hangs: on a machine that is busy, no answer is too late.
pub(crate) const UNHURRIED: &str = "gateway.call_timeout = '20s'\ninquiry.quiet = '20s'\n";

/// The topology, simulator and ledger of one test.
pub(crate) struct Stage {
    /// The gateway.
    pub(crate) simulator: Simulator,
    /// What is announced to ledgers.
    pub(crate) ledger: Ledger,
    url: String,
    topology: Topology,
    publishing: PublishSession,
    toml: String,
    connection: lapin::Connection,
}

impl Stage {
    /// A stage with a ledger bound to everything. `tuning` is TOML laid over [`QUICK`], key by key.
    pub(crate) async fn new(t: &Context, tuning: &str) -> Result<Stage> {
        let merchants = vec![Merchant::demo("default"), Merchant::demo("other")];
        Stage::with_simulator(t, tuning, SimulatorConfig { merchants, ..SimulatorConfig::default() }).await
    }

    /// The same with a simulator of the test's choice.
    pub(crate) async fn with_simulator(
        t: &Context,
        tuning: &str,
        simulator: SimulatorConfig,
    ) -> Result<Stage> {
        let mut rules = simulator.rules.clone();
        rules.rollback_wait_ms = rules.rollback_wait_ms.min(100);
        let merchants: Vec<String> = simulator.merchants.iter().map(|m| m.name.clone()).collect();
        let simulator = Simulator::start(SimulatorConfig { rules, ..simulator }).await?;
        let toml = toml(t, &simulator, &merchants, tuning)?;
        let config = load(&toml)?;
        let topology = Topology::new(&config.amqp.prefix, config.policy.tiers.as_slice());
        t.on_cleanup(
            topology.queues().iter().map(|queue| queue.name.clone()),
            topology.exchanges().iter().map(|exchange| exchange.name.clone()),
        );
        let broker = cancel_worker::amqp::Broker::new(&config.amqp, "stage", Timeouts::default())?;
        apply(&broker, &topology).await?;
        let connection = t.connect().await?;
        let ledger = Ledger::bind(t, &connection, "#").await?;
        let publishing = PublishSession::open(&broker, &topology).await?;
        Ok(Stage { simulator, ledger, url: t.amqp_url().to_owned(), topology, publishing, toml, connection })
    }

    /// The configuration of a worker for this stage, as a file would hold it.
    pub(crate) fn toml(&self) -> &str {
        &self.toml
    }

    /// The broker's address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The topology.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A connection for looking around.
    pub(crate) fn connection(&self) -> &lapin::Connection {
        &self.connection
    }

    /// Starts a worker in this process.
    pub(crate) fn work(&self) -> Result<Working> {
        self.work_by(Clock::system())
    }

    /// The same, and waits until it takes letters.
    pub(crate) async fn work_consuming(&self) -> Result<Working> {
        let working = self.work()?;
        self.wait_for_consumers().await?;
        Ok(working)
    }

    /// Waits until every lane has a consumer. A broker tells nobody when one comes, so it is asked again and again.
    pub(crate) async fn wait_for_consumers(&self) -> Result<()> {
        const ASK_EVERY: Duration = Duration::from_millis(25);
        let lanes = load(&self.toml)?.lanes;
        let channel = self.connection.create_channel().await?;
        let waiting = async {
            let mut ticks = tokio::time::interval(ASK_EVERY);
            for kind in lanes.keys() {
                let lane = self.topology.queue_of(Source::Lane(*kind));
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                while channel
                    .queue_declare(lane.as_str().into(), passive, FieldTable::default())
                    .await?
                    .consumer_count()
                    == 0
                {
                    ticks.tick().await;
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("nobody takes letters")?
    }

    /// Starts a worker in this process that lives by this clock.
    pub(crate) fn work_by(&self, clock: Clock) -> Result<Working> {
        self.work_with(clock, JitterSource::system())
    }

    /// Starts a worker in this process with a clock and rng of the test's choice.
    pub(crate) fn work_with(&self, clock: Clock, rng: JitterSource) -> Result<Working> {
        self.work_as(clock, rng, |_| {})
    }

    /// Starts a worker in this process that calls delays late and stuck by these limits, and gives what it knows of them.
    pub(crate) fn work_watching(&self, limits: LatenessLimits) -> Result<(Working, Arc<Delays>)> {
        let delays = Arc::new(Delays::new(&load(&self.toml)?.policy.tiers, limits));
        let working = self.work_as(Clock::system(), JitterSource::system(), |worker| {
            worker.delays = Arc::clone(&delays);
        })?;
        Ok((working, delays))
    }

    fn work_as(&self, clock: Clock, rng: JitterSource, make: impl FnOnce(&mut Worker)) -> Result<Working> {
        let config = load(&self.toml)?;
        let gateway = Gateway::new(&config.gateway, &config.merchants)?;
        let settings = Settings::new(
            &config.amqp,
            &config.worker.name,
            &config.lanes,
            &config.policy.tiers,
            Timeouts::default(),
        )?;
        let mut worker = Worker::new(&config, gateway.clone(), clock, rng);
        make(&mut worker);
        let (set_backs, delays) = (Arc::clone(&worker.set_backs), Arc::clone(&worker.delays));
        let worker = Arc::new(worker);
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let grace = config.grace;
        let running = tokio::spawn(async move { worker::run(worker, &settings, &stopping, grace).await });
        Ok(Working { stop, running, gateway, set_backs, delays })
    }

    /// Publishes an intent as an order system would, and waits for the confirm.
    pub(crate) async fn publish(&self, intent: &Value) -> Result<()> {
        let kind = intent["kind"].as_str().context("an intent has a kind")?.to_owned();
        self.publish_bytes(&kind, serde_json::to_vec(intent)?).await
    }

    /// Publishes any bytes under any routing key.
    pub(crate) async fn publish_bytes(&self, routing_key: &str, body: Vec<u8>) -> Result<()> {
        let message = Message {
            address: Address::Intents,
            routing_key: routing_key.to_owned(),
            headers: Headers::new(),
            content_type: "application/json",
            message_id: None,
            occasion: None,
            body: Bytes::from(body),
        };
        self.publishing.publisher().publish(Messages::new(message, [])).await?;
        Ok(())
    }

    /// Takes everything that lies in a queue now, acked: bodies and text headers.
    pub(crate) async fn take_all(&self, queue: &str) -> Result<Vec<Taken>> {
        let channel = self.connection.create_channel().await?;
        let mut taken = Vec::new();
        while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            message.delivery.acker.ack(BasicAckOptions::default()).await?;
            let headers = message.delivery.properties.headers().clone().unwrap_or_default();
            let headers = headers
                .inner()
                .iter()
                .filter_map(|(name, value)| Some((name.to_string(), plain(value)?)))
                .collect();
            taken.push(Taken {
                routing_key: message.delivery.routing_key.to_string(),
                headers,
                body: message.delivery.data.clone(),
            });
        }
        Ok(taken)
    }

    /// Waits until so many messages are ready in a queue, by its full name.
    pub(crate) async fn until_depth(&self, queue: &str, depth: u32) -> Result<()> {
        let channel = self.connection.create_channel().await?;
        let look = || {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), passive, FieldTable::default())
        };
        let waiting = async {
            while look().await?.message_count() < depth {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .with_context(|| format!("no {depth} messages in {queue}"))?
    }

    /// Takes what lies in the dead letters now.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<Taken>> {
        self.take_all(&format!("{}.dead-letters", self.topology.prefix())).await
    }
}

/// A message that was taken from a queue.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) routing_key: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

fn plain(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::Boolean(value) => Some(value.to_string()),
        AMQPValue::LongLongInt(value) => Some(value.to_string()),
        AMQPValue::LongInt(value) => Some(value.to_string()),
        AMQPValue::Timestamp(value) => Some(value.to_string()),
        _ => None,
    }
}

/// A worker in this process.
pub(crate) struct Working {
    stop: CancellationToken,
    running: JoinHandle<Stopped>,
    /// What it knows of the gateway.
    pub(crate) gateway: Gateway,
    /// What it knows of its clock.
    pub(crate) set_backs: Arc<SetBacks>,
    /// What it knows of its delay queues.
    pub(crate) delays: Arc<Delays>,
}

impl Working {
    /// Stops it as a signal would, and says how it ended.
    pub(crate) async fn stop(self) -> Result<Stopped> {
        self.stop.cancel();
        Ok(tokio::time::timeout(PATIENCE, self.running).await.context("the worker does not stop")??)
    }
}

/// A ledger: a durable queue bound to the outcomes, and everything that has come through it.
#[derive(Clone)]
pub(crate) struct Ledger {
    queue: String,
    events: Arc<Mutex<Vec<Value>>>,
    changed: Arc<Notify>,
}

impl Ledger {
    /// Binds a ledger with this pattern.
    pub(crate) async fn bind(t: &Context, connection: &lapin::Connection, pattern: &str) -> Result<Ledger> {
        let name = format!("{}.ledger-{}", t.prefix(), Uuid::new_v4().simple());
        t.on_cleanup([name.clone()], []);
        let channel = connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.as_str().into(), durable, arguments).await?;
        channel
            .queue_bind(
                name.as_str().into(),
                format!("{}.outcomes", t.prefix()).as_str().into(),
                pattern.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let mut consumer = channel
            .basic_consume(
                name.as_str().into(),
                "ledger".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let ledger = Ledger { queue: name, events: Arc::default(), changed: Arc::default() };
        let booking = ledger.clone();
        tokio::spawn(async move {
            // The channel lives as long as its consumer is read.
            let _channel = channel;
            while let Some(Ok(delivery)) = consumer.next().await {
                if let Ok(event) = serde_json::from_slice(&delivery.data) {
                    booking.events.lock().expect("nobody panics with it").push(event);
                    booking.changed.notify_waiters();
                }
                let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            }
        });
        Ok(ledger)
    }

    /// The name of its queue.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// Leaves: its queue is deleted, and nobody listens any more.
    pub(crate) async fn leave(&self, connection: &lapin::Connection) -> Result<()> {
        let channel = connection.create_channel().await?;
        channel.queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// Everything so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().expect("nobody panics with it").clone()
    }

    /// Everything so far of one subject (an intentId, or `<intentId>/<merchantUniqueCode>`).
    pub(crate) fn events_of(&self, subject: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["subject"] == subject).collect()
    }

    /// Waits until `found` says yes of everything so far.
    pub(crate) async fn wait_for(&self, what: &str, found: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        self.wait_within(PATIENCE, what, found).await
    }

    /// The same with another patience.
    pub(crate) async fn wait_within(
        &self,
        patience: Duration,
        what: &str,
        found: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Interest is registered before the look, so that no change is missed.
                changed.as_mut().enable();
                let events = self.events();
                if found(&events) {
                    return events;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(events) => Ok(events),
            Err(_) => bail!("no {what} within {patience:?}; so far: {:#?}", self.events()),
        }
    }

    /// Waits for the last word about a subject: terminal, or one that lies in the dead letters.
    pub(crate) async fn end_of(&self, subject: &str) -> Result<Value> {
        let is_end = |event: &Value| {
            event["subject"] == subject
                && (event["data"]["terminal"] == true
                    || event["data"]["status"] == "given_up"
                    || event["data"]["status"] == "unresolved")
        };
        let events = self.wait_for(&format!("end of {subject}"), |events| events.iter().any(is_end)).await?;
        events.into_iter().find(is_end).context("it was there")
    }
}

/// An intent of this kind about this payment, requested now.
pub(crate) fn intent(kind: Kind, payment: Value) -> Value {
    json!({
        "intentId": Uuid::new_v4(),
        "kind": kind.as_str(),
        "requestedAt": Clock::system().now().to_string(),
        "reference": { "order": "O-1" },
        "payment": payment,
    })
}

/// The status of an event, with its reason where it has one: `rejected/not_found`.
pub(crate) fn said(event: &Value) -> String {
    let status = event["data"]["status"].as_str().unwrap_or("?");
    match event["data"]["reason"]["code"].as_str() {
        Some(reason) => format!("{status}/{reason}"),
        None => status.to_owned(),
    }
}

/// The configuration in this text.
pub(crate) fn load(toml: &str) -> Result<Config> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), toml)?;
    let no_env: [(String, String); 0] = [];
    Ok(config::load(Some(file.path()), no_env, Some("test"))?)
}

fn toml(t: &Context, simulator: &Simulator, merchants: &[String], tuning: &str) -> Result<String> {
    let urls = simulator.urls();
    let mut table: toml::Table = toml::from_str(QUICK)?;
    let mut base = toml::Table::new();
    base.insert("amqp".into(), toml::toml! { prefix = "" }.into());
    merge(&mut table, base);
    let mut own = toml::Table::new();
    let mut amqp = toml::Table::new();
    amqp.insert("url".into(), t.amqp_url().into());
    amqp.insert("prefix".into(), t.prefix().into());
    own.insert("amqp".into(), amqp.into());
    let mut gateway = toml::Table::new();
    gateway.insert("physical_url".into(), urls.physical.clone().into());
    gateway.insert("private_url".into(), urls.private.clone().into());
    gateway.insert("payment_url".into(), urls.payment.clone().into());
    own.insert("gateway".into(), gateway.into());
    let mut batch = toml::Table::new();
    batch.insert("callback_url".into(), "https://ledger.example/callback".into());
    own.insert("batch".into(), batch.into());
    let mut keys = toml::Table::new();
    for name in merchants {
        let mut merchant = toml::Table::new();
        for key in ["private_key", "private_client", "public_key", "public_client"] {
            merchant.insert(key.into(), format!("{name}-{}", key.replace('_', "-")).into());
        }
        keys.insert(name.clone(), merchant.into());
    }
    own.insert("merchants".into(), keys.into());
    merge(&mut table, own);
    merge(&mut table, toml::from_str(tuning)?);
    Ok(toml::to_string(&table)?)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

//! The world of one scenario: a topology under a prefix of its own, a gateway that knows the truth, ledgers, a load,
//! and as many workers as it takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::preflight::apply;
use cancel_worker::amqp::{Timeouts, Topology};
use cancel_worker::config::{self, Config};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ErrorKind};
use paywall_simulator::{Merchant, Rules, Simulator, SimulatorConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use super::audit::{self, Audit};
use super::broker::{Broker, Owned};
use super::ledger::{Event, Ledger};
use super::load::{ALL_KINDS, Desk, Load, Odd, Plan, Published};
use super::process::Worker;

/// Merchants that the gateway lets in.
pub(crate) const MERCHANTS: &[&str] = &["default", "other"];

/// Numbers that make a story short, and that a busy machine can keep: a call may take 2 s, and an absence counts 2.5 s
/// after it.
const QUICK: &str = r#"
[lanes]
prefetch = 60
[gateway]
call_timeout = "2s"
connect_timeout = "1s"
[retry]
delays = ["100ms", "250ms", "500ms", "1s", "2s"]
attempts_max = 20
age_max = "10m"
[inquiry]
quiet = "2500ms"
age_max = "10m"
[rollback]
wait = "200ms"
[batch]
callback_url = "https://ledger.example/callback"
[shutdown]
grace = "20s"
"#;

/// How often somebody who waits for a queue to be empty looks again.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a scenario waits for the end of all its intents when nothing is wrong any more.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long a broker may take to show again what a process has let go of.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long a worker may take until it gets a letter again.
const REVIVAL_MAX: Duration = Duration::from_secs(90);

/// What a scenario is given.
pub(crate) struct Play {
    pub(crate) name: &'static str,
    pub(crate) broker: Arc<Broker>,
    /// From the seed of the campaign and the name of the scenario, and from nothing else.
    pub(crate) rng: StdRng,
    /// How many intents.
    pub(crate) size: usize,
    /// How often a fault that can be repeated strikes.
    pub(crate) strikes: usize,
}

impl Play {
    /// So many parts of the load, in order and spread over it: when a fault strikes.
    pub(crate) fn points(&mut self, count: usize) -> Vec<f64> {
        let step = 0.85 / count as f64;
        (0..count).map(|turn| 0.05 + step * (turn as f64 + self.rng.random::<f64>())).collect()
    }
}

/// What is particular about a scenario's world.
pub(crate) struct Setting {
    /// TOML laid over the numbers of a quick story.
    pub(crate) tuning: &'static str,
    /// Variables of the workers' environment.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) rules: Rules,
    /// For each ledger the most events that its queue holds, if there is a limit.
    pub(crate) ledgers: Vec<Option<i64>>,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            tuning: "",
            environment: Vec::new(),
            rules: Rules { rollback_wait_ms: 100, ..Rules::default() },
            ledgers: vec![None],
        }
    }
}

/// The world of one scenario.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) broker: Arc<Broker>,
    pub(crate) simulator: Simulator,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) topology: Topology,
    pub(crate) rng: StdRng,
    /// From a fault's end to the first sign of life, each.
    pub(crate) recoveries: Vec<Duration>,
    size: usize,
    toml: String,
    environment: Vec<(String, String)>,
    prefix: String,
    began: Instant,
}

/// A message that was taken from a queue.
pub(crate) struct Taken {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) routing_key: String,
    pub(crate) body: Vec<u8>,
}

impl Stage {
    /// Sets the stage: nobody works yet, nothing is asked.
    pub(crate) async fn set(mut play: Play, setting: Setting) -> Result<Stage> {
        let Setting { tuning, environment, rules, ledgers } = setting;
        let merchants = MERCHANTS.iter().map(|name| Merchant::demo(*name)).collect();
        let seed = play.rng.random();
        let simulator = Simulator::start(SimulatorConfig {
            merchants,
            rules,
            seed,
            requests_kept_max: 1,
            ..SimulatorConfig::default()
        })
        .await?;
        // Not from the seed: two runs at one broker must not meet.
        let prefix = format!("chaos-{:08x}", rand::random::<u32>());
        let toml = toml(&play.broker.urls(), &prefix, &simulator, tuning)?;
        let config = load(&toml)?;
        let topology = Topology::new(&prefix, config.policy.tiers.as_slice());
        let ledger_of = |number: usize| format!("{prefix}.ledger-{number}");
        let queues = topology.queues().iter().map(|queue| queue.name.clone());
        let owned = Owned {
            queues: queues.chain((0..ledgers.len()).map(ledger_of)).collect(),
            exchanges: topology.exchanges().iter().map(|exchange| exchange.name.clone()).collect(),
        };
        play.broker.own(&prefix, owned);
        apply(&cancel_worker::amqp::Broker::new(&config.amqp, "chaos", Timeouts::default())?, &topology)
            .await?;
        let mut bound = Vec::new();
        for (number, length_max) in ledgers.into_iter().enumerate() {
            let queue = ledger_of(number);
            bound.push(Ledger::bind(&play.broker, &topology.outcomes(), &queue, length_max).await?);
        }
        for ledger in &bound {
            ledger.book();
        }
        Ok(Stage {
            name: play.name,
            broker: play.broker,
            simulator,
            ledgers: bound,
            topology,
            rng: play.rng,
            recoveries: Vec::new(),
            size: play.size,
            toml,
            environment,
            prefix,
            began: Instant::now(),
        })
    }

    /// Sets it, and begins most scenarios: one worker, and as soon as it takes letters, the load.
    pub(crate) async fn at_work(play: Play, setting: Setting) -> Result<(Stage, Worker, Load)> {
        Stage::at_work_on(play, setting, |plan| plan).await
    }

    /// The same with another plan.
    pub(crate) async fn at_work_on(
        play: Play,
        setting: Setting,
        plan: impl FnOnce(Plan) -> Plan,
    ) -> Result<(Stage, Worker, Load)> {
        let mut stage = Stage::set(play, setting).await?;
        let worker = stage.worker().await?;
        worker.working().await?;
        let load = stage.load(plan(stage.plan()));
        Ok((stage, worker, load))
    }

    /// The plan of most scenarios: all kinds, each intent once, a gateway without faults.
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            size: self.size,
            kinds: ALL_KINDS,
            published: Published::Once,
            odd: Odd::Copies,
            merchants: &["default"],
            open_max: (self.size / 5).clamp(40, 600),
            faults: |_, _| Vec::new(),
            lasts: None,
        }
    }

    /// Begins to publish.
    pub(crate) fn load(&mut self, plan: Plan) -> Load {
        let toml = self.toml.clone();
        let desk = Desk {
            broker: Arc::clone(&self.broker),
            topology: self.topology.clone(),
            amqp: Box::new(move |urls| {
                let mut table: toml::Table = toml::from_str(&toml)?;
                merge(&mut table, toml::from_str(&format!("amqp.url = {urls:?}"))?);
                Ok(load(&toml::to_string(&table)?)?.amqp)
            }),
            simulator: self.simulator.handle(),
            odd: plan.odd,
            ended: self.ledgers[0].ended(),
        };
        let rng = StdRng::seed_from_u64(self.rng.random());
        Load::begin(desk, plan, rng)
    }

    /// Starts a worker.
    pub(crate) async fn worker(&self) -> Result<Worker> {
        Worker::start(self.name, &self.broker, &self.toml, &self.environment).await
    }

    /// Notes how long it took until somebody worked again.
    pub(crate) fn recovered(&mut self, after: Duration) {
        self.recoveries.push(after);
    }

    /// Waits until a worker gets a letter again, and notes how long it took from now. Where no letter is left for it,
    /// there is nothing to note.
    pub(crate) async fn revived(&mut self, load: &Load, worker: &Worker) -> Result<()> {
        let revival = self.revival(load, worker).await?;
        self.recoveries.extend(revival);
        Ok(())
    }

    /// How long it takes from now until a worker gets a letter again, if one is left for it.
    pub(crate) async fn revival(&self, load: &Load, worker: &Worker) -> Result<Option<Duration>> {
        let mut ended = self.ledgers[0].ended();
        tokio::select! {
            after = worker.proxy.first_delivery(REVIVAL_MAX) => after.map(Some),
            _ = ended.wait_for(|ended| *ended >= load.size()) => Ok(None),
        }
    }

    /// Awaits this, and moves back meanwhile what comes to lie in the unrouted queue, like a person who looks after it.
    pub(crate) async fn while_moving_unrouted_intents<T>(
        &self,
        wait: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let is_over = AtomicBool::new(false);
        let waiting = async {
            let waited = wait.await;
            is_over.store(true, Ordering::Relaxed);
            waited
        };
        // Never dropped in the middle: what is taken out of a queue has to be published.
        let moving = async {
            while !is_over.load(Ordering::Relaxed) {
                self.move_unrouted_intents().await?;
                sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        };
        let (waited, moved) = tokio::join!(waiting, moving);
        moved.and(waited)
    }

    /// Waits until everything that was published has ended, and nothing is on its way. Whoever publishes must hold.
    pub(crate) async fn at_rest(&self, load: &Load) -> Result<()> {
        ensure!(self.quiet(load, Instant::now()).await?, "it does not come to rest");
        Ok(())
    }

    /// Once everything is published, does this again and again, like a person who looks after a queue, until every intent
    /// has ended at every ledger, and once more then. If that does not come, the audit say what is missing.
    pub(crate) async fn until_ended<F>(&self, load: &mut Load, again: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        load.finished().await?;
        let (began, cancellations_len) = (Instant::now(), load.cancellations().len());
        while began.elapsed() < PATIENCE {
            let have_ended = self.ledgers.iter().all(|ledger| *ledger.ended().borrow() >= cancellations_len);
            again().await?;
            if have_ended {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The end of a scenario: nothing is wrong any more. Waits until everything has ended, stops the workers, and
    /// balances the audit.
    pub(crate) async fn close(
        self,
        mut load: Load,
        workers: Vec<Worker>,
        leave: audit::Leave,
    ) -> Result<Audit> {
        self.wind_up(&mut load, workers).await?;
        let audit = audit::balance(&self, &load.cancellations(), leave).await;
        self.strike().await?;
        audit
    }

    /// Waits until everything has ended and nothing is on its way, and stops the workers. Whatever is still there after
    /// that stays there.
    pub(crate) async fn wind_up(&self, load: &mut Load, mut workers: Vec<Worker>) -> Result<()> {
        load.finished().await?;
        let began = Instant::now();
        loop {
            let quiet = self.quiet(load, began).await?;
            for worker in &workers {
                worker.terminate().await?;
            }
            let mut gave_back = false;
            for worker in &mut workers {
                let status = worker.ended().await?;
                let words = || format!("a worker ended with {status}:\n{}", worker.last_words());
                ensure!(matches!(status.code(), Some(0 | 75)) && worker.told("panicked") == 0, words());
                gave_back |= status.code() == Some(75);
            }
            if gave_back {
                // The broker takes back what the process let go of.
                sleep(TAKEN_BACK_WITHIN).await;
            }
            // What was in hand while it was looked for shows now.
            if !quiet || self.depth_in_transit().await? == 0 {
                return Ok(());
            }
            workers = vec![self.worker().await?];
        }
    }

    /// Deletes all that was declared.
    pub(crate) async fn strike(&self) -> Result<()> {
        self.broker.clean_up(&self.prefix).await
    }

    /// Waits until every intent has ended at every ledger and nothing is on its way. False: patience ended first.
    async fn quiet(&self, load: &Load, began: Instant) -> Result<bool> {
        let cancellations = load.cancellations();
        for ledger in &self.ledgers {
            let mut ended = ledger.ended();
            let left = PATIENCE.saturating_sub(began.elapsed());
            let all = ended.wait_for(|ended| *ended >= cancellations.len());
            if tokio::time::timeout(left, all).await.is_err() {
                return Ok(false);
            }
        }
        let mut empty = 0;
        while began.elapsed() < PATIENCE {
            empty = if self.depth_in_transit().await? == 0 { empty + 1 } else { 0 };
            if empty == 2 {
                return Ok(true);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(false)
    }

    /// The queues that a letter travels through.
    pub(crate) fn in_transit(&self) -> Vec<String> {
        let places = ["intents.", "delay.", "returns.", "rescue", "isolation", "announcements"];
        let is_one = |name: &&String| {
            let rest = name.strip_prefix(&format!("{}.", self.prefix)).unwrap_or_default();
            places.iter().any(|place| rest.starts_with(place))
        };
        self.topology.queues().iter().map(|queue| &queue.name).filter(is_one).cloned().collect()
    }

    /// How many messages are ready in the queues that letters travel through. A queue that is not there holds none.
    pub(crate) async fn depth_in_transit(&self) -> Result<u32> {
        let visit = |connection: Arc<Connection>| async move {
            let mut channel = connection.create_channel().await?;
            let mut depth = 0;
            for queue in self.in_transit() {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                match channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await {
                    Ok(found) => depth += found.message_count(),
                    Err(error) if is_not_found(&error) => channel = connection.create_channel().await?,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(depth)
        };
        self.broker.visit_again(visit).await
    }

    /// Takes everything that lies in a queue now.
    pub(crate) async fn take_all(&self, queue: &str) -> Result<Vec<Taken>> {
        let all = Mutex::new(Vec::new());
        let taken = &all;
        let visit = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            loop {
                match channel.basic_get(queue.into(), BasicGetOptions::default()).await {
                    Ok(Some(message)) => {
                        message.delivery.acker.ack(BasicAckOptions::default()).await?;
                        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                        taken.push(Taken::from(message.delivery));
                    }
                    Ok(None) => return Ok(()),
                    Err(error) if is_not_found(&error) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        self.broker.visit_again(visit).await?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves to every ledger what nobody was bound to, as a person would.
    pub(crate) async fn move_unrouted(&self) -> Result<usize> {
        let found = self.take_all(&self.topology.unrouted()).await?;
        let events: Vec<Event> = found.iter().filter_map(|message| Event::read(&message.body)).collect();
        for ledger in &self.ledgers {
            ledger.move_here(events.iter().cloned());
        }
        Ok(events.len())
    }

    /// Publishes again what lies in the unrouted queue and is an intent, as a person would.
    pub(crate) async fn move_unrouted_intents(&self) -> Result<()> {
        let found = self.take_all(&self.topology.unrouted()).await?;
        let visit = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let intents = format!("{}.intents", self.prefix);
            for message in found {
                let confirmed = channel
                    .basic_publish(
                        intents.as_str().into(),
                        message.routing_key.as_str().into(),
                        BasicPublishOptions::default(),
                        &message.body,
                        BasicProperties::default().with_delivery_mode(2),
                    )
                    .await?
                    .await?;
                ensure!(confirmed.is_ack(), "what was moved is not confirmed");
            }
            Ok(())
        };
        self.broker.visit(visit).await
    }

    /// So long has it lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl From<Delivery> for Taken {
    fn from(delivery: Delivery) -> Taken {
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _other => None,
        };
        Taken {
            headers: headers
                .inner()
                .iter()
                .filter_map(|(name, value)| Some((name.to_string(), text(value)?)))
                .collect(),
            routing_key: delivery.routing_key.to_string(),
            body: delivery.data,
        }
    }
}

/// Whether the broker says that there is no such queue: somebody has deleted it, and nobody needed it since.
fn is_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
}

/// The configuration in this text.
fn load(toml: &str) -> Result<Config> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), toml)?;
    let no_env: [(String, String); 0] = [];
    Ok(config::load(Some(file.path()), no_env, Some("chaos"))?)
}

fn toml(addresses: &[String], prefix: &str, simulator: &Simulator, tuning: &str) -> Result<String> {
    let urls = simulator.urls();
    let mut table: toml::Table = toml::from_str(QUICK)?;
    let mut own = format!(
        "amqp.url = {addresses:?}\namqp.prefix = {prefix:?}\n[gateway]\nphysical_url = {:?}\nprivate_url = {:?}\n\
         payment_url = {:?}\n",
        urls.physical, urls.private, urls.payment
    );
    for name in MERCHANTS {
        own.push_str(&format!("[merchants.{name}]\n"));
        for key in ["private_key", "private_client", "public_key", "public_client"] {
            own.push_str(&format!("{key} = \"{name}-{}\"\n", key.replace('_', "-")));
        }
    }
    merge(&mut table, toml::from_str(&own)?);
    merge(&mut table, toml::from_str(tuning).context("the tuning of a scenario")?);
    Ok(toml::to_string(&table)?)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

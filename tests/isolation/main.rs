//! How much the lanes feel of each other's trouble, measured: `make bench-isolation`.
//!
//! A worker as it is released, a RabbitMQ, and a gateway that takes 100 ms for everything. First as much is worked off
//! as this machine can; then half of that is offered, for seconds at a time, in turns with and without one trouble.
//! What is compared is what the lanes that have no trouble get done. Figures go to standard output and to
//! `target/isolation.json`; that nothing is lost and nothing called twice is asserted.

mod undeliverable;

#[allow(dead_code, reason = "shared with the tests, which need more of it")]
#[path = "../it/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cancel_worker::domain::intent::Kind;
use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{
    Api, Endpoint, Fault, FaultId, FaultKind, Merchant, PastActivity, SeedApm, SeedPhysical, SeedVirtualPos,
    SimulatorConfig,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use support::Context;
use support::process::Process;
use support::stage::{Stage, intent};

/// What the gateway takes for everything.
const LATENCY: Duration = Duration::from_millis(100);
/// As many letters of each kind are worked off to find out how fast this machine is.
const BACKLOG: usize = 1_500;
/// How long is offered in one turn.
const TURN: Duration = Duration::from_secs(8);
/// Turns with and turns without a trouble, each.
const TURNS: usize = 3;
/// How long after a turn everything may take to have its end.
const END_MAX: Duration = Duration::from_secs(120);
/// What a ledger that is full holds.
const FULL_LEN: i32 = 200;

/// The lane that has the trouble.
const TROUBLED: Kind = Kind::AsyncCancel;
/// Those that should not feel it.
const OTHERS: [Kind; 2] = [Kind::TransactionCancel, Kind::ApmProvisionCancel];

/// Numbers of production, but for a shorter deadline: so a trouble is met more often, and a turn ends sooner.
const TUNING: &str = r#"
[gateway]
call_timeout = "2s"
connect_timeout = "1s"
[retry]
delays = ["1s", "2s", "5s", "10s"]
attempts_max = 50
age_max = "1h"
[inquiry]
quiet = "2s"
age_max = "1h"
[lanes]
prefetch = 100
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Hangs,
    Refuses,
    Answers503,
    LedgerOfOneKindFull,
    LedgerOfAllFull,
}

impl Trouble {
    const ALL: [Trouble; 5] = [
        Trouble::Hangs,
        Trouble::Refuses,
        Trouble::Answers503,
        Trouble::LedgerOfOneKindFull,
        Trouble::LedgerOfAllFull,
    ];

    fn name(self) -> &'static str {
        match self {
            Trouble::Hangs => "one API hangs",
            Trouble::Refuses => "one API refuses connections",
            Trouble::Answers503 => "one API answers 503",
            Trouble::LedgerOfOneKindFull => "a full ledger bound to one kind",
            Trouble::LedgerOfAllFull => "a full ledger bound to everything",
        }
    }
}

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider().install_default().expect("nobody was here before");
    support::program(|context| async move { measure(context).await })
}

async fn measure(t: Context) -> Result<()> {
    let only = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    if only.as_ref().is_none_or(|only| undeliverable::NAME.contains(only.as_str())) {
        let house = t.another();
        let bench = Bench::new(&house).await?;
        let figures = undeliverable::measure(&bench).await?;
        std::fs::write("target/undeliverable.json", serde_json::to_vec_pretty(&figures)?)?;
        bench.end().await?;
        house.clean_up().await?;
        if only.is_some() {
            return Ok(());
        }
    }
    let bench = Bench::new(&t).await?;
    let most = bench.most().await?;
    bench.end().await?;
    println!(
        "most that this machine works off at {LATENCY:?}: {most:.0} intents a second, all lanes together"
    );
    let offered = most / 2.0 / 3.0;
    println!("offered from now on: {offered:.0} a second in each of three lanes\n");
    println!(
        "{:<36} {:>10} {:>10} {:>8} {:>12} {:>12}",
        "trouble", "without/s", "with/s", "ratio", "p99 without", "p99 with"
    );
    let mut figures = Vec::new();
    for trouble in Trouble::ALL {
        if only.as_ref().is_some_and(|only| !trouble.name().contains(only.as_str())) {
            continue;
        }
        // A worker and a gateway of its own, which remember nothing of the trouble before.
        let house = t.another();
        let bench = Bench::new(&house).await?;
        figures.push(bench.compare(trouble, offered).await?);
        bench.end().await?;
        house.clean_up().await?;
    }
    let all = json!({
        "latency_ms": 100,
        "most_per_second": most,
        "offered_per_second_and_lane": offered,
        "troubles": figures,
    });
    std::fs::write("target/isolation.json", serde_json::to_vec_pretty(&all)?)?;
    Ok(())
}

struct Bench {
    stage: Arc<Stage>,
    prefix: String,
    heard: Heard,
    worker: Process,
    delays: Mutex<HashMap<Api, FaultId>>,
}

/// Everything that the healthy ledger has heard: when, by intent, and how it ended.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<HashMap<String, (Instant, String)>>>);

/// One turn's letters.
struct Turn {
    begun: Instant,
    /// By intent: its kind, when it was published, its payment.
    sent: HashMap<String, (Kind, Instant, String)>,
}

/// What the others got done in a turn.
#[derive(Debug, Clone, Copy)]
struct Done {
    per_second: f64,
    p99: Duration,
}

impl Bench {
    async fn new(t: &Context) -> Result<Bench> {
        let simulator = SimulatorConfig {
            merchants: vec![Merchant::demo("default")],
            requests_kept_max: 1,
            ..SimulatorConfig::default()
        };
        let stage = Stage::with_simulator(t, TUNING, simulator).await?;
        // It keeps every event for looking at; ours only counts.
        stage.ledger.leave(stage.connection()).await?;
        let heard = Heard::default();
        heard.listen(t, &stage).await?;
        let worker = Process::work(&stage, &[("CANCEL_WORKER_LOG", "warn")])?;
        let bench = Bench {
            stage: Arc::new(stage),
            prefix: t.prefix().to_owned(),
            heard,
            worker,
            delays: Mutex::default(),
        };
        for api in Api::ALL {
            bench.slow(api).await?;
        }
        Ok(bench)
    }

    /// The gateway as it is without a trouble.
    async fn slow(&self, api: Api) -> Result<()> {
        let ms = u64::try_from(LATENCY.as_millis())?;
        let delay = Fault::new(FaultKind::Delay { ms }).at(api).until_cleared();
        let id = self.stage.simulator.plan(delay).await?;
        self.delays.lock().unwrap_or_else(PoisonError::into_inner).insert(api, id);
        Ok(())
    }

    /// How many intents a second are worked off, as fast as it goes.
    async fn most(&self) -> Result<f64> {
        // Once to warm up.
        let mut most = 0.0;
        for count in [BACKLOG / 5, BACKLOG] {
            let mut turn = Turn { begun: Instant::now(), sent: HashMap::new() };
            let mut publishing = JoinSet::new();
            for _ in 0..count {
                for kind in [TROUBLED, OTHERS[0], OTHERS[1]] {
                    self.send(kind, &mut turn, &mut publishing).await?;
                }
            }
            while let Some(published) = publishing.join_next().await {
                published??;
            }
            self.all_ended(&turn).await?;
            let last = turn.sent.keys().filter_map(|id| self.heard.at(id)).max().context("events")?;
            most = turn.sent.len() as f64 / (last - turn.begun).as_secs_f64();
        }
        Ok(most)
    }

    async fn compare(&self, trouble: Trouble, offered: f64) -> Result<Value> {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            without.push(self.turn(None, offered).await?);
            with.push(self.turn(Some(trouble), offered).await?);
        }
        let mean =
            |turns: &[Done]| turns.iter().map(|done| done.per_second).sum::<f64>() / turns.len() as f64;
        let worst = |turns: &[Done]| turns.iter().map(|done| done.p99).max().unwrap_or_default();
        let ratio = mean(&with) / mean(&without);
        let name = trouble.name();
        println!(
            "{name:<36} {:>10.1} {:>10.1} {ratio:>8.3} {:>9} ms {:>9} ms",
            mean(&without),
            mean(&with),
            worst(&without).as_millis(),
            worst(&with).as_millis(),
        );
        Ok(json!({
            "trouble": name,
            "others_per_second_without": mean(&without),
            "others_per_second_with": mean(&with),
            "ratio": ratio,
            "p99_ms_without": worst(&without).as_millis() as u64,
            "p99_ms_with": worst(&with).as_millis() as u64,
        }))
    }

    /// One turn: letters are offered in all three lanes; then the trouble ends, and everything has its end.
    async fn turn(&self, trouble: Option<Trouble>, offered: f64) -> Result<Done> {
        let fixing = match trouble {
            Some(trouble) => Some(self.begin(trouble).await?),
            None => None,
        };
        let mut publishing = JoinSet::new();
        let turn = self.offer(&[TROUBLED, OTHERS[0], OTHERS[1]], offered, TURN, &mut publishing).await?;
        let ends = turn.begun + TURN;
        let mut took: Vec<Duration> = Vec::new();
        for (id, (kind, at, _)) in &turn.sent {
            if *kind != TROUBLED
                && let Some(heard) = self.heard.at(id).filter(|heard| *heard <= ends)
            {
                took.push(heard - *at);
            }
        }
        took.sort();
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        if let Some(fixing) = fixing {
            self.fix(fixing).await?;
        }
        self.all_ended(&turn).await?;
        self.nothing_was_called_twice(&turn, trouble)?;
        let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
        Ok(Done { per_second: took.len() as f64 / TURN.as_secs_f64(), p99 })
    }

    /// Offers letters of these kinds for a while, so many of each a second.
    async fn offer(
        &self,
        kinds: &[Kind],
        per_second: f64,
        lasts: Duration,
        publishing: &mut JoinSet<Result<()>>,
    ) -> Result<Turn> {
        let mut turn = Turn { begun: Instant::now(), sent: HashMap::new() };
        let mut tick = interval(Duration::from_millis(10));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = 0.0;
        while turn.begun.elapsed() < lasts {
            tick.tick().await;
            while rounds < turn.begun.elapsed().as_secs_f64() * per_second {
                rounds += 1.0;
                for kind in kinds {
                    self.send(*kind, &mut turn, publishing).await?;
                }
            }
            while let Some(published) = publishing.try_join_next() {
                published??;
            }
        }
        Ok(turn)
    }

    async fn begin(&self, trouble: Trouble) -> Result<Fixing> {
        let what = match trouble {
            Trouble::Hangs => FaultKind::Hang,
            Trouble::Refuses => FaultKind::RefuseConnection { for_ms: None },
            Trouble::Answers503 => FaultKind::http(503),
            Trouble::LedgerOfOneKindFull => return Ok(Fixing::Ledger(self.fill("async_cancel.#").await?)),
            Trouble::LedgerOfAllFull => return Ok(Fixing::Ledger(self.fill("#").await?)),
        };
        // The first that fits strikes, so the delay must go.
        let delay = self.delays.lock().unwrap_or_else(PoisonError::into_inner).remove(&Api::Physical);
        self.stage.simulator.clear_fault(delay.context("it is slow")?).await?;
        let id = self.stage.simulator.plan(Fault::new(what).at(Api::Physical).until_cleared()).await?;
        Ok(Fixing::Gateway(id))
    }

    async fn fix(&self, fixing: Fixing) -> Result<()> {
        match fixing {
            Fixing::Gateway(id) => {
                self.stage.simulator.clear_fault(id).await?;
                self.slow(Api::Physical).await
            }
            Fixing::Ledger(queue) => self.empty(&queue).await,
        }
    }

    /// A second ledger, full.
    async fn fill(&self, pattern: &str) -> Result<String> {
        let queue = format!("{}.full-ledger", self.prefix);
        let channel = self.stage.connection().create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut arguments = quorum();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(FULL_LEN));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), durable, arguments).await?;
        let outcomes = format!("{}.outcomes", self.prefix);
        let bind = QueueBindOptions::default();
        let none = FieldTable::default();
        channel
            .queue_bind(queue.as_str().into(), outcomes.as_str().into(), pattern.into(), bind, none)
            .await?;
        loop {
            let options = BasicPublishOptions::default();
            let filling = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                options,
                b"{}",
                BasicProperties::default(),
            );
            if filling.await?.await?.is_nack() {
                return Ok(queue);
            }
        }
    }

    /// Takes everything out of the second ledger until it has heard of everything that is to be heard there, and
    /// deletes it.
    async fn empty(&self, queue: &str) -> Result<()> {
        let channel = self.stage.connection().create_channel().await?;
        let options = BasicConsumeOptions::default();
        let mut consumer =
            channel.basic_consume(queue.into(), "empty".into(), options, FieldTable::default()).await?;
        let parked: Vec<String> = self
            .stage
            .topology()
            .queues()
            .iter()
            .map(|queue| queue.name.clone())
            .filter(|name| name.contains(".delay.") || name.ends_with(".announcements"))
            .collect();
        let emptying = async {
            loop {
                match timeout(Duration::from_secs(3), consumer.next()).await {
                    Ok(Some(delivery)) => delivery?.acker.ack(BasicAckOptions::default()).await?,
                    Ok(None) => bail!("the queue is gone"),
                    Err(_) => {
                        // Nothing comes any more, if nothing waits.
                        let mut waiting = 0;
                        for queue in &parked {
                            let passive =
                                QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                            let looked =
                                channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
                            waiting += looked.await?.message_count();
                        }
                        if waiting == 0 {
                            return Ok(());
                        }
                        continue;
                    }
                };
            }
        };
        timeout(END_MAX, emptying).await.context("events are parked for ever")??;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    async fn send(&self, kind: Kind, turn: &mut Turn, publishing: &mut JoinSet<Result<()>>) -> Result<()> {
        let simulator = &self.stage.simulator;
        let (payment, target) = match kind {
            Kind::AsyncCancel => {
                let payment = simulator.seed(SeedPhysical::default())?;
                (payment.id.clone(), json!({ "paymentRequestId": payment.id }))
            }
            Kind::TransactionCancel => {
                let payment = simulator.seed(SeedVirtualPos::default())?;
                (payment.id, json!({ "uniqueCode": payment.unique_code, "date": payment.date }))
            }
            Kind::ApmProvisionCancel => {
                let payment = simulator.seed(SeedApm::default())?;
                (payment.id, json!({ "uniqueCode": payment.unique_code }))
            }
            Kind::SyncCancelRollback => {
                let cancel = PastActivity { ago_ms: 60_000, ..PastActivity::ended(2, 10) };
                let payment = simulator.seed(SeedPhysical::default().after(cancel))?;
                (payment.id.clone(), json!({ "paymentRequestId": payment.id }))
            }
            Kind::BatchCancel => {
                let payment = simulator.seed(SeedVirtualPos::default())?;
                let item =
                    json!({ "merchantUniqueCode": payment.merchant_unique_code, "date": payment.date });
                (payment.id, json!({ "payments": [item] }))
            }
        };
        let cancellation = intent(kind, target);
        let id = cancellation["intentId"].as_str().context("an id")?.to_owned();
        turn.sent.insert(id, (kind, Instant::now(), payment));
        let stage = Arc::clone(&self.stage);
        publishing.spawn(async move { stage.publish(&cancellation).await });
        Ok(())
    }

    /// Waits until the healthy ledger has heard the end of every letter: none is lost.
    async fn all_ended(&self, turn: &Turn) -> Result<()> {
        let deadline = Instant::now() + END_MAX;
        loop {
            let missing = turn.sent.keys().filter(|id| self.heard.at(id).is_none()).count();
            if missing == 0 {
                break;
            }
            ensure!(Instant::now() < deadline, "{missing} of {} letters have no end", turn.sent.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let is_well = |kind: Kind, end: &str| match kind {
            Kind::AsyncCancel | Kind::TransactionCancel | Kind::ApmProvisionCancel => end == "cancelled",
            Kind::SyncCancelRollback => end == "rolled_back",
            Kind::BatchCancel => end == "closed",
        };
        let bad = turn.sent.iter().filter_map(|(id, (kind, ..))| {
            self.heard.end(id).filter(|end| !is_well(*kind, end)).map(|end| format!("{kind}: {end}"))
        });
        let bad: Vec<String> = bad.collect();
        ensure!(bad.is_empty(), "not all have ended well: {bad:?}");
        Ok(())
    }

    /// Money moves once; and where the gateway had no trouble, it is not even called twice.
    fn nothing_was_called_twice(&self, turn: &Turn, trouble: Option<Trouble>) -> Result<()> {
        let gateway_is_fine = match trouble {
            Some(Trouble::Hangs | Trouble::Refuses | Trouble::Answers503) => false,
            Some(Trouble::LedgerOfOneKindFull | Trouble::LedgerOfAllFull) | None => true,
        };
        for (id, (kind, _, payment)) in &turn.sent {
            let truth = self.stage.simulator.truth_of(payment).context("it was seeded")?;
            let calls = [Endpoint::AsyncCancel, Endpoint::TransactionCancel, Endpoint::ApmProvisionCancel];
            let calls: u64 = calls.into_iter().map(|endpoint| truth.calls_of(endpoint)).sum();
            ensure!(truth.effects.cancels == 1, "{id}: money moved {} times", truth.effects.cancels);
            let once = gateway_is_fine || *kind != TROUBLED;
            ensure!(!once || calls == 1, "{id} of {kind} was called {calls} times");
        }
        Ok(())
    }

    async fn end(self) -> Result<()> {
        let ended = self.worker.stop_by("TERM").await?;
        ensure!(ended.code == Some(0), "{}", ended.stderr.text());
        Ok(())
    }
}

enum Fixing {
    Gateway(FaultId),
    Ledger(String),
}

impl Heard {
    async fn listen(&self, t: &Context, stage: &Stage) -> Result<()> {
        let queue = format!("{}.ledger-healthy", t.prefix());
        t.on_cleanup([queue.clone(), format!("{}.full-ledger", t.prefix())], []);
        let channel = stage.connection().create_channel().await?;
        channel.basic_qos(1_000, BasicQosOptions::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), durable, quorum()).await?;
        let outcomes = format!("{}.outcomes", t.prefix());
        let bind = QueueBindOptions::default();
        let none = FieldTable::default();
        channel.queue_bind(queue.as_str().into(), outcomes.as_str().into(), "#".into(), bind, none).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel
            .basic_consume(queue.as_str().into(), "healthy".into(), options, FieldTable::default())
            .await?;
        let heard = self.clone();
        tokio::spawn(async move {
            let _channel = channel;
            while let Some(Ok(delivery)) = consumer.next().await {
                heard.note(&delivery.data);
                let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            }
        });
        Ok(())
    }

    fn note(&self, event: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(event) else { return };
        let (Some(subject), Some(status)) = (event["subject"].as_str(), event["data"]["status"].as_str())
        else {
            return;
        };
        if event["data"]["terminal"] == true {
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.entry(subject.to_owned()).or_insert_with(|| (Instant::now(), status.to_owned()));
        }
    }

    fn at(&self, id: &str) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).map(|(at, _)| *at)
    }

    fn end(&self, id: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).map(|(_, end)| end.clone())
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

//! Measures how soon a worker consumes again after each way to lose its broker: `make recovery`.
//!
//! A real `run` process under light load, behind a road that is cut, silenced, closed from the other side; queues that
//! are deleted, a broker that restarts, an alarm. After each of them every consumer's prefetch is read back from the
//! broker. In the end every intent must have been told as it was done. The figures go to `target/recovery.json`, every
//! step of every letter to `target/recovery.log`.
//!
//! How often a payment was called more than once is a figure, and no failure: a letter whose connection is lost between
//! confirm and ack has two copies from then on, and each asks before it calls.

#[allow(dead_code, unused_macros, reason = "shared with the tests, which use the rest")]
#[path = "../it/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use cancel_worker::amqp::browse::queue_depths;
use cancel_worker::amqp::{Broker, PublishSession, Session, Settings, Timeouts, Topology};
use cancel_worker::clock::Clock;
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::retry::{Tier, Tiers};
use cancel_worker::wire::envelope::{Address, Headers, Message, Messages, Source};
use jiff::Timestamp;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{CancelPlan, Endpoint, SeedPhysical, SeedVirtualPos};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use url::Url;

use support::Context;
use support::process::Process;
use support::road::{Road, Way, Which};
use support::stage::{Stage, intent, load, said};

/// What is promised: of a hundred recoveries, ninety-nine are not slower.
const P99_MAX: Duration = Duration::from_secs(1);
/// How often each connection, and both, are cut.
const CUTS: usize = 48;
/// How often a connection falls silent: each of both in three ways, so many times.
const SILENCES: usize = 4;
/// How often the broker closes the connections, and deletes a queue.
const CLOSES: usize = 20;
const DELETIONS: usize = 24;
/// How often it restarts.
const RESTARTS: usize = 12;
/// The heartbeat while silence is measured.
const HEARTBEAT_S: u16 = 2;
/// One intent each.
const LOAD_EVERY: Duration = Duration::from_millis(50);
/// Longer than a confirm may take when there is no alarm.
const ALARM: Duration = Duration::from_secs(35);
/// No single thing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// How often the management API is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a connection is begun with a host that is of no use.
const USELESS_CONNECTS: usize = 1_000;

const PREFETCH: u64 = 20;
/// A busy machine is not what is measured: what takes its time is waited for.
const TUNING: &str = r#"
worker = { name = "recovery" }
lanes = { prefetch = 20 }
gateway = { call_timeout = "3s" }
inquiry = { quiet = "3s", age_max = "1h" }
retry = { attempts_max = 12, age_max = "1h" }
"#;

fn main() -> ExitCode {
    // As the binary does: the process has one TLS provider, chosen once.
    rustls::crypto::ring::default_provider().install_default().expect("nobody was here before");
    support::program(|t| async move { measure(&t).await })
}

async fn measure(t: &Context) -> Result<()> {
    let _ = std::fs::remove_file(target("recovery.log"));
    let leaks = useless_hosts().await?;
    println!("{leaks:#}");
    look_often(t).await?;
    let stage = Stage::new(t, TUNING).await?;
    let road = Road::to(stage.url()).await?;
    let told = Told::listen(t, &stage).await?;
    let load = Load::start(&stage)?;
    let mut run = Run { t, stage: &stage, figures: BTreeMap::new(), prefetches_read: 0, line: 0 };

    let worker = work(&stage, road.url())?;
    let mut generation = run.next_generation(&worker, 0).await?.0;
    for (kind, which) in [
        ("consume connection cut", Which::Consume),
        ("publish connection cut", Which::Publish),
        ("both connections cut", Which::All),
    ] {
        for _ in 0..CUTS {
            let from = now();
            road.cut(which);
            generation = run.recovered(kind, &worker, generation, from).await?;
        }
    }
    let (connection, channel) = {
        let connection = t.connect().await?;
        let channel = connection.create_channel().await?;
        (connection, channel)
    };
    // One that no load goes through: what is in a queue that is deleted is gone.
    let idle = stage.topology().queue_of(Source::Lane(Kind::BatchCancel));
    for _ in 0..DELETIONS {
        let from = now();
        channel.queue_delete(idle.as_str().into(), QueueDeleteOptions::default()).await?;
        generation =
            run.recovered("consumer cancelled, its queue deleted", &worker, generation, from).await?;
    }
    connection.close(200, "done".into()).await?;
    for _ in 0..CLOSES {
        let Some(closed) = t.broker().ctl(&["eval", CLOSE_OURS]).await else {
            println!("closes, restarts and the alarm are left out: this broker is not ours to operate");
            break;
        };
        closed?;
        let from = run.ended(&worker, generation).await?;
        generation = run.recovered("closed by the broker", &worker, generation, from).await?;
    }
    let operated = t.broker().ctl(&["version"]).await.is_some();
    if operated {
        for _ in 0..RESTARTS {
            let (from, last) = run.restart(&worker).await?;
            generation = run.recovered("broker restarted", &worker, last, from).await?;
        }
        run.alarm(&load, &worker, generation).await?;
    }
    stopped(worker).await?;

    run.line = 0;
    let url = road.url_with_heartbeat(HEARTBEAT_S);
    let worker = work(&stage, &url)?;
    generation = run.next_generation(&worker, 0).await?.0;
    let mut slowest = Duration::ZERO;
    for _ in 0..SILENCES {
        for which in [Which::Consume, Which::Publish] {
            for way in [Way::ToBroker, Way::ToClient, Way::Both] {
                let begun = now();
                road.silence(which, way);
                let from = run.ended(&worker, generation).await?;
                slowest = slowest.max(between(begun, from));
                let kind = "silent, from detection";
                generation = run.recovered(kind, &worker, generation, from).await?;
            }
        }
    }
    let heartbeats = slowest.as_secs_f64() / f64::from(HEARTBEAT_S);
    println!("the slowest silence was noticed after {heartbeats:.2} heartbeats");

    let asked = load.stop().await?;
    let lost = told.until_all(&asked).await?;
    stopped(worker).await?;
    let left = left_in_queues(&stage).await?;
    let calls_of = |asked: &Asked| {
        let truth = stage.simulator.truth_of(&asked.payment);
        truth.map_or(0, |truth| truth.calls_of(asked.endpoint))
    };
    let twice: Vec<(&String, u64)> =
        asked.iter().map(|asked| (&asked.subject, calls_of(asked))).filter(|(_, calls)| *calls > 1).collect();

    let report = json!({
        "recoveries": run.report(),
        "disconnects": run.figures.values().map(Vec::len).sum::<usize>(),
        "slowest_silence_heartbeats": heartbeats,
        "prefetches_read_back": run.prefetches_read,
        "intents": asked.len(),
        "lost": lost.len(),
        "called_more_than_once": twice.len(),
        "useless_hosts": leaks,
    });
    write(&report)?;
    println!("{report:#}");
    ensure!(lost.is_empty(), "nobody was told that these are cancelled: {lost:?}");
    ensure!(left.is_empty(), "left in queues: {left:?}");
    ensure!(heartbeats <= 2.0, "silence was noticed too late");
    for (kind, times) in &run.figures {
        let p99 = percentile(times, 99);
        ensure!(p99 <= P99_MAX, "{kind}: p99 is {p99:?}");
    }
    Ok(())
}

/// The management API learns of a consumer only when it takes its samples, every 5 s. Where we may, we make that shorter.
async fn look_often(t: &Context) -> Result<()> {
    const OFTEN: &str = "Often = [{global, [{605, 1}]}, {basic, [{605, 1}]}, {detailed, [{10, 1}]}],
        [application:stop(A) || A <- [rabbitmq_management, rabbitmq_management_agent]],
        [application:set_env(A, sample_retention_policies, Often)
            || A <- [rabbitmq_management, rabbitmq_management_agent]],
        application:set_env(rabbit, collect_statistics_interval, 500),
        [application:start(A) || A <- [rabbitmq_management_agent, rabbitmq_management]].";
    if let Some(set) = t.broker().ctl(&["eval", OFTEN]).await {
        set?;
    }
    Ok(())
}

/// Closes the connections of the worker that is measured, and nobody else's. Those of its last generation may be ending
/// just now, and then cannot be asked.
const CLOSE_OURS: &str = r#"[(catch rabbit_networking:close_connection(Pid, "for a measurement")) || Pid <- rabbit_networking:connections(),
    {client_properties, Properties} <- case catch rabbit_reader:info(Pid, [client_properties]) of
        Known when is_list(Known) -> Known;
        _Ending -> []
    end,
    {_, _, Name} <- [lists:keyfind(<<"connection_name">>, 1, Properties)],
    binary:match(Name, <<"cancel-worker recovery">>) =/= nomatch]."#;

struct Run<'a> {
    t: &'a Context,
    stage: &'a Stage,
    figures: BTreeMap<&'static str, Vec<Duration>>,
    prefetches_read: usize,
    /// The first line of the worker's log that has not been looked at.
    line: usize,
}

impl Run<'_> {
    /// Waits for the next generation, and notes how long it took from `from`. Gives its number.
    async fn recovered(
        &mut self,
        kind: &'static str,
        worker: &Process,
        before: u64,
        from: Timestamp,
    ) -> Result<u64> {
        let (generation, at) = self.next_generation(worker, before).await.context(kind)?;
        self.read_prefetches().await.context(kind)?;
        let times = self.figures.entry(kind).or_default();
        times.push(between(from, at));
        println!("{kind}, {}: {} ms", times.len(), between(from, at).as_millis());
        Ok(generation)
    }

    /// Waits until a generation after this one consumes: its number, and when that was.
    async fn next_generation(&mut self, worker: &Process, before: u64) -> Result<(u64, Timestamp)> {
        let (line, next) = worker
            .stderr
            .wait_from(self.line, "next generation", |line| {
                generation_of(line, "generation_started").is_some_and(|number| number > before)
            })
            .await?;
        self.line = next;
        let number = generation_of(&line, "generation_started").context("it has a number")?;
        Ok((number, at(&line)?))
    }

    /// When the worker noticed that this generation has ended.
    async fn ended(&mut self, worker: &Process, generation: u64) -> Result<Timestamp> {
        let is_end = |line: &str| generation_of(line, "generation_ended") == Some(generation);
        let (line, next) = worker.stderr.wait_from(self.line, "end of the generation", is_end).await?;
        self.line = next;
        at(&line)
    }

    /// The prefetch of every consumer, as the broker knows it, is the one that is configured.
    async fn read_prefetches(&mut self) -> Result<()> {
        let topology = self.stage.topology();
        let lanes = Kind::ALL
            .into_iter()
            .flat_map(|kind| [(Source::Lane(kind), PREFETCH), (Source::Returns(kind), PREFETCH / 4)]);
        let others = [(Source::Rescue, 1), (Source::Announcements, 16), (Source::Isolation, 1)];
        let expected: BTreeMap<String, u64> =
            lanes.chain(others).map(|(source, prefetch)| (topology.queue_of(source), prefetch)).collect();
        let reading = async {
            loop {
                // Right after a restart, nobody may answer yet.
                let consumers = match self.t.broker().management("/api/consumers/%2F").await {
                    None => return Ok(0),
                    Some(Ok(consumers)) => consumers,
                    Some(Err(_)) => json!([]),
                };
                let found: Vec<(&str, u64)> = consumers
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|consumer| {
                        let queue = consumer["queue"]["name"].as_str()?;
                        Some((
                            expected.get_key_value(queue)?.0.as_str(),
                            consumer["prefetch_count"].as_u64()?,
                        ))
                    })
                    .collect();
                for (queue, prefetch) in &found {
                    ensure!(
                        expected[*queue] == *prefetch,
                        "{queue} is consumed with a prefetch of {prefetch}"
                    );
                }
                let queues: BTreeSet<&str> = found.iter().map(|(queue, _)| *queue).collect();
                if queues.len() == expected.len() {
                    return Ok(found.len());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        self.prefetches_read +=
            tokio::time::timeout(PATIENCE, reading).await.context("consumers are missing")??;
        Ok(())
    }

    /// Restarts the broker. Gives the moment when it greeted again, and the last generation before.
    async fn restart(&self, worker: &Process) -> Result<(Timestamp, u64)> {
        let broker = self.t.broker();
        broker.ctl(&["stop_app"]).await.context("it is ours to operate")??;
        // A broker that is about to stop may have let it in once more.
        let started = worker.stderr.events("generation_started");
        let last = started.iter().filter_map(|event| event["generation"].as_u64()).max().unwrap_or_default();
        let starting = async { broker.ctl(&["start_app"]).await.context("it is ours to operate")? };
        let (started, greeted) = tokio::join!(starting, greeted(self.stage.url()));
        started?;
        look_often(self.t).await?;
        Ok((greeted?, last))
    }

    /// A real alarm, longer than a confirm may take: the generation stands, and work goes on when it is over.
    async fn alarm(&self, orders: &Load, worker: &Process, generation: u64) -> Result<()> {
        // Order systems are blocked, too. What has been ordered is looked at again and again all the while, so the
        // worker has something to publish.
        let plan = CancelPlan::accepted(100, 20_000, 4);
        let payment = self.stage.simulator.seed(SeedPhysical::default().cancelling(plan))?;
        let intent = intent(Kind::AsyncCancel, json!({ "paymentRequestId": payment.id }));
        let session = PublishSession::open(&broker_of(self.stage, "orders")?, self.stage.topology()).await?;
        session.publisher().publish(Messages::new(message(&intent)?, [])).await?;
        session.close().await;
        orders.note(Asked {
            subject: subject_of(&intent),
            payment: payment.id,
            endpoint: Endpoint::AsyncCancel,
        });
        let broker = self.t.broker();
        let set = async |limit| {
            broker.ctl(&["set_vm_memory_high_watermark", limit]).await.context("it is ours to operate")?
        };
        set("0").await?;
        worker.stderr.event("broker_blocked").await?;
        tokio::time::sleep(ALARM).await;
        set("0.6").await?;
        worker.stderr.event("broker_unblocked").await?;
        let ended = worker
            .stderr
            .all()
            .into_iter()
            .find(|line| generation_of(line, "generation_ended") == Some(generation));
        ensure!(ended.is_none(), "the alarm ended the generation: {ended:?}");
        println!("an alarm of {ALARM:?} has ended no generation");
        Ok(())
    }

    fn report(&self) -> Value {
        let of = |times: &[Duration]| {
            json!({
                "count": times.len(),
                "p50_ms": percentile(times, 50).as_millis(),
                "p99_ms": percentile(times, 99).as_millis(),
                "max_ms": percentile(times, 100).as_millis(),
            })
        };
        let kinds = self.figures.iter().map(|(kind, times)| ((*kind).to_owned(), of(times)));
        let all: Vec<Duration> = self.figures.values().flatten().copied().collect();
        Value::Object(kinds.chain([("all".to_owned(), of(&all))]).collect())
    }
}

fn generation_of(line: &str, event: &str) -> Option<u64> {
    // Most lines are something else, and are not worth parsing.
    if !line.contains(event) {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    (line["event"] == event).then(|| line["generation"].as_u64())?
}

fn at(line: &str) -> Result<Timestamp> {
    let line: Value = serde_json::from_str(line)?;
    Ok(line["timestamp"].as_str().context("every line has its time")?.parse()?)
}

fn now() -> Timestamp {
    Clock::system().now()
}

/// The log knows milliseconds: what seems to have happened before its cause took none.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

fn work(stage: &Stage, url: &str) -> Result<Process> {
    // Every step of every letter, for whoever wants to know why a figure is what it is.
    Process::work(stage, &[("CANCEL_WORKER__AMQP__URL", url), ("CANCEL_WORKER_LOG", "debug")])
}

/// Stops a worker, whose log is added to `target/recovery.log`.
async fn stopped(worker: Process) -> Result<()> {
    let ended = worker.stop_by("TERM").await?;
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(target("recovery.log"))?;
    writeln!(log, "{}", ended.stderr.text())?;
    ensure!(ended.code == Some(0), "the worker ended with {:?}:\n{}", ended.code, ended.stderr.text());
    Ok(())
}

/// Waits until the broker greets: what a worker needs to begin.
async fn greeted(url: &str) -> Result<Timestamp> {
    let url: Url = url.parse()?;
    let address = (url.host_str().context("no host")?.to_owned(), url.port().unwrap_or(5672));
    let trying = async {
        loop {
            let greeting = async {
                let mut stream = TcpStream::connect(&address).await?;
                stream.write_all(b"AMQP\0\0\x09\x01").await?;
                stream.read_u8().await
            };
            if greeting.await.is_ok() {
                return now();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.context("the broker does not come back")
}

/// A ledger that survives the broker's restarts: it only looks in the end.
struct Told {
    url: String,
    queue: String,
}

impl Told {
    async fn listen(t: &Context, stage: &Stage) -> Result<Told> {
        let queue = format!("{}.recovery", t.prefix());
        t.on_cleanup([queue.clone()], []);
        let connection = t.connect().await?;
        let channel = connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), durable, arguments).await?;
        let exchange = format!("{}.outcomes", stage.topology().prefix());
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                "#".into(),
                options,
                FieldTable::default(),
            )
            .await?;
        connection.close(200, "done".into()).await?;
        Ok(Told { url: stage.url().to_owned(), queue })
    }

    /// Reads until the success of each has been told, or nothing comes any more. Gives those without.
    async fn until_all(&self, asked: &[Asked]) -> Result<Vec<String>> {
        let connection = lapin::Connection::connect(&self.url, Default::default()).await?;
        let channel = connection.create_channel().await?;
        let mut missing: BTreeSet<String> = asked.iter().map(|asked| asked.subject.clone()).collect();
        let mut others = Vec::new();
        let reading = async {
            while !missing.is_empty() {
                match channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default()).await? {
                    None => tokio::time::sleep(POLL).await,
                    Some(message) => {
                        message.delivery.acker.ack(BasicAckOptions::default()).await?;
                        let event: Value = serde_json::from_slice(&message.delivery.data)?;
                        let subject = event["subject"].as_str().unwrap_or_default().to_owned();
                        if event["data"]["status"] == "cancelled" {
                            missing.remove(&subject);
                        } else {
                            others.push(format!("{subject}: {}", said(&event)));
                        }
                    }
                }
            }
            Ok::<(), anyhow::Error>(())
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        println!("told otherwise, at first or for good: {others:?}");
        if let Ok(read) = read {
            read?;
        }
        Ok(missing.into_iter().collect())
    }
}

/// A payment that somebody wants cancelled.
struct Asked {
    subject: String,
    payment: String,
    endpoint: Endpoint,
}

fn broker_of(stage: &Stage, name: &str) -> Result<Broker> {
    Ok(Broker::new(&load(stage.toml())?.amqp, name, Timeouts::default())?)
}

fn subject_of(intent: &Value) -> String {
    intent["intentId"].as_str().expect("an intent has an id").to_owned()
}

fn message(intent: &Value) -> Result<Message> {
    Ok(Message {
        address: Address::Intents,
        routing_key: intent["kind"].as_str().context("an intent has a kind")?.to_owned(),
        headers: Headers::new(),
        content_type: "application/json",
        message_id: None,
        occasion: None,
        body: Bytes::from(serde_json::to_vec(intent)?),
    })
}

/// Order systems that want a payment cancelled every now and then.
struct Load {
    stop: CancellationToken,
    asked: Arc<Mutex<Vec<Asked>>>,
    publishing: tokio::task::JoinHandle<Result<()>>,
}

impl Load {
    fn start(stage: &Stage) -> Result<Load> {
        let broker = broker_of(stage, "orders")?;
        let topology = stage.topology().clone();
        let simulator = stage.simulator.handle();
        let stop = CancellationToken::new();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (stopping, noting) = (stop.clone(), Arc::clone(&asked));
        let publishing = tokio::spawn(async move {
            let mut session: Option<PublishSession> = None;
            while !stopping.is_cancelled() {
                let payment = simulator.seed(SeedVirtualPos::default())?;
                let cancellation = json!({ "uniqueCode": payment.unique_code, "date": payment.date });
                let intent = intent(Kind::TransactionCancel, cancellation);
                let message = message(&intent)?;
                noting.lock().unwrap_or_else(PoisonError::into_inner).push(Asked {
                    subject: subject_of(&intent),
                    payment: payment.id,
                    endpoint: Endpoint::TransactionCancel,
                });
                // Until it is confirmed: the same bytes again.
                loop {
                    let open = match session.take() {
                        Some(open) => open,
                        None => match PublishSession::open(&broker, &topology).await {
                            Ok(open) => open,
                            Err(_) => {
                                tokio::time::sleep(LOAD_EVERY).await;
                                continue;
                            }
                        },
                    };
                    if open.publisher().publish(Messages::new(message.clone(), [])).await.is_ok() {
                        session = Some(open);
                        break;
                    }
                }
                tokio::time::sleep(LOAD_EVERY).await;
            }
            Ok(())
        });
        Ok(Load { stop, asked, publishing })
    }

    /// Something else that was asked for.
    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }

    /// Stops it: everything that was asked for.
    async fn stop(self) -> Result<Vec<Asked>> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.publishing).await.context("the load does not stop")???;
        Ok(std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The queues in which something is left where nothing should be.
async fn left_in_queues(stage: &Stage) -> Result<Vec<(String, u32)>> {
    let broker = broker_of(stage, "look")?;
    let topology: &Topology = stage.topology();
    let lanes = Kind::ALL.into_iter().flat_map(|kind| [Source::Lane(kind), Source::Returns(kind)]);
    let sources = lanes.chain([Source::Rescue, Source::Announcements, Source::Isolation]);
    let dead = format!("{}.dead-letters", topology.prefix());
    let queues: Vec<String> =
        sources.map(|source| topology.queue_of(source)).chain([dead, topology.unrouted()]).collect();
    let names: Vec<&str> = queues.iter().map(String::as_str).collect();
    let depths = queue_depths(&broker, &names).await?;
    Ok(queues.iter().cloned().zip(depths).filter(|(_, depth)| *depth > 0).collect())
}

/// What a thousand tries leave behind with a host that accepts and never answers, and with one that refuses.
async fn useless_hosts() -> Result<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let silent = format!("amqp://{}/%2f", listener.local_addr()?);
    let refusing = format!("amqp://{}/%2f", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let accepting = tokio::spawn(async move {
        let mut held = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // Until we hang up: our end of it is gone then, too.
            held.spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
            while held.try_join_next().is_some() {}
        }
    });
    let mut report = serde_json::Map::new();
    for (name, url) in [("accepts and never answers", silent), ("refuses", refusing)] {
        let timeouts = Timeouts { connect: Duration::from_millis(10), ..Timeouts::default() };
        let settings = settings(&url, timeouts)?;
        let before = Held::now()?;
        for number in 0..USELESS_CONNECTS {
            ensure!(Session::open(&settings, number as u64, 0).await.is_err(), "somebody answers");
        }
        let mut after = Held::now()?;
        // What is let go of may take a moment to go.
        for _ in 0..200 {
            if after.threads <= before.threads && after.files <= before.files {
                break;
            }
            tokio::time::sleep(POLL).await;
            after = Held::now()?;
        }
        report.insert(
            name.to_owned(),
            json!({
                "tries": USELESS_CONNECTS,
                "threads": [before.threads, after.threads],
                "tasks": [before.tasks, after.tasks],
                // The silent host's own ends of the connections are among them, for as long as ours are.
                "files": [before.files, after.files],
                "memory_kib": [before.memory_kib, after.memory_kib],
            }),
        );
    }
    accepting.abort();
    Ok(Value::Object(report))
}

fn settings(url: &str, timeouts: Timeouts) -> Result<Settings> {
    use cancel_worker::config::{Amqp, AmqpTls, Declare};
    let amqp = Amqp {
        urls: vec![url.into()],
        management_url: None,
        prefix: "any".to_owned(),
        declare: Declare::Nothing,
        tls: AmqpTls::default(),
    };
    let tier = Tier { length: Duration::from_secs(1), name: "1s".to_owned() };
    let tiers = Tiers::try_new(vec![tier]).context("one tier")?;
    Ok(Settings::new(&amqp, "useless", &BTreeMap::from([(Kind::BatchCancel, 1)]), &tiers, timeouts)?)
}

/// What this process holds.
struct Held {
    threads: usize,
    tasks: usize,
    files: usize,
    memory_kib: u64,
}

impl Held {
    fn now() -> Result<Held> {
        let count = |path| -> Result<usize> { Ok(std::fs::read_dir(path)?.count()) };
        let status = std::fs::read_to_string("/proc/self/status")?;
        let Some(memory) = status.lines().find_map(|line| line.strip_prefix("VmRSS:")) else {
            bail!("no VmRSS in {status}")
        };
        Ok(Held {
            threads: count("/proc/self/task")?,
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            files: count("/proc/self/fd")?,
            memory_kib: memory.trim().trim_end_matches(" kB").parse()?,
        })
    }
}

fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name)
}

fn write(report: &Value) -> Result<()> {
    let path = target("recovery.json");
    std::fs::write(&path, format!("{report:#}\n"))
        .with_context(|| format!("failed to write {}", path.display()))
}

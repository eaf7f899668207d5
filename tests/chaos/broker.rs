//! The RabbitMQ of a campaign: given by `AMQP_URL`, or started by `deploy/rabbitmq/hold` and then ours to restart, kill
//! and alarm.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// How long a broker may take to start, or to start again.
const STARTUP_MAX: Duration = Duration::from_secs(180);
/// How long one connection may take to open.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long somebody who connects tries again while the broker is away.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// How long one `rabbitmqctl` may take.
const CTL_MAX: Duration = Duration::from_secs(60);
/// How long one visit may take. The client library waits for ever for an answer that will never come.
const VISIT_MAX: Duration = Duration::from_secs(90);
/// How soon a silent broker is noticed.
const HEARTBEAT_S: &str = "5";
/// The pause between two tries to connect.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Where this machine gets a broker from: the words that `deploy/rabbitmq/choose` printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// `AMQP_URL`: somebody else's, so that nobody may restart it.
    Given(String),
    /// `image NAME` or `native VERSION`: started by `deploy/rabbitmq/hold`, as many as are needed.
    Held(Vec<String>),
}

impl Way {
    /// Looks what this machine offers. Where it finds nothing, what helps is told on standard error.
    pub(crate) async fn choose() -> Result<Way> {
        let version = std::env::var("RABBITMQ_VERSION").unwrap_or_else(|_| "4.0".to_owned());
        let choice = Command::new(script("choose"))
            .args(["--version", &version])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .await
            .context("failed to run deploy/rabbitmq/choose; AMQP_URL helps")?;
        ensure!(
            choice.status.success(),
            "there is no way to a RabbitMQ on this machine; what helps stands above"
        );
        let words: Vec<String> =
            String::from_utf8(choice.stdout)?.split_whitespace().map(str::to_owned).collect();
        match words.first().map(String::as_str) {
            Some("url") => Ok(Way::Given(std::env::var("AMQP_URL").context("AMQP_URL is not set")?)),
            Some("image" | "native") => Ok(Way::Held(words)),
            Some(_) | None => bail!("deploy/rabbitmq/choose says {words:?}"),
        }
    }
}

/// One RabbitMQ. Cheap to share; what it is told to do is done when the call returns.
pub(crate) struct Broker {
    address: Mutex<Address>,
    hold: Option<tokio::sync::Mutex<Hold>>,
    /// What the scenarios have declared and not deleted yet, by their prefixes.
    owned: Mutex<BTreeMap<String, Owned>>,
    /// Which of its nodes the next visitor tries first.
    turn: AtomicUsize,
}

/// What one scenario has declared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owned {
    pub(crate) queues: Vec<String>,
    pub(crate) exchanges: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Address {
    /// One of each node.
    urls: Vec<String>,
    /// The words that start a `rabbitmqctl`, at the first node.
    ctl: Vec<String>,
}

/// The process of `deploy/rabbitmq/hold` or `cluster`: it ends with its standard input, and the broker with it.
struct Hold {
    name: &'static str,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Broker {
    /// Takes the broker that is given, or starts one.
    pub(crate) async fn obtain(way: &Way) -> Result<Arc<Broker>> {
        let broker = match way {
            Way::Given(url) => Broker {
                address: Mutex::new(Address { urls: vec![url.clone()], ctl: Vec::new() }),
                hold: None,
                owned: Mutex::default(),
                turn: AtomicUsize::new(0),
            },
            Way::Held(words) => Broker::held("hold", words).await?,
        };
        drop(broker.connect().await.context("the broker lets nobody in")?);
        Ok(Arc::new(broker))
    }

    /// Starts three nodes that are one broker.
    pub(crate) async fn cluster() -> Result<Arc<Broker>> {
        let version = std::env::var("RABBITMQ_VERSION").unwrap_or_else(|_| "4.0".to_owned());
        Ok(Arc::new(Broker::held("cluster", &["--version".to_owned(), version]).await?))
    }

    async fn held(name: &'static str, words: &[String]) -> Result<Broker> {
        let mut child = Command::new(script(name))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to run deploy/rabbitmq/{name}"))?;
        let orders = child.stdin.take().context("it has no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("it has no stdout")?).lines();
        let mut hold = Hold { name, child, orders, answers };
        let address = hold.answer("ready").await?;
        let hold = Some(tokio::sync::Mutex::new(hold));
        Ok(Broker { address: Mutex::new(address), hold, owned: Mutex::default(), turn: AtomicUsize::new(0) })
    }

    /// The address of each node, with user and password. It may be another one after a restart.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).urls.clone()
    }

    /// A connection of one's own. While the broker is away, it is tried again.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let began = Instant::now();
        loop {
            let urls = self.urls();
            let mut url: Url = urls[self.turn.load(Ordering::Relaxed) % urls.len()].parse()?;
            url.query_pairs_mut().append_pair("heartbeat", HEARTBEAT_S);
            let connecting = Connection::connect(url.as_str(), ConnectionProperties::default());
            let error = match timeout(CONNECT_MAX, connecting).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => anyhow::Error::from(error),
                Err(late) => late.into(),
            };
            ensure!(began.elapsed() < AWAY_MAX, error.context("the broker does not come back"));
            self.turn.fetch_add(1, Ordering::Relaxed);
            sleep(TRY_EVERY).await;
        }
    }

    /// Does something at the broker, on a connection of its own.
    pub(crate) async fn visit<T, F>(&self, work: impl FnOnce(Arc<Connection>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let connection = Arc::new(self.connect().await?);
        let done = timeout(VISIT_MAX, work(Arc::clone(&connection))).await;
        let _ = timeout(CONNECT_MAX, connection.close(200, "done".into())).await;
        done.context("the broker does not answer")?
    }

    /// Does what can be repeated. A node that has just come back may not have found the other members of a queue yet:
    /// then it is tried at the next one.
    pub(crate) async fn visit_again<T, F>(&self, work: impl Fn(Arc<Connection>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let began = Instant::now();
        loop {
            match self.visit(&work).await {
                Err(_) if began.elapsed() < AWAY_MAX => {
                    self.turn.fetch_add(1, Ordering::Relaxed);
                    sleep(TRY_EVERY).await;
                }
                done => return done,
            }
        }
    }

    /// Notes what a scenario is about to declare.
    pub(crate) fn own(&self, prefix: &str, owned: Owned) {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).insert(prefix.to_owned(), owned);
    }

    /// Deletes what a scenario has declared.
    pub(crate) async fn clean_up(&self, prefix: &str) -> Result<()> {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner).remove(prefix);
        let Owned { queues, exchanges } = owned.unwrap_or_default();
        let visit = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            for queue in &queues {
                channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
            }
            for exchange in &exchanges {
                channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await?;
            }
            Ok(())
        };
        self.visit(visit).await
    }

    /// Runs `rabbitmqctl` with these arguments and returns what it printed.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let words = self.address.lock().unwrap_or_else(PoisonError::into_inner).ctl.clone();
        let (program, first) = words.split_first().context("this broker is not ours to operate")?;
        let mut command = Command::new(program);
        command.args(first).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output =
            timeout(CTL_MAX, command.output()).await.context("rabbitmqctl did not end in time")??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "rabbitmqctl {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// SIGKILL. It is away until [`start`](Broker::start).
    pub(crate) async fn kill(&self) -> Result<()> {
        self.order("kill", "killed").await
    }

    /// Stops it in order. It is away until [`start`](Broker::start).
    pub(crate) async fn stop(&self) -> Result<()> {
        self.order("stop", "stopped").await
    }

    /// Starts it again, with everything that it had on disk.
    pub(crate) async fn start(&self) -> Result<()> {
        self.order("start", "ready").await
    }

    /// SIGKILL of one node of a cluster, counted from 1.
    pub(crate) async fn kill_node(&self, node: usize) -> Result<()> {
        self.order(&format!("kill {node}"), "done").await
    }

    /// Starts it again, with everything that it had on disk.
    pub(crate) async fn start_node(&self, node: usize) -> Result<()> {
        self.order(&format!("start {node}"), "done").await
    }

    /// Cuts a node off from the others. Its clients still reach it.
    pub(crate) async fn cut_node(&self, node: usize) -> Result<()> {
        self.order(&format!("cut {node}"), "done").await
    }

    /// Lets the nodes hear each other again.
    pub(crate) async fn repair_node(&self, node: usize) -> Result<()> {
        self.order(&format!("fix {node}"), "done").await
    }

    /// Raises its memory alarm: it reads nothing more from whoever publishes.
    pub(crate) async fn alarm(&self) -> Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await.map(drop)
    }

    /// Ends the alarm.
    pub(crate) async fn calm(&self) -> Result<()> {
        self.ctl(&["set_vm_memory_high_watermark", "0.6"]).await.map(drop)
    }

    /// Ends what was started, and deletes from a broker that was given what is left of ours.
    pub(crate) async fn end(&self) {
        let Some(hold) = &self.hold else {
            let left: Vec<String> =
                self.owned.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
            for prefix in left {
                if let Err(error) = self.clean_up(&prefix).await {
                    eprintln!("chaos: could not delete what begins with {prefix}: {error:#}");
                }
            }
            return;
        };
        let mut hold = hold.lock().await;
        // It ends with its input; a signal says so without giving up the pipe.
        if let Some(id) = hold.child.id() {
            let _ = Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await;
        }
        if timeout(STARTUP_MAX, hold.child.wait()).await.is_err() {
            eprintln!("chaos: a broker did not end in time");
        }
    }

    async fn order(&self, order: &str, answer: &str) -> Result<()> {
        let mut hold = self.hold.as_ref().context("this broker is not ours to operate")?.lock().await;
        hold.orders.write_all(format!("{order}\n").as_bytes()).await?;
        let address = hold.answer(answer).await.with_context(|| format!("the order {order}"))?;
        if !address.urls.is_empty() {
            *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        }
        Ok(())
    }
}

impl Hold {
    /// Reads up to this word, and what is told before it.
    async fn answer(&mut self, word: &str) -> Result<Address> {
        let mut address = Address::default();
        let answered = async {
            while let Some(line) = self.answers.next_line().await? {
                match line.split_once('=') {
                    Some((name, url)) if name.starts_with("AMQP_URL") => address.urls.push(url.to_owned()),
                    Some(("RABBITMQCTL" | "RABBITMQCTL_1", words)) => {
                        address.ctl = words.split_whitespace().map(str::to_owned).collect();
                    }
                    Some(_) => {}
                    None if line == word => return Ok(()),
                    None => bail!("deploy/rabbitmq/{} says {line:?} and not {word}", self.name),
                }
            }
            bail!("deploy/rabbitmq/{} gave up; why stands above", self.name)
        };
        let late = || format!("deploy/rabbitmq/{} does not answer", self.name);
        timeout(STARTUP_MAX, answered).await.with_context(late)??;
        Ok(address)
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rabbitmq").join(name)
}

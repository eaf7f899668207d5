//! The worker as a process of its own, behind a proxy of its own.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::broker::Broker;
use super::proxy::Proxy;

/// How long a process may take to end, whatever its own grace period is.
const END_MAX: Duration = Duration::from_secs(60);
/// How long a worker may take until it takes letters, or gets to something else that is expected of it.
pub(crate) const START_MAX: Duration = Duration::from_secs(90);
/// The last log lines that are kept, to be shown when something is wrong.
const LINES_KEPT_MAX: usize = 60;

/// What a process has told on its way.
#[derive(Default)]
struct Log {
    counts: watch::Sender<BTreeMap<String, u64>>,
    last: Mutex<VecDeque<String>>,
}

/// A worker; killed when it is dropped.
pub(crate) struct Worker {
    child: Child,
    /// The network between it and its broker.
    pub(crate) proxy: Proxy,
    log: Arc<Log>,
    reading: JoinHandle<()>,
    started: Instant,
    _config: NamedTempFile,
}

impl Worker {
    /// Starts `run` with this configuration and these variables, at this broker by way of a proxy.
    ///
    /// All that it tells is kept in the folder that `CHAOS_LOGS` names, in a file called after `name`.
    pub(crate) async fn start(
        name: &str,
        broker: &Arc<Broker>,
        toml: &str,
        environment: &[(String, String)],
    ) -> Result<Worker> {
        let proxy = Proxy::start(broker).await?;
        let config = NamedTempFile::new()?;
        std::fs::write(config.path(), toml)?;
        let urls: Vec<String> = proxy.urls().iter().map(|url| format!("{url}?heartbeat=2")).collect();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cancel-worker"))
            .arg("run")
            .arg("--config")
            .arg(config.path())
            .env_clear()
            .env("CANCEL_WORKER__AMQP__URL", urls.join(","))
            .envs(std::env::var("CHAOS_LOG").map(|filter| ("CANCEL_WORKER_LOG", filter)))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start the worker")?;
        let log = Arc::new(Log::default());
        let file = match std::env::var_os("CHAOS_LOGS") {
            Some(folder) => {
                let id = child.id().unwrap_or_default();
                Some(std::fs::File::create(std::path::Path::new(&folder).join(format!("{name}-{id}.log")))?)
            }
            None => None,
        };
        let stderr = child.stderr.take().context("stderr is piped")?;
        let reading = tokio::spawn(read(stderr, Arc::clone(&log), file));
        Ok(Worker { child, proxy, log, reading, started: Instant::now(), _config: config })
    }

    /// How often it has told of this event.
    pub(crate) fn told(&self, event: &str) -> u64 {
        self.log.counts.borrow().get(event).copied().unwrap_or_default()
    }

    /// Waits until it has told of this event so often.
    pub(crate) async fn wait_told(&self, event: &str, times: u64, within: Duration) -> Result<()> {
        let mut counts = self.log.counts.subscribe();
        let enough = |counts: &BTreeMap<String, u64>| counts.get(event).copied().unwrap_or_default() >= times;
        let waited = timeout(within, counts.wait_for(enough)).await;
        waited.with_context(|| format!("no `{event}` within {within:?}:\n{}", self.last_words()))??;
        Ok(())
    }

    /// Waits until it takes letters, and says how long that took from its start.
    pub(crate) async fn working(&self) -> Result<Duration> {
        self.wait_told("generation_started", 1, START_MAX).await?;
        Ok(self.started.elapsed())
    }

    /// Its last log lines.
    pub(crate) fn last_words(&self) -> String {
        let last = self.log.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// SIGKILL. What it had said, and what had not come through, is lost with it.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.start_kill()?;
        // Before the proxy can pass on what the dead has said.
        self.proxy.cut_all();
        timeout(END_MAX, self.child.wait()).await.context("it survives SIGKILL")??;
        Ok(())
    }

    /// Sends SIGTERM.
    pub(crate) async fn terminate(&self) -> Result<()> {
        let id = self.child.id().context("it has ended")?;
        Command::new("kill").args(["-s", "TERM", &id.to_string()]).status().await?;
        Ok(())
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let status = timeout(END_MAX, self.child.wait()).await;
        let status = status.with_context(|| format!("it does not end:\n{}", self.last_words()))??;
        let _ = timeout(Duration::from_secs(5), &mut self.reading).await;
        Ok(status)
    }
}

async fn read(from: ChildStderr, log: Arc<Log>, mut file: Option<std::fs::File>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(file) = &mut file {
            // Only a help in looking for what is wrong.
            let _ = writeln!(file, "{line}");
        }
        let event = serde_json::from_str::<Value>(&line).ok();
        let name = event.as_ref().and_then(|event| event["event"].as_str()).unwrap_or("?").to_owned();
        if !matches!(name.as_str(), "decided" | "isolated" | "interrupted") {
            let mut last = log.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LINES_KEPT_MAX {
                last.pop_front();
            }
            last.push_back(line);
        }
        log.counts.send_modify(|counts| *counts.entry(name).or_default() += 1);
    }
}

//! The binary as a process of its own: started, read, signalled, killed.

use std::io::Write as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::stage::{PATIENCE, Stage};

/// What a process has written to one of its two streams so far, line by line.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    changed: Arc<Notify>,
}

impl Lines {
    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything so far, as it was written.
    pub(crate) fn text(&self) -> String {
        self.all().join("\n")
    }

    /// All log lines so far of this event, where the log is JSON.
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        self.all()
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["event"] == name)
            .collect()
    }

    /// Waits for the first line that `is` says yes to.
    pub(crate) async fn wait_for(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Interest is registered before the look, so that no change is missed.
                changed.as_mut().enable();
                if let Some(line) = self.all().into_iter().find(|line| is(line)) {
                    return line;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(line) => Ok(line),
            Err(_) => bail!("no {what} within {PATIENCE:?}; so far:\n{}", self.text()),
        }
    }

    /// Waits for the first line from number `from` on that `is` says yes to, and looks at no line twice. Gives it,
    /// and the number of the next.
    #[allow(dead_code, reason = "for what measures, and shares this with the tests")]
    pub(crate) async fn wait_from(
        &self,
        from: usize,
        what: &str,
        is: impl Fn(&str) -> bool,
    ) -> Result<(String, usize)> {
        let mut next = from;
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let found = {
                    let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                    let at = lines.iter().skip(next).position(|line| is(line));
                    let found = at.map(|at| (lines[next + at].clone(), next + at + 1));
                    next = lines.len();
                    found
                };
                if let Some(found) = found {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => Ok(found),
            Err(_) => bail!("no {what} within {PATIENCE:?}"),
        }
    }

    /// Waits for the first log line of this event, where the log is JSON.
    pub(crate) async fn event(&self, name: &str) -> Result<Value> {
        let is = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["event"] == name);
        Ok(serde_json::from_str(&self.wait_for(&format!("event `{name}`"), is).await?)?)
    }

    fn read(&self, from: impl AsyncRead + Send + Unpin + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                lines.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                lines.changed.notify_waiters();
            }
        })
    }
}

/// A process, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// Standard output: results.
    pub(crate) stdout: Lines,
    /// Standard error: log lines.
    pub(crate) stderr: Lines,
    reading: Vec<JoinHandle<()>>,
    _config: Option<NamedTempFile>,
}

/// A process that has ended.
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// All of standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: Lines,
}

impl Process {
    /// Starts the binary with these arguments in an environment of nothing but these variables.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Process> {
        Process::start_with(arguments, environment, Stdio::piped(), Stdio::piped())
    }

    fn start_with(
        arguments: &[&str],
        environment: &[(&str, &str)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Process> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cancel-worker"))
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .context("failed to start the binary")?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let reading = [
            child.stdout.take().map(|from| stdout.read(from)),
            child.stderr.take().map(|from| stderr.read(from)),
        ];
        let reading = reading.into_iter().flatten().collect();
        Ok(Process { child, stdout, stderr, reading, _config: None })
    }

    /// Starts `run` for this stage, with these variables on top.
    pub(crate) fn work(stage: &Stage, environment: &[(&str, &str)]) -> Result<Process> {
        Process::run(stage.toml(), environment)
    }

    /// Starts `run` with this configuration.
    pub(crate) fn run(toml: &str, environment: &[(&str, &str)]) -> Result<Process> {
        Process::run_with(toml, environment, Stdio::piped(), Stdio::piped())
    }

    /// Starts `run` for this stage with both its streams in one pipe that is full, and that nobody reads while what is
    /// returned beside it lives.
    pub(crate) fn work_unread(
        stage: &Stage,
        environment: &[(&str, &str)],
    ) -> Result<(Process, std::io::PipeReader)> {
        /// What a pipe of Linux holds.
        const PIPE_BYTES: usize = 65_536;
        let (unread, mut full) = std::io::pipe()?;
        full.write_all(&[b'\n'; PIPE_BYTES])?;
        let process = Process::run_with(stage.toml(), environment, full.try_clone()?.into(), full.into())?;
        Ok((process, unread))
    }

    fn run_with(toml: &str, environment: &[(&str, &str)], stdout: Stdio, stderr: Stdio) -> Result<Process> {
        let config = NamedTempFile::new()?;
        std::fs::write(config.path(), toml)?;
        let path = config.path().to_str().context("a path of ours is text")?;
        let mut process = Process::start_with(&["run", "--config", path], environment, stdout, stderr)?;
        process._config = Some(config);
        Ok(process)
    }

    /// Starts `run` for this stage with the broker behind another address.
    pub(crate) fn work_through(stage: &Stage, url: &str) -> Result<Process> {
        Process::work(stage, &[("CANCEL_WORKER__AMQP__URL", url)])
    }

    /// Gives it this on standard input, and ends that.
    pub(crate) async fn say(&mut self, text: &str) -> Result<()> {
        let mut stdin = self.child.stdin.take().context("standard input has ended")?;
        stdin.write_all(text.as_bytes()).await?;
        Ok(())
    }

    /// The most memory that it has taken so far, in KiB.
    pub(crate) fn resident_kib_max(&self) -> Result<u64> {
        let id = self.child.id().context("the process has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(peak.trim().trim_end_matches(" kB").parse()?)
    }

    /// SIGKILL: it does nothing more, not even say goodbye.
    pub(crate) async fn kill(mut self) -> Result<Ended> {
        self.child.start_kill()?;
        self.ended().await
    }

    /// Sends a signal by its name: `TERM`, `INT`.
    pub(crate) async fn signal(&self, name: &str) -> Result<()> {
        let id = self.child.id().context("the process has ended")?;
        let kill = format!("kill -s {name} {id}");
        let sent = Command::new("sh").args(["-c", &kill]).status().await?;
        ensure!(sent.success(), "`{kill}` failed");
        Ok(())
    }

    /// Waits until it ends.
    pub(crate) async fn ended(mut self) -> Result<Ended> {
        drop(self.child.stdin.take());
        let status: ExitStatus = match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status?,
            Err(_) => bail!("it does not end within {PATIENCE:?}; so far:\n{}", self.stderr.text()),
        };
        for reading in self.reading {
            reading.await?;
        }
        Ok(Ended { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr })
    }

    /// Sends a signal and waits until it ends.
    pub(crate) async fn stop_by(self, name: &str) -> Result<Ended> {
        self.signal(name).await?;
        self.ended().await
    }
}

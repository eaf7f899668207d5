//! The one RabbitMQ that all tests share, and the ways to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use url::Url;

const AMQP: u16 = 5672;
const AMQPS: u16 = 5671;
const MANAGEMENT: u16 = 15672;

/// The room for the data of a broker that we start, in memory.
const DATA_BYTES_MAX: u64 = 2 << 30;

/// How long a broker that we started may take until it speaks.
const STARTUP_MAX: Duration = Duration::from_secs(120);
/// How long one connection may take to open.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long the deletes after one test may take.
const CLEAN_UP_MAX: Duration = Duration::from_secs(30);
/// How long a broker that we started may take to go away.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long one answer of the management API may take.
const MANAGEMENT_MAX: Duration = Duration::from_secs(15);
/// How long one `rabbitmqctl` may take.
const CTL_MAX: Duration = Duration::from_secs(60);

/// A RabbitMQ: given to us, or started by us.
pub(crate) struct Broker {
    url: String,
    management_url: Option<String>,
    version: String,
    way: String,
    /// What `deploy/rabbitmq/hold` starts another one from, if there may be another.
    kind: Option<[String; 2]>,
    /// The words that start a `rabbitmqctl` for this broker, if it is ours to operate.
    ctl: Option<Vec<String>>,
    hold: tokio::sync::Mutex<Hold>,
    /// What the tests declared and did not delete yet, by their prefixes.
    owned: Mutex<BTreeMap<String, Owned>>,
    /// The prefixes of all tests, to tell their traces from other people's names.
    prefixes: Mutex<BTreeSet<String>>,
}

/// What keeps a broker running, and ends it.
enum Hold {
    /// Not ours to end, or ended.
    Nothing,
    Container(Box<ContainerAsync<GenericImage>>),
    /// Ends when its stdin does.
    Script(Child),
}

/// How a broker is reached and held.
struct Reached {
    url: String,
    management_url: Option<String>,
    way: String,
    kind: Option<[String; 2]>,
    ctl: Option<Vec<String>>,
    hold: Hold,
}

/// What one test has declared.
#[derive(Default)]
struct Owned {
    queues: BTreeSet<String>,
    exchanges: BTreeSet<String>,
}

impl Owned {
    fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.exchanges.is_empty()
    }
}

impl Broker {
    /// Finds the way to a broker, goes it, and makes sure that somebody answers there.
    ///
    /// `AMQP_URL` and `RABBITMQ_IMAGE` decide; where neither is set, or `BROKER` forces a way, `deploy/rabbitmq/choose`
    /// looks what this machine offers. `RABBITMQ_VERSION` is the version that it prefers.
    pub(crate) async fn obtain() -> Result<Self> {
        match (set("BROKER"), set("AMQP_URL"), set("RABBITMQ_IMAGE")) {
            (None, Some(url), _) => Self::given(url).await,
            (None, None, Some(image)) => Self::container(&image).await,
            (Some(_), _, _) | (None, None, None) => Self::chosen().await,
        }
    }

    async fn chosen() -> Result<Self> {
        let version = set("RABBITMQ_VERSION").unwrap_or_else(|| "4.0".to_owned());
        let choice = Command::new(script("choose"))
            .args(["--version", &version])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run deploy/rabbitmq/choose; AMQP_URL helps")?
            .wait_with_output()
            .await?;
        ensure!(choice.status.success(), "there is no way to one on this machine; what helps stands above");
        let choice = String::from_utf8(choice.stdout)?;
        match choice.trim().split_once(' ') {
            None if choice.trim() == "url" => {
                Self::given(set("AMQP_URL").context("AMQP_URL is not set")?).await
            }
            Some(("image", image)) => Self::container(image).await,
            Some(("native", version)) => Self::native(version).await,
            Some(_) | None => bail!("deploy/rabbitmq/choose says {choice:?}"),
        }
    }

    async fn given(url: String) -> Result<Self> {
        let address: Url = url.parse().context("AMQP_URL is no URL")?;
        let host = address.host_str().context("AMQP_URL names no host")?;
        let way = format!("{host}:{}{}, as AMQP_URL says", port(&address), address.path());
        let management_url = set("RABBITMQ_MANAGEMENT_URL");
        Self::reach(Reached { url, management_url, way, kind: None, ctl: None, hold: Hold::Nothing }).await
    }

    async fn container(image: &str) -> Result<Self> {
        let (name, tag) = match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            Some(_) | None => (image, "latest"),
        };
        let mut request = GenericImage::new(name, tag)
            .with_exposed_port(AMQP.tcp())
            .with_exposed_port(MANAGEMENT.tcp())
            .with_wait_for(WaitFor::message_on_stdout("Server startup complete"))
            .with_startup_timeout(STARTUP_MAX)
            // A disk's patience is not what is tested; the broker's promises are the same in memory.
            .with_shm_size(DATA_BYTES_MAX)
            .with_env_var("RABBITMQ_MNESIA_BASE", "/dev/shm/rabbitmq")
            .with_label(
                "cancel-worker.run",
                set("CANCEL_WORKER_RUN").unwrap_or_else(|| "by-hand".to_owned()),
            );
        let elsewhere = set("DOCKER_HOST").is_some_and(|host| host.starts_with("tcp://"));
        if !elsewhere {
            // Everybody may be guest on this broker, so nobody but us should reach it.
            request = request.with_host_config_modifier(|config| {
                config.publish_all_ports = Some(false);
                let bindings = config.port_bindings.get_or_insert_default();
                for port in [AMQP, MANAGEMENT] {
                    let here = bindings.entry(format!("{port}/tcp")).or_default().get_or_insert_default();
                    here.push(Default::default());
                    here[0].host_ip = Some("127.0.0.1".to_owned());
                }
            });
        }
        let container =
            request.start().await.with_context(|| format!("failed to start a container of {image}"))?;
        let host = container.get_host().await?;
        let amqp = container.get_host_port_ipv4(AMQP).await?;
        let management = container.get_host_port_ipv4(MANAGEMENT).await?;
        let spoken = String::from_utf8_lossy(&container.stdout_to_vec().await?).into_owned();
        let ctl = ["docker", "exec", container.id(), "rabbitmqctl"].map(str::to_owned).to_vec();
        Self::reach(Reached {
            url: format!("amqp://guest:guest@{host}:{amqp}/%2f"),
            management_url: spoken
                .contains("* rabbitmq_management")
                .then(|| format!("http://guest:guest@{host}:{management}")),
            way: format!("a container of {image}"),
            kind: Some(["image", image].map(str::to_owned)),
            ctl: Some(ctl),
            hold: Hold::Container(Box::new(container)),
        })
        .await
    }

    async fn native(version: &str) -> Result<Self> {
        let way = "a private node of the installed rabbitmq-server";
        let (reached, _) = held(["native", version].map(str::to_owned), way, &[]).await?;
        Self::reach(reached).await
    }

    /// Another broker of the same kind, with what lies in this folder as part of its configuration, and the port at which
    /// it speaks TLS. `None` where a broker was given to us: then we start none.
    pub(crate) async fn another(&self, folder: &Path) -> Option<Result<(Self, u16)>> {
        let kind = self.kind.clone()?;
        Some(
            async {
                let folder = folder.to_str().context("a path of ours is text")?;
                let way = format!("another of the kind of {}", self.way);
                let (reached, told) = held(kind, &way, &[folder]).await?;
                let port = told.get("AMQPS_PORT").context("hold did not tell AMQPS_PORT")?.parse()?;
                Ok((Self::reach(reached).await?, port))
            }
            .await,
        )
    }

    /// Makes sure that a RabbitMQ which serves us answers there.
    async fn reach(reached: Reached) -> Result<Self> {
        let Reached { url, management_url, way, kind, ctl, hold } = reached;
        let address = url.clone();
        let version = tokio::task::spawn_blocking(move || server_version(&address))
            .await?
            .with_context(|| format!("no RabbitMQ answers at {way}"))?;
        ensure!(!is_too_old(&version), "RabbitMQ {version} at {way} is too old: 3.10 is the least");
        let broker = Self {
            url,
            management_url,
            version,
            way,
            kind,
            ctl,
            hold: tokio::sync::Mutex::new(hold),
            owned: Mutex::default(),
            prefixes: Mutex::default(),
        };
        let connection = broker.connect().await.with_context(|| format!("not let in at {}", broker.way))?;
        close(connection).await;
        Ok(broker)
    }

    /// The address, with user and password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What the management API says at this path (`/api/bindings`). `None` where there is none: of a given broker, unless
    /// `RABBITMQ_MANAGEMENT_URL` (with user and password) says where.
    pub(crate) async fn management(&self, path: &str) -> Option<Result<serde_json::Value>> {
        let url = self.management_url.as_ref()?;
        Some(ask(url, path).await.with_context(|| format!("the management API at {path}")))
    }

    /// The address of the management API, with user and password. `None` where there is none: of a given broker, unless
    /// `RABBITMQ_MANAGEMENT_URL` says where.
    pub(crate) fn management_url(&self) -> Option<&str> {
        self.management_url.as_deref()
    }

    /// What the broker calls its version, as `4.0.5`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Runs `rabbitmqctl` with these arguments and returns what it printed. `None` for a broker that is not ours to operate.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> Option<Result<String>> {
        let words = self.ctl.as_ref()?;
        let told = run(words.iter().map(String::as_str).chain(arguments.iter().copied())).await;
        Some(told.with_context(|| format!("rabbitmqctl {}", arguments.join(" "))))
    }

    /// Does the broker go away with all that is in it when a signal ends us?
    pub(super) async fn is_watched(&self) -> bool {
        matches!(*self.hold.lock().await, Hold::Container(_))
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let connecting = Connection::connect(self.url(), ConnectionProperties::default());
        Ok(timeout(CONNECT_MAX, connecting).await.context("the broker did not answer in time")??)
    }

    /// Notes what the test with this prefix declares.
    pub(super) fn own(
        &self,
        prefix: &str,
        queues: impl IntoIterator<Item = String>,
        exchanges: impl IntoIterator<Item = String>,
    ) {
        let ours = |name: &String| assert!(name.starts_with(prefix), "{name} does not start with {prefix}");
        locked(&self.prefixes).insert(prefix.to_owned());
        let mut owned = locked(&self.owned);
        let owned = owned.entry(prefix.to_owned()).or_default();
        owned.queues.extend(queues.into_iter().inspect(ours));
        owned.exchanges.extend(exchanges.into_iter().inspect(ours));
    }

    /// Deletes what the test with this prefix declared.
    pub(super) async fn clean_up(&self, prefix: &str) -> Result<()> {
        let owned = locked(&self.owned).remove(prefix);
        match owned {
            Some(owned) if !owned.is_empty() => {
                timeout(CLEAN_UP_MAX, self.delete(&owned)).await.context("the deletes did not end in time")?
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Deletes what all tests declared and did not delete yet.
    pub(super) async fn clean_up_all(&self) -> Result<()> {
        let prefixes: Vec<String> = locked(&self.owned).keys().cloned().collect();
        for prefix in prefixes {
            self.clean_up(&prefix).await?;
        }
        Ok(())
    }

    async fn delete(&self, owned: &Owned) -> Result<()> {
        let connection = self.connect().await?;
        let mut failures = Vec::new();
        let mut channel = connection.create_channel().await?;
        // Queues first: nothing can flow into an exchange that is gone, but a letter can still be on its way.
        for queue in &owned.queues {
            // What does not exist counts as deleted.
            if let Err(error) =
                channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await
            {
                failures.push(format!("queue {queue}: {error}"));
                // The broker closes a channel on which something failed.
                channel = connection.create_channel().await?;
            }
        }
        for exchange in &owned.exchanges {
            let deleted =
                channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await;
            if let Err(error) = deleted {
                failures.push(format!("exchange {exchange}: {error}"));
                channel = connection.create_channel().await?;
            }
        }
        close(connection).await;
        ensure!(failures.is_empty(), "failed to delete {}", failures.join(", "));
        Ok(())
    }

    /// Names of queues and exchanges that the tests declared and did not name for cleanup. Where we may not ask, none.
    pub(super) async fn left_behind(&self) -> Result<Vec<String>> {
        let mut left_behind = Vec::new();
        for list in ["list_queues", "list_exchanges"] {
            let Some(names) = self.ctl(&["--silent", list, "name"]).await else { break };
            let prefixes = locked(&self.prefixes);
            let ours = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
            left_behind.extend(names?.lines().filter(ours).map(str::to_owned));
        }
        Ok(left_behind)
    }

    /// Ends what was started.
    pub(crate) async fn stop(&self) {
        let hold = std::mem::replace(&mut *self.hold.lock().await, Hold::Nothing);
        match hold {
            Hold::Nothing => {}
            // Removes it, unless TESTCONTAINERS_COMMAND=keep asks for keeping it.
            Hold::Container(container) => drop(container),
            Hold::Script(mut child) => {
                drop(child.stdin.take());
                if timeout(STOP_MAX, child.wait()).await.is_err() {
                    eprintln!("broker: the private node did not end within {STOP_MAX:?}");
                }
            }
        }
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RabbitMQ {} ({})", self.version, self.way)
    }
}

/// Has `deploy/rabbitmq/hold` start a broker, and reads what it tells.
async fn held(kind: [String; 2], way: &str, folder: &[&str]) -> Result<(Reached, BTreeMap<String, String>)> {
    let mut child = Command::new(script("hold"))
        .args(&kind)
        .args(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run deploy/rabbitmq/hold")?;
    let stdout = child.stdout.take().context("hold has no stdout")?;
    let mut told = BTreeMap::new();
    let mut lines = BufReader::new(stdout).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            match line.split_once('=') {
                Some((name, value)) => drop(told.insert(name.to_owned(), value.to_owned())),
                None => return Ok(()),
            }
        }
        bail!("deploy/rabbitmq/hold gave up; why stands above")
    };
    // It bounds its own waiting, and tries three times.
    timeout(3 * STARTUP_MAX, ready).await.context("deploy/rabbitmq/hold never came to an end")??;
    let tell = |name: &str| told.get(name).cloned().with_context(|| format!("hold did not tell {name}"));
    let reached = Reached {
        url: tell("AMQP_URL")?,
        management_url: told.get("RABBITMQ_MANAGEMENT_URL").cloned(),
        way: way.to_owned(),
        ctl: Some(match kind[0].as_str() {
            // One path, whatever is in it.
            "native" => vec![tell("RABBITMQCTL")?],
            _ => tell("RABBITMQCTL")?.split(' ').map(str::to_owned).collect(),
        }),
        kind: Some(kind),
        hold: Hold::Script(child),
    };
    Ok((reached, told))
}

/// Runs a command and returns what it printed.
async fn run<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<String> {
    let mut command = Command::new(words.next().context("no command")?);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(CTL_MAX, command.output()).await.context("it did not end in time")??;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Asks the management API, as the user that the address names.
async fn ask(url: &str, path: &str) -> Result<serde_json::Value> {
    let mut url: Url = url.parse()?;
    let (user, password) = (url.username().to_owned(), url.password().map(str::to_owned));
    let _ = url.set_username("");
    let _ = url.set_password(None);
    // Somebody else may have been first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(MANAGEMENT_MAX).build()?;
    let reply = client.get(url.join(path)?).basic_auth(user, password).send().await?.error_for_status()?;
    Ok(serde_json::from_slice(&reply.bytes().await?)?)
}

/// The variable, unless it is absent or empty.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rabbitmq").join(name)
}

fn port(address: &Url) -> u16 {
    match (address.port(), address.scheme()) {
        (Some(port), _) => port,
        (None, "amqps") => AMQPS,
        (None, _) => AMQP,
    }
}

/// Dead-lettering that loses nothing came with 3.10.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < (3, 10),
        (_, _) => false,
    }
}

/// A panic of one test leaves a list of names that is as good as before.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Politely, and without waiting for a broker that does not answer: it ends with our socket anyway.
async fn close(connection: Connection) {
    let _ = timeout(CONNECT_MAX, connection.close(200, "done".into())).await;
}

/// Reads the version from the greeting, which the client library keeps to itself. Behind TLS nobody can look.
fn server_version(url: &str) -> Result<String> {
    const GREETING_BYTES_MAX: usize = 16 * 1024;
    /// A short string `version`, and the type letter of the long string that follows.
    const KEY: &[u8] = b"\x07versionS";

    let address: Url = url.parse()?;
    if address.scheme() == "amqps" {
        return Ok("of unknown version, behind TLS".to_owned());
    }
    let host = address.host_str().context("no host")?;
    let mut found = (host.trim_matches(['[', ']']), port(&address)).to_socket_addrs()?;
    let mut stream = found
        .find_map(|address| TcpStream::connect_timeout(&address, CONNECT_MAX).ok())
        .context("nobody takes connections")?;
    stream.set_read_timeout(Some(CONNECT_MAX))?;
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    let mut greeting = vec![0; GREETING_BYTES_MAX];
    let mut length = 0;
    // A frame has a header of seven bytes, of which the last four are the size of what follows, and one byte at its end.
    while length < 8
        || length < 8 + u32::from_be_bytes([greeting[3], greeting[4], greeting[5], greeting[6]]) as usize
    {
        let read = stream.read(&mut greeting[length..])?;
        ensure!(read > 0, "it hung up, so it is no RabbitMQ");
        length += read;
    }
    let start =
        greeting.windows(KEY.len()).position(|window| window == KEY).context("it tells no version")?;
    let (size, text) =
        greeting[start + KEY.len()..].split_first_chunk::<4>().context("the greeting is cut off")?;
    let text = text.get(..u32::from_be_bytes(*size) as usize).context("the greeting is cut off")?;
    Ok(String::from_utf8(text.to_vec())?)
}

//! The configuration: one TOML file, overridden by the environment, read completely before anything connects.
//!
//! All mistakes are reported at once, by key and never by value.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::domain::intent::{Api, Kind, MerchantName};
use crate::domain::policy::Policy;

mod addresses;
mod describe;
mod files;
mod hints;
mod keys;
mod load;
mod mistakes;
mod reader;
mod secrets;
mod source;
#[cfg(test)]
mod tests;
mod values;

pub use addresses::{AMQP_PARAMETERS, check_gateway_url, unknown_amqp_parameter};
pub use describe::describe;
pub use load::{default_tiers, host_name, load, load_amqp};
pub use mistakes::{Invalid, Location, Mistake, Mistakes};
pub use secrets::{ReadAgain, SecretFile, read_again};
pub use values::parse_duration;

/// Everything that `run` needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[worker]`.
    pub worker: Worker,
    /// `[amqp]`.
    pub amqp: Amqp,
    /// `[lanes]`: the kinds that are served, and how many deliveries of each are held at once.
    pub lanes: BTreeMap<Kind, u16>,
    /// `[gateway]`.
    pub gateway: Gateway,
    /// `[merchants.<name>]`.
    pub merchants: BTreeMap<MerchantName, Merchant>,
    /// `[retry]`, `[inquiry]`, `[rollback]`, `[same_day]`, `[classification]`.
    pub policy: Policy,
    /// `admin.listen`; `None`: off.
    pub admin_listen: Option<SocketAddr>,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `shutdown.grace`: how long a drain may take.
    pub grace: Duration,
    /// Every file that a secret was read from.
    pub secret_files: Vec<SecretFile>,
}

impl Config {
    /// Keys that are set and have no effect in this version: logged at the start, so that operators do not rely on them.
    pub fn without_effect(&self) -> Vec<String> {
        let mut keys = Vec::new();
        if self.admin_listen.is_some() {
            keys.push("admin.listen".to_owned());
        }
        if self.telemetry.otlp_endpoint.is_some() {
            keys.push("telemetry.otlp_endpoint".to_owned());
        }
        keys
    }
}

/// `[worker]`.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The `source` of our outcome events: one constant per deployment.
    pub source: String,
    /// The instance's name.
    pub name: String,
}

/// `[amqp]`.
#[derive(Debug, Clone)]
pub struct Amqp {
    /// The broker's addresses, at least one. They carry passwords.
    pub urls: Vec<SecretString>,
    /// The management API's address. It carries a password.
    pub management_url: Option<SecretString>,
    /// What the name of every exchange and queue begins with.
    pub prefix: String,
    /// What `run` does about missing queues, exchanges and bindings.
    pub declare: Declare,
    /// `[amqp.tls]`.
    pub tls: AmqpTls,
}

/// What `run` does about missing queues, exchanges and bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declare {
    /// It declares them, and changes nothing that is there.
    Missing,
    /// It declares nothing.
    Nothing,
}

/// `[amqp.tls]`, all optional: files in PEM form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AmqpTls {
    /// The authorities that are trusted to issue the broker's certificate, instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate.
    pub client_cert_file: Option<PathBuf>,
    /// Our certificate's key.
    pub client_key_file: Option<PathBuf>,
}

/// `[gateway]`.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The base address of each API that a served kind needs.
    pub urls: BTreeMap<Api, Url>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long the whole exchange of one call may take.
    pub call_timeout: Duration,
    /// Whether plain HTTP is allowed to hosts other than the loopback.
    pub plain_http: PlainHttp,
    /// Whether calls carry `traceparent` to the gateway.
    pub trace_headers: TraceHeaders,
    /// `[gateway.<api>]`.
    pub limits: BTreeMap<Api, Limits>,
    /// `gateway.tls.ca_file`: a PEM file of authorities that are trusted beside the machine's.
    pub ca_file: Option<PathBuf>,
    /// `batch.callback_url`; there when the batch lane is served.
    pub batch_callback_url: Option<Url>,
}

/// Where plain HTTP may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// To this machine only.
    Loopback,
    /// Anywhere: `gateway.allow_http`.
    Anywhere,
}

/// Whether calls carry our trace to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceHeaders {
    /// `traceparent` is sent.
    Sent,
    /// `traceparent` is not sent.
    Kept,
}

/// `[gateway.<api>]`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// The most calls at once.
    pub concurrency: Option<u32>,
    /// The most calls a second.
    pub rate: Option<f64>,
}

/// `[merchants.<name>]`.
#[derive(Debug, Clone, Default)]
pub struct Merchant {
    /// `private_key`, `private_client`: PhysicalAPI and PaymentPrivateAPI.
    pub private: Option<KeyPair>,
    /// `public_key`, `public_client`: PaymentAPI.
    pub public: Option<KeyPair>,
}

/// One pair of keys of the gateway.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// `apikeyprivate` or `apikeypublic`.
    pub key: SecretString,
    /// `apiclientprivate` or `apiclientpublic`.
    pub client: SecretString,
}

/// `[telemetry]`.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Where spans and metrics are sent; `None`: nowhere.
    pub otlp_endpoint: Option<Url>,
    /// Which part of the traces that begin with us is sampled, from 0 to 1.
    pub sample_ratio: f64,
    /// How log lines are written.
    pub log: LogFormat,
    /// From which level on they are written, unless the environment has a filter.
    pub level: LogLevel,
}

/// From which level on log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What an operator must act upon.
    Error,
    /// And faults that pass without an operator.
    Warn,
    /// And the life of the process, and one line for each intent that is decided.
    Info,
    /// And every step.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All of them, the most silent first.
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

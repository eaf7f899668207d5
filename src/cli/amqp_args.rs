//! How the commands that only speak to the broker find it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::{ConfigArgs, Failure};
use crate::amqp::preflight::Requirements;
use crate::amqp::{Broker, Timeouts, Topology};
use crate::config::{Amqp, AmqpTls, Declare};
use crate::domain::retry::Tiers;
use crate::management::Management;
use crate::worker;

/// Where the broker is: the configuration says it, or these options do.
#[derive(Debug, Args)]
pub(super) struct AmqpArgs {
    /// The configuration file, as `run` reads it; of it `amqp` and `retry.delays` are enough
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "ca_file", "prefix"])]
    config: Option<PathBuf>,
    /// The broker's address, where there is no configuration [default: the environment variable AMQP_URL]
    #[arg(long, value_name = "AMQP_URL")]
    url: Option<String>,
    /// The authorities of which one has issued the broker's certificate (PEM), where there is no configuration and the
    /// address is amqps:// [default: those that this machine trusts]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// What the name of every exchange and queue begins with, where there is no configuration [default: cancel]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
}

/// Where the broker's management API is: the configuration says it, or this does.
#[derive(Debug, Args)]
pub(super) struct ManagementArgs {
    /// The management API's address [default: what the configuration says; without one, the environment variable
    /// RABBITMQ_MANAGEMENT_URL]
    #[arg(long, value_name = "URL")]
    management_url: Option<String>,
}

/// What such a command needs.
pub(super) struct Target {
    pub(super) broker: Broker,
    pub(super) topology: Topology,
}

/// Which of the two says where the broker is.
enum Given {
    Configuration(ConfigArgs),
    Address(String),
    Nothing,
}

impl AmqpArgs {
    pub(super) fn target(&self) -> Result<Target, Failure> {
        match self.given() {
            Given::Configuration(config) => {
                let (amqp, tiers) = config.load_amqp()?;
                target(amqp, &tiers)
            }
            Given::Address(url) => target(self.amqp_at(&url), &crate::config::default_tiers()),
            Given::Nothing => Err(which_broker()),
        }
    }

    /// The same for a person who looks whether the broker fits, with all that a look has to know.
    pub(super) fn target_with(&self, management: &ManagementArgs) -> Result<(Target, Requirements), Failure> {
        let given = management.management_url.clone();
        let (amqp, tiers, handling_max) = match self.given() {
            Given::Configuration(config) => {
                let (amqp, tiers) = config.load_amqp()?;
                // What is no whole configuration does not tell how long a letter may be in hand.
                let whole = config.load().ok();
                let handling_max = whole.map(|it| worker::handling_max(&it, &Timeouts::default()));
                let url = given.map(SecretString::from).or(amqp.management_url);
                (Amqp { management_url: url, ..amqp }, tiers, handling_max)
            }
            Given::Address(url) => {
                let given = given.or_else(|| std::env::var("RABBITMQ_MANAGEMENT_URL").ok());
                let given = given.filter(|url| !url.is_empty()).map(SecretString::from);
                let amqp = Amqp { management_url: given, ..self.amqp_at(&url) };
                (amqp, crate::config::default_tiers(), None)
            }
            Given::Nothing => return Err(which_broker()),
        };
        let management = amqp.management_url.as_ref().map(|url| Management::new(url, &amqp.tls)).transpose();
        let management = management.map_err(|error| Failure::input(error.to_string()))?;
        Ok((target(amqp, &tiers)?, Requirements { worker: None, handling_max, management }))
    }

    /// The topology, and what `run` does about it: for this no broker is needed.
    pub(super) fn topology(&self) -> Result<(Topology, Declare), Failure> {
        match self.given() {
            Given::Configuration(config) => {
                let (amqp, tiers) = config.load_amqp()?;
                Ok((Topology::new(&amqp.prefix, tiers.as_slice()), amqp.declare))
            }
            Given::Address(_) | Given::Nothing => {
                let tiers = crate::config::default_tiers();
                Ok((Topology::new(self.prefix(), tiers.as_slice()), Declare::Missing))
            }
        }
    }

    /// The virtual host of the address, or the one that every broker has.
    pub(super) fn vhost(&self) -> String {
        let broker = self.target().ok().map(|Target { broker, .. }| broker.first_vhost().to_owned());
        broker.unwrap_or_else(|| "/".to_owned())
    }

    /// What was written on the command line goes before what the environment happens to hold.
    fn given(&self) -> Given {
        let wants_no_file = self.url.is_some() || self.ca_file.is_some() || self.prefix.is_some();
        let file = match &self.config {
            Some(file) => Some(file.clone()),
            None if wants_no_file => None,
            None => std::env::var_os("CANCEL_WORKER_CONFIG").map(PathBuf::from),
        };
        match (file, self.url.clone().or_else(|| std::env::var("AMQP_URL").ok())) {
            (Some(file), _) => Given::Configuration(ConfigArgs { config: Some(file) }),
            (None, Some(url)) => Given::Address(url),
            (None, None) => Given::Nothing,
        }
    }

    fn amqp_at(&self, url: &str) -> Amqp {
        let tls = AmqpTls { ca_file: self.ca_file.clone(), ..AmqpTls::default() };
        Amqp { tls, ..amqp_at(url, self.prefix()) }
    }

    fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or("cancel")
    }
}

fn which_broker() -> Failure {
    Failure::input(
        "which broker? Give --config FILE or --url AMQP_URL, or set CANCEL_WORKER_CONFIG or AMQP_URL",
    )
}

/// The settings of a broker that is known by its address alone.
pub(super) fn amqp_at(url: &str, prefix: &str) -> Amqp {
    Amqp {
        urls: vec![SecretString::from(url.to_owned())],
        management_url: None,
        prefix: prefix.to_owned(),
        declare: Declare::Missing,
        tls: AmqpTls::default(),
    }
}

fn target(amqp: Amqp, tiers: &Tiers) -> Result<Target, Failure> {
    let broker =
        Broker::new(&amqp, "command line", one_shot()).map_err(|error| Failure::input(error.to_string()))?;
    let topology = Topology::new(&amqp.prefix, tiers.as_slice());
    Ok(Target { broker, topology })
}

/// A person waits for the answer.
fn one_shot() -> Timeouts {
    Timeouts { connect: Duration::from_secs(5), close: Duration::from_secs(2), ..Timeouts::default() }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

//! What sessions are built from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connect::{Broker, Timeouts};
use super::error::SettingsError;
use super::generation::Numbers;
use super::intake::{ConsumeMode, Intake};
use super::preflight::{Preflight, Requirements};
use super::topology::Topology;
use crate::clock::JitterSource;
use crate::config::Amqp;
use crate::domain::intent::Kind;
use crate::domain::retry::Tiers;
use crate::management::Management;
use crate::wire::envelope::Source;

/// What a session is built from. Outlives every generation; so do the permits in it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) broker: Broker,
    pub(super) topology: Arc<Topology>,
    pub(super) preflight: Preflight,
    pub(super) intake: Intake,
}

/// What generations are built by: those of all queues, and those of a queue that is consumed alone.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) settings: Settings,
    pub(super) jitter: JitterSource,
    pub(super) numbers: Numbers,
    pub(super) stop: CancellationToken,
}

impl Settings {
    /// From the configuration: `lanes` are the kinds that are served, each with its prefetch; `name` is the
    /// worker's instance.
    ///
    /// # Errors
    /// What is wrong with the addresses or the TLS files.
    pub fn new(
        amqp: &Amqp,
        name: &str,
        lanes: &BTreeMap<Kind, u16>,
        tiers: &Tiers,
        timeouts: Timeouts,
    ) -> Result<Settings, SettingsError> {
        let management =
            amqp.management_url.as_ref().map(|url| Management::new(url, &amqp.tls)).transpose()?;
        let requirements = Requirements { worker: Some(amqp.declare), handling_max: None, management };
        Ok(Settings {
            broker: Broker::new(amqp, name, timeouts)?,
            topology: Arc::new(Topology::new(&amqp.prefix, tiers.as_slice())),
            preflight: Preflight::new(requirements),
            intake: Intake::new(lanes),
        })
    }

    /// The same for letters that are in hand for `handling_max` at most, from their delivery to their ack: a broker that
    /// waits less long for an ack does not fit.
    pub fn for_handling_of(self, handling_max: Duration) -> Settings {
        let requirements =
            Requirements { handling_max: Some(handling_max), ..self.preflight.requirements().clone() };
        Settings { preflight: Preflight::new(requirements), ..self }
    }

    /// What is looked at before letters are taken.
    pub fn requirements(&self) -> &Requirements {
        self.preflight.requirements()
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Says how much of the lane of a kind is consumed from now on, whatever generation there is. At first it is
    /// everything. Its returns are consumed all the time.
    pub fn consume(&self, lane: Kind, mode: ConsumeMode) {
        self.intake.consume(Source::Lane(lane), mode);
    }

    /// How many deliveries are held, of whatever generation.
    pub fn held(&self) -> usize {
        self.intake.held()
    }
}

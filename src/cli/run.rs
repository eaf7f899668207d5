//! `run`: work until a signal comes.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::amqp_args::chain;
use super::{ConfigArgs, Failure, stop_signal};
use crate::amqp::{Settings, Stopped, Timeouts};
use crate::clock::{Clock, Dice};
use crate::gateway::Gateway;
use crate::telemetry::events;
use crate::telemetry::setup::{FILTER_VARIABLES, init};
use crate::worker::{self, Worker};

/// Work: take intents, call the gateway, announce outcomes, until a signal comes.
///
/// A wrong configuration is told completely, by key, before anything connects. Starting while the broker is down
/// waits for it; and while it does not fit (a queue is different, a policy changes one, a permission is missing), no
/// letter is taken: each finding is told with the command that mends it, and work begins when it is mended. SIGTERM and SIGINT stop taking letters, let those in hand be settled within the grace period, and
/// end with 0, or with 75 if some had to be given back.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
}

/// The grace period ended with letters given back to the broker (`EX_TEMPFAIL`).
const GAVE_BACK: u8 = 75;

impl Run {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let config = self.config.load()?;
        let gateway = Gateway::new(&config.gateway, &config.merchants)
            .map_err(|error| Failure::input(chain(&error)))?;
        let timeouts = Timeouts::default();
        let settings =
            Settings::new(&config.amqp, &config.worker.name, &config.lanes, &config.policy.tiers, timeouts)
                .map_err(|error| Failure::input(chain(&error)))?
                .for_handling_of(worker::handling_max(&config, &timeouts));
        let clock = Clock::system();
        let filter = FILTER_VARIABLES.iter().find_map(|name| std::env::var(name).ok());
        let _telemetry = init(&config.telemetry, filter.as_deref(), clock.clone())
            .map_err(|error| Failure::input(chain(&error)))?;
        let signal = stop_signal();
        for key in config.without_effect() {
            events::without_effect(&key);
        }
        events::started(env!("CARGO_PKG_VERSION"), &config.worker.name, &config.worker.source);

        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            events::stopping(signal.await);
            stopping.cancel();
        });
        let worker = Arc::new(Worker::new(&config, gateway, clock, Dice::system()));
        match worker::run(worker, &settings, &stop, config.grace).await {
            Stopped::Drained => Ok(ExitCode::SUCCESS),
            Stopped::GaveBack { .. } => Ok(ExitCode::from(GAVE_BACK)),
        }
    }
}

//! `run`: work until a signal comes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::amqp_args::chain;
use super::{ConfigArgs, Failure, stop_signal};
use crate::amqp::{Settings, Stopped, Timeouts, remarks};
use crate::clock::{Clock, JitterSource};
use crate::config::{self, Merchant, SecretFile};
use crate::domain::intent::MerchantName;
use crate::gateway::Gateway;
use crate::telemetry::events;
use crate::telemetry::setup::{FILTER_VARIABLES, init};
use crate::worker::{self, Worker};

/// Work: take intents, call the gateway, announce outcomes, until a signal comes.
///
/// All mistakes of the configuration are reported, by key, before anything connects. If the broker is down, the command
/// waits for it. While the broker does not fit (a queue differs, a policy changes one, a permission is missing), it takes
/// no letter: it logs each finding with the command that fixes it, and begins by itself once it is fixed. On SIGTERM or
/// SIGINT it takes no more letters, and settles those in flight within the grace period; it ends with 0, or with 75 if
/// some had to be given back. On SIGHUP it reads the merchants' key files again; a file that cannot be used changes
/// nothing.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
}

/// The grace period ended with letters given back to the broker (`EX_TEMPFAIL`).
const GAVE_BACK: u8 = 75;

impl Run {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        // First of all: where nobody handles it, the signal ends the process.
        let hangups = signal(SignalKind::hangup()).ok();
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
        let stopped_by = stop_signal();
        for key in config.without_effect() {
            events::without_effect(&key);
        }
        remarks::tell(&config.amqp);
        for SecretFile { key, file } in config.secret_files.iter().filter(|file| file.is_readable_by_all()) {
            events::secret_file_readable(key, file);
        }
        events::started(env!("CARGO_PKG_VERSION"), &config.worker.name, &config.worker.source);

        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            events::stopping(stopped_by.await);
            stopping.cancel();
        });
        if let Some(hangups) = hangups {
            let (merchants, files) = (config.merchants.clone(), config.secret_files.clone());
            tokio::spawn(read_keys_again(hangups, gateway.clone(), merchants, files));
        }
        let worker = Arc::new(Worker::new(&config, gateway, clock, JitterSource::system()));
        match worker::run(worker, &settings, &stop, config.grace).await {
            Stopped::Drained => Ok(ExitCode::SUCCESS),
            Stopped::GaveBack { .. } => Ok(ExitCode::from(GAVE_BACK)),
        }
    }
}

/// At each SIGHUP, gives the gateway what the merchants' key files hold then.
async fn read_keys_again(
    mut hangups: Signal,
    gateway: Gateway,
    mut merchants: BTreeMap<MerchantName, Merchant>,
    files: Vec<SecretFile>,
) {
    while hangups.recv().await.is_some() {
        let (before, named) = (merchants.clone(), files.clone());
        // A file may lie on a disk that does not answer.
        let reading = tokio::task::spawn_blocking(move || config::read_again(&before, &named));
        let Ok(again) = reading.await else { continue };
        for mistake in &again.mistakes {
            events::secrets_reload_failed(&mistake.key, &mistake.wrong);
        }
        match gateway.use_keys(&again.merchants) {
            Ok(()) => {
                if again.read > 0 || again.mistakes.is_empty() {
                    events::secrets_reloaded(again.read, again.changed);
                }
                merchants = again.merchants;
            }
            Err(mistakes) => {
                for mistake in &mistakes.0 {
                    events::secrets_reload_failed(&mistake.key, &mistake.fault.to_string());
                }
            }
        }
    }
}

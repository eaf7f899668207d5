//! `check`: is this configuration right, and does the broker fit it?

use std::process::ExitCode;

use clap::Args;

use super::amqp_args::chain;
use super::output::say;
use super::topology::tell;
use super::{ConfigArgs, Failure};
use crate::amqp::preflight::{causes, inspect};
use crate::amqp::{Settings, Timeouts};
use crate::config;
use crate::gateway::Gateway;
use crate::worker;

/// Check the configuration; with --broker also the broker.
///
/// Without --broker nothing connects. All mistakes are told at once, by key and never by value. With it, everything is
/// told that would keep `run` from taking work, each with the command that fixes it: what is different, what a policy
/// changes, which permission is missing; and what is missing, unless `run` would declare it. Then it ends with 69. What
/// could not be seen is told, and a lane where letters wait that nobody consumes; neither is a failure.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the broker too, over AMQP and, where amqp.management_url says where, over its management API
    #[arg(long)]
    broker: bool,
}

impl Check {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let config = self.config.load()?;
        Gateway::new(&config.gateway, &config.merchants).map_err(|error| Failure::input(chain(&error)))?;
        let timeouts = Timeouts::default();
        let settings =
            Settings::new(&config.amqp, &config.worker.name, &config.lanes, &config.policy.tiers, timeouts)
                .map_err(|error| Failure::input(chain(&error)))?
                .for_handling_of(worker::handling_max(&config, &timeouts));
        say!("The configuration is right. This would run:\n{}", config::describe(&config));
        if !self.broker {
            return Ok(ExitCode::SUCCESS);
        }
        let report = inspect(settings.broker(), settings.topology(), settings.requirements())
            .await
            .map_err(|error| Failure::unavailable(chain(&error)))?;
        tell(&report)?;
        if report.findings.is_empty() {
            say!("The broker fits: `run` would take work.");
            return Ok(ExitCode::SUCCESS);
        }
        Err(Failure::unavailable(format!(
            "the broker does not fit the configuration: {} findings",
            causes(&report.findings).len()
        )))
    }
}

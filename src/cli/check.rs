//! `check`: is this configuration right, and does the broker fit it?

use std::process::ExitCode;

use clap::Args;

use super::amqp_args::chain;
use super::{ConfigArgs, Failure};
use crate::amqp::declare::verify;
use crate::amqp::{Settings, Timeouts};
use crate::config;
use crate::gateway::Gateway;

/// Check the configuration; with --broker also the broker's topology and permissions.
///
/// Without --broker nothing connects. All mistakes are told at once, by key and never by value.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the broker too: what is missing, what is different, what we are not allowed to see
    #[arg(long)]
    broker: bool,
}

impl Check {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let config = self.config.load()?;
        Gateway::new(&config.gateway, &config.merchants).map_err(|error| Failure::input(chain(&error)))?;
        let settings = Settings::new(
            &config.amqp,
            &config.worker.name,
            &config.lanes,
            &config.policy.tiers,
            Timeouts::default(),
        )
        .map_err(|error| Failure::input(chain(&error)))?;
        println!("The configuration is right. This would run:\n{}", config::describe(&config));
        if !self.broker {
            return Ok(ExitCode::SUCCESS);
        }
        let findings = verify(settings.broker(), settings.topology())
            .await
            .map_err(|error| Failure::unavailable(chain(&error)))?;
        if findings.is_empty() {
            println!("The broker has every exchange and queue, as they must be.");
            return Ok(ExitCode::SUCCESS);
        }
        for finding in &findings {
            println!("{finding}");
        }
        Err(Failure::unavailable(
            "the broker does not fit the configuration: `cancel-worker topology apply` declares what is missing",
        ))
    }
}

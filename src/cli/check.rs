//! `check`: is this configuration right, and does the broker fit it?

use std::process::ExitCode;

use clap::Args;

use super::amqp_args::chain;
use super::{ConfigArgs, Failure};
use crate::amqp::declare::{Finding, verify};
use crate::amqp::permissions::permissions;
use crate::amqp::{Settings, Timeouts};
use crate::config::{self, Declare};
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
        let unavailable = |error: crate::amqp::Error| Failure::unavailable(chain(&error));
        let found = verify(settings.broker(), settings.topology()).await.map_err(unavailable)?;
        // Who declares nothing need not be allowed to compare arguments.
        let (not_compared, mut findings): (Vec<Finding>, Vec<Finding>) =
            found.into_iter().partition(|finding| match finding {
                Finding::NotAllowed { .. } => config.amqp.declare == Declare::Nothing,
                Finding::Missing { .. } | Finding::Differs { .. } | Finding::NotPermitted { .. } => false,
            });
        if !not_compared.is_empty() {
            println!(
                "{} exchanges and queues are there, but their arguments cannot be seen without the permission to \
                 configure them.",
                not_compared.len()
            );
        }
        if findings.is_empty() {
            findings = permissions(settings.broker(), settings.topology()).await.map_err(unavailable)?;
        }
        if findings.is_empty() {
            println!("The broker has every exchange and queue, and lets us use them.");
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

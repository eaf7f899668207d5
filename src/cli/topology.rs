//! `topology`: the exchanges, queues and bindings, printed, applied or verified.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Failure;
use super::amqp_args::{AmqpArgs, Target, chain};
use crate::amqp::declare::{apply, verify};
use crate::amqp::topology::Who;
use crate::config::Declare;

/// Print, apply or verify the exchanges, queues and bindings.
///
/// `run` declares by itself what is missing, unless `amqp.declare = false` leaves that to a person with more rights:
/// for them are print (the definitions and the least permissions), apply and verify.
#[derive(Debug, Args)]
pub(super) struct Topology {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print every exchange, queue and binding, and the least permissions; connects to nothing
    Print {
        #[command(flatten)]
        amqp: AmqpArgs,
        /// A table for people, or definitions that the management API takes
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Declare what is missing; what is there stays as it is, and nothing is ever deleted
    Apply {
        #[command(flatten)]
        amqp: AmqpArgs,
    },
    /// Tell what is missing or different; changes nothing, and exits with 69 if there is anything
    Verify {
        #[command(flatten)]
        amqp: AmqpArgs,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Topology {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Print { amqp, format } => {
                let (topology, declare) = amqp.topology()?;
                print(&topology, declare, format);
            }
            Action::Apply { amqp } => {
                let Target { broker, topology } = amqp.target()?;
                apply(&broker, &topology).await.map_err(|error| Failure::unavailable(chain(&error)))?;
                println!(
                    "{} exchanges, {} queues and {} bindings are there, as they must be.",
                    topology.exchanges().len(),
                    topology.queues().len(),
                    topology.bindings().len()
                );
            }
            Action::Verify { amqp } => {
                let Target { broker, topology } = amqp.target()?;
                let findings =
                    verify(&broker, &topology).await.map_err(|error| Failure::unavailable(chain(&error)))?;
                for finding in &findings {
                    println!("{finding}");
                }
                if !findings.is_empty() {
                    return Err(Failure::unavailable(format!("{} differences", findings.len())));
                }
                println!("Every exchange and queue is there, as it must be.");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(topology: &crate::amqp::Topology, declare: Declare, format: Format) {
    match format {
        Format::Json => println!("{}", topology.to_definitions()),
        Format::Table => {
            println!("{topology}");
            println!("Least permissions (configure, write, read):");
            let parties = [
                ("worker that declares", Who::Worker(Declare::Missing)),
                ("worker that does not", Who::Worker(Declare::Nothing)),
                ("order system", Who::OrderSystem),
                ("ledger", Who::Ledger),
            ];
            for (name, who) in parties {
                let permissions = topology.permissions(who);
                println!(
                    "  {name}: {:?} {:?} {:?}",
                    permissions.configure, permissions.write, permissions.read
                );
            }
            match declare {
                Declare::Missing => println!("`run` declares what is missing (amqp.declare = true)."),
                Declare::Nothing => println!("`run` declares nothing (amqp.declare = false)."),
            }
        }
    }
}

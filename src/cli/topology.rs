//! `topology`: the exchanges, queues and bindings, printed, applied, verified, or compared in words.

mod print;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Failure;
use super::amqp_args::{AmqpArgs, ManagementArgs, Target, chain};
use super::output::say;
use super::terminal::shown;
use crate::amqp::preflight::{Report, apply, causes, inspect};
use crate::amqp::topology::{Permissions, Who};
use crate::config::Declare;

/// Print, apply, verify or compare the exchanges, queues and bindings.
///
/// `run` declares by itself what is missing, unless `amqp.declare = false` leaves that to a person with more rights:
/// for them are print (the definitions and the least permissions), apply, verify and diff. AMQP shows what is missing
/// and what was declared differently; bindings, and what policies change, only the management API shows.
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
    /// Print the least permissions of each role, as commands that a shell takes; connects to nothing
    ///
    /// The user must exist already (`rabbitmqctl add_user`). Who publishes with --wait needs an onlooker's permissions
    /// beside an order system's.
    Permissions {
        #[command(flatten)]
        amqp: AmqpArgs,
        /// The user of the commands
        #[arg(long, value_name = "USER", default_value = "USER")]
        user: String,
        /// The ledger's name: it may have queues ledger.NAME and ledger.NAME.…, and no others
        #[arg(long, value_name = "NAME", default_value = "NAME")]
        ledger: String,
        /// The virtual host of the commands [default: the one of the address; without one, /]
        #[arg(long, value_name = "VHOST")]
        vhost: Option<String>,
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
        #[command(flatten)]
        management: ManagementArgs,
    },
    /// List what is missing or different: name, argument, expected, found, and what fixes it; changes nothing, and
    /// exits with 0 whatever it finds
    Diff {
        #[command(flatten)]
        amqp: AmqpArgs,
        #[command(flatten)]
        management: ManagementArgs,
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
                match format {
                    Format::Json => say!("{:#}", print::definitions(&topology)),
                    Format::Table => print_tables(&topology, declare)?,
                }
            }
            Action::Permissions { amqp, user, ledger, vhost } => {
                let (topology, _) = amqp.topology()?;
                let vhost = vhost.unwrap_or_else(|| amqp.vhost());
                for (role, who) in roles(&ledger) {
                    say!("# {}", shown(&role));
                    for command in topology.grants(who, &vhost, &user) {
                        say!("{command}");
                    }
                }
            }
            Action::Apply { amqp } => {
                let Target { broker, topology } = amqp.target()?;
                apply(&broker, &topology).await.map_err(|error| Failure::unavailable(chain(&error)))?;
                say!(
                    "{} exchanges, {} queues and {} bindings are there, as they must be.",
                    topology.exchanges().len(),
                    topology.queues().len(),
                    topology.bindings().len()
                );
            }
            Action::Verify { amqp, management } => {
                let report = look(&amqp, &management).await?;
                tell(&report)?;
                if !report.findings.is_empty() {
                    return Err(Failure::unavailable(format!(
                        "{} differences",
                        causes(&report.findings).len()
                    )));
                }
                say!("Every exchange and queue is there, as it must be.");
            }
            Action::Diff { amqp, management } => {
                let report = look(&amqp, &management).await?;
                say!("{}", print::differences(&report));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn roles(ledger: &str) -> [(String, Who<'_>); 7] {
    let ledger_of = format!("ledger `{ledger}`: listens to outcomes with its own queues");
    [
        (
            "worker that declares what is missing (amqp.declare = true)".to_owned(),
            Who::Worker(Declare::Missing),
        ),
        ("worker that declares nothing (amqp.declare = false)".to_owned(), Who::Worker(Declare::Nothing)),
        ("order system: publishes intents".to_owned(), Who::OrderSystem),
        (ledger_of, Who::Ledger(ledger)),
        ("operator: replays and discards dead letters".to_owned(), Who::Operator),
        ("onlooker: follows outcomes, lists what is kept".to_owned(), Who::Onlooker),
        ("monitor: asks the management API, and nothing over AMQP".to_owned(), Who::Monitor),
    ]
}

async fn look(amqp: &AmqpArgs, management: &ManagementArgs) -> Result<Report, Failure> {
    let (Target { broker, topology }, requirements) = amqp.target_with(management)?;
    inspect(&broker, &topology, &requirements).await.map_err(|error| Failure::unavailable(chain(&error)))
}

/// Everything that was found, each cause once, what could not be seen, and what is worth knowing, each in a line.
pub(super) fn tell(report: &Report) -> Result<(), Failure> {
    for unseen in &report.unseen {
        say!("{}", shown(&unseen.to_string()));
    }
    for note in &report.notes {
        say!("{}", shown(&note.to_string()));
    }
    for cause in causes(&report.findings) {
        say!("{}", shown(&cause.to_string()));
    }
    Ok(())
}

fn print_tables(topology: &crate::amqp::Topology, declare: Declare) -> Result<(), Failure> {
    say!("{}\n", print::tables(topology));
    say!("Least permissions (configure, write, read; `topology permissions` prints them as commands):");
    for (name, who) in roles("NAME") {
        let Permissions { configure, write, read } = topology.permissions(who);
        say!("  {name}: {configure:?} {write:?} {read:?}");
    }
    match declare {
        Declare::Missing => say!("`run` declares what is missing (amqp.declare = true)."),
        Declare::Nothing => say!("`run` declares nothing (amqp.declare = false)."),
    }
    Ok(())
}

//! `topology`: the exchanges, queues and bindings, printed, applied, verified, or compared in words.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::Failure;
use super::amqp_args::{AmqpArgs, ManagementArgs, Target, chain};
use crate::amqp::declare::apply;
use crate::amqp::preflight::{Report, inspect};
use crate::amqp::topology::Who;
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
    /// List what is missing or different: name, argument, expected, found, and what mends it; changes nothing, and
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
            Action::Verify { amqp, management } => {
                let report = look(&amqp, &management).await?;
                tell(&report);
                if !report.findings.is_empty() {
                    return Err(Failure::unavailable(format!("{} differences", report.findings.len())));
                }
                println!("Every exchange and queue is there, as it must be.");
            }
            Action::Diff { amqp, management } => {
                let report = look(&amqp, &management).await?;
                println!("{}", diff(&report));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn look(amqp: &AmqpArgs, management: &ManagementArgs) -> Result<Report, Failure> {
    let (Target { broker, topology }, requirements) = amqp.target_with(management)?;
    inspect(&broker, &topology, &requirements).await.map_err(|error| Failure::unavailable(chain(&error)))
}

/// Everything that was found, and what could not be seen, each in a line.
pub(super) fn tell(report: &Report) {
    for unseen in &report.unseen {
        println!("{unseen}");
    }
    for finding in &report.findings {
        println!("{finding}");
    }
}

/// The findings as a table, one a row, the widest column last; and what could not be seen.
fn diff(report: &Report) -> String {
    let head = ["NAME", "ARGUMENT", "EXPECTED", "FOUND", "MEND"].map(str::to_owned);
    let rows = report.findings.iter().map(|finding| {
        [
            finding.object.to_string(),
            finding.argument(),
            finding.expected().to_owned(),
            finding.found().to_owned(),
            finding.mend.clone(),
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3)];
    let line = |[name, argument, expected, found, mend]: &[String; 5]| {
        let [a, b, c, d] = widths;
        format!("{name:a$}  {argument:b$}  {expected:c$}  {found:d$}  {mend}")
    };
    let table = if report.findings.is_empty() {
        vec!["Nothing differs.".to_owned()]
    } else {
        rows.iter().map(line).collect()
    };
    table.into_iter().chain(report.unseen.iter().map(ToString::to_string)).collect::<Vec<_>>().join("\n")
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

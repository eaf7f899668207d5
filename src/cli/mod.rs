//! The command line: one file per command. Each reads, calls one thing, and prints; none decides.

// A reader may close the pipe, which makes these panic: `output` has what to use instead.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod amqp_args;
mod check;
mod demo;
mod outcomes;
mod output;
mod publish;
mod run;
mod simulate;
mod terminal;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Amqp, Config};
use crate::domain::retry::Tiers;

/// Takes cancel intents from RabbitMQ, calls the Paywall endpoint that fits each kind, finds out what really
/// happened, and publishes outcome events.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 done, or drained after a signal; 64 the configuration or the input is wrong; 69 the broker or the \
gateway cannot be reached (one-shot commands); 70 our own fault; 75 the grace period ended with letters given \
back to the broker."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

// What each does is said where it is: clap would show a comment here instead of it.
#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Demo(demo::Demo),
    Check(check::Check),
    Topology(topology::Topology),
    Publish(publish::Publish),
    Outcomes(outcomes::Outcomes),
    Simulate(simulate::Simulate),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file (TOML); every key can be overridden by the environment: CANCEL_WORKER__AMQP__URL
    #[arg(long, value_name = "FILE", env = "CANCEL_WORKER_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, Failure> {
        config::load(self.config.as_deref(), environment(), config::host_name().as_deref())
            .map_err(|mistakes| Failure::input(mistakes.to_string()))
    }

    /// What a command needs that speaks to the broker alone.
    fn load_amqp(&self) -> Result<(Amqp, Tiers), Failure> {
        config::load_amqp(self.config.as_deref(), environment())
            .map_err(|mistakes| Failure::input(mistakes.to_string()))
    }
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// Why a command ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Our own fault (`EX_SOFTWARE`).
    pub const OWN_FAULT: u8 = 70;
    /// The configuration, the command line or what was given to the command is wrong (`EX_USAGE`).
    pub const INPUT: u8 = 64;
    const UNAVAILABLE: u8 = 69;

    /// The configuration, or what was given to the command, is wrong.
    fn input(message: impl Into<String>) -> Failure {
        Failure { code: Self::INPUT, message: message.into() }
    }

    /// The broker or the gateway cannot be reached.
    fn unavailable(message: impl Into<String>) -> Failure {
        Failure { code: Self::UNAVAILABLE, message: message.into() }
    }

    /// The reader of standard output has what it wanted. Nothing is told, and all is well.
    fn nobody_reads() -> Failure {
        Failure { code: 0, message: String::new() }
    }

    /// Standard output takes nothing: its disk may be full.
    fn unwritten(error: &std::io::Error) -> Failure {
        Failure::input(format!("failed to write to standard output: {}", error.kind()))
    }

    /// Our own fault.
    fn own(message: impl Into<String>) -> Failure {
        Failure { code: Self::OWN_FAULT, message: message.into() }
    }
}

impl Arguments {
    /// Runs the command to its end.
    pub async fn run(self) -> ExitCode {
        let end = match self.command {
            Command::Run(command) => command.run().await,
            Command::Demo(command) => command.run().await,
            Command::Check(command) => command.run().await,
            Command::Topology(command) => command.run().await,
            Command::Publish(command) => command.run().await,
            Command::Outcomes(command) => command.run().await,
            Command::Simulate(command) => command.run().await,
        };
        match end {
            Ok(code) => code,
            Err(Failure { code, message }) => {
                if !message.is_empty() {
                    // It may repeat what the broker, or a file, has said.
                    output::remark(format_args!("cancel-worker: {}", terminal::shown_lines(&message)));
                }
                ExitCode::from(code)
            }
        }
    }
}

/// Resolves when the process is asked to stop: SIGTERM or SIGINT, by its name. It listens from now on, not only
/// from when it is first awaited.
fn stop_signal() -> impl Future<Output = &'static str> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let signals =
        signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    async move {
        // Without a handler the signal ends the process at once, which loses nothing: what is unacked stays.
        let Ok((mut terminate, mut interrupt)) = signals else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    }
}

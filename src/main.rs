//! The binary: parses the command line, calls one command, and turns its end into an exit code.

use std::process::ExitCode;

use clap::Parser;
use rustls::crypto::ring;

use cancel_worker::cli::{Arguments, Failure};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Nobody can be told that nobody can be told. Help and version are what was asked for.
            let _ = usage.print();
            return if usage.use_stderr() { ExitCode::from(Failure::INPUT) } else { ExitCode::SUCCESS };
        }
    };
    // Two crates could each bring a provider of their own; the process has one.
    if ring::default_provider().install_default().is_err() {
        eprintln!("cancel-worker: a TLS provider was installed before ours");
        return ExitCode::from(Failure::OWN_FAULT);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cancel-worker: failed to start the runtime: {error}");
            return ExitCode::from(Failure::OWN_FAULT);
        }
    };
    let exit = runtime.block_on(arguments.run());
    // What still runs belongs to a drain that is over.
    runtime.shutdown_background();
    exit
}

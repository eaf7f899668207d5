//! The tests that need a RabbitMQ: one binary, one broker, a fresh prefix per test.
//!
//! A test is an async function that takes a [`support::Context`] and returns `anyhow::Result<()>`, or panics; `broker_test!`
//! before it registers it. `cargo test --test it -- NAME` runs those whose name contains NAME.

mod amqp;
mod delays;
mod demo;
mod harness;
mod lanes;
mod ledgers;
mod lock_outs;
mod odd_brokers;
mod odd_letters;
mod odd_publishers;
mod permissions;
mod preflight;
mod process;
mod stories;
mod supervisor;
mod support;
mod truth;

use std::process::ExitCode;

fn main() -> ExitCode {
    // As the binary does: the process has one TLS provider, chosen once.
    rustls::crypto::ring::default_provider().install_default().expect("nobody was here before");
    support::run()
}

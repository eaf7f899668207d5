//! The tests that need a RabbitMQ: one binary, one broker, a fresh prefix per test.
//!
//! A test is an async function that takes a [`support::Context`] and returns `anyhow::Result<()>`, or panics. It is run
//! when it stands in the list below. `cargo test --test it -- NAME` runs those whose name contains NAME.

mod harness;
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::run(trials![
        harness::a_confirmed_letter_comes_back,
        harness::a_cleaned_up_test_leaves_nothing_behind,
        harness::a_broker_of_ours_can_be_asked_and_operated,
    ])
}

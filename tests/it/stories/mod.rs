//! What becomes of an intent, over a real RabbitMQ and real sockets: a row for each line of the tables that
//! `docs/` and `domain/` state, told by what the ledger hears and what is true at the gateway.

#![allow(clippy::unwrap_used, reason = "tests, though no attribute says so")]

pub(crate) mod apm;
pub(crate) mod batch;
pub(crate) mod copies;
pub(crate) mod faults;
pub(crate) mod physical;
pub(crate) mod scene;
pub(crate) mod time;
pub(crate) mod transaction;
pub(crate) mod verdicts;

//! The contract: the twin of `schemas/`. Letters in, messages out; no broker, no deciding.

pub mod envelope;
pub mod history;
pub mod hop;
pub mod intent;
pub mod outcome;
mod strict;

pub use strict::Fault;

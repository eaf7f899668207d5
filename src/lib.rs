//! cancel-worker.

pub mod simulator;

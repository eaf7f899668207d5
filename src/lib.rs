//! cancel-worker: takes cancel intents from RabbitMQ, calls the one Paywall endpoint that fits each kind, finds
//! out what really happened, and announces it.
//!
//! ```text
//! delivery -> decode -> plan -> call or inquire -> classify -> decide -> announce -> settle
//! ```

pub mod amqp;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod gateway;
pub mod lanes;
pub mod management;
pub mod memory;
pub mod simulator;
pub mod telemetry;
mod web;
pub mod wire;
pub mod worker;

//! Everything RabbitMQ, and the only home of `lapin`. No payments, no JSON.
//!
//! A [`Session`] is one *generation*: two connections (one consumes and acks, one publishes), their channels and
//! consumers. Any broken part ends all of it, the broker takes back what is unacked, and [`run_generations`] builds
//! the next one. lapin's own recovery is not used: it does not cover channels, and it gives up.
//!
//! What one delivery allows is said by types:
//!
//! ```text
//! Unsettled --Publisher::announce(messages), all confirmed--> Announced --settle--> acked
//! ```
#![deny(clippy::wildcard_enum_match_arm)]

mod alone;
pub mod browse;
mod build;
pub mod cause;
mod confirms;
pub mod connect;
mod connection;
pub mod consumer;
mod consumer_channel;
pub mod declare;
mod depths;
mod dial;
pub mod error;
pub mod finding;
pub mod generation;
pub mod handler;
mod headers;
pub mod intake;
mod permissions;
pub mod preflight;
pub mod publisher;
pub mod remarks;
mod reply_code;
pub mod screen;
pub mod serve;
pub mod session;
pub mod settings;
pub mod settle;
mod shell;
mod step;
pub mod supervisor;
mod suspicion;
mod tls;
pub mod tls_trouble;
pub mod topology;
mod transport;
mod watchdog;

pub use confirms::Confirmed;
pub use connect::{Broker, Timeouts};
pub use consumer::{Delivery, Purpose};
pub use consumer_channel::ACK_HELD_MAX;
pub use declare::Depth;
pub use error::{Error, SettingsError};
pub use generation::{Ended, Generation, Interrupted};
pub use handler::DeliveryHandler;
pub use intake::ConsumeMode;
pub use publisher::{PublishError, PublishSession, Publisher};
pub use serve::Stopped;
pub use session::Session;
pub use settings::Settings;
pub use settle::{Announced, Unacked, Unsettled};
pub use supervisor::run_generations;
pub use topology::Topology;

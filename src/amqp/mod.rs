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
mod confirms;
pub mod connect;
mod connection;
pub mod consumer;
pub mod declare;
mod depths;
mod dial;
pub mod generation;
mod permissions;
pub mod preflight;
pub mod publisher;
pub mod remarks;
pub mod screen;
pub mod session;
pub mod settings;
pub mod settle;
mod shell;
pub mod supervisor;
mod suspicion;
pub mod tls;
pub mod topology;
mod transport;
mod watchdog;

pub use confirms::Confirmed;
pub use connect::{Broker, Error, SettingsError, Timeouts};
pub use consumer::{ACK_HELD_MAX, ConsumeMode, Delivery, Purpose};
pub use declare::Depth;
pub use generation::{Ended, Generation, Interrupted};
pub use publisher::{PublishError, PublishSession, Publisher};
pub use session::Session;
pub use settings::Settings;
pub use settle::{Announced, Unacked, Unsettled};
pub use supervisor::{DeliveryHandler, Stopped, run_generations};
pub use topology::Topology;

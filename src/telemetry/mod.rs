//! What others see of us: log lines, spans, trace context. It changes nothing that we do.
//!
//! What happens is told by [`events`], one function each; [`spans`] are what a delivery is made of;
//! [`carrier`] takes the publisher's trace in and hands ours on. No body, no key and no personal data comes
//! this way.

pub mod carrier;
mod drops;
mod error_chain;
pub mod events;
mod lines;
pub mod setup;
pub mod spans;

#[cfg(test)]
mod tests;

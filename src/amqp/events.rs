//! What the connection has to tell people. Addresses are shown as host, port and virtual host only.

use std::error::Error as StdError;

use super::generation::{Ended, Role};

/// An error with everything behind it, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        // A transparent layer says the same again.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}

/// Somebody looks for a broker and has not found one yet.
pub(super) fn waiting_for_broker(brokers: &str, error: &super::Error, tries: u64) {
    tracing::warn!(broker = brokers, tries, error = chain(error), "waiting for the broker");
}

pub(super) fn generation_begins(number: u64, broker: &str, consumers: usize) {
    tracing::info!(generation = number, broker, consumers, "connected to the broker and consuming");
}

pub(super) fn generation_ended(number: u64, why: &Ended, unsettled: usize) {
    tracing::warn!(
        generation = number,
        unsettled,
        reason = chain(why),
        "the connection's generation has ended; the broker takes back what is unsettled"
    );
}

pub(super) fn blocked(role: Role, reason: &str) {
    tracing::warn!(
        connection = %role,
        reason,
        "the broker has an alarm and takes nothing more on this connection"
    );
}

pub(super) fn unblocked(role: Role) {
    tracing::info!(connection = %role, "the broker's alarm on this connection is over");
}

pub(super) fn unrouted(queue: &str, depth: u32) {
    tracing::error!(
        queue,
        depth,
        "messages were published that no queue is bound to; they are kept until a person moves them"
    );
}

pub(super) fn routed_again(queue: &str) {
    tracing::info!(queue, "nothing is left of what no queue was bound to");
}

pub(super) fn depth_unknown(queue: &str, error: &super::Error) {
    tracing::warn!(queue, error = chain(error), "the depth of a queue could not be read");
}

pub(super) fn drain_begins(held: usize) {
    tracing::info!(held, "no more deliveries are taken; what is held is being finished");
}

pub(super) fn drained() {
    tracing::info!("everything that was held is settled");
}

pub(super) fn given_back(unsettled: usize) {
    tracing::warn!(unsettled, "deliveries were given back to the broker unsettled; they will come again");
}

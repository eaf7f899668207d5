//! How long a step may take, and with it how long a letter may be in hand.

use std::time::Duration;

use crate::admission::ROOM_WAIT_MAX;
use crate::amqp;
use crate::config::Config;
use crate::domain::intent::Kind;

/// A step that is handled alone is cut off after this, so that what waits behind it is not forgotten.
pub(super) const ALONE_MAX: Duration = Duration::from_secs(5);

/// The longest that a step that is handled alone waits for other letters to be settled where they came from.
pub(super) const SETTLED_WAIT_MAX: Duration = Duration::from_secs(10);

/// The longest that a letter is in hand, from its delivery to its ack. A broker that waits less long for an ack takes
/// the letter back while its step goes on.
///
/// It is the sum of what a delivery may have to wait for, one after the other, each at its own deadline:
///
/// - the permit of a step that outlived its generation, and is still speaking to the gateway;
/// - of a letter that is handled alone, others that are still on their way there, for that step and for its own;
/// - room at the API, for that step and for its own;
/// - its own time with the gateway: the longer of a look, and of a call with the look after its success;
/// - the confirm of what is announced, and where that is refused, the confirm of its parking;
/// - the ack, held back while its lane is about to be paused, and its way to the socket.
pub fn handling_max(config: &Config, timeouts: &amqp::Timeouts) -> Duration {
    let call_timeout = config.policy.call_timeout;
    let with_gateway = config.lanes.keys().map(|kind| {
        // Of a physical payment two things are read, each within a deadline of its own.
        let look = match kind {
            Kind::AsyncCancel | Kind::SyncCancelRollback => call_timeout.saturating_mul(2),
            Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => call_timeout,
        };
        let after = if config.policy.after_success.contains(kind) { look } else { Duration::ZERO };
        look.max(call_timeout.saturating_add(after))
    });
    let with_gateway = with_gateway.max().unwrap_or(call_timeout);
    let announcing = timeouts.confirm.saturating_mul(2);
    let with_gateway = with_gateway.max(SETTLED_WAIT_MAX.saturating_add(ALONE_MAX));
    let two_steps = with_gateway.saturating_add(ROOM_WAIT_MAX).saturating_mul(2);
    let acking = amqp::ACK_HELD_MAX.saturating_add(timeouts.step);
    two_steps.saturating_add(announcing).saturating_add(acking)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &[(&str, &str)]) -> Config {
        let least = [
            ("CANCEL_WORKER__AMQP__URL", "amqp://localhost"),
            ("CANCEL_WORKER__GATEWAY__PHYSICAL_URL", "https://physical.example"),
            ("CANCEL_WORKER__GATEWAY__PRIVATE_URL", "https://private.example"),
            ("CANCEL_WORKER__MERCHANTS__DEFAULT__PRIVATE_KEY", "key"),
            ("CANCEL_WORKER__MERCHANTS__DEFAULT__PRIVATE_CLIENT", "client"),
        ];
        let env = least.iter().chain(more).copied();
        crate::config::load(None, env, Some("test")).expect("right")
    }

    fn check(more: &[(&str, &str)], expected_s: u64) {
        let longest = handling_max(&config(more), &amqp::Timeouts::default());
        assert_eq!(longest, Duration::from_secs(expected_s), "{more:?}");
    }

    #[test]
    fn a_letter_is_in_hand_as_long_as_all_its_deadlines_together() {
        let kinds = "CANCEL_WORKER__LANES__KINDS";
        let after = "CANCEL_WORKER__INQUIRY__AFTER_SUCCESS";
        let call_timeout = ("CANCEL_WORKER__GATEWAY__CALL_TIMEOUT", "10s");
        // A look in two reads, and before it somebody else's, both after a wait for room; two confirms; an ack.
        check(&[(kinds, "async_cancel")], 2 * (5 + 60) + 60 + 5 + 10);
        check(&[(kinds, "async_cancel"), (after, "async_cancel")], 2 * (5 + 90) + 60 + 5 + 10);
        check(&[(kinds, "transaction_cancel")], 2 * (5 + 30) + 60 + 5 + 10);
        check(&[(kinds, "transaction_cancel"), (after, "transaction_cancel")], 2 * (5 + 60) + 60 + 5 + 10);
        // Here a letter takes the longest that is handled alone: it waits for others, and is cut off.
        check(&[(kinds, "transaction_cancel"), call_timeout], 2 * (5 + 10 + 5) + 60 + 5 + 10);
        // The slowest kind that is served counts.
        check(&[(kinds, "transaction_cancel,async_cancel")], 2 * (5 + 60) + 60 + 5 + 10);
    }
}

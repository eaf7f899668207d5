//! The numbers by which we plan and decide: the configuration, as the domain needs it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::codes::Codes;
use super::intent::{Kind, MerchantName};
use super::retry::Tiers;

/// All that planning and deciding take from the configuration.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The delay queues.
    pub tiers: Tiers,
    /// `retry.attempts_max`: calls that may have reached the gateway.
    pub attempts_max: u32,
    /// `retry.age_max`: from the time an intent was first seen, in phase call.
    pub age_max: Duration,
    /// `retry.retry_after_max`: no `Retry-After` is honoured beyond it.
    pub retry_after_max: Duration,
    /// `gateway.call_timeout`: the whole exchange of one call.
    pub call_timeout: Duration,
    /// `inquiry.quiet`: how long after the last call ended evidence of *not done* begins to count.
    pub quiet: Duration,
    /// `inquiry.asks_max`: looks, of a batch rounds, since phase settle was entered; `None`: only the age decides.
    pub asks_max: Option<u32>,
    /// `inquiry.age_max`: from the step that entered phase settle.
    pub inquiry_age_max: Duration,
    /// `inquiry.after_success`: kinds whose success is looked at once more, for its payment status.
    pub after_success: BTreeSet<Kind>,
    /// `rollback.wait`: no rollback is called sooner after its cancel order.
    pub rollback_wait: Duration,
    /// `same_day.zone`: where the gateway's days begin and end.
    pub zone: TimeZone,
    /// `same_day.enforce`: kinds that are not called after the payment's day.
    pub same_day: BTreeSet<Kind>,
    /// The merchants that we have keys for.
    pub merchants: BTreeSet<MerchantName>,
    /// What the gateway's codes mean, the operator's rules first.
    pub codes: Codes,
}

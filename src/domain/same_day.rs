//! The same-day rule: a payment is cancelled on its own calendar day, in the gateway's zone, or not at all
//! (the page of the batch cancel: "Cancellation requests must be sent on the same day the payments occur").

use jiff::Timestamp;
use jiff::civil::Date;

use super::intent::{CancelIntent, Kind, Target};
use super::policy::Policy;
use super::retry::later;

/// When the payment's day ends.
pub fn day_end(date: Date, policy: &Policy) -> Timestamp {
    // The last day of the calendar has no morrow; nothing is ever too late for it.
    date.tomorrow()
        .and_then(|next| next.to_zoned(policy.zone.clone()))
        .map_or(Timestamp::MAX, |midnight| midnight.timestamp())
}

/// Whether the rule holds for the kind, and the payment's day is over at `at`.
pub fn is_over(kind: Kind, date: Date, policy: &Policy, at: Timestamp) -> bool {
    policy.same_day.contains(&kind) && at >= day_end(date, policy)
}

/// Whether the rule holds for an intent of one payment, and its day is over at `at`.
pub fn is_over_for(intent: &CancelIntent, policy: &Policy, at: Timestamp) -> bool {
    date_of(intent).is_some_and(|date| is_over(intent.kind(), date, policy, at))
}

/// From when on evidence for an end by this rule counts, for a payment of this day: another copy may have called
/// in the last moment of the day.
pub fn counts_from(date: Date, policy: &Policy) -> Timestamp {
    later(later(day_end(date, policy), policy.call_timeout), policy.quiet)
}

/// The same for an intent of one payment.
pub fn ends_count_from(intent: &CancelIntent, policy: &Policy) -> Option<Timestamp> {
    date_of(intent).map(|date| counts_from(date, policy))
}

/// The day of an intent's one payment, where it has one.
fn date_of(intent: &CancelIntent) -> Option<Date> {
    match &intent.target {
        Target::TransactionCancel { date, .. } => Some(*date),
        Target::AsyncCancel { .. }
        | Target::SyncCancelRollback { .. }
        | Target::ApmProvisionCancel { .. }
        | Target::BatchCancel { .. } => None,
    }
}

//! The same-day rule: a payment is cancelled on its own calendar day, in the gateway's zone, or not at all
//! (the page of the batch cancel: "Cancellation requests must be sent on the same day the payments occur").

use jiff::Timestamp;
use jiff::civil::Date;

use super::history::History;
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

/// The payments of a batch that are to be called, and whose day is not over at `at`.
pub fn callable(intent: &CancelIntent, history: &History, policy: &Policy, at: Timestamp) -> Vec<usize> {
    history
        .to_call()
        .filter(|index| {
            let date = intent.items().get(*index).map(|item| item.date);
            date.is_some_and(|date| !is_over(Kind::BatchCancel, date, policy, at))
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::domain::fixtures::{DAY, MIDNIGHT, at, batch, intent, same_day_policy};

    #[test]
    fn a_day_ends_at_midnight_of_the_gateways_zone_and_that_moment_is_the_next_days() {
        let policy = same_day_policy();
        assert_eq!(day_end(DAY, &policy), at(MIDNIGHT));
        let utc = Policy { zone: TimeZone::UTC, ..same_day_policy() };
        assert_eq!(day_end(DAY, &utc), at(12 * 3600));
        let just_before = at(MIDNIGHT) - jiff::SignedDuration::from_nanos(1);
        assert!(!is_over(Kind::BatchCancel, DAY, &policy, just_before));
        assert!(is_over(Kind::BatchCancel, DAY, &policy, at(MIDNIGHT)));
    }

    #[test]
    fn the_last_day_of_the_calendar_never_ends() {
        assert_eq!(day_end(Date::MAX, &same_day_policy()), Timestamp::MAX);
    }

    #[test]
    fn no_day_is_over_for_a_kind_that_the_rule_does_not_bind() {
        let policy = same_day_policy();
        for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::ApmProvisionCancel] {
            assert!(!is_over(kind, DAY, &policy, at(MIDNIGHT)), "{kind}");
        }
    }

    #[test]
    fn only_an_intent_of_one_payment_has_one_day() {
        let policy = same_day_policy();
        assert!(is_over_for(&intent(Kind::TransactionCancel), &policy, at(MIDNIGHT)));
        assert!(!is_over_for(&intent(Kind::TransactionCancel), &policy, at(MIDNIGHT - 1)));
        assert!(!is_over_for(&batch(&[DAY]), &policy, at(MIDNIGHT)));
        assert_eq!(ends_count_from(&batch(&[DAY]), &policy), None);
    }

    #[test]
    fn an_end_by_the_rule_counts_when_no_call_of_that_day_can_be_under_way() {
        let policy = same_day_policy();
        assert_eq!(counts_from(DAY, &policy), at(MIDNIGHT + 60));
        assert_eq!(ends_count_from(&intent(Kind::TransactionCancel), &policy), Some(at(MIDNIGHT + 60)));
    }
}

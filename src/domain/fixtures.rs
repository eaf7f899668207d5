//! What the domain's tests are made of: one policy, one intent of each kind, one day.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::codes::Codes;
use super::decide::{Decision, Moment, Then};
use super::doubt::resumed;
use super::history::{Doubt, History, Item, Phase};
use super::intent::{BatchPayment, BatchPayments, CancelIntent, Code, IntentId, Kind, MerchantName, Target};
use super::isolation::{Crash, Handling, Suspicion, suspect};
use super::outcome::{Outcome, Status, Subject};
use super::policy::Policy;
use super::retry::{Jitter, Tier, Tiers};

/// The payment that every intent of the tests is about.
pub(super) const OURS: Uuid = Uuid::from_u128(0x11);
/// A payment that none of them is about.
pub(super) const ANOTHER: Uuid = Uuid::from_u128(0x22);
/// The day of every payment.
pub(super) const DAY: Date = date(2025, 6, 10);

/// So many seconds after noon UTC of [`DAY`], which in the gateway's zone ends nine hours later.
pub(super) fn at(seconds: i64) -> Timestamp {
    let noon: Timestamp = "2025-06-10T12:00:00Z".parse().unwrap();
    noon + SignedDuration::from_secs(seconds)
}

/// [`at`] of the moment at which the payments' day ends.
pub(super) const MIDNIGHT: i64 = 9 * 3600;

pub(super) fn policy() -> Policy {
    let tiers = [1, 2, 5, 10, 30, 60, 120, 300, 900, 1800, 3600]
        .map(|s| Tier { length: Duration::from_secs(s), name: format!("{s}s") });
    Policy {
        tiers: Tiers::try_new(tiers.to_vec()).unwrap(),
        attempts_max: 12,
        age_max: Duration::from_secs(6 * 3600),
        retry_after_max: Duration::from_secs(15 * 60),
        call_timeout: Duration::from_secs(30),
        quiet: Duration::from_secs(30),
        asks_max: None,
        inquiry_age_max: Duration::from_secs(24 * 3600),
        after_success: BTreeSet::new(),
        rollback_wait: Duration::from_secs(6),
        zone: TimeZone::get("Europe/Istanbul").unwrap(),
        same_day: BTreeSet::from([Kind::BatchCancel]),
        merchants: BTreeSet::from([MerchantName::default()]),
        codes: Codes::default(),
    }
}

/// A policy whose rule of the same day holds for transactions too.
pub(super) fn same_day_policy() -> Policy {
    Policy { same_day: BTreeSet::from([Kind::BatchCancel, Kind::TransactionCancel]), ..policy() }
}

pub(super) fn code(text: &str) -> Code {
    Code::parse(text).unwrap()
}

/// The intent of a kind, requested at noon; a batch of three payments.
pub(crate) fn intent(kind: Kind) -> CancelIntent {
    let target = match kind {
        Kind::AsyncCancel => Target::AsyncCancel { payment_request_id: OURS },
        Kind::SyncCancelRollback => {
            Target::SyncCancelRollback { payment_request_id: OURS, cancel_requested_at: None }
        }
        Kind::TransactionCancel => {
            Target::TransactionCancel { unique_code: OURS, date: DAY, delete_marketplace_records: Some(true) }
        }
        Kind::ApmProvisionCancel => Target::ApmProvisionCancel {
            unique_code: code("APM-1"),
            merchant_unique_code: Some(code("shop-1")),
        },
        Kind::BatchCancel => return batch(&[DAY; 3]),
    };
    about(target)
}

/// A batch with a payment of each of these days; their codes are `shop-0`, `shop-1` and so on.
pub(super) fn batch(days: &[Date]) -> CancelIntent {
    let payments = days.iter().enumerate().map(|(index, day)| BatchPayment {
        merchant_unique_code: code(&format!("shop-{index}")),
        date: *day,
    });
    about(Target::BatchCancel { payments: BatchPayments::try_new(payments.collect()).unwrap() })
}

pub(super) fn about(target: Target) -> CancelIntent {
    CancelIntent {
        id: IntentId::try_new(Uuid::from_u128(0x33)).unwrap(),
        requested_at: at(0),
        merchant: MerchantName::default(),
        target,
    }
}

/// A letter that nothing was done to, first seen at noon.
pub(super) fn fresh(intent: &CancelIntent) -> History {
    History::fresh(at(0), intent.items().len())
}

/// What a letter of a lane is when its step begins after it was handed out again: a suspect is isolated before its body is
/// read, and resumed from there.
pub(super) fn redelivered(
    intent: &CancelIntent,
    history: &History,
    policy: &Policy,
    now: Timestamp,
) -> History {
    match suspect(intent.kind(), history, Handling::Shared, Crash::Possible, policy, now) {
        Suspicion::Isolate(isolated) => History { strikes: 0, ..resumed(intent, &isolated, policy, now) },
        Suspicion::Clear | Suspicion::Poison(_) => panic!("a first suspicion isolates"),
    }
}

/// The items that the header's characters stand for.
pub(super) fn items(text: &str) -> Vec<Item> {
    text.chars().map(|c| Item::from_char(c).unwrap()).collect()
}

/// With jitter that always fall on the shorter wait.
pub(super) fn moment(policy: &Policy, now: Timestamp) -> Moment<'_> {
    Moment { policy, now, jitter: Jitter::new(0.0) }
}

/// A decision in one line: what is told, then what becomes of the letter, then a batch's items.
///
/// `accepted; settle: to_ask in 1s` · `0:cancelled + closed; done [C]` · `unresolved/no_evidence; dead no_evidence`
pub(super) fn summary(decision: &Decision, now: Timestamp) -> String {
    let told: Vec<String> = decision.outcomes.iter().map(told).collect();
    let history = &decision.history;
    let then = match decision.then {
        Then::Done => "done".to_owned(),
        Then::DeadLetter(reason) => format!("dead {}", reason.as_str()),
        Then::Wait(waiting) => {
            let phase = match (history.phase, history.doubt) {
                (phase, Doubt::None) => phase.as_str().to_owned(),
                (phase, Doubt::MayHaveHappened) => format!("{} in doubt", phase.as_str()),
            };
            let due = history.due.expect("a letter that waits is due at some time");
            format!("{phase}: {} in {}s", waiting.as_str(), due.duration_since(now).as_secs())
        }
    };
    let mut line = if told.is_empty() { then } else { format!("{}; {then}", told.join(" + ")) };
    if !history.items.is_empty() {
        let items: String = history.items.iter().map(|item| item.as_char()).collect();
        line.push_str(&format!(" [{items}]"));
    }
    line
}

fn told(outcome: &Outcome) -> String {
    let status = match (outcome.status, outcome.status.reason()) {
        (status, Some((reason, _))) => format!("{}/{reason}", status.name().as_str()),
        (status, None) => status.name().as_str().to_owned(),
    };
    match outcome.subject {
        Subject::Whole => status,
        Subject::Item(index) => format!("{index}:{status}"),
    }
}

/// The only status that is told, for tests of what stands beside it.
pub(super) fn only(decision: &Decision) -> (&Outcome, Status) {
    let [outcome] = decision.outcomes.as_slice() else { panic!("one outcome, not {decision:?}") };
    (outcome, outcome.status)
}

/// A letter that was called once, the call having ended at noon.
pub(super) fn called(intent: &CancelIntent) -> History {
    History { attempts: 1, called_at: Some(at(0)), ..fresh(intent) }
}

/// The same in phase settle, since noon.
pub(super) fn settling(intent: &CancelIntent) -> History {
    History { phase: Phase::Settle, settling_since: Some(at(0)), ..called(intent) }
}

//! Intent, history and now give the one next step: a call, a look, or a decision that needs neither.

use std::time::Duration;

use jiff::Timestamp;

use super::history::{Doubt, History, Phase, Why};
use super::intent::{CancelIntent, Kind, Target};
use super::outcome::{GivenUpReason, RejectedReason};
use super::policy::Policy;
use super::retry::{elapsed, later};
use super::same_day;
use super::step::{Call, Inquiry, Order, Question};
use super::waiting::Waiting;

/// How far in our future an intent's `requestedAt` may lie: clocks differ by less than that.
pub const FUTURE_MAX: Duration = Duration::from_secs(5 * 60);

/// The one next step of a letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Call the gateway.
    Call(Call),
    /// Look at the gateway.
    Inquire(Inquiry),
    /// Neither.
    Decide(Ruling),
}

/// What is decided without the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// It waits until this time, which is no attempt.
    Wait(Timestamp, Waiting),
    /// A rule of ours refuses it before any call.
    Refuse(RejectedReason),
    /// A rule of ours refuses these payments of a batch, by their indices; the rest goes on.
    RefuseItems(Vec<usize>),
    /// It is not called any more: its budget is spent, or it never may be.
    GiveUp(GivenUpReason),
    /// The budget of its looks is spent.
    Unresolved,
    /// No query would tell.
    NothingToAsk,
}

/// A letter's next step, and the history that it is taken with.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What was done before, the phase corrected where the time of day has changed it.
    pub history: History,
    /// The step.
    pub plan: Plan,
}

/// The letter's next step.
pub fn plan(intent: &CancelIntent, history: &History, policy: &Policy, now: Timestamp) -> Planned {
    if let Some(due) = history.due.filter(|due| *due > now) {
        let plan = Plan::Decide(Ruling::Wait(due, Waiting::NotDue));
        return Planned { history: history.clone(), plan };
    }
    let mut history = History { due: None, ..history.clone() };
    if history.phase == Phase::Call {
        let one_payment = intent.kind() != Kind::BatchCancel;
        if history.doubt == Doubt::MayHaveHappened && one_payment {
            // A doubt is resolved before anything is called; but a batch may have both kinds of payments.
            enter_settle_phase(&mut history, now);
        } else {
            match plan_call(intent, &history, policy, now) {
                Some(plan) => return Planned { history, plan },
                // Requested in time and handled too late: a copy may have called, so ask first.
                None => enter_settle_phase(&mut history, now),
            }
        }
    }
    let plan = plan_in_settle_phase(intent, &history, policy, now);
    Planned { history, plan }
}

fn enter_settle_phase(history: &mut History, now: Timestamp) {
    history.phase = Phase::Settle;
    history.settling_since = Some(now);
    history.asked = 0;
}

/// The next step of a letter that may call; `None` if it is too late for that.
fn plan_call(intent: &CancelIntent, history: &History, policy: &Policy, now: Timestamp) -> Option<Plan> {
    let give_up = |reason| Some(Plan::Decide(Ruling::GiveUp(reason)));
    // A letter that was not in the future when it was first seen is not now: the clock was set back since.
    if intent.requested_at > later(now.max(history.first_seen), FUTURE_MAX) {
        return give_up(GivenUpReason::RequestedInFuture);
    }
    // Requested after the payment's day: it can never have been called in time.
    if intent.kind() == Kind::BatchCancel {
        let too_late = requested_too_late(intent, history, policy);
        if !too_late.is_empty() {
            return Some(Plan::Decide(Ruling::RefuseItems(too_late)));
        }
    } else if same_day::is_over_for(intent, policy, intent.requested_at) {
        return Some(Plan::Decide(Ruling::Refuse(RejectedReason::SameDayWindowClosed)));
    }
    if !policy.merchants.contains(&intent.merchant) {
        return give_up(GivenUpReason::UnknownMerchant);
    }
    let too_late_now = match intent.kind() {
        Kind::BatchCancel => same_day::callable(intent, history, policy, now).is_empty(),
        Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::ApmProvisionCancel => {
            same_day::is_over_for(intent, policy, now)
        }
    };
    if too_late_now {
        return None;
    }
    if elapsed(history.first_seen, now) >= policy.age_max {
        return give_up(GivenUpReason::DeadlinePassed);
    }
    if history.attempts >= policy.attempts_max {
        return give_up(GivenUpReason::AttemptsExhausted);
    }
    if let Some(earliest) = rollback_not_before(intent, policy).filter(|earliest| *earliest > now) {
        return Some(Plan::Decide(Ruling::Wait(earliest, Waiting::RollbackWait)));
    }
    Some(Plan::Call(Call { merchant: intent.merchant.clone(), order: order(intent, history, policy, now) }))
}

fn plan_in_settle_phase(intent: &CancelIntent, history: &History, policy: &Policy, now: Timestamp) -> Plan {
    let too_late = requested_too_late(intent, history, policy);
    if !too_late.is_empty() && history.why.is_none() {
        return Plan::Decide(Ruling::RefuseItems(too_late));
    }
    let since = history.settling_since.unwrap_or(history.first_seen);
    let asked_out = policy.asks_max.is_some_and(|max| history.rounds() >= max);
    if elapsed(since, now) >= policy.inquiry_age_max || asked_out {
        return Plan::Decide(Ruling::Unresolved);
    }
    match question(intent, history) {
        Ask::Question(question) => Plan::Inquire(Inquiry { merchant: intent.merchant.clone(), question }),
        Ask::ByCalling => {
            let quiet_from = history.called_at.map(|called_at| later(called_at, policy.quiet));
            if let Some(from) = quiet_from.filter(|from| *from > now) {
                return Plan::Decide(Ruling::Wait(from, Waiting::ToAsk));
            }
            if history.attempts >= policy.attempts_max || !policy.merchants.contains(&intent.merchant) {
                return Plan::Decide(Ruling::Unresolved);
            }
            Plan::Call(Call { merchant: intent.merchant.clone(), order: order(intent, history, policy, now) })
        }
        Ask::Nothing => Plan::Decide(Ruling::NothingToAsk),
    }
}

/// No rollback is called before this time: the page forbids the first five seconds after the cancel order.
fn rollback_not_before(intent: &CancelIntent, policy: &Policy) -> Option<Timestamp> {
    match &intent.target {
        Target::SyncCancelRollback { cancel_requested_at, .. } => {
            Some(later(cancel_requested_at.unwrap_or(intent.requested_at), policy.rollback_wait))
        }
        Target::AsyncCancel { .. }
        | Target::TransactionCancel { .. }
        | Target::ApmProvisionCancel { .. }
        | Target::BatchCancel { .. } => None,
    }
}

/// The payments of a batch that are to be called, and were requested after their day was over: no copy of the
/// letter has ever called them, and none will.
fn requested_too_late(intent: &CancelIntent, history: &History, policy: &Policy) -> Vec<usize> {
    let callable = same_day::callable(intent, history, policy, intent.requested_at);
    history.to_call().filter(|index| !callable.contains(index)).collect()
}

fn order(intent: &CancelIntent, history: &History, policy: &Policy, now: Timestamp) -> Order {
    match &intent.target {
        Target::AsyncCancel { payment_request_id } => {
            Order::AsyncCancel { payment_request_id: *payment_request_id }
        }
        Target::SyncCancelRollback { payment_request_id, .. } => {
            Order::SyncCancelRollback { payment_request_id: *payment_request_id }
        }
        Target::TransactionCancel { unique_code, date, delete_marketplace_records } => {
            Order::TransactionCancel {
                unique_code: *unique_code,
                date: *date,
                delete_marketplace_records: *delete_marketplace_records,
            }
        }
        Target::ApmProvisionCancel { unique_code, .. } => {
            Order::ApmProvisionCancel { unique_code: unique_code.clone() }
        }
        Target::BatchCancel { payments } => {
            let payments = payments.as_slice();
            Order::BatchCancel {
                payments: same_day::callable(intent, history, policy, now)
                    .into_iter()
                    .map(|index| (index, payments[index].merchant_unique_code.clone(), payments[index].date))
                    .collect(),
            }
        }
    }
}

/// The look that buys the payment status of a success whose reply has none, where there is one to make.
pub fn inquiry_after(intent: &CancelIntent) -> Option<Inquiry> {
    let question = match &intent.target {
        Target::AsyncCancel { payment_request_id }
        | Target::SyncCancelRollback { payment_request_id, .. } => {
            Question::Physical { payment_request_id: *payment_request_id }
        }
        Target::TransactionCancel { unique_code, .. } => Question::Transaction { unique_code: *unique_code },
        Target::ApmProvisionCancel { merchant_unique_code, .. } => {
            Question::Apm { merchant_unique_code: merchant_unique_code.clone()? }
        }
        // Its payments are decided by looks.
        Target::BatchCancel { .. } => return None,
    };
    Some(Inquiry { merchant: intent.merchant.clone(), question })
}

/// How a letter in phase settle finds out.
enum Ask {
    Question(Question),
    /// No query tells, but the call may be repeated: a full cancel of a provision has its effect once.
    ByCalling,
    /// There is nothing to ask.
    Nothing,
}

fn question(intent: &CancelIntent, history: &History) -> Ask {
    match &intent.target {
        Target::AsyncCancel { payment_request_id }
        | Target::SyncCancelRollback { payment_request_id, .. } => {
            Ask::Question(Question::Physical { payment_request_id: *payment_request_id })
        }
        Target::TransactionCancel { unique_code, .. } => {
            Ask::Question(Question::Transaction { unique_code: *unique_code })
        }
        Target::ApmProvisionCancel { merchant_unique_code, .. } => match (history.doubt, history.why) {
            (Doubt::MayHaveHappened, _) => Ask::ByCalling,
            (Doubt::None, Some(Why::RefusedByState(_) | Why::NotConfigured) | None) => {
                match merchant_unique_code {
                    Some(code) => Ask::Question(Question::Apm { merchant_unique_code: code.clone() }),
                    None => Ask::Nothing,
                }
            }
        },
        Target::BatchCancel { payments } => {
            let payments = payments.as_slice();
            Ask::Question(Question::Batch {
                payments: whose_turn(history)
                    .into_iter()
                    .map(|index| (index, payments[index].merchant_unique_code.clone()))
                    .collect(),
            })
        }
    }
}

/// The open payments of a batch, the longest unasked first, as many as one look may ask for: every look begins
/// where the one before it ended, so each payment is first in line once in a round.
fn whose_turn(history: &History) -> Vec<usize> {
    let len = history.items.len();
    let start = (history.asked as usize).saturating_mul(Question::BATCH_LEN_MAX) % len.max(1);
    (0..len)
        .map(|step| (start + step) % len)
        .filter(|index| !history.items[*index].is_decided())
        .take(Question::BATCH_LEN_MAX)
        .collect()
}

#[cfg(test)]
mod tests;

//! What a letter's history is when a call may have been made that no history knows of.

use jiff::Timestamp;

use super::history::{Doubt, History, Item, Phase};
use super::intent::{CancelIntent, Kind};
use super::policy::Policy;
use super::retry::later;
use super::same_day;

/// The history of a letter whose call may have been made and was not answered; it ended at `called_at`.
pub fn in_doubt(history: &History, called_at: Timestamp, now: Timestamp) -> History {
    let mut history = history.clone();
    for item in &mut history.items {
        if *item == Item::ToCall {
            *item = Item::Doubt;
        }
    }
    if history.phase == Phase::Call || history.settling_since.is_none() {
        history.settling_since = Some(now);
        history.asked = 0;
    }
    history.phase = Phase::Settle;
    history.doubt = Doubt::MayHaveHappened;
    history.attempts = history.attempts.saturating_add(1);
    history.called_at = Some(called_at);
    history.why = None;
    history.due = None;
    history
}

/// What the history of a letter is when the broker hands it out again: a call may have been made that no history knows
/// of. Its body is not read yet, since reading may be what took the process down: the doubt is marked, and a call that no
/// history records is not counted before [`resumed`].
pub fn doubted_unread(kind: Kind, history: &History, policy: &Policy, now: Timestamp) -> History {
    let may_have_called = match (history.phase, kind) {
        // Of a batch that nobody has read, the payments are not known.
        (Phase::Call, Kind::BatchCancel) => history.items.is_empty() || history.to_call().next().is_some(),
        (
            Phase::Call,
            Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::ApmProvisionCancel,
        ) => true,
        // A provision in doubt is called in this phase.
        (Phase::Settle, Kind::ApmProvisionCancel) => history.doubt == Doubt::MayHaveHappened,
        (
            Phase::Settle,
            Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::BatchCancel,
        ) => false,
    };
    if !may_have_called {
        return history.clone();
    }
    let doubted = in_doubt(history, later(now, policy.call_timeout), now);
    let recorded = history.attempts > 0;
    History { attempts: if recorded { doubted.attempts } else { 0 }, ..doubted }
}

/// The history that a step begins with, once the body is read. `carried` is what the letter brought.
///
/// A payment that was requested after its day was over is in no doubt: no copy can have called it, and an earlier delivery
/// may already have announced it as rejected, without a look.
pub fn resumed(intent: &CancelIntent, carried: &History, policy: &Policy, now: Timestamp) -> History {
    let history = fitted(carried, intent.items().len(), now);
    let marked_unread = history.phase == Phase::Settle
        && history.doubt == Doubt::MayHaveHappened
        && history.attempts == 0
        && history.replays == 0;
    if !marked_unread {
        return history;
    }
    let untouched = |items: Vec<Item>| History {
        phase: Phase::Call,
        doubt: Doubt::None,
        called_at: None,
        settling_since: None,
        items,
        ..history.clone()
    };
    if intent.kind() != Kind::BatchCancel {
        return if same_day::is_over_for(intent, policy, intent.requested_at) {
            untouched(Vec::new())
        } else {
            History { attempts: 1, ..history }
        };
    }
    let items: Vec<Item> = history
        .items
        .iter()
        .zip(intent.items())
        .map(|(item, payment)| match item {
            Item::Doubt
                if same_day::is_over(Kind::BatchCancel, payment.date, policy, intent.requested_at) =>
            {
                Item::ToCall
            }
            Item::ToCall
            | Item::Doubt
            | Item::Ordered
            | Item::Named
            | Item::Cancelled
            | Item::Rejected
            | Item::GivenUp
            | Item::Unresolved => *item,
        })
        .collect();
    if items.contains(&Item::Doubt) { History { attempts: 1, items, ..history } } else { untouched(items) }
}

/// A history of as many payments as the intent has. A suspect is isolated before its body is read, when it is not known
/// how many those are; a history of another number is not this letter's, and then anything may have happened.
fn fitted(carried: &History, items_len: usize, now: Timestamp) -> History {
    match carried.items.len() {
        len if len == items_len => carried.clone(),
        0 if carried.doubt == Doubt::MayHaveHappened => {
            History { items: vec![Item::Doubt; items_len], ..carried.clone() }
        }
        _other => in_doubt(&History::fresh(now, items_len), now, now),
    }
}

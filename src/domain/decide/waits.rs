//! How long a letter waits: the schedules, and the budgets that cut them off.

use std::time::Duration;

use jiff::Timestamp;

use super::{Decision, Moment, Then};
use crate::domain::history::{History, Phase};
use crate::domain::intent::Kind;
use crate::domain::policy::Policy;
use crate::domain::reply::RetryAfter;
use crate::domain::retry::{elapsed, later};
use crate::domain::waiting::Waiting;

/// Asks again on the growing schedule, but at `not_after` already if that comes first.
pub(super) fn ask_again(history: History, not_after: Option<Timestamp>, moment: Moment<'_>) -> Decision {
    let policy = moment.policy;
    let wait = match history.asked {
        0 => policy.tiers.shortest().length,
        asked => policy.tiers.after_tries(asked, moment.jitter),
    };
    ask_after(history, wait, not_after, moment)
}

pub(super) fn ask_after(
    history: History,
    wait: Duration,
    not_after: Option<Timestamp>,
    moment: Moment<'_>,
) -> Decision {
    let grown = later(moment.now, wait);
    let due = match not_after {
        Some(at) if at > moment.now => at.min(grown),
        Some(_) | None => grown,
    };
    wait_within_budget(&history, due, Waiting::ToAsk, moment)
}

/// When a letter in doubt is looked at first. A provision has no look: its call is repeated, not sooner than
/// `quiet`.
pub(super) fn first_look(kind: Kind, policy: &Policy) -> Duration {
    match kind {
        Kind::ApmProvisionCancel => policy.quiet,
        Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::BatchCancel => {
            policy.tiers.shortest().length
        }
    }
}

/// Waits to call again, as long as the attempts so far say, or as the gateway asks within our bounds.
pub(super) fn wait_to_call(
    history: History,
    retry_after: Option<RetryAfter>,
    moment: Moment<'_>,
) -> Decision {
    let policy = moment.policy;
    let wait = policy.tiers.after_tries(history.attempts, moment.jitter);
    let wished = retry_after
        .map_or(Duration::ZERO, |retry_after| retry_after.wait(moment.now, policy.retry_after_max));
    wait_for(history, wait.max(wished), Waiting::ToCallAgain, moment)
}

/// Waits so long, but not beyond the age at which the letter is given up.
pub(super) fn wait_for(history: History, wait: Duration, waiting: Waiting, moment: Moment<'_>) -> Decision {
    wait_within_budget(&history, later(moment.now, wait), waiting, moment)
}

/// Waits until `due`, or until the budget of the letter's phase ends; never until a time that has passed, which
/// it may have during a long look.
pub(super) fn wait_within_budget(
    history: &History,
    due: Timestamp,
    waiting: Waiting,
    moment: Moment<'_>,
) -> Decision {
    let ends = match history.phase {
        Phase::Call => Some(later(history.first_seen, moment.policy.age_max)),
        Phase::Settle => history.settling_since.map(|since| later(since, moment.policy.inquiry_age_max)),
    };
    wait_until(history, ends.map_or(due, |ends| due.min(ends.max(moment.now))), waiting)
}

/// Waits as long as the letter is old, roughly: what stands in its way has nothing to do with its own tries.
pub(super) fn wait_by_age(history: History, waiting: Waiting, moment: Moment<'_>) -> Decision {
    let wait = moment.policy.tiers.after_elapsed(elapsed(history.first_seen, moment.now), moment.jitter);
    wait_for(history, wait, waiting, moment)
}

/// The letter waits until `due`; that is no attempt.
pub(super) fn wait_until(history: &History, due: Timestamp, waiting: Waiting) -> Decision {
    let history = History { due: Some(due), ..history.clone() };
    Decision { outcomes: Vec::new(), history, then: Then::Wait(waiting) }
}

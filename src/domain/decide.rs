//! A verdict or evidence, and what was done before, give a decision: what is told, and what becomes of the
//! letter. The tables are those of `design.md` §3 and §4.

use std::time::Duration;

use jiff::Timestamp;

use super::classify::{Facts, Verdict, was_locked_out};
use super::evidence::{Evidence, Findings, Shown};
use super::history::{Doubt, History, Item, LastReply, Phase, Why};
use super::intent::{CancelIntent, Kind};
use super::outcome::{
    GivenUpReason, Learnt, Outcome, PaymentStatus, RejectedReason, Status, StatusName, Subject,
    UnresolvedReason,
};
use super::policy::Policy;
use super::reply::RetryAfter;
use super::retry::{Jitter, elapsed, later};
use super::same_day;

mod batch;

/// What we do about it. All of it is announced, and then the delivery is acked.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What we tell the world, in this order. May be nothing while the letter goes on.
    pub outcomes: Vec<Outcome>,
    /// What the letter remembers from here on.
    pub history: History,
    /// What becomes of the letter.
    pub then: Then,
}

/// What becomes of the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing follows.
    Done,
    /// It waits in a delay queue; `history.due` says until when.
    Wait(Waiting),
    /// It goes to the dead letters: a person must look at it.
    DeadLetter(DeadReason),
}

/// Why a letter waits: for logs, and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It came back before it was due.
    NotDue,
    /// A rollback must not be called so soon.
    RollbackWait,
    /// Surely not done: to be called again.
    ToCallAgain,
    /// Ordered, refused by state or in doubt: to be asked about.
    ToAsk,
    /// Our keys or addresses are not accepted.
    LockedOut,
    /// The gateway is not set up for this payment.
    NotConfigured,
    /// The endpoint is known to be down.
    EndpointDown,
    /// The gateway asked for a later call, in a reply to another letter of this merchant.
    SlowedDown,
    /// As much is asked of the API already as it is allowed to be asked.
    NoRoom,
}

impl Waiting {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Waiting::NotDue => "not_due",
            Waiting::RollbackWait => "rollback_wait",
            Waiting::ToCallAgain => "to_call_again",
            Waiting::ToAsk => "to_ask",
            Waiting::LockedOut => "locked_out",
            Waiting::NotConfigured => "not_configured",
            Waiting::EndpointDown => "endpoint_down",
            Waiting::SlowedDown => "slowed_down",
            Waiting::NoRoom => "no_room",
        }
    }
}

/// Why a letter is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadReason {
    /// Surely nothing happened.
    GivenUp(GivenUpReason),
    /// It may have happened.
    Unresolved(UnresolvedReason),
}

impl DeadReason {
    /// The reason's code.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::GivenUp(reason) => reason.as_str(),
            DeadReason::Unresolved(reason) => reason.as_str(),
        }
    }

    /// What it says to a person.
    pub fn message(self) -> &'static str {
        match self {
            DeadReason::GivenUp(reason) => reason.message(),
            DeadReason::Unresolved(reason) => reason.message(),
        }
    }

    fn status(self) -> Status {
        match self {
            DeadReason::GivenUp(reason) => Status::GivenUp(reason),
            DeadReason::Unresolved(reason) => Status::Unresolved(reason),
        }
    }
}

/// What a decision is made with, beside the letter.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The configuration's numbers.
    pub policy: &'a Policy,
    /// When the step's call or look ended.
    pub now: Timestamp,
    /// The jitter of its delay.
    pub jitter: Jitter,
}

/// What a call's verdict leads to. `called` are the indices of the payments that a batch's call named.
pub fn decide_verdict(
    intent: &CancelIntent,
    history: &History,
    called: &[usize],
    verdict: Verdict,
    last: LastReply,
    moment: Moment<'_>,
) -> Decision {
    let mut history = survived(history);
    match verdict {
        // Nothing reached the gateway, or nothing but its lock-out: no attempt is burned.
        Verdict::NeverSent => {
            // What could not even be tried says nothing about the try before.
            if last.fault.is_some() {
                history.last = last;
            }
        }
        Verdict::LockedOut(_) => history.last = last,
        Verdict::Done(_)
        | Verdict::Ordered(_)
        | Verdict::OrderedBatch(..)
        | Verdict::Refused(_)
        | Verdict::RefusedByState(_)
        | Verdict::Busy(_)
        | Verdict::InDoubt
        | Verdict::NotConfigured => {
            history.last = last;
            history.attempts = history.attempts.saturating_add(1);
            history.called_at = Some(moment.now);
            history.why = None;
        }
    }
    if intent.kind() == Kind::BatchCancel {
        return batch::decide_verdict(intent, history, called, verdict, moment);
    }
    match verdict {
        Verdict::Done(facts) => {
            finish(history, done_status(intent.kind()), facts.payment_status, facts.learnt)
        }
        Verdict::Ordered(facts) | Verdict::OrderedBatch(facts, _) => {
            history.doubt = Doubt::None;
            settle(&mut history, moment);
            accept(history, facts, moment)
        }
        Verdict::Refused(reason) => match history.doubt {
            Doubt::None => finish(history, Status::Rejected(reason), None, Learnt::default()),
            Doubt::MayHaveHappened => refused_by_state(intent, history, reason, moment),
        },
        Verdict::RefusedByState(reason) => refused_by_state(intent, history, reason, moment),
        Verdict::Busy(retry_after) => {
            if history.attempts >= moment.policy.attempts_max {
                return spent(intent, history, GivenUpReason::AttemptsExhausted, moment);
            }
            wait_to_call(history, retry_after, moment)
        }
        Verdict::NeverSent => {
            let wait =
                moment.policy.tiers.after_elapsed(elapsed(history.first_seen, moment.now), moment.jitter);
            wait_for(history, wait, Waiting::ToCallAgain, moment)
        }
        Verdict::InDoubt => {
            history.doubt = Doubt::MayHaveHappened;
            settle(&mut history, moment);
            let wait = first_look(intent.kind(), moment.policy);
            wait_for(history, wait, Waiting::ToAsk, moment)
        }
        Verdict::LockedOut(_) => {
            let wait =
                moment.policy.tiers.after_elapsed(elapsed(history.first_seen, moment.now), moment.jitter);
            wait_for(history, wait, Waiting::LockedOut, moment)
        }
        Verdict::NotConfigured => {
            history.why = Some(Why::NotConfigured);
            if history.attempts >= moment.policy.attempts_max {
                return spent(intent, history, GivenUpReason::AttemptsExhausted, moment);
            }
            let wait = moment.policy.tiers.long_after_tries(history.attempts, moment.jitter);
            wait_for(history, wait, Waiting::NotConfigured, moment)
        }
    }
}

/// What a look's findings lead to. `asked_at` is when the look began.
pub fn decide_findings(
    intent: &CancelIntent,
    history: &History,
    findings: Findings,
    asked_at: Timestamp,
    moment: Moment<'_>,
) -> Decision {
    let mut history = survived(history);
    history.asked = history.asked.saturating_add(1);
    let evidence = match findings {
        Findings::Payment(evidence) => evidence,
        Findings::Items(items) => return batch::decide_findings(intent, history, items, asked_at, moment),
    };
    history.shown = Some(evidence.shown);
    history.last.rule = Some(rule_of_evidence(evidence.shown));
    let asked = Asked { at: asked_at, called_at: history.called_at };
    let meaning = match intent.kind() {
        Kind::AsyncCancel => async_cancel(&history, evidence.shown),
        Kind::SyncCancelRollback => rollback(&history, evidence.shown),
        Kind::TransactionCancel | Kind::BatchCancel => {
            virtual_pos(Before::of_letter(&history), evidence.shown)
        }
        Kind::ApmProvisionCancel => apm(evidence.shown),
    };
    follow(intent, history, meaning, evidence, asked, moment)
}

/// The history of a letter whose step has spoken to the gateway, and took no process down. A mere wait is no such proof: its
/// letter keeps its strikes, and is handled alone when it comes back.
fn survived(history: &History) -> History {
    History { strikes: 0, ..history.clone() }
}

/// The word for the row of the evidence table that a look was read by.
fn rule_of_evidence(shown: Shown) -> String {
    format!("evidence:{}", shown.as_str())
}

/// What is said of a letter that nobody can help any more: by phase and doubt it is one or the other.
pub fn give_up(intent: &CancelIntent, history: &History, reason: DeadReason) -> Decision {
    let history = history.clone();
    match intent.kind() {
        Kind::BatchCancel => batch::give_up(history, reason),
        Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::ApmProvisionCancel => {
            let outcome = outcome_of_whole(reason.status(), None, Learnt::default());
            conclude(history, vec![outcome], Then::DeadLetter(reason))
        }
    }
}

/// The letter is not handled now, for a reason that has nothing to do with its payment: no attempt, and no look.
pub fn wait_untried(history: &History, until: Timestamp, why: Waiting, moment: Moment<'_>) -> Decision {
    let wait = elapsed(moment.now, until).max(moment.policy.tiers.shortest().length);
    wait_for(history.clone(), wait, why, moment)
}

/// The letter waits for the end of a lock-out; `last` is what the gateway said, perhaps to another letter.
pub fn wait_locked_out(history: &History, last: LastReply, until: Timestamp, moment: Moment<'_>) -> Decision {
    wait_untried(&History { last, ..history.clone() }, until, Waiting::LockedOut, moment)
}

/// A rule of ours refuses before any call.
pub(super) fn refuse_by_rule(history: &History, reason: RejectedReason) -> Decision {
    finish(history.clone(), Status::Rejected(reason), None, Learnt::default())
}

/// The payments of a batch that a rule of ours refuses before any call; the rest goes on at once.
pub(super) fn refuse_items_by_rule(history: &History, indices: &[usize], moment: Moment<'_>) -> Decision {
    batch::refuse_by_rule(history.clone(), indices, moment)
}

/// The letter waits until `due`; that is no attempt.
pub(super) fn wait_until(history: &History, due: Timestamp, waiting: Waiting) -> Decision {
    let history = History { due: Some(due), ..history.clone() };
    Decision { outcomes: Vec::new(), history, then: Then::Wait(waiting) }
}

/// The budget of phase call is spent: given up, unless there is doubt.
pub(super) fn spent(
    intent: &CancelIntent,
    history: History,
    reason: GivenUpReason,
    moment: Moment<'_>,
) -> Decision {
    let reason = match reason {
        GivenUpReason::AttemptsExhausted | GivenUpReason::DeadlinePassed => {
            obstacle(intent, &history, moment.policy).unwrap_or(reason)
        }
        GivenUpReason::LockedOut
        | GivenUpReason::NotConfigured
        | GivenUpReason::UnknownMerchant
        | GivenUpReason::RequestedInFuture => reason,
    };
    if intent.kind() == Kind::BatchCancel {
        return batch::spent(intent, history, reason, moment);
    }
    let dead = match history.doubt {
        Doubt::None => DeadReason::GivenUp(reason),
        Doubt::MayHaveHappened => DeadReason::Unresolved(UnresolvedReason::NoEvidence),
    };
    give_up(intent, &history, dead)
}

/// What stood in the way of the calls, where it was one thing.
fn obstacle(intent: &CancelIntent, history: &History, policy: &Policy) -> Option<GivenUpReason> {
    match history.why {
        Some(Why::NotConfigured) => Some(GivenUpReason::NotConfigured),
        Some(Why::RefusedByState(_)) | None => {
            was_locked_out(intent.kind(), &history.last, &policy.codes).then_some(GivenUpReason::LockedOut)
        }
    }
}

/// The budget of phase settle is spent: nothing that can be asked tells.
pub(super) fn unresolved(
    intent: &CancelIntent,
    history: &History,
    policy: &Policy,
    now: Timestamp,
) -> Decision {
    let is_contradicted = history.shown == Some(Shown::Contradictory);
    let own =
        if is_contradicted { UnresolvedReason::ContradictingEvidence } else { UnresolvedReason::NoEvidence };
    if intent.kind() == Kind::BatchCancel {
        return batch::unresolved(intent, history.clone(), own, policy, now);
    }
    let late_and_uncalled = history.attempts == 0 && same_day::is_over_for(intent, policy, now);
    let reason = if late_and_uncalled { UnresolvedReason::DeadlinePassed } else { own };
    give_up(intent, history, DeadReason::Unresolved(reason))
}

/// What a success reply makes of an intent.
fn done_status(kind: Kind) -> Status {
    match kind {
        Kind::SyncCancelRollback => Status::RolledBack,
        Kind::AsyncCancel | Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => {
            Status::Cancelled
        }
    }
}

/// What was done before, as far as evidence is read by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing was called.
    NotCalled,
    /// A call was not answered, or not so that it told anything.
    Unanswered,
    /// The last call was refused because of the payment's state.
    RefusedByState(RejectedReason),
    /// The gateway took the order.
    Ordered,
    /// A batch's reply named the payment with another status than 1.
    Named,
}

impl Before {
    fn of_letter(history: &History) -> Before {
        if history.has_announced(StatusName::Accepted) {
            return Before::Ordered;
        }
        match (history.why, history.doubt) {
            (Some(Why::RefusedByState(reason)), _) => Before::RefusedByState(reason),
            (Some(Why::NotConfigured) | None, Doubt::MayHaveHappened) => Before::Unanswered,
            (Some(Why::NotConfigured) | None, Doubt::None) => match history.attempts {
                0 => Before::NotCalled,
                _called => Before::Unanswered,
            },
        }
    }
}

/// What a piece of evidence means for this letter, before the time it was asked at is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// A fact that counts at once.
    Fact(Status),
    /// Rolled back, but perhaps by an order before ours: it counts as late as an absence where ours is in doubt.
    Withdrawn,
    /// On its way; counts at once.
    InProgress,
    /// An end; counts only when asked late enough.
    Rejected(RejectedReason),
    /// Surely not done, if asked late enough: call again.
    NotDone,
    /// Tells nothing: ask again.
    AskAgain,
    /// Tells nothing and never will.
    NeverTells,
}

/// The table for async cancels.
fn async_cancel(history: &History, shown: Shown) -> Meaning {
    let before = Before::of_letter(history);
    match shown {
        Shown::Cancelled => Meaning::Fact(Status::Cancelled),
        Shown::Withdrawn => match before {
            Before::Ordered | Before::RefusedByState(_) => Meaning::Fact(Status::RolledBack),
            Before::NotCalled | Before::Unanswered | Before::Named => Meaning::Withdrawn,
        },
        Shown::InProgress | Shown::ReceivedByDevice => Meaning::InProgress,
        Shown::CancelFailed => Meaning::Rejected(RejectedReason::CancelFailed),
        // It never reached the device, whoever ordered it.
        Shown::NotDelivered => match history.why {
            Some(Why::RefusedByState(reason)) => Meaning::Rejected(reason),
            Some(Why::NotConfigured) | None => Meaning::NotDone,
        },
        Shown::Refunded => Meaning::Rejected(RejectedReason::AlreadyRefunded),
        Shown::SaleStands => match before {
            Before::NotCalled | Before::Unanswered => Meaning::NotDone,
            Before::RefusedByState(reason) => Meaning::Rejected(reason),
            Before::Ordered | Before::Named => Meaning::InProgress,
        },
        Shown::SaleGone => Meaning::Rejected(RejectedReason::NotSuitable),
        Shown::NoSuchPayment => match before {
            Before::RefusedByState(_) => Meaning::Rejected(RejectedReason::NotFound),
            Before::NotCalled | Before::Unanswered | Before::Ordered | Before::Named => Meaning::AskAgain,
        },
        Shown::PartiallyRefunded
        | Shown::NotShown
        | Shown::Unanswered
        | Shown::Unknown
        | Shown::Contradictory => Meaning::AskAgain,
    }
}

/// The table for rollbacks.
fn rollback(history: &History, shown: Shown) -> Meaning {
    let before = Before::of_letter(history);
    match shown {
        Shown::Cancelled => Meaning::Rejected(RejectedReason::CancelCompleted),
        Shown::Withdrawn => Meaning::Fact(Status::RolledBack),
        Shown::ReceivedByDevice => Meaning::Rejected(RejectedReason::DeviceReceived),
        Shown::InProgress => match before {
            Before::RefusedByState(reason) => Meaning::Rejected(reason),
            Before::NotCalled | Before::Unanswered | Before::Ordered | Before::Named => Meaning::NotDone,
        },
        Shown::CancelFailed | Shown::NotDelivered | Shown::Refunded | Shown::SaleStands | Shown::SaleGone => {
            Meaning::Rejected(RejectedReason::NothingToWithdraw)
        }
        Shown::NoSuchPayment => match before {
            Before::RefusedByState(_) => Meaning::Rejected(RejectedReason::NotFound),
            Before::NotCalled | Before::Unanswered | Before::Ordered | Before::Named => Meaning::AskAgain,
        },
        Shown::PartiallyRefunded
        | Shown::NotShown
        | Shown::Unanswered
        | Shown::Unknown
        | Shown::Contradictory => Meaning::AskAgain,
    }
}

/// The table for transactions and for the payments of a batch.
fn virtual_pos(before: Before, shown: Shown) -> Meaning {
    match shown {
        Shown::Cancelled => Meaning::Fact(Status::Cancelled),
        Shown::Refunded => Meaning::Rejected(RejectedReason::AlreadyRefunded),
        Shown::PartiallyRefunded => Meaning::Rejected(RejectedReason::PartiallyRefunded),
        Shown::InProgress => Meaning::InProgress,
        Shown::SaleStands | Shown::CancelFailed => match before {
            Before::NotCalled | Before::Unanswered => Meaning::NotDone,
            Before::RefusedByState(reason) => Meaning::Rejected(reason),
            Before::Ordered | Before::Named if shown == Shown::CancelFailed => {
                Meaning::Rejected(RejectedReason::CancelFailed)
            }
            Before::Ordered | Before::Named => Meaning::InProgress,
        },
        Shown::NoSuchPayment => match before {
            Before::NotCalled | Before::RefusedByState(_) | Before::Named => {
                Meaning::Rejected(RejectedReason::NotFound)
            }
            Before::Unanswered | Before::Ordered => Meaning::AskAgain,
        },
        Shown::Withdrawn
        | Shown::ReceivedByDevice
        | Shown::NotDelivered
        | Shown::SaleGone
        | Shown::NotShown
        | Shown::Unanswered
        | Shown::Unknown
        | Shown::Contradictory => Meaning::AskAgain,
    }
}

/// The table for provisions, refused by state and without a doubt: no query proves a cancelled provision.
fn apm(shown: Shown) -> Meaning {
    match shown {
        Shown::Refunded => Meaning::Rejected(RejectedReason::AlreadyRefunded),
        Shown::Unanswered => Meaning::AskAgain,
        Shown::Cancelled
        | Shown::Withdrawn
        | Shown::ReceivedByDevice
        | Shown::InProgress
        | Shown::CancelFailed
        | Shown::NotDelivered
        | Shown::PartiallyRefunded
        | Shown::SaleStands
        | Shown::SaleGone
        | Shown::NoSuchPayment
        | Shown::NotShown
        | Shown::Unknown
        | Shown::Contradictory => Meaning::NeverTells,
    }
}

/// When a look began, and when the last call before it ended, ours or a copy's.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Timestamp,
    called_at: Option<Timestamp>,
}

impl Asked {
    /// The time from which absences count: a slow bank may still be at it before.
    fn quiet_from(self, quiet: Duration) -> Option<Timestamp> {
        self.called_at.map(|called_at| later(called_at, quiet))
    }
}

fn follow(
    intent: &CancelIntent,
    mut history: History,
    meaning: Meaning,
    evidence: Evidence,
    asked: Asked,
    moment: Moment<'_>,
) -> Decision {
    let quiet_from = asked.quiet_from(moment.policy.quiet);
    let counts = quiet_from.is_none_or(|from| asked.at >= from);
    let Evidence { payment_status, learnt, .. } = evidence;
    match meaning {
        Meaning::Fact(status) => finish(history, status, payment_status, learnt),
        Meaning::Withdrawn if counts => finish(history, Status::RolledBack, payment_status, learnt),
        Meaning::Rejected(reason) if counts => {
            finish(history, Status::Rejected(reason), payment_status, learnt)
        }
        Meaning::NotDone if counts && same_day::is_over_for(intent, moment.policy, moment.now) => {
            let from = same_day::ends_count_from(intent, moment.policy);
            if from.is_none_or(|from| asked.at >= from) {
                let status = Status::Rejected(RejectedReason::SameDayWindowClosed);
                return finish(history, status, payment_status, learnt);
            }
            ask_again(history, from, moment)
        }
        Meaning::NotDone if counts => {
            call_again(&mut history);
            if history.attempts >= moment.policy.attempts_max {
                return spent(intent, history, GivenUpReason::AttemptsExhausted, moment);
            }
            let wait = moment.policy.tiers.after_tries(history.attempts, moment.jitter);
            wait_for(history, wait, Waiting::ToCallAgain, moment)
        }
        Meaning::Withdrawn | Meaning::Rejected(_) | Meaning::NotDone => {
            ask_again(history, quiet_from, moment)
        }
        Meaning::InProgress => {
            history.doubt = Doubt::None;
            // Whatever was refused, was refused because of this order, perhaps a copy's; it is followed like our
            // own. Should it never reach its device, the other copy calls again, and so must this one.
            history.why = None;
            accept(history, Facts { payment_status, learnt }, moment)
        }
        Meaning::AskAgain => ask_again(history, None, moment),
        Meaning::NeverTells => {
            give_up(intent, &history, DeadReason::Unresolved(UnresolvedReason::NoEvidence))
        }
    }
}

/// Enters phase settle, with a budget of its own.
fn settle(history: &mut History, moment: Moment<'_>) {
    if history.phase == Phase::Call || history.settling_since.is_none() {
        history.settling_since = Some(moment.now);
        history.asked = 0;
    }
    history.phase = Phase::Settle;
}

/// Goes back to phase call: evidence of *not done* ends the doubt.
fn call_again(history: &mut History) {
    history.phase = Phase::Call;
    history.doubt = Doubt::None;
    history.why = None;
    history.settling_since = None;
    history.asked = 0;
}

fn refused_by_state(
    intent: &CancelIntent,
    mut history: History,
    reason: RejectedReason,
    moment: Moment<'_>,
) -> Decision {
    if intent.kind() == Kind::ApmProvisionCancel && history.doubt == Doubt::MayHaveHappened {
        // The refusal may be the echo of our own success, and no query can tell.
        return give_up(intent, &history, DeadReason::Unresolved(UnresolvedReason::NoEvidence));
    }
    history.why = Some(Why::RefusedByState(reason));
    settle(&mut history, moment);
    ask_again(history, None, moment)
}

/// The order was taken: said once, and followed to its end.
fn accept(history: History, facts: Facts, moment: Moment<'_>) -> Decision {
    let outcomes = if history.has_announced(StatusName::Accepted) {
        Vec::new()
    } else {
        vec![outcome_of_whole(Status::Accepted, facts.payment_status, facts.learnt)]
    };
    let Decision { history, then, .. } = ask_again(history, None, moment);
    conclude(history, outcomes, then)
}

/// Asks again on the growing schedule, but at `not_after` already if that comes first.
fn ask_again(history: History, not_after: Option<Timestamp>, moment: Moment<'_>) -> Decision {
    let policy = moment.policy;
    let wait = match history.asked {
        0 => policy.tiers.shortest().length,
        asked => policy.tiers.after_tries(asked, moment.jitter),
    };
    ask_after(history, wait, not_after, moment)
}

fn ask_after(history: History, wait: Duration, not_after: Option<Timestamp>, moment: Moment<'_>) -> Decision {
    let grown = later(moment.now, wait);
    let due = match not_after {
        Some(at) if at > moment.now => at.min(grown),
        Some(_) | None => grown,
    };
    wait_within_budget(&history, due, Waiting::ToAsk, moment)
}

/// When a letter in doubt is looked at first. A provision has no look: its call is repeated, not sooner than
/// `quiet`.
fn first_look(kind: Kind, policy: &Policy) -> Duration {
    match kind {
        Kind::ApmProvisionCancel => policy.quiet,
        Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::BatchCancel => {
            policy.tiers.shortest().length
        }
    }
}

/// Waits to call again, as long as the attempts so far say, or as the gateway asks within our bounds.
fn wait_to_call(history: History, retry_after: Option<RetryAfter>, moment: Moment<'_>) -> Decision {
    let policy = moment.policy;
    let wait = policy.tiers.after_tries(history.attempts, moment.jitter);
    let wished = retry_after
        .map_or(Duration::ZERO, |retry_after| retry_after.wait(moment.now, policy.retry_after_max));
    wait_for(history, wait.max(wished), Waiting::ToCallAgain, moment)
}

/// Waits so long, but not beyond the age at which the letter is given up.
fn wait_for(history: History, wait: Duration, waiting: Waiting, moment: Moment<'_>) -> Decision {
    wait_within_budget(&history, later(moment.now, wait), waiting, moment)
}

/// Waits until `due`, or until the budget of the letter's phase ends; never until a time that has passed, which
/// it may have during a long look.
fn wait_within_budget(history: &History, due: Timestamp, waiting: Waiting, moment: Moment<'_>) -> Decision {
    let ends = match history.phase {
        Phase::Call => Some(later(history.first_seen, moment.policy.age_max)),
        Phase::Settle => history.settling_since.map(|since| later(since, moment.policy.inquiry_age_max)),
    };
    wait_until(history, ends.map_or(due, |ends| due.min(ends.max(moment.now))), waiting)
}

fn finish(
    history: History,
    status: Status,
    payment_status: Option<PaymentStatus>,
    learnt: Learnt,
) -> Decision {
    conclude(history, vec![outcome_of_whole(status, payment_status, learnt)], Then::Done)
}

fn outcome_of_whole(status: Status, payment_status: Option<PaymentStatus>, learnt: Learnt) -> Outcome {
    Outcome { subject: Subject::Whole, status, payment_status, learnt, counts: Vec::new() }
}

/// The decision, with what it announces of the intent as a whole remembered.
fn conclude(mut history: History, outcomes: Vec<Outcome>, then: Then) -> Decision {
    for outcome in &outcomes {
        let name = outcome.status.name();
        if outcome.subject == Subject::Whole && !history.has_announced(name) {
            history.announced.push(name);
        }
    }
    Decision { outcomes, history, then }
}

/// The item's end on the wire, in the letter's memory.
fn item_of(status: Status) -> Item {
    match status {
        Status::Cancelled => Item::Cancelled,
        Status::Rejected(_) => Item::Rejected,
        Status::GivenUp(_) => Item::GivenUp,
        Status::Unresolved(_) => Item::Unresolved,
        // None of these is ever said of an item.
        Status::RolledBack | Status::Accepted | Status::Closed | Status::Abandoned(_) => Item::Unresolved,
    }
}

#[cfg(test)]
mod tests;

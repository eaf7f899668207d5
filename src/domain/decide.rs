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
use super::plan::Ruling;
use super::policy::Policy;
use super::retry::{Jitter, elapsed, later};
use super::same_day;
use super::waiting::Waiting;

mod batch;
mod meaning;
mod waits;

use meaning::Meaning;
use waits::{ask_again, first_look, wait_by_age, wait_for, wait_to_call, wait_until};

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

/// What is decided without the gateway.
pub fn decide_ruling(
    intent: &CancelIntent,
    history: &History,
    ruling: Ruling,
    moment: Moment<'_>,
) -> Decision {
    match ruling {
        Ruling::Wait(due, waiting) => wait_until(history, due, waiting),
        Ruling::Refuse(reason) => finish(history.clone(), Status::Rejected(reason), None, Learnt::default()),
        Ruling::RefuseItems(indices) => batch::refuse_by_rule(history.clone(), &indices, moment),
        Ruling::GiveUp(reason) => spent(intent, history.clone(), reason, moment),
        Ruling::Unresolved => unresolved(intent, history, moment),
        Ruling::NothingToAsk => {
            give_up(intent, history, DeadReason::Unresolved(UnresolvedReason::NoEvidence))
        }
    }
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
    let mut history = without_strikes(history);
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
    let is_batch = intent.kind() == Kind::BatchCancel;
    match verdict {
        Verdict::OrderedBatch(facts, items) if is_batch => {
            batch::ordered(intent, history, items, facts, moment)
        }
        // The gateway's success without a receipt tells nothing of any payment.
        Verdict::Done(_) | Verdict::Ordered(_) | Verdict::InDoubt if is_batch => {
            batch::unanswered(intent, history, called, moment)
        }
        Verdict::Refused(reason) if is_batch => batch::refused(intent, history, called, reason, moment),
        Verdict::RefusedByState(reason) if is_batch => {
            batch::refused_by_state(intent, history, reason, moment)
        }
        Verdict::Done(facts) => {
            finish(history, done_status(intent.kind()), facts.payment_status, facts.learnt)
        }
        Verdict::Ordered(facts) | Verdict::OrderedBatch(facts, _) => {
            history.doubt = Doubt::None;
            enter_settle_phase(&mut history, moment);
            accept(history, facts, moment)
        }
        Verdict::Refused(reason) => match history.doubt {
            Doubt::None => finish(history, Status::Rejected(reason), None, Learnt::default()),
            Doubt::MayHaveHappened => refused_by_state(intent, history, reason, moment),
        },
        Verdict::RefusedByState(reason) => refused_by_state(intent, history, reason, moment),
        Verdict::InDoubt => {
            history.doubt = Doubt::MayHaveHappened;
            enter_settle_phase(&mut history, moment);
            let wait = first_look(intent.kind(), moment.policy);
            wait_for(history, wait, Waiting::ToAsk, moment)
        }
        Verdict::NeverSent => wait_by_age(history, Waiting::ToCallAgain, moment),
        Verdict::LockedOut(_) => wait_by_age(history, Waiting::LockedOut, moment),
        Verdict::Busy(_) if history.attempts >= moment.policy.attempts_max => {
            spent(intent, history, GivenUpReason::AttemptsExhausted, moment)
        }
        Verdict::Busy(retry_after) => wait_to_call(history, retry_after, moment),
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
    let mut history = without_strikes(history);
    history.asked = history.asked.saturating_add(1);
    let evidence = match findings {
        Findings::Payment(evidence) => evidence,
        Findings::Items(items) => return batch::decide_findings(intent, history, items, asked_at, moment),
    };
    history.shown = Some(evidence.shown);
    history.last.rule = Some(rule_of_evidence(evidence.shown));
    let asked = Asked { at: asked_at, called_at: history.called_at };
    let meaning = meaning::of_payment(intent.kind(), &history, evidence.shown);
    follow(intent, history, meaning, evidence, asked, moment)
}

/// The history after a step that called or looked without crashing the process: the strikes are cleared. A mere wait
/// clears none: its letter keeps its strikes, and is handled alone when it comes back.
fn without_strikes(history: &History) -> History {
    History { strikes: 0, ..history.clone() }
}

/// The word for the row of the evidence table that a look was read by.
fn rule_of_evidence(shown: Shown) -> String {
    format!("evidence:{}", shown.as_str())
}

/// Dead-letters the letter with this reason, which is the outcome of the intent, or of every payment of a batch that is
/// still open.
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

/// The budget of phase call is spent: given up, unless there is doubt.
fn spent(intent: &CancelIntent, history: History, reason: GivenUpReason, moment: Moment<'_>) -> Decision {
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
fn unresolved(intent: &CancelIntent, history: &History, moment: Moment<'_>) -> Decision {
    let Moment { policy, now, .. } = moment;
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
fn enter_settle_phase(history: &mut History, moment: Moment<'_>) {
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
        // Our own earlier call may have succeeded and caused the refusal, and no query can tell.
        return give_up(intent, &history, DeadReason::Unresolved(UnresolvedReason::NoEvidence));
    }
    history.why = Some(Why::RefusedByState(reason));
    enter_settle_phase(&mut history, moment);
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

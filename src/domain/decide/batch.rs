//! Decisions about a batch. Ledgers book the events of its payments; the batch as a whole is only `accepted`
//! and `closed`. It is never called again as a whole: only with the payments that have evidence of *not done*.

use jiff::Timestamp;

use super::meaning::{self, Before, Meaning};
use super::waits::{ask_after, wait_for};
use super::{
    Asked, DeadReason, Decision, Moment, Then, conclude, enter_settle_phase, item_of, rule_of_evidence,
};
use crate::domain::classify::Facts;
use crate::domain::evidence::{Evidence, Shown};
use crate::domain::history::{Doubt, History, Item, Phase, Why};
use crate::domain::intent::{BatchPayment, CancelIntent, Kind};
use crate::domain::outcome::{
    GivenUpReason, Learnt, Outcome, PaymentStatus, RejectedReason, Status, StatusName, Subject,
    UnresolvedReason,
};
use crate::domain::policy::Policy;
use crate::domain::same_day;
use crate::domain::waiting::Waiting;

/// The gateway has taken the batch; the reply says of each payment what it made of it.
pub(super) fn ordered(
    intent: &CancelIntent,
    mut history: History,
    items: Vec<(usize, Item)>,
    facts: Facts,
    moment: Moment<'_>,
) -> Decision {
    for (index, item) in items {
        mark(&mut history, index, item);
    }
    enter_settle_phase(&mut history, moment);
    let mut outcomes = Vec::new();
    accept(&mut history, &mut outcomes, facts.learnt);
    go_on(intent, history, outcomes, None, moment)
}

/// What became of the payments that were called is not known.
pub(super) fn unanswered(
    intent: &CancelIntent,
    mut history: History,
    called: &[usize],
    moment: Moment<'_>,
) -> Decision {
    for index in called {
        mark(&mut history, *index, Item::Doubt);
    }
    enter_settle_phase(&mut history, moment);
    go_on(intent, history, Vec::new(), None, moment)
}

/// The payments that were called are refused, and no earlier call can have caused that.
pub(super) fn refused(
    intent: &CancelIntent,
    mut history: History,
    called: &[usize],
    reason: RejectedReason,
    moment: Moment<'_>,
) -> Decision {
    let outcomes = end_items(&mut history, called, Status::Rejected(reason));
    enter_settle_phase(&mut history, moment);
    go_on(intent, history, outcomes, None, moment)
}

/// The batch is refused because of the state of some payment: all that were called are asked about.
pub(super) fn refused_by_state(
    intent: &CancelIntent,
    mut history: History,
    reason: RejectedReason,
    moment: Moment<'_>,
) -> Decision {
    history.why = Some(Why::RefusedByState(reason));
    enter_settle_phase(&mut history, moment);
    go_on(intent, history, Vec::new(), None, moment)
}

/// What a look at payments of the batch leads to: each is judged by itself, and what follows for the letter is their sum.
pub(super) fn decide_findings(
    intent: &CancelIntent,
    mut history: History,
    found: Vec<(usize, Evidence)>,
    asked_at: Timestamp,
    moment: Moment<'_>,
) -> Decision {
    let refused = match history.why {
        Some(Why::RefusedByState(reason)) => Some(reason),
        Some(Why::NotConfigured) | None => None,
    };
    let asked = Asked { at: asked_at, called_at: history.called_at };
    let mut counts_from: Option<Timestamp> = None;
    let mut outcomes = Vec::new();
    let mut in_progress = false;
    let mut not_done = Vec::new();
    // The history has one field for evidence; of a batch it keeps that of a payment which is still open.
    let mut holds_up = None;
    let mut last_shown = None;

    for (index, evidence) in found {
        let Some(payment) = intent.items().get(index) else { continue };
        let Some(before) = before_of(&history, index, payment, refused, moment.policy) else { continue };
        let Evidence { shown, payment_status, learnt } = evidence;
        last_shown = Some(shown);
        match judge_item(before, history.items[index], payment, shown, asked, moment) {
            Judged::Ends(status) => {
                outcomes.push(end_item(&mut history, index, status, payment_status, learnt));
                continue;
            }
            Judged::NotDone => not_done.push(index),
            Judged::InProgress => in_progress = true,
            Judged::CountsFrom(from) => counts_from = counts_from.into_iter().chain(from).min(),
            Judged::Open => {}
        }
        holds_up = Some(shown);
    }
    history.shown = holds_up.or(history.shown);
    history.last.rule = last_shown.map(rule_of_evidence);

    // A payment that was refused by state is still to be told apart from one that is to be called: only when
    // none of the former is left, the latter are called.
    let refused_left = refused.is_some() && history.items.contains(&Item::ToCall);
    if !refused_left {
        history.why = None;
        for index in not_done {
            mark(&mut history, index, Item::ToCall);
        }
    }
    if in_progress {
        accept(&mut history, &mut outcomes, Learnt::default());
    }
    go_on(intent, history, outcomes, counts_from, moment)
}

/// What a look makes of one payment.
enum Judged {
    /// It ends so.
    Ends(Status),
    /// Surely not done: it may be called again.
    NotDone,
    /// On its way.
    InProgress,
    /// What was shown counts from this time on, and not yet.
    CountsFrom(Option<Timestamp>),
    /// Nothing is known of it yet.
    Open,
}

fn judge_item(
    before: Before,
    item: Item,
    payment: &BatchPayment,
    shown: Shown,
    asked: Asked,
    moment: Moment<'_>,
) -> Judged {
    let quiet_from = asked.quiet_from(moment.policy.quiet);
    let is_quiet = quiet_from.is_none_or(|from| asked.at >= from);
    let is_over = same_day::is_over(Kind::BatchCancel, payment.date, moment.policy, moment.now);
    match meaning::virtual_pos(before, shown) {
        Meaning::Fact(status) => Judged::Ends(status),
        Meaning::Rejected(reason) if is_quiet => Judged::Ends(Status::Rejected(reason)),
        // A bulk queue may hold what was called over midnight, so the end of the day proves nothing of it.
        Meaning::NotDone if is_over && item == Item::Doubt => Judged::Open,
        Meaning::NotDone if is_quiet && is_over => match same_day::counts_from(payment.date, moment.policy) {
            from if asked.at >= from => Judged::Ends(Status::Rejected(RejectedReason::SameDayWindowClosed)),
            from => Judged::CountsFrom(Some(from)),
        },
        Meaning::NotDone if is_quiet => Judged::NotDone,
        Meaning::Rejected(_) | Meaning::NotDone | Meaning::Withdrawn => Judged::CountsFrom(quiet_from),
        Meaning::InProgress => Judged::InProgress,
        Meaning::AskAgain | Meaning::NeverTells => Judged::Open,
    }
}

/// What was done with one payment before, as far as evidence is read by it; `None` for one that has its end.
fn before_of(
    history: &History,
    index: usize,
    payment: &BatchPayment,
    refused: Option<RejectedReason>,
    policy: &Policy,
) -> Option<Before> {
    Some(match (history.items.get(index)?, refused) {
        (Item::ToCall, Some(reason)) if !was_left_out(history, payment, policy) => {
            Before::RefusedByState(reason)
        }
        (Item::ToCall, _) => Before::NotCalled,
        (Item::Doubt, _) => Before::Unanswered,
        (Item::Ordered, _) => Before::Ordered,
        (Item::Named, _) => Before::Named,
        (Item::Cancelled | Item::Rejected | Item::GivenUp | Item::Unresolved, _) => return None,
    })
}

pub(super) fn refuse_by_rule(mut history: History, indices: &[usize], moment: Moment<'_>) -> Decision {
    let outcomes = end_items(&mut history, indices, Status::Rejected(RejectedReason::SameDayWindowClosed));
    if history.items.iter().all(|item| item.is_decided()) {
        return close(history, outcomes, None);
    }
    let wait = moment.policy.tiers.shortest().length;
    let waiting = match history.phase {
        Phase::Call => Waiting::ToCallAgain,
        Phase::Settle => Waiting::ToAsk,
    };
    let Decision { history, then, .. } = wait_for(history, wait, waiting, moment);
    conclude(history, outcomes, then)
}

/// The budget of phase call is spent: what was still to be called is given up, the rest is followed to its end.
pub(super) fn spent(
    intent: &CancelIntent,
    mut history: History,
    reason: GivenUpReason,
    moment: Moment<'_>,
) -> Decision {
    let to_call = indices_of(&history, |item| item == Item::ToCall);
    let outcomes = end_items(&mut history, &to_call, Status::GivenUp(reason));
    if history.items.iter().all(|item| item.is_decided()) {
        return close(history, outcomes, Some(DeadReason::GivenUp(reason)));
    }
    enter_settle_phase(&mut history, moment);
    go_on(intent, history, outcomes, None, moment)
}

/// Every payment that is still open ends so.
pub(super) fn give_up(mut history: History, reason: DeadReason) -> Decision {
    let open = indices_of(&history, |item| !item.is_decided());
    let outcomes = end_items(&mut history, &open, reason.status());
    close(history, outcomes, Some(reason))
}

/// The inquiry budget is spent: what may have been called before its day ended, or never was in time, ends for that
/// reason, and all else that is open for its own.
pub(super) fn unresolved(
    intent: &CancelIntent,
    mut history: History,
    own: UnresolvedReason,
    policy: &Policy,
    now: Timestamp,
) -> Decision {
    let mut of_batch = own;
    let mut outcomes = Vec::new();
    for index in indices_of(&history, |item| !item.is_decided()) {
        let is_late = intent.items().get(index).is_some_and(|payment| {
            same_day::is_over(Kind::BatchCancel, payment.date, policy, now)
                && match history.items[index] {
                    Item::Doubt => true,
                    Item::ToCall => was_left_out(&history, payment, policy),
                    Item::Ordered
                    | Item::Named
                    | Item::Cancelled
                    | Item::Rejected
                    | Item::GivenUp
                    | Item::Unresolved => false,
                }
        });
        let reason = if is_late { UnresolvedReason::DeadlinePassed } else { own };
        if is_late {
            of_batch = reason;
        }
        let status = Status::Unresolved(reason);
        outcomes.push(end_item(&mut history, index, status, None, Learnt::default()));
    }
    close(history, outcomes, Some(DeadReason::Unresolved(of_batch)))
}

/// Whether the day of a payment was over when the others were called, so that it was left out.
fn was_left_out(history: &History, payment: &BatchPayment, policy: &Policy) -> bool {
    history.called_at.is_none_or(|at| same_day::is_over(Kind::BatchCancel, payment.date, policy, at))
}

/// What comes next for a batch after its payments were marked: the end, a call, or a look.
fn go_on(
    intent: &CancelIntent,
    mut history: History,
    outcomes: Vec<Outcome>,
    counts_from: Option<Timestamp>,
    moment: Moment<'_>,
) -> Decision {
    history.doubt = match history.items.contains(&Item::Doubt) {
        true => Doubt::MayHaveHappened,
        false => Doubt::None,
    };
    if history.items.iter().all(|item| item.is_decided()) {
        return close(history, outcomes, None);
    }
    let refused = matches!(history.why, Some(Why::RefusedByState(_)));
    if !refused && !callable(intent, &history, moment).is_empty() && history.phase == Phase::Settle {
        history.phase = Phase::Call;
        history.settling_since = None;
        history.asked = 0;
        if history.attempts >= moment.policy.attempts_max {
            let next = super::spent(intent, history, GivenUpReason::AttemptsExhausted, moment);
            return Decision { outcomes: outcomes.into_iter().chain(next.outcomes).collect(), ..next };
        }
        let wait = moment.policy.tiers.after_tries(history.attempts, moment.jitter);
        let Decision { history, then, .. } = wait_for(history, wait, Waiting::ToCallAgain, moment);
        return conclude(history, outcomes, then);
    }
    // A round is as many looks as it takes to ask for every payment once; the schedule grows by rounds.
    let is_mid_round = !history.asked.is_multiple_of(history.looks_per_round());
    let wait = match history.rounds() {
        rounds if rounds == 0 || is_mid_round => moment.policy.tiers.shortest().length,
        rounds => moment.policy.tiers.after_tries(rounds, moment.jitter),
    };
    let Decision { history, then, .. } = ask_after(history, wait, counts_from, moment);
    conclude(history, outcomes, then)
}

/// The payments that may be called now.
fn callable(intent: &CancelIntent, history: &History, moment: Moment<'_>) -> Vec<usize> {
    same_day::callable(intent, history, moment.policy, moment.now)
}

/// Every payment has its own event; the batch as a whole ends.
fn close(history: History, mut outcomes: Vec<Outcome>, dead: Option<DeadReason>) -> Decision {
    let has = |item| history.items.contains(&item);
    let (status, then) = if has(Item::Unresolved) {
        let reason = match dead {
            Some(DeadReason::Unresolved(reason)) => reason,
            Some(DeadReason::GivenUp(_)) | None => UnresolvedReason::NoEvidence,
        };
        (Status::Unresolved(reason), Then::DeadLetter(DeadReason::Unresolved(reason)))
    } else if has(Item::GivenUp) {
        let reason = match dead {
            Some(DeadReason::GivenUp(reason)) => reason,
            Some(DeadReason::Unresolved(_)) | None => GivenUpReason::AttemptsExhausted,
        };
        (Status::GivenUp(reason), Then::DeadLetter(DeadReason::GivenUp(reason)))
    } else {
        (Status::Closed, Then::Done)
    };
    outcomes.push(Outcome {
        subject: Subject::Whole,
        status,
        payment_status: None,
        learnt: Learnt::default(),
        counts: counts(&history),
    });
    conclude(history, outcomes, then)
}

fn accept(history: &mut History, outcomes: &mut Vec<Outcome>, learnt: Learnt) {
    if history.has_announced(StatusName::Accepted) {
        return;
    }
    outcomes.push(Outcome {
        subject: Subject::Whole,
        status: Status::Accepted,
        payment_status: None,
        learnt,
        counts: counts(history),
    });
}

/// The item events announced so far; under `accepted` the payments that are still open.
fn counts(history: &History) -> Vec<(StatusName, usize)> {
    let count = |wanted: &[Item]| history.items.iter().filter(|item| wanted.contains(item)).count();
    [
        (StatusName::Accepted, count(&[Item::ToCall, Item::Doubt, Item::Ordered, Item::Named])),
        (StatusName::Cancelled, count(&[Item::Cancelled])),
        (StatusName::Rejected, count(&[Item::Rejected])),
        (StatusName::GivenUp, count(&[Item::GivenUp])),
        (StatusName::Unresolved, count(&[Item::Unresolved])),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .collect()
}

fn mark(history: &mut History, index: usize, item: Item) {
    if let Some(slot) = history.items.get_mut(index) {
        *slot = item;
    }
}

fn end_item(
    history: &mut History,
    index: usize,
    status: Status,
    payment_status: Option<PaymentStatus>,
    learnt: Learnt,
) -> Outcome {
    mark(history, index, item_of(status));
    Outcome { subject: Subject::Item(index), status, payment_status, learnt, counts: Vec::new() }
}

fn end_items(history: &mut History, indices: &[usize], status: Status) -> Vec<Outcome> {
    indices.iter().map(|index| end_item(history, *index, status, None, Learnt::default())).collect()
}

fn indices_of(history: &History, wanted: impl Fn(Item) -> bool) -> Vec<usize> {
    (0..history.items.len()).filter(|index| wanted(history.items[*index])).collect()
}

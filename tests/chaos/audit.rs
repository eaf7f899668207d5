//! The audit of a scenario: what was asked, what was told, what is left, and what is true, held against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use jiff::Timestamp;
use paywall_simulator::{CallRecord, EffectKind, Endpoint, Origin, PaymentState, PaymentTruth, Purpose};
use serde_json::Value;
use uuid::Uuid;

use super::ledger::Event;
use super::load::{Cancellation, endpoint_of};
use super::stage::Stage;

/// What a scenario's faults may leave undecided, beyond provisions: no query proves that one is cancelled, so a refusal
/// after a doubt is `unresolved` by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// All of its faults heal within every budget.
    Nothing,
    /// Some of them do not.
    Unresolved,
}

/// The balance of one scenario. Every count but the first and the last three must be 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audit {
    pub(crate) name: &'static str,
    pub(crate) intents: usize,
    /// Confirmed, and in no queue, no dead letter and no outcome.
    pub(crate) lost: usize,
    /// Told in two ways that exclude each other.
    pub(crate) contradictions: usize,
    /// Told, and not true.
    pub(crate) false_outcomes: usize,
    /// Effects beyond the first.
    pub(crate) doubled_effects: usize,
    /// Calls that nothing allowed, after the effect.
    pub(crate) calls_after_effect: usize,
    /// Still on their way when nothing was wrong any more, or left undecided though all could be found out.
    pub(crate) stuck: usize,
    pub(crate) given_up: usize,
    pub(crate) unresolved: usize,
    pub(crate) events: usize,
    pub(crate) recovery_p99_ms: Option<u64>,
    pub(crate) seconds: f64,
    /// What is wrong, in words.
    pub(crate) complaints: Vec<String>,
}

impl Audit {
    /// Whether everything is as it was promised.
    pub(crate) fn balance(&self) -> bool {
        let Audit {
            lost, contradictions, false_outcomes, doubled_effects, calls_after_effect, stuck, ..
        } = self;
        [lost, contradictions, false_outcomes, doubled_effects, calls_after_effect, stuck]
            .iter()
            .all(|n| **n == 0)
    }
}

/// Balances the audit of a scenario whose workers have stopped.
pub(crate) async fn balance(stage: &Stage, cancellations: &[Cancellation], leave: Leave) -> Result<Audit> {
    let dead: HashSet<Uuid> = dead_letters(stage).await?;
    let on_the_way = on_the_way(stage).await?;
    let unrouted: Vec<Event> = stage
        .take_all(&stage.topology.unrouted())
        .await?
        .iter()
        .filter_map(|message| Event::read(&message.body))
        .collect();
    // Whatever is still under way at the gateway ends now.
    stage.simulator.advance(std::time::Duration::from_secs(3_600));

    let mut audit = Audit {
        name: stage.name,
        intents: cancellations.len(),
        recovery_p99_ms: p99(&stage.recoveries),
        seconds: stage.elapsed().as_secs_f64(),
        ..Audit::default()
    };
    let heard: Vec<Vec<Event>> = stage
        .ledgers
        .iter()
        .map(|ledger| ledger.events().into_iter().chain(unrouted.iter().cloned()).collect())
        .collect();
    audit.events = heard.first().map(Vec::len).unwrap_or_default();
    let by_subject: Vec<HashMap<&str, Vec<&Event>>> = heard.iter().map(|events| sorted(events)).collect();
    let known: HashSet<Uuid> = cancellations.iter().map(|cancellation| cancellation.id).collect();
    for stranger in heard.iter().flatten().filter(|event| !known.contains(&event.intent)) {
        audit.contradictions += 1;
        audit.complaints.push(format!("an event of an intent that nobody published: {stranger:?}"));
    }
    for cancellation in cancellations {
        let whole = cancellation.id.to_string();
        let mut subjects: BTreeSet<&str> =
            cancellation.payments.iter().map(|payment| payment.subject.as_str()).collect();
        subjects.insert(&whole);
        for (number, by_subject) in by_subject.iter().enumerate() {
            let open: Vec<&str> = subjects
                .iter()
                .copied()
                .filter(|subject| !by_subject.get(subject).into_iter().flatten().any(|event| event.is_end()))
                .collect();
            if !open.is_empty() && on_the_way.contains_key(&cancellation.id) {
                audit.stuck += 1;
                audit.complain(
                    stage,
                    cancellation,
                    &format!("is stuck in {:?}", on_the_way[&cancellation.id]),
                    by_subject,
                );
            } else if !open.is_empty() && cancellation.confirmed {
                audit.lost += 1;
                let told = format!("is lost: ledger {number} has heard no end of {open:?}");
                audit.complain(stage, cancellation, &told, by_subject);
            } else if let Some(copies) = on_the_way.get(&cancellation.id) {
                audit.stuck += 1;
                audit.complain(
                    stage,
                    cancellation,
                    &format!("has ended, and a copy is stuck in {copies:?}"),
                    by_subject,
                );
            }
        }
        let Some(by_subject) = by_subject.first() else { continue };
        for subject in &subjects {
            let events = by_subject.get(subject).map(Vec::as_slice).unwrap_or_default();
            for complaint in contradictions(cancellation, subject, events) {
                audit.contradictions += 1;
                audit.complain(stage, cancellation, &complaint, by_subject);
            }
            let statuses: BTreeSet<&str> = events.iter().map(|event| event.status.as_str()).collect();
            let has_end = events.iter().any(|event| event.terminal);
            for (status, count) in [("given_up", 0), ("unresolved", 1)] {
                if !statuses.contains(status) {
                    continue;
                }
                if *subject == whole && !dead.contains(&cancellation.id) {
                    audit.lost += 1;
                    audit.complain(
                        stage,
                        cancellation,
                        &format!("is told as {status}, and is no dead letter"),
                        by_subject,
                    );
                }
                if has_end || (cancellation.kind == Kind::BatchCancel && *subject == whole) {
                    continue;
                }
                match count {
                    0 => audit.given_up += 1,
                    _ => audit.unresolved += 1,
                }
                if leave == Leave::Nothing && cancellation.kind != Kind::ApmProvisionCancel {
                    audit.stuck += 1;
                    audit.complain(
                        stage,
                        cancellation,
                        &format!("ended as {status}, though all faults healed"),
                        by_subject,
                    );
                }
            }
        }
        for payment in &cancellation.payments {
            let Some(truth) = stage.simulator.truth_of(&payment.id) else { continue };
            let events = by_subject.get(payment.subject.as_str()).map(Vec::as_slice).unwrap_or_default();
            for complaint in untruths(cancellation.kind, events, &truth) {
                audit.false_outcomes += 1;
                audit.complain(stage, cancellation, &complaint, by_subject);
            }
            let beyond = beyond_the_first(&truth);
            if beyond > 0 {
                audit.doubled_effects += beyond;
                audit.complain(stage, cancellation, &format!("had {:?}", truth.effects), by_subject);
            }
            let calls = calls_not_allowed(cancellation, &truth, events);
            if calls > 0 {
                audit.calls_after_effect += calls;
                audit.complain(
                    stage,
                    cancellation,
                    &format!("was called {calls} times after its effect was known"),
                    by_subject,
                );
            }
        }
    }
    Ok(audit)
}

impl Audit {
    /// Notes what is wrong with a cancellation, with all that is known of it.
    fn complain(
        &mut self,
        stage: &Stage,
        cancellation: &Cancellation,
        what: &str,
        heard: &HashMap<&str, Vec<&Event>>,
    ) {
        const KEPT_MAX: usize = 12;
        const CALLS_SHOWN_MAX: usize = 24;
        if self.complaints.len() >= KEPT_MAX {
            return;
        }
        let mut text =
            format!("{} {} ({} copies) {what}", cancellation.kind, cancellation.id, cancellation.copies);
        let mut subjects = vec![cancellation.id.to_string()];
        subjects.extend(cancellation.payments.iter().map(|payment| payment.subject.clone()));
        subjects.dedup();
        for subject in subjects {
            for event in heard.get(subject.as_str()).into_iter().flatten() {
                let item = if event.of_item { " (item)" } else { "" };
                let at = event.decided_at.map(|at| at.to_string()).unwrap_or_default();
                text.push_str(&format!("\n      told {at} {}{item}, heard {}", event.said(), event.heard_at));
            }
        }
        for payment in &cancellation.payments {
            let Some(truth) = stage.simulator.truth_of(&payment.id) else { continue };
            text.push_str(&format!("\n      truth {:?} {:?}", truth.state, truth.effects));
            for event in &truth.events {
                text.push_str(&format!("\n        {} {:?}", event.at, event.what));
            }
            let left_out = truth.log.len().saturating_sub(CALLS_SHOWN_MAX);
            if left_out > 0 {
                text.push_str(&format!("\n        ({left_out} calls before)"));
            }
            for call in truth.log.iter().skip(left_out) {
                text.push_str(&format!(
                    "\n        {} {:?} effect {:?} fault {:?} replied {:?}",
                    call.at, call.endpoint, call.effect, call.fault, call.replied
                ));
            }
        }
        self.complaints.push(text);
    }
}

/// The intents among the dead letters.
async fn dead_letters(stage: &Stage) -> Result<HashSet<Uuid>> {
    let dead = stage.take_all(&stage.topology.dead_letters()).await?;
    // Of a copy in another kind's lane nobody is told.
    let told =
        dead.iter().filter(|letter| letter.headers.get("cancel-reason").is_none_or(|it| it != "wrong_lane"));
    Ok(told.filter_map(|letter| letter.headers.get("cancel-intent-id")?.parse().ok()).collect())
}

/// The intents that still lie in a queue that letters travel through, with the names of these queues.
async fn on_the_way(stage: &Stage) -> Result<BTreeMap<Uuid, Vec<String>>> {
    let mut found: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
    for queue in stage.in_transit() {
        for message in stage.take_all(&queue).await? {
            let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
            // An announcement that waits is an event, everything else an intent.
            let id = body["intentId"].as_str().or_else(|| body["data"]["intentId"].as_str());
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                found.entry(id).or_default().push(queue.clone());
            }
        }
    }
    Ok(found)
}

fn sorted(events: &[Event]) -> HashMap<&str, Vec<&Event>> {
    let mut by_subject: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in events {
        by_subject.entry(&event.subject).or_default().push(event);
    }
    by_subject
}

/// What was told of one subject, against itself and against the contract's §3: one terminal status, one id for one
/// status, and the order system's own reference.
fn contradictions(cancellation: &Cancellation, subject: &str, events: &[&Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    let ends: BTreeSet<&str> =
        events.iter().filter(|event| event.terminal).map(|event| event.status.as_str()).collect();
    if ends.len() > 1 {
        wrong.push(format!("{subject} has two different ends: {ends:?}"));
    }
    for event in events {
        let item = subject.split_once('/').map(|(_, code)| format!("/{code}")).unwrap_or_default();
        let id = Uuid::new_v5(&cancellation.id, format!("{}{item}", event.status).as_bytes());
        if event.id != id.to_string() {
            wrong.push(format!("{subject}: the id of {} is {} and not {id}", event.status, event.id));
        }
        if event.kind != cancellation.kind.as_str() || event.intent != cancellation.id {
            wrong.push(format!("{subject} is told as {} {}", event.kind, event.intent));
        }
        if event.order.as_deref() != Some(cancellation.order.as_str()) {
            wrong.push(format!("{subject} is told with another reference: {:?}", event.order));
        }
    }
    wrong
}

/// What was told of a payment, against what is true when nothing can happen any more.
fn untruths(kind: Kind, events: &[&Event], truth: &PaymentTruth) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_rollback = kind == Kind::SyncCancelRollback;
    let effects = truth.effects;
    let no_effect = effects.cancels == 0 && effects.rollbacks == 0;
    let has_end = events.iter().any(|event| event.terminal);
    let told: BTreeSet<String> = events.iter().map(|event| event.said()).collect();
    for told in told {
        let is_true = match told.as_str() {
            "cancelled" => truth.state == PaymentState::Cancelled && !is_rollback,
            "rolled_back" => truth.state == PaymentState::RolledBack,
            "accepted" => kind == Kind::BatchCancel || truth.activities.len() > 1,
            "rejected/already_refunded" => truth.state == PaymentState::Refunded && no_effect,
            "rejected/partially_refunded" => truth.state == PaymentState::PartiallyRefunded && no_effect,
            "rejected/cancel_failed" => truth.state == PaymentState::CancelFailed && no_effect,
            "rejected/cancel_completed" => is_rollback && truth.state == PaymentState::Cancelled && no_effect,
            "rejected/device_received" => {
                is_rollback && truth.activities.iter().any(|one| one.status == 11) && no_effect
            }
            "rejected/nothing_to_withdraw" => is_rollback && no_effect,
            "rejected/same_day_window_closed" => no_effect && truth.state != PaymentState::Cancelled,
            // A call that arrives when the payment's day has ended at the gateway is refused by the gateway itself.
            "rejected/not_suitable" => {
                no_effect && truth.state == PaymentState::Stands && is_refused_at_last(truth)
            }
            // Doubt told as doubt is never untrue.
            unresolved if unresolved.starts_with("unresolved") => true,
            // What one copy gives up, another one may still bring about; its end is the one that counts.
            given_up if given_up.starts_with("given_up") => no_effect || has_end,
            _other => false,
        };
        if !is_true {
            wrong.push(format!("is told as {told}, and is {:?} with {effects:?}", truth.state));
        }
    }
    wrong
}

/// Whether the last call came through, was answered, and changed nothing.
fn is_refused_at_last(truth: &PaymentTruth) -> bool {
    let is_call = |call: &&CallRecord| call.endpoint.purpose() == Purpose::Call;
    let last = truth.log.iter().rev().find(is_call);
    last.is_some_and(|call| call.fault.is_none() && call.replied.is_some() && call.effect.is_none())
}

/// How often something happened once more than it was asked for. An order that failed moved nothing, and may be given
/// again; two orders that live would.
fn beyond_the_first(truth: &PaymentTruth) -> usize {
    const FAILED: [u8; 2] = [5, 7];
    let living = truth
        .activities
        .iter()
        .filter(|activity| activity.origin == Origin::Called && !FAILED.contains(&activity.status))
        .count();
    let most = truth.effects.cancels.max(truth.effects.rollbacks);
    usize::try_from(most).unwrap_or(usize::MAX).max(living).saturating_sub(1)
}

/// Calls after the effect that nothing allowed.
///
/// Every call needs a allowance. A copy of an intent is one, for its first call; a look that was answered, and that came
/// before the effect, is one for a call again; and a reply that says that surely nothing happened (busy, locked out)
/// gives back the allowance of its call. So a copy that looked before another copy's call, and calls after it, is allowed
/// to: it cannot know. Whoever calls after the effect without a allowance knew of the effect, or did not ask.
///
/// Provisions are left out where they were in doubt: the call itself asks, and is repeated by design.
fn calls_not_allowed(cancellation: &Cancellation, truth: &PaymentTruth, events: &[&Event]) -> usize {
    let wanted: &[EffectKind] = match cancellation.kind {
        Kind::AsyncCancel => &[EffectKind::CancelOrdered, EffectKind::Cancelled],
        Kind::SyncCancelRollback => &[EffectKind::RolledBack],
        Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => &[EffectKind::Cancelled],
    };
    let effect = truth.events.iter().filter(|event| wanted.contains(&event.what)).map(|event| event.at).min();
    let Some(effect) = effect else { return 0 };
    if cancellation.kind == Kind::ApmProvisionCancel {
        return provision_calls_after_the_end(cancellation, truth, events);
    }
    let mut allowances = cancellation.copies;
    let mut without = 0;
    for call in &truth.log {
        if call.endpoint.purpose() == Purpose::Inquiry {
            if is_answered(call) && call.at < effect {
                allowances += 1;
            }
        } else if call.endpoint == endpoint_of(cancellation.kind) {
            let surely_nothing = matches!(call.replied, Some(401 | 403 | 408 | 425 | 429 | 503));
            if surely_nothing {
                continue;
            }
            if allowances > 0 {
                allowances -= 1;
            } else if call.at > effect && call.effect.is_none() {
                without += 1;
            }
        }
    }
    without
}

/// A provision is called again under doubt alone: never by the only copy of a letter whose end was heard.
fn provision_calls_after_the_end(
    cancellation: &Cancellation,
    truth: &PaymentTruth,
    events: &[&Event],
) -> usize {
    if cancellation.copies > 1 || events.iter().filter(|event| event.terminal).count() > 1 {
        return 0;
    }
    let Some(heard) = events.iter().find(|event| event.terminal).map(|event| event.heard_at) else {
        return 0;
    };
    let is_late = |call: &&CallRecord| call.endpoint == Endpoint::ApmProvisionCancel && later(call.at, heard);
    truth.log.iter().filter(is_late).count()
}

/// Later by more than two clocks of one machine can differ.
fn later(one: Timestamp, other: Timestamp) -> bool {
    one.as_millisecond() > other.as_millisecond() + 50
}

fn is_answered(call: &CallRecord) -> bool {
    call.endpoint != Endpoint::ApmQuery && call.fault.is_none() && call.replied == Some(200)
}

fn p99(recoveries: &[std::time::Duration]) -> Option<u64> {
    let mut sorted: Vec<u64> =
        recoveries.iter().map(|one| u64::try_from(one.as_millis()).unwrap_or(u64::MAX)).collect();
    sorted.sort_unstable();
    let index = (sorted.len() * 99).div_ceil(100).checked_sub(1)?;
    sorted.get(index).copied()
}

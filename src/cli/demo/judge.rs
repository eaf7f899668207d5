//! Compares what was told with what was expected, and with what really happened.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::scenes::{Part, Payment, Scene};
use crate::amqp::browse::Passing;
use crate::domain::intent::Kind;
use crate::domain::outcome::{Status, StatusName};
use crate::wire::envelope::HeaderValue;
use crate::wire::outcome::{Summary, read_summary};
use paywall_simulator::{Handle, PaymentState, PaymentTruth, Purpose};

/// What the ledger has heard.
#[derive(Default)]
pub(super) struct Heard {
    ids: HashSet<String>,
    events: Vec<Event>,
    /// Messages that were no outcome events.
    unreadable: usize,
}

struct Event {
    after: Duration,
    told: Summary,
}

impl Heard {
    /// Notes an event that came so long after publishing, and says what it tells; `None` if its id is known: a
    /// listener drops what it knows.
    pub(super) fn note(&mut self, passing: &Passing, after: Duration) -> Option<Summary> {
        let Some(told) = read_summary(&passing.body) else {
            self.unreadable += 1;
            return None;
        };
        let is_new = passing.message_id.as_ref().is_none_or(|id| self.ids.insert(id.clone()));
        if is_new {
            self.events.push(Event { after, told: told.clone() });
        }
        is_new.then_some(told)
    }

    /// Everything about one subject, as it was decided: the order of arrival means nothing.
    fn about(&self, subject: &str) -> Vec<&Event> {
        let mut events: Vec<&Event> =
            self.events.iter().filter(|event| event.told.subject == subject).collect();
        events.sort_by(|one, other| one.told.time.cmp(&other.told.time));
        events
    }
}

/// What there is to look at when the play is over.
pub(super) struct Afterwards {
    pub(super) heard: Heard,
    pub(super) dead_letters: Vec<Passing>,
    /// What went wrong on the way.
    pub(super) troubles: Vec<String>,
}

/// How it went.
pub(super) struct Report {
    /// One row for each intent, and after a batch's one for each of its payments.
    pub(super) rows: Vec<Row>,
    outcomes: usize,
    intents: usize,
    dead_letters: usize,
    others: Vec<String>,
}

/// One intent, or one payment of a batch.
pub(super) struct Row {
    /// The intent's number, or the payment's code.
    pub(super) name: String,
    /// Of an intent.
    pub(super) kind: Option<Kind>,
    pub(super) story: &'static str,
    /// The statuses in their order.
    pub(super) statuses: Vec<String>,
    /// What the gateway said last of the payment's status.
    pub(super) payment_status: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) attempts: Option<u64>,
    /// From publishing to hearing the last of it.
    pub(super) after: Option<Duration>,
    /// What must be told.
    pub(super) expected: String,
    /// What really happened.
    pub(super) truth: String,
    /// What is not as it must be; empty if all is well.
    pub(super) differences: Vec<String>,
}

impl Report {
    /// All that is not as it must be.
    pub(super) fn differences(&self) -> Vec<String> {
        let of_rows = self.rows.iter().flat_map(|row| {
            let name = format!("{} ({})", row.name, row.story);
            row.differences.iter().map(move |difference| format!("{name}: {difference}"))
        });
        of_rows.chain(self.others.iter().cloned()).collect()
    }

    /// What to say if there is nothing of that kind.
    pub(super) fn praise(&self) -> String {
        format!(
            "{} intents, {} outcomes: each as expected, and each agrees with what really happened at the gateway. \
             {} dead letters, byte for byte. Nothing is left at the broker.",
            self.intents, self.outcomes, self.dead_letters
        )
    }
}

/// Compares all of it.
pub(super) fn judge(scenes: &[Scene], afterwards: Afterwards, simulator: &Handle) -> Report {
    let Afterwards { heard, dead_letters, troubles } = afterwards;
    let mut others = troubles;
    others.extend(strangers(scenes, &heard));
    others.extend(compare_dead_letters(scenes, &dead_letters));
    let rows = scenes
        .iter()
        .zip(1..)
        .flat_map(|(scene, number)| scene.parts.iter().map(move |part| (scene, number, part)))
        .map(|(scene, number, part)| row(scene, number, part, &heard, simulator))
        .collect();
    Report {
        rows,
        outcomes: heard.events.len(),
        intents: scenes.len(),
        dead_letters: dead_letters.len(),
        others,
    }
}

/// Events about nothing that was asked for.
fn strangers(scenes: &[Scene], heard: &Heard) -> Vec<String> {
    let known: BTreeSet<String> =
        scenes.iter().flat_map(|scene| scene.parts.iter().map(|part| scene.subject_of(part))).collect();
    let strange = heard.events.iter().filter(|event| !known.contains(&event.told.subject));
    let mut strangers: Vec<String> = strange
        .map(|event| {
            format!("`{}` was told of {}, which nobody asked for", event.told.status, event.told.subject)
        })
        .collect();
    if heard.unreadable > 0 {
        strangers.push(format!("{} messages at the ledger were no outcome events", heard.unreadable));
    }
    strangers
}

/// Every letter that must lie there does, once and with the bytes that were published; and no other.
fn compare_dead_letters(scenes: &[Scene], found: &[Passing]) -> Vec<String> {
    let mut differences = Vec::new();
    for scene in scenes {
        let reasons: Vec<Option<&str>> = found
            .iter()
            .filter(|letter| letter.body == scene.body)
            .map(|letter| match letter.headers.get("cancel-reason") {
                Some(HeaderValue::Text(reason)) => Some(reason.as_str()),
                Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
            })
            .collect();
        let expected: Vec<Option<&str>> = scene.dead_letter.iter().map(|reason| Some(*reason)).collect();
        if reasons != expected {
            let story = scene.parts.first().map_or("", |part| part.story);
            differences.push(format!("{story}: dead letters {reasons:?}, expected {expected:?}"));
        }
    }
    let strange = found.iter().filter(|letter| scenes.iter().all(|scene| letter.body != scene.body)).count();
    if strange > 0 {
        differences.push(format!("{strange} dead letters have bytes that nobody published"));
    }
    differences
}

fn row(scene: &Scene, number: usize, part: &Part, heard: &Heard, simulator: &Handle) -> Row {
    let events = heard.about(&scene.subject_of(part));
    let last = events.last();
    let told: Vec<String> = events.iter().map(|event| as_text(&event.told)).collect();
    let expected: Vec<String> = part.told.iter().map(|status| expected_text(*status)).collect();
    let mut differences = Vec::new();
    if told != expected {
        let told = if told.is_empty() { "nothing".to_owned() } else { told.join(", ") };
        differences.push(format!("told was {told}; expected was {}", expected.join(", ")));
    }
    if let Some(last) = last.filter(|last| last.told.attempts != part.calls) {
        differences.push(format!("told were {} attempts; expected were {}", last.told.attempts, part.calls));
    }
    let truth = match &part.payment {
        None => "(each payment by itself)".to_owned(),
        Some(payment) => {
            let truth = simulator.truth_of(&payment.id);
            differences.extend(compare_truth(payment, part.calls, truth.as_ref()));
            if let (Some(last), Some(truth)) = (last, &truth) {
                differences.extend(contradictions(scene.kind, &last.told, truth));
            }
            truth_text(truth.as_ref())
        }
    };
    Row {
        name: part.item.map_or_else(|| number.to_string(), str::to_owned),
        kind: part.item.is_none().then_some(scene.kind),
        story: part.story,
        statuses: events.iter().map(|event| event.told.status.clone()).collect(),
        payment_status: events.iter().rev().find_map(|event| event.told.payment_status.clone()),
        reason: last.and_then(|last| last.told.reason.clone()),
        attempts: last.map(|last| last.told.attempts),
        after: events.iter().map(|event| event.after).max(),
        expected: expected.join(", "),
        truth,
        differences,
    }
}

fn as_text(told: &Summary) -> String {
    match &told.reason {
        None => told.status.clone(),
        Some(reason) => format!("{}/{reason}", told.status),
    }
}

fn expected_text(status: Status) -> String {
    let name = status.name().as_str();
    match status.reason() {
        None => name.to_owned(),
        Some((reason, _)) => format!("{name}/{reason}"),
    }
}

/// What was staged, and what became of it at the gateway.
fn compare_truth(expected: &Payment, calls: u64, truth: Option<&PaymentTruth>) -> Vec<String> {
    let (state, came, cancels, late_calls) = truth.map_or((PaymentState::Unknown, 0, 0, 0), |truth| {
        (truth.state, truth.calls_total(), truth.effects.cancels, truth.calls_after_cancelled)
    });
    let mut differences = Vec::new();
    if state != expected.state {
        differences.push(format!("at the gateway: {}; expected: {}", words(state), words(expected.state)));
    }
    let mut count = |what, found: u64, expected: u64| {
        if found != expected {
            differences.push(format!("{what}: {found}; expected: {expected}"));
        }
    };
    count("calls that reached the gateway", came, calls);
    count("times that money moved", cancels, expected.cancels);
    count("calls after it was cancelled", late_calls, expected.late_calls);
    differences
}

/// What no outcome may ever say of a payment of which this is true, whatever was staged.
fn contradictions(kind: Kind, told: &Summary, truth: &PaymentTruth) -> Vec<String> {
    let is_rollback = match kind {
        Kind::SyncCancelRollback => true,
        Kind::AsyncCancel | Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => false,
    };
    let state = truth.state;
    let true_enough = match StatusName::parse(&told.status) {
        Some(StatusName::Cancelled) => state == PaymentState::Cancelled,
        Some(StatusName::RolledBack) => state == PaymentState::RolledBack,
        Some(StatusName::Rejected) if is_rollback => truth.effects.rollbacks == 0,
        Some(StatusName::Rejected) => {
            truth.effects.cancels == 0 && state != PaymentState::Cancelled && state != PaymentState::Pending
        }
        Some(StatusName::GivenUp) => truth.effects.orders == 0 && truth.effects.rollbacks == 0,
        Some(StatusName::Accepted | StatusName::Unresolved | StatusName::Closed | StatusName::Abandoned) => {
            true
        }
        None => false,
    };
    let mut contradictions = Vec::new();
    if !true_enough {
        contradictions.push(format!("`{}` is not true: at the gateway it is {}", told.status, words(state)));
    }
    if truth.effects.cancels > 1 {
        contradictions.push(format!("money moved {} times", truth.effects.cancels));
    }
    let after_the_end = calls_after(&told.time, truth);
    if after_the_end > 0 {
        contradictions.push(format!("{after_the_end} calls came after its end was told"));
    }
    contradictions
}

/// Calls that came after this was decided. Outcomes are dated in milliseconds, cut off.
fn calls_after(decided_at: &str, truth: &PaymentTruth) -> usize {
    let Ok(decided_at) = decided_at.parse::<Timestamp>() else { return 0 };
    let surely_after = decided_at + SignedDuration::from_millis(1);
    truth.log.iter().filter(|call| call.endpoint.purpose() == Purpose::Call && call.at > surely_after).count()
}

fn truth_text(truth: Option<&PaymentTruth>) -> String {
    let Some(truth) = truth else { return "never heard of".to_owned() };
    let calls = match truth.calls_total() {
        0 => "not called".to_owned(),
        1 => "1 call".to_owned(),
        calls => format!("{calls} calls"),
    };
    let late = match truth.calls_after_cancelled {
        0 => String::new(),
        late => format!(", {late} too late"),
    };
    let money = match truth.effects.cancels {
        0 => String::new(),
        1 => "; money moved".to_owned(),
        times => format!("; money moved {times} times"),
    };
    format!("{}; {calls}{late}{money}", words(truth.state))
}

fn words(state: PaymentState) -> &'static str {
    match state {
        PaymentState::Stands => "the sale stands",
        PaymentState::Pending => "a cancel is under way",
        PaymentState::Cancelled => "cancelled",
        PaymentState::RolledBack => "the cancel was withdrawn",
        PaymentState::CancelFailed => "the cancel failed",
        PaymentState::Undelivered => "the cancel was not delivered",
        PaymentState::Refunded => "refunded",
        PaymentState::PartiallyRefunded => "refunded in part",
        PaymentState::NotPaid => "never paid",
        PaymentState::Unknown => "no such payment",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use jiff::civil::date;

    use super::super::scenes::scenes;
    use super::*;
    use crate::wire::envelope::Headers;
    use paywall_simulator::{CallRecord, Effects, Endpoint, Identity};

    const DECIDED: &str = "2026-03-01T09:00:00.000Z";

    fn told(status: &str) -> Summary {
        Summary {
            time: DECIDED.to_owned(),
            subject: "s".to_owned(),
            kind: "async_cancel".to_owned(),
            status: status.to_owned(),
            reason: None,
            payment_status: None,
            attempts: 1,
            reference: None,
        }
    }

    /// A payment that was called once, this many milliseconds after the outcome was decided.
    fn truth(state: PaymentState, effects: Effects, called_after_ms: i64) -> PaymentTruth {
        let at = DECIDED.parse::<Timestamp>().unwrap() + SignedDuration::from_millis(called_after_ms);
        let call = CallRecord {
            number: 1,
            at,
            endpoint: Endpoint::AsyncCancel,
            merchant: None,
            body: "".into(),
            effect: None,
            fault: None,
            replied: None,
        };
        PaymentTruth {
            identity: Identity::default(),
            scheme: None,
            state,
            calls: BTreeMap::from([(Endpoint::AsyncCancel, 1)]),
            calls_after_cancelled: 0,
            effects,
            events: Vec::new(),
            activities: Vec::new(),
            log: vec![call],
        }
    }

    fn check(kind: Kind, status: &str, state: PaymentState, effects: Effects, is_contradiction: bool) {
        let found = contradictions(kind, &told(status), &truth(state, effects, -500));
        assert_eq!(!found.is_empty(), is_contradiction, "{kind} {status} {state:?} {effects:?}: {found:?}");
    }

    #[test]
    fn an_outcome_that_is_not_true_at_the_gateway_is_found() {
        use PaymentState::{Cancelled, Pending, RolledBack, Stands};
        let none = Effects::default();
        let cancel = Effects { orders: 1, cancels: 1, rollbacks: 0 };
        let rollback = Effects { orders: 0, cancels: 0, rollbacks: 1 };
        let (order, withdraw) = (Kind::AsyncCancel, Kind::SyncCancelRollback);
        check(order, "cancelled", Cancelled, cancel, false);
        check(order, "cancelled", Stands, none, true);
        check(order, "cancelled", Pending, none, true);
        check(order, "rejected", Stands, none, false);
        check(order, "rejected", Cancelled, cancel, true);
        check(order, "rejected", Pending, none, true);
        check(order, "given_up", Stands, none, false);
        check(order, "given_up", Pending, Effects { orders: 1, ..none }, true);
        check(order, "unresolved", Cancelled, cancel, false);
        check(order, "cancelled", Cancelled, Effects { cancels: 2, ..cancel }, true);
        check(order, "unheard_of", Stands, none, true);
        check(withdraw, "rolled_back", RolledBack, rollback, false);
        check(withdraw, "rolled_back", Pending, none, true);
        check(withdraw, "rejected", Pending, none, false);
        check(withdraw, "rejected", RolledBack, rollback, true);
    }

    #[test]
    fn a_call_after_the_end_was_told_is_found() {
        let effects = Effects { orders: 1, cancels: 1, rollbacks: 0 };
        let calls = |after_ms| calls_after(DECIDED, &truth(PaymentState::Cancelled, effects, after_ms));
        // What was decided within this millisecond is dated at its beginning.
        assert_eq!((calls(-500), calls(1), calls(2)), (0, 0, 1));
    }

    #[test]
    fn what_was_staged_and_is_not_so_is_found() {
        let expected = Payment {
            id: String::new(),
            seed: None,
            state: PaymentState::Cancelled,
            cancels: 1,
            late_calls: 0,
        };
        let effects = Effects { orders: 1, cancels: 1, rollbacks: 0 };
        let is = truth(PaymentState::Cancelled, effects, -500);
        assert_eq!(compare_truth(&expected, 1, Some(&is)), Vec::<String>::new());
        assert_eq!(
            compare_truth(&expected, 2, Some(&is)),
            ["calls that reached the gateway: 1; expected: 2"]
        );
        let late = PaymentTruth { calls_after_cancelled: 1, ..is };
        assert_eq!(
            compare_truth(&expected, 1, Some(&late)),
            ["calls after it was cancelled: 1; expected: 0"]
        );
        assert_eq!(compare_truth(&expected, 1, None).len(), 3, "the state, the calls and the money");
    }

    #[test]
    fn a_dead_letter_that_is_missing_changed_or_too_many_is_found() {
        let mut scenes = scenes(DECIDED.parse().unwrap(), date(2026, 3, 1));
        scenes.retain(|scene| scene.dead_letter == Some("invalid_intent"));
        let reason = |reason: &str| {
            Headers::from([("cancel-reason".to_owned(), HeaderValue::Text(reason.to_owned()))])
        };
        let letter = |body: &str, headers| Passing {
            routing_key: String::new(),
            message_id: None,
            headers,
            body: Bytes::from(body.to_owned()),
        };
        let right = letter(&scenes[0].body, reason("invalid_intent"));
        let found = |letters: &[Passing]| compare_dead_letters(&scenes, letters).len();
        assert_eq!(found(std::slice::from_ref(&right)), 0);
        assert_eq!(found(&[]), 1);
        assert_eq!(found(&[right.clone(), right.clone()]), 1);
        assert_eq!(found(&[letter(&scenes[0].body, reason("no_evidence"))]), 1);
        let changed = format!("{} ", scenes[0].body);
        assert_eq!(found(&[right, letter(&changed, reason("invalid_intent"))]), 1);
    }
}

//! A decision becomes messages: outcome events, a letter on its way, a dead letter.

use jiff::Timestamp;
use uuid::Uuid;

use super::envelope::{Address, HeaderValue, Headers, Letter, Message, Messages};
use super::history;
use super::intent::{Malformed, PartialIntent, Received};
use super::origin;
use crate::domain::decide::{Decision, Then};
use crate::domain::history::History;
use crate::domain::intent::{IntentId, Kind};
use crate::domain::outcome::{RejectedReason, StatusName};
use crate::domain::retry::Tiers;

mod event;
mod parked;
mod summary;

pub use event::event_id;
use event::{Data, Reason, event, millis, publish, raw};
pub(super) use parked::PARKED_KEY;
pub use parked::{announce_again, park, refusals};
pub use summary::{Summary, read_summary};

/// `content-type` of an outcome event.
pub const OUTCOME_CONTENT_TYPE: &str = "application/cloudevents+json";

/// `content-type` of a letter.
pub const LETTER_CONTENT_TYPE: &str = "application/json";

/// What goes on every message of one step, beside the decision.
#[derive(Debug, Clone)]
pub struct Stamp<'a> {
    /// `worker.source`.
    pub source: &'a str,
    /// `worker.name`.
    pub worker: &'a str,
    /// When it was decided.
    pub now: Timestamp,
    /// `traceparent` and `tracestate`.
    pub trace: &'a Headers,
    /// Fresh, for the dead letter that the step may end in: one intent can lie there more than once.
    pub fresh_id: Uuid,
    /// The delay queues.
    pub tiers: &'a Tiers,
}

/// The messages of a decision about an intent. Every decision announces something, be it only the letter.
pub fn encode(letter: &Letter, received: &Received, decision: &Decision, stamp: &Stamp<'_>) -> Messages {
    let Received { intent, reference } = received;
    let mut messages: Vec<Message> = decision
        .outcomes
        .iter()
        .map(|outcome| event(intent, reference.as_deref(), &decision.history, outcome, stamp))
        .collect();
    match decision.then {
        Then::Done => {}
        Then::Wait(_) => messages.push(waiting(letter, intent.kind(), &decision.history, stamp)),
        Then::DeadLetter(reason) => {
            let headers = history::encode(&decision.history);
            let who = Addressee { id: Some(intent.id), kind: Some(intent.kind()) };
            messages.push(dead_letter(letter, who, reason.as_str(), reason.message(), headers, stamp));
        }
    }
    let mut messages = messages.into_iter();
    let first =
        messages.next().expect("a letter that is done has an outcome, and every other goes somewhere");
    Messages::new(first, messages)
}

/// The messages about a letter that could not be read: a dead letter, and an event if it can be addressed.
pub fn encode_malformed(letter: &Letter, malformed: &Malformed, stamp: &Stamp<'_>) -> Messages {
    let Malformed { fault, known } = malformed;
    let who = Addressee { id: known.id, kind: known.kind };
    let reason = RejectedReason::InvalidIntent;
    let detail = fault.to_string();
    let dead = dead_letter(letter, who, reason.as_str(), &detail, untried(stamp), stamp);
    let (Some(id), Some(kind)) = (known.id, known.kind) else { return Messages::new(dead, []) };
    let status = StatusName::Rejected;
    let data = Data {
        intent_id: id.to_string(),
        kind: kind.as_str(),
        merchant: known.merchant.as_ref().map(|merchant| merchant.as_str()),
        status: status.as_str(),
        terminal: status.is_terminal(),
        requested_at: known.requested_at.map(millis),
        decided_at: millis(stamp.now),
        attempts: 0,
        payment_status: None,
        payment: None,
        item: None,
        counts: None,
        reason: Some(Reason { code: reason.as_str(), message: &detail, evidence: None, gateway: None }),
        reference: raw(known.reference.as_deref()),
    };
    let event = publish(id.to_string(), event_id(id, status, None, 0), data, kind, status, None, stamp);
    Messages::new(event, [dead])
}

/// Why a letter goes to the dead letters, and nobody is told: an outcome of its intent is another letter's to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unannounced {
    /// CC or BCC brought a copy into the lane of another kind.
    WrongLane,
    /// Its id was used before, for another intent: no listener could tell its outcomes from the other's.
    IntentIdReused,
}

impl Unannounced {
    /// The reason's code.
    pub fn as_str(self) -> &'static str {
        match self {
            Unannounced::WrongLane => "wrong_lane",
            Unannounced::IntentIdReused => "intent_id_reused",
        }
    }

    /// What it says to a person.
    pub fn message(self) -> &'static str {
        match self {
            Unannounced::WrongLane => {
                "CC or BCC brought this copy into the lane of another kind; the copy in its own lane is handled."
            }
            Unannounced::IntentIdReused => {
                "Another intent was published with this intentId before; nothing was called for this one. \
                 Publish it with an intentId of its own."
            }
        }
    }
}

/// The dead letter of an intent that is not called for and whose outcome is not told.
pub fn encode_unannounced(
    letter: &Letter,
    known: &PartialIntent,
    why: Unannounced,
    stamp: &Stamp<'_>,
) -> Messages {
    let who = Addressee { id: known.id, kind: known.kind };
    Messages::new(dead_letter(letter, who, why.as_str(), why.message(), untried(stamp), stamp), [])
}

/// The history of a letter that no step was made for.
fn untried(stamp: &Stamp<'_>) -> Headers {
    Headers::from([
        (history::name::FIRST_SEEN.to_owned(), HeaderValue::Text(stamp.now.to_string())),
        (history::name::ATTEMPT.to_owned(), HeaderValue::Int(0)),
    ])
}

/// A letter on its way to a delay queue, built anew: nothing of the old one but its bytes.
fn waiting(letter: &Letter, kind: Kind, history: &History, stamp: &Stamp<'_>) -> Message {
    let mut headers = history::encode(history);
    headers.extend(origin::carried(letter));
    headers.extend(stamp.trace.clone());
    let tier = match history.due {
        Some(due) => stamp.tiers.towards(due, stamp.now),
        None => stamp.tiers.shortest(),
    };
    Message {
        address: Address::Delay(tier.clone()),
        routing_key: kind.as_str().to_owned(),
        headers,
        content_type: LETTER_CONTENT_TYPE,
        message_id: None,
        occasion: None,
        body: letter.body.clone(),
    }
}

/// A letter on its way to the next delay queue, nothing having been done with it.
pub fn put_off(letter: &Letter, kind: Kind, history: &History, stamp: &Stamp<'_>) -> Messages {
    Messages::new(waiting(letter, kind, history, stamp), [])
}

/// A letter that may have taken a process down, on its way to be handled alone.
pub fn isolate(letter: &Letter, kind: Kind, history: &History, trace: &Headers) -> Messages {
    let mut headers = history::encode(history);
    headers.extend(origin::carried(letter));
    headers.extend(trace.clone());
    let message = Message {
        address: Address::Isolation,
        routing_key: kind.as_str().to_owned(),
        headers,
        content_type: LETTER_CONTENT_TYPE,
        message_id: None,
        occasion: None,
        body: letter.body.clone(),
    };
    Messages::new(message, [])
}

/// Whose letter it is, where that can be read.
#[derive(Clone, Copy)]
struct Addressee {
    id: Option<IntentId>,
    kind: Option<Kind>,
}

fn dead_letter(
    letter: &Letter,
    who: Addressee,
    reason: &str,
    detail: &str,
    mut headers: Headers,
    stamp: &Stamp<'_>,
) -> Message {
    headers.remove(history::name::DUE);
    headers.extend(origin::carried(letter));
    let mut put = |name: &str, value: String| {
        headers.insert(name.to_owned(), HeaderValue::Text(value));
    };
    put("cancel-reason", reason.to_owned());
    put("cancel-detail", detail.to_owned());
    put("cancel-dead-at", stamp.now.to_string());
    put("cancel-worker", stamp.worker.to_owned());
    if let Some(id) = who.id {
        put("cancel-intent-id", id.to_string());
    }
    if let Some(kind) = who.kind {
        put("cancel-kind", kind.as_str().to_owned());
    }
    headers.extend(stamp.trace.clone());
    let kind = who.kind.map_or("unknown", Kind::as_str);
    Message {
        address: Address::DeadLetters,
        routing_key: format!("{kind}.{reason}"),
        headers,
        content_type: LETTER_CONTENT_TYPE,
        message_id: Some(stamp.fresh_id.to_string()),
        occasion: None,
        body: letter.body.clone(),
    }
}

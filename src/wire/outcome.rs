//! A decision becomes messages: outcome events, a letter on its way, a dead letter.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::envelope::{Address, HeaderValue, Headers, Letter, Message, Messages, Occasion};
use super::history;
use super::intent::{Malformed, PartialIntent, Received};
use super::origin;
use crate::domain::decide::{Decision, Then};
use crate::domain::fault::Fault;
use crate::domain::history::{History, LastReply};
use crate::domain::intent::{CancelIntent, Code, IntentId, Kind, Target};
use crate::domain::outcome::{Learnt, Outcome, PaymentStatus, RejectedReason, Status, StatusName, Subject};
use crate::domain::reply::Amount;
use crate::domain::retry::{Tier, Tiers};

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

/// Headers of an event that the broker refused, while it waits to be announced again.
mod parked {
    /// Its `message-id`.
    pub(super) const EVENT_ID: &str = "cancel-event-id";
    /// How often it was refused.
    pub(super) const TRIES: &str = "cancel-announce-tries";
}

/// What the routing key of a refused event begins with while it waits.
pub(super) const PARKED_KEY: &str = "announce.";

/// How often the event in this letter has been refused; 0 for what is no parked event.
pub fn refusals(headers: &Headers) -> u32 {
    match headers.get(parked::TRIES) {
        Some(HeaderValue::Int(tries)) => u32::try_from(*tries).unwrap_or(u32::MAX),
        Some(HeaderValue::Text(_) | HeaderValue::Bool(_)) | None => 0,
    }
}

/// A refused event as it waits in a delay queue: the same bytes, by itself. `None` for what is no event.
pub fn park(refused: &Message, tries: u32, tier: &Tier) -> Option<Message> {
    let event_id = match refused.address {
        Address::Announce => refused.message_id.clone()?,
        Address::Delay(_) | Address::DeadLetters | Address::Isolation | Address::Intents => return None,
    };
    let mut headers = refused.headers.clone();
    headers.insert(parked::EVENT_ID.to_owned(), HeaderValue::Text(event_id));
    headers.insert(parked::TRIES.to_owned(), HeaderValue::Int(tries.into()));
    Some(Message {
        address: Address::Delay(tier.clone()),
        routing_key: format!("{}{}", PARKED_KEY, refused.routing_key),
        headers,
        content_type: refused.content_type,
        message_id: None,
        occasion: None,
        body: refused.body.clone(),
    })
}

/// A refused event whose wait is over, as it is announced again.
pub fn announce_again(letter: &Letter) -> Messages {
    let text = |name: &str| match letter.headers.get(name) {
        Some(HeaderValue::Text(text)) => Some(text.clone()),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    };
    let routing_key = letter.routing_key.strip_prefix(PARKED_KEY).unwrap_or(&letter.routing_key);
    let event = Message {
        address: Address::Announce,
        routing_key: routing_key.to_owned(),
        headers: letter
            .headers
            .iter()
            .filter(|(name, _)| matches!(name.as_str(), "traceparent" | "tracestate" | history::name::RULE))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        content_type: OUTCOME_CONTENT_TYPE,
        message_id: text(parked::EVENT_ID),
        occasion: occasion_of(&letter.body),
        body: letter.body.clone(),
    };
    Messages::new(event, [])
}

/// What an event says of its occasion.
fn occasion_of(event: &[u8]) -> Option<Occasion> {
    #[derive(Deserialize)]
    struct Event {
        time: String,
        data: Data,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        intent_id: String,
    }
    let Event { time, data } = serde_json::from_slice(event).ok()?;
    Some(Occasion { correlation_id: data.intent_id, at: time.parse().ok()? })
}

/// The id of an event: derived from intent and outcome, so that whoever announces the same thing again,
/// announces the same id. Replays of a dead letter count only where a later end may differ.
pub fn event_id(intent: IntentId, status: StatusName, item: Option<&Code>, replays: u32) -> Uuid {
    let replayed = match status {
        StatusName::GivenUp | StatusName::Unresolved if replays > 0 => format!("#{replays}"),
        StatusName::GivenUp
        | StatusName::Unresolved
        | StatusName::Cancelled
        | StatusName::RolledBack
        | StatusName::Rejected
        | StatusName::Accepted
        | StatusName::Closed
        | StatusName::Abandoned => String::new(),
    };
    let item = item.map(|code| format!("/{code}")).unwrap_or_default();
    let name = format!("{}{replayed}{item}", status.as_str());
    Uuid::new_v5(&intent.uuid(), name.as_bytes())
}

/// What a person wants to see of an outcome event at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When it was decided.
    pub time: String,
    /// What it is about.
    pub subject: String,
    /// `data.kind`.
    pub kind: String,
    /// `data.status`.
    pub status: String,
    /// `data.reason.code`.
    pub reason: Option<String>,
    /// `data.paymentStatus`: type and status by name.
    pub payment_status: Option<String>,
    /// `data.attempts`.
    pub attempts: u64,
    /// `data.reference`, as it stands.
    pub reference: Option<String>,
}

impl Summary {
    /// Whose outcome it is, as the subject says it.
    pub fn intent_id(&self) -> &str {
        self.subject.split_once('/').map_or(&self.subject, |(intent, _)| intent)
    }

    /// Whether a worker has come to an end with the intent: nothing follows unless a person acts.
    pub fn is_end(&self) -> bool {
        let of_an_item = self.subject.contains('/');
        !of_an_item && self.status != StatusName::Accepted.as_str()
    }
}

/// Reads an outcome event; `None` if it is none.
pub fn read_summary(body: &[u8]) -> Option<Summary> {
    #[derive(Deserialize)]
    struct Event {
        time: String,
        subject: String,
        data: Data,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        kind: String,
        status: String,
        attempts: u64,
        payment_status: Option<PaymentStatus>,
        reason: Option<Reason>,
        reference: Option<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct PaymentStatus {
        #[serde(rename = "type")]
        kind: Name,
        name: String,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    #[derive(Deserialize)]
    struct Reason {
        code: String,
    }
    let Event { time, subject, data } = serde_json::from_slice(body).ok()?;
    Some(Summary {
        time,
        subject,
        kind: data.kind,
        status: data.status,
        reason: data.reason.map(|reason| reason.code),
        payment_status: data.payment_status.map(|status| format!("{} {}", status.kind.name, status.name)),
        attempts: data.attempts,
        reference: data.reference.map(|reference| reference.get().to_owned()),
    })
}

/// An event of CloudEvents 1.0 in structured JSON.
#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    #[serde(rename = "type")]
    event_type: &'static str,
    source: &'a str,
    datacontenttype: &'static str,
    time: String,
    subject: String,
    id: Uuid,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    intent_id: String,
    kind: &'static str,
    merchant: Option<&'a str>,
    status: &'static str,
    terminal: bool,
    requested_at: Option<String>,
    decided_at: String,
    attempts: u32,
    payment_status: Option<PaymentStatusJson>,
    payment: Option<PaymentJson<'a>>,
    item: Option<ItemJson<'a>>,
    counts: Option<BTreeMap<&'static str, usize>>,
    reason: Option<Reason<'a>>,
    reference: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Named {
    code: i64,
    name: &'static str,
}

#[derive(Serialize)]
struct PaymentStatusJson {
    scheme: &'static str,
    #[serde(rename = "type")]
    kind: Named,
    #[serde(flatten)]
    status: Named,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct PaymentJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_request_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_request_activity_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_unique_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apm_transaction_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bulk_payment_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_marketplace_records: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<AmountJson<'a>>,
}

#[derive(Serialize)]
struct AmountJson<'a> {
    value: &'a str,
    currency: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemJson<'a> {
    merchant_unique_code: &'a str,
    date: String,
}

#[derive(Serialize)]
struct Reason<'a> {
    code: &'static str,
    message: &'a str,
    evidence: Option<&'static str>,
    gateway: Option<GatewayJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayJson<'a> {
    http_status: Option<u16>,
    error_code: Option<i64>,
    error_code_type: Option<i64>,
    client_message: Option<&'a str>,
    fault: Option<&'static str>,
}

/// One outcome as an event.
fn event(
    intent: &CancelIntent,
    reference: Option<&str>,
    history: &History,
    outcome: &Outcome,
    stamp: &Stamp<'_>,
) -> Message {
    let status = outcome.status.name();
    let item = match outcome.subject {
        Subject::Whole => None,
        Subject::Item(index) => intent.items().get(index),
    };
    let subject = match item {
        None => intent.id.to_string(),
        Some(item) => format!("{}/{}", intent.id, item.merchant_unique_code),
    };
    let counts = (intent.kind() == Kind::BatchCancel && item.is_none())
        .then(|| outcome.counts.iter().map(|(status, count)| (status.as_str(), *count)).collect());
    let data = Data {
        intent_id: intent.id.to_string(),
        kind: intent.kind().as_str(),
        merchant: Some(intent.merchant.as_str()),
        status: status.as_str(),
        terminal: status.is_terminal(),
        requested_at: Some(millis(intent.requested_at)),
        decided_at: millis(stamp.now),
        attempts: history.attempts,
        payment_status: outcome.payment_status.map(payment_status),
        payment: Some(payment(intent, outcome)),
        item: item.map(|item| ItemJson {
            merchant_unique_code: item.merchant_unique_code.as_str(),
            date: item.date.to_string(),
        }),
        counts,
        reason: reason(outcome.status, history),
        reference: raw(reference),
    };
    let code = item.map(|item| &item.merchant_unique_code);
    let id = event_id(intent.id, status, code, history.replays);
    let rule = history.last.rule.as_deref();
    publish(subject, id, data, intent.kind(), status, rule, stamp)
}

fn publish(
    subject: String,
    id: Uuid,
    data: Data<'_>,
    kind: Kind,
    status: StatusName,
    rule: Option<&str>,
    stamp: &Stamp<'_>,
) -> Message {
    let mut headers = stamp.trace.clone();
    if let Some(rule) = rule {
        headers.insert(history::name::RULE.to_owned(), HeaderValue::Text(rule.to_owned()));
    }
    let occasion = Some(Occasion { correlation_id: data.intent_id.clone(), at: stamp.now });
    let event = Event {
        specversion: "1.0",
        event_type: "cancel.outcome.v1",
        source: stamp.source,
        datacontenttype: "application/json",
        time: data.decided_at.clone(),
        subject,
        id,
        data,
    };
    let body = serde_json::to_vec(&event).expect("strings, numbers and raw JSON always serialise");
    Message {
        address: Address::Announce,
        routing_key: format!("{kind}.{}", status.as_str()),
        headers,
        content_type: OUTCOME_CONTENT_TYPE,
        message_id: Some(id.to_string()),
        occasion,
        body: Bytes::from(body),
    }
}

fn reason(status: Status, history: &History) -> Option<Reason<'_>> {
    let (code, message) = status.reason()?;
    let LastReply { http_status, error_code, error_code_type, ref client_message, fault, rule: _ } =
        history.last;
    let gateway = (http_status.is_some() || fault.is_some()).then(|| GatewayJson {
        http_status,
        error_code,
        error_code_type,
        client_message: client_message.as_deref(),
        fault: fault.map(Fault::as_str),
    });
    Some(Reason { code, message, evidence: history.shown.map(|shown| shown.as_str()), gateway })
}

/// Every identifier known of the payment that an outcome is about.
fn payment<'a>(intent: &'a CancelIntent, outcome: &'a Outcome) -> PaymentJson<'a> {
    let learnt: &Learnt = &outcome.learnt;
    let merchant_unique_code =
        learnt.merchant_unique_code.as_deref().and_then(|code| Code::parse(code).map(|_| code));
    let amount = learnt.amount.as_ref().and_then(amount);
    let number = |number: Option<i64>| number.filter(|number| *number >= 0);
    let unique_uuid =
        || learnt.unique_code.as_deref().and_then(super::strict::parse_uuid).map(|uuid| uuid.to_string());
    match &intent.target {
        Target::AsyncCancel { payment_request_id }
        | Target::SyncCancelRollback { payment_request_id, .. } => PaymentJson {
            payment_request_id: Some(*payment_request_id),
            payment_request_activity_id: learnt.payment_request_activity_id,
            merchant_unique_code,
            amount,
            ..PaymentJson::default()
        },
        Target::TransactionCancel { unique_code, date, delete_marketplace_records } => PaymentJson {
            unique_code: Some(unique_code.to_string()),
            date: Some(date.to_string()),
            delete_marketplace_records: *delete_marketplace_records,
            merchant_unique_code,
            amount,
            ..PaymentJson::default()
        },
        Target::ApmProvisionCancel { unique_code, merchant_unique_code: ours } => PaymentJson {
            unique_code: Some(unique_code.to_string()),
            merchant_unique_code: ours.as_ref().map(Code::as_str).or(merchant_unique_code),
            apm_transaction_id: number(learnt.apm_transaction_id),
            amount,
            ..PaymentJson::default()
        },
        Target::BatchCancel { payments } => match outcome.subject {
            Subject::Whole => {
                PaymentJson { bulk_payment_id: number(learnt.bulk_payment_id), ..PaymentJson::default() }
            }
            Subject::Item(index) => {
                let item = payments.as_slice().get(index);
                PaymentJson {
                    merchant_unique_code: item.map(|item| item.merchant_unique_code.as_str()),
                    date: item.map(|item| item.date.to_string()),
                    bulk_payment_id: number(learnt.bulk_payment_id),
                    unique_code: unique_uuid(),
                    amount,
                    ..PaymentJson::default()
                }
            }
        },
    }
}

/// An amount with the digits as received; nothing at all where they are no number that the schema knows.
fn amount(amount: &Amount) -> Option<AmountJson<'_>> {
    let Amount { value, currency } = amount;
    let is_number = value.len() <= 64
        && value.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        && serde_json::from_str::<serde_json::Number>(value).is_ok();
    let is_currency = |text: &&str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase());
    is_number.then(|| AmountJson { value, currency: currency.as_deref().filter(is_currency) })
}

fn payment_status(status: PaymentStatus) -> PaymentStatusJson {
    let scheme = status.scheme();
    let (kind, status) = match status {
        PaymentStatus::Physical(kind, status) => (
            Named { code: kind.code(), name: kind.name() },
            Named { code: status.code(), name: status.name() },
        ),
        PaymentStatus::VirtualPos(kind, status) => (
            Named { code: kind.code(), name: kind.name() },
            Named { code: status.code(), name: status.name() },
        ),
        PaymentStatus::Apm(kind, status) => (
            Named { code: kind.code(), name: kind.name() },
            Named { code: status.code(), name: status.name() },
        ),
    };
    PaymentStatusJson { scheme, kind, status }
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

fn raw(text: Option<&str>) -> Option<Box<RawValue>> {
    text.and_then(|text| RawValue::from_string(text.to_owned()).ok())
}

/// RFC 3339 in UTC with milliseconds.
fn millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

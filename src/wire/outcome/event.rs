//! One outcome as an event of CloudEvents 1.0.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{OUTCOME_CONTENT_TYPE, Stamp};
use crate::domain::fault::Fault;
use crate::domain::history::{History, LastReply};
use crate::domain::intent::{CancelIntent, Code, IntentId, Kind, Target};
use crate::domain::outcome::{Learnt, Outcome, PaymentStatus, Status, StatusName, Subject};
use crate::domain::reply::Amount;
use crate::wire::envelope::{Address, HeaderValue, Message, Occasion};
use crate::wire::history;

/// The id of an event: derived from intent and outcome, so that the same thing, announced again by any worker,
/// has the same id. Replays of a dead letter count only where a later end may differ.
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
pub(super) struct Data<'a> {
    pub(super) intent_id: String,
    pub(super) kind: &'static str,
    pub(super) merchant: Option<&'a str>,
    pub(super) status: &'static str,
    pub(super) terminal: bool,
    pub(super) requested_at: Option<String>,
    pub(super) decided_at: String,
    pub(super) attempts: u32,
    pub(super) payment_status: Option<PaymentStatusJson>,
    pub(super) payment: Option<PaymentJson<'a>>,
    pub(super) item: Option<ItemJson<'a>>,
    pub(super) counts: Option<BTreeMap<&'static str, usize>>,
    pub(super) reason: Option<Reason<'a>>,
    pub(super) reference: Option<Box<RawValue>>,
}

#[derive(Serialize)]
pub(super) struct Named {
    code: i64,
    name: &'static str,
}

#[derive(Serialize)]
pub(super) struct PaymentStatusJson {
    scheme: &'static str,
    #[serde(rename = "type")]
    kind: Named,
    #[serde(flatten)]
    status: Named,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct PaymentJson<'a> {
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
pub(super) struct AmountJson<'a> {
    value: &'a str,
    currency: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ItemJson<'a> {
    merchant_unique_code: &'a str,
    date: String,
}

#[derive(Serialize)]
pub(super) struct Reason<'a> {
    pub(super) code: &'static str,
    pub(super) message: &'a str,
    pub(super) evidence: Option<&'static str>,
    pub(super) gateway: Option<GatewayJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GatewayJson<'a> {
    pub(super) http_status: Option<u16>,
    pub(super) error_code: Option<i64>,
    pub(super) error_code_type: Option<i64>,
    pub(super) client_message: Option<&'a str>,
    pub(super) fault: Option<&'static str>,
}

/// One outcome as an event.
pub(super) fn event(
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

pub(super) fn publish(
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
    let unique_uuid = || {
        learnt.unique_code.as_deref().and_then(crate::wire::strict::parse_uuid).map(|uuid| uuid.to_string())
    };
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

pub(super) fn raw(text: Option<&str>) -> Option<Box<RawValue>> {
    text.and_then(|text| RawValue::from_string(text.to_owned()).ok())
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

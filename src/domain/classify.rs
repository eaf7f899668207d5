//! What the reply to a call means. Not yet what we do about it: attempts, delays and doubt are `decide`'s.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::codes::{Class, Classified, CodeSource, Codes, ReplyCodes};
use super::digits;
use super::history::{Item, LastReply};
use super::http_status::HttpStatus;
use super::intent::{Code, Kind};
use super::outcome::{Learnt, PaymentStatus, RejectedReason};
use super::paywall::{PhysicalStatus, PhysicalType};
use super::reply::{
    Answer, Envelope, NeverSent, PaymentBody, PaymentEnvelope, PhysicalEnvelope, PhysicalResult, Reply,
    RetryAfter,
};
use super::step::Order;

/// What the reply to a call tells us about the payment.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The gateway says itself that it is done.
    Done(Facts),
    /// The gateway has taken the order; its end comes later.
    Ordered(Facts),
    /// The gateway has taken a batch: what the reply says of each payment that was called, by its index.
    OrderedBatch(Facts, Vec<(usize, Item)>),
    /// A refusal that no earlier call can have caused.
    Refused(RejectedReason),
    /// A refusal that an earlier call can have caused: ask before telling.
    RefusedByState(RejectedReason),
    /// Surely not done, since nothing was sent: call again.
    NeverSent,
    /// Surely not done, says the gateway: call again.
    Busy(Option<RetryAfter>),
    /// It may have happened: ask.
    InDoubt,
    /// Our keys or our address are not accepted; it is not about this payment.
    LockedOut(LockOutScope),
    /// The gateway is not set up for this payment.
    NotConfigured,
}

impl Verdict {
    /// The verdict's name, for logs and spans.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Done(_) => "done",
            Verdict::Ordered(_) | Verdict::OrderedBatch(..) => "ordered",
            Verdict::Refused(_) => "refused",
            Verdict::RefusedByState(_) => "refused_by_state",
            Verdict::NeverSent => "never_sent",
            Verdict::Busy(_) => "busy",
            Verdict::InDoubt => "in_doubt",
            Verdict::LockedOut(_) => "locked_out",
            Verdict::NotConfigured => "not_configured",
        }
    }
}

/// What a merchant is locked out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOutScope {
    /// All of an API: it does not accept the merchant's keys, or the address that we call from.
    Api,
    /// One endpoint of it: its URL is wrong.
    Endpoint,
}

/// What a success reply tells beyond its success.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// The payment's status, where the reply has it.
    pub payment_status: Option<PaymentStatus>,
    /// Identifiers.
    pub learnt: Learnt,
}

/// The codes of a reply, or how it failed to come, as the letter remembers it. A number that is too long for a code is
/// none: what the gateway writes there may be anything, and it is repeated in headers and logs.
pub fn codes_of(reply: &Reply) -> LastReply {
    let answer = match reply {
        Reply::NeverSent(NeverSent::NotBuilt) => return LastReply::default(),
        Reply::NeverSent(NeverSent::NotConnected(fault)) | Reply::Unanswered(fault) => {
            return LastReply { fault: Some(*fault), ..LastReply::default() };
        }
        Reply::Answered(answer) => answer,
    };
    let http_status = Some(answer.http_status);
    let mut last = LastReply { http_status, fault: answer.fault, ..LastReply::default() };
    let code = |number: Option<i64>| number.filter(|number| !digits::is_long(*number));
    match &answer.envelope {
        Envelope::Missing => {}
        Envelope::Physical(envelope) => {
            last.error_code = code(envelope.error_code);
            last.client_message.clone_from(&envelope.client_message);
        }
        Envelope::Payment(envelope) => {
            last.error_code = code(envelope.error_code);
            last.error_code_type = code(envelope.error_code_type);
        }
    }
    last
}

/// What a reply to this order means.
pub fn classify(order: &Order, reply: &Reply, codes: &Codes) -> Verdict {
    let answer = match reply {
        Reply::NeverSent(_) => return Verdict::NeverSent,
        Reply::Unanswered(_) => return Verdict::InDoubt,
        Reply::Answered(answer) => answer,
    };
    let kind = order.kind();
    let fits = match &answer.envelope {
        Envelope::Missing => None,
        Envelope::Physical(envelope) => Some(read_physical(order, answer, envelope)),
        Envelope::Payment(envelope) => Some(read_payment(order, answer, envelope)),
    };
    match fits {
        Some(Reading::Success(verdict)) => verdict,
        Some(Reading::Contradiction) if !HttpStatus::of(answer.http_status).decides_alone() => {
            Verdict::InDoubt
        }
        Some(Reading::Contradiction) | Some(Reading::Failure) | None => {
            by_codes(kind, answer, &codes_of(reply), codes)
        }
    }
}

/// Which rule reads this reply, in one word: of the code table or the configuration where one knows its codes, else what
/// the reply is judged by.
pub fn rule_of(kind: Kind, reply: &Reply, verdict: &Verdict, last: &LastReply, codes: &Codes) -> String {
    let answer = match reply {
        Reply::NeverSent(NeverSent::NotBuilt) => return "not_built".to_owned(),
        Reply::NeverSent(NeverSent::NotConnected(fault)) | Reply::Unanswered(fault) => {
            return format!("fault:{}", fault.as_str());
        }
        Reply::Answered(answer) => answer,
    };
    match verdict {
        Verdict::Done(_) | Verdict::Ordered(_) | Verdict::OrderedBatch(..) => return "success".to_owned(),
        Verdict::Refused(_)
        | Verdict::RefusedByState(_)
        | Verdict::NeverSent
        | Verdict::Busy(_)
        | Verdict::InDoubt
        | Verdict::LockedOut(_)
        | Verdict::NotConfigured => {}
    }
    match known_by(kind, answer.http_status, last, codes) {
        // Its codes would have been read otherwise, had its fields not contradicted each other.
        Some(known) if *verdict == Verdict::InDoubt && known.class != Class::InDoubt => {
            "contradiction".to_owned()
        }
        Some(known) => known.source.to_string(),
        None => format!("http:{}", answer.http_status),
    }
}

/// Whether the last reply said that our keys or addresses were not accepted: what a letter, whose budget is
/// spent, gives as the obstacle.
pub fn was_locked_out(kind: Kind, last: &LastReply, codes: &Codes) -> bool {
    let Some(http_status) = last.http_status else { return false };
    match known_by(kind, http_status, last, codes) {
        Some(known) => known.class == Class::LockedOut,
        None => {
            let has_envelope = last.error_code.is_some() || last.client_message.is_some();
            locks_out(http_status, has_envelope)
        }
    }
}

/// Whether a status whose codes are not known says that our keys or our address are not accepted.
fn locks_out(http_status: u16, has_envelope: bool) -> bool {
    match HttpStatus::of(http_status) {
        HttpStatus::NotAuthorized => true,
        HttpStatus::NotTheEndpoint => !has_envelope,
        HttpStatus::Success
        | HttpStatus::TryLater
        | HttpStatus::Unavailable
        | HttpStatus::ServerError
        | HttpStatus::Other => false,
    }
}

/// What such a reply locks out of. A wrong URL is one endpoint's; everything else speaks of our keys.
fn locked_out(http_status: u16, last: &LastReply) -> Verdict {
    let has_codes = last.error_code.is_some() || last.client_message.is_some();
    let is_address = HttpStatus::of(http_status) == HttpStatus::NotTheEndpoint && !has_codes;
    Verdict::LockedOut(if is_address { LockOutScope::Endpoint } else { LockOutScope::Api })
}

/// What the codes of a reply are known to mean. Under an HTTP status that decides by itself no other code speaks.
fn known_by(kind: Kind, http_status: u16, last: &LastReply, codes: &Codes) -> Option<Classified> {
    let by_itself = HttpStatus::of(http_status).decides_alone();
    codes.class(
        kind.api(),
        kind,
        &ReplyCodes {
            http_status,
            error_code: if by_itself { None } else { last.error_code },
            client_message: if by_itself { None } else { last.client_message.as_deref() },
        },
    )
}

/// What the fields of an envelope say together, before any code is looked up.
enum Reading {
    Success(Verdict),
    Failure,
    Contradiction,
}

fn read_physical(order: &Order, answer: &Answer, envelope: &PhysicalEnvelope) -> Reading {
    let (ours, kind) = match order {
        Order::AsyncCancel { payment_request_id } => (*payment_request_id, Kind::AsyncCancel),
        Order::SyncCancelRollback { payment_request_id } => (*payment_request_id, Kind::SyncCancelRollback),
        Order::TransactionCancel { .. } | Order::ApmProvisionCancel { .. } | Order::BatchCancel { .. } => {
            return Reading::Contradiction;
        }
    };
    let named = envelope.result.as_ref().and_then(|result| result.payment_request_id);
    if named.is_some_and(|id| id != ours) {
        return Reading::Contradiction;
    }
    match (envelope.succeeded, envelope.failed) {
        (Some(true), Some(true)) | (Some(false), Some(false)) => Reading::Contradiction,
        (Some(true), Some(false) | None) => {
            let clean = envelope.error_code.is_none_or(|code| code == 0)
                && envelope.client_message.is_none()
                && HttpStatus::is_success(answer.http_status);
            match &envelope.result {
                Some(result) if clean && named == Some(ours) => read_physical_success(kind, result),
                Some(_) | None => Reading::Contradiction,
            }
        }
        (None, Some(false)) => Reading::Contradiction,
        (Some(false) | None, Some(true)) | (Some(false), None) | (None, None) => Reading::Failure,
    }
}

fn read_physical_success(kind: Kind, result: &PhysicalResult) -> Reading {
    let (Some(PhysicalType::Cancel), Some(status)) = (result.activity_type, result.status) else {
        return Reading::Contradiction;
    };
    let facts = Facts {
        payment_status: Some(PaymentStatus::Physical(PhysicalType::Cancel, status)),
        learnt: Learnt { payment_request_activity_id: result.activity_id, ..Learnt::default() },
    };
    match (kind, status) {
        (Kind::AsyncCancel, PhysicalStatus::Successful)
        | (Kind::SyncCancelRollback, PhysicalStatus::Withdrawn) => Reading::Success(Verdict::Done(facts)),
        (
            Kind::AsyncCancel,
            PhysicalStatus::Created
            | PhysicalStatus::SentToDevice
            | PhysicalStatus::FirebaseSent
            | PhysicalStatus::SocketSent
            | PhysicalStatus::ReceivedByDevice,
        ) => Reading::Success(Verdict::Ordered(facts)),
        // A success that names any other state of the cancel contradicts itself, a rollback's 4 above all: it
        // would mean that the cancellation went through (`paywall.md` §4.1).
        _other_pair => Reading::Contradiction,
    }
}

fn read_payment(order: &Order, answer: &Answer, envelope: &PaymentEnvelope) -> Reading {
    let body = envelope.body.as_ref();
    if body.is_some_and(|body| names_another(order, body)) {
        return Reading::Contradiction;
    }
    match (envelope.error_code, envelope.result) {
        (Some(0), Some(true)) if HttpStatus::is_success(answer.http_status) => {
            read_payment_success(order, body)
        }
        (Some(0), _) | (None, Some(true)) => Reading::Contradiction,
        (Some(_), Some(true)) => Reading::Contradiction,
        (Some(_), Some(false) | None) | (None, Some(false) | None) => Reading::Failure,
    }
}

fn read_payment_success(order: &Order, body: Option<&PaymentBody>) -> Reading {
    let nested_failure = body.and_then(|body| body.provider).is_some_and(|provider| {
        provider.error_code.is_some_and(|code| code != 0)
            || provider.http_code.is_some_and(|code| !(200..300).contains(&code))
    });
    if nested_failure || body.is_some_and(|body| body.result == Some(false)) {
        return Reading::Contradiction;
    }
    let learnt = Learnt {
        unique_code: body.and_then(|body| body.unique_code.clone()),
        merchant_unique_code: body.and_then(|body| body.merchant_unique_code.clone()),
        apm_transaction_id: body.and_then(|body| body.apm_transaction_id),
        amount: body.and_then(|body| body.amount.clone()),
        ..Learnt::default()
    };
    let facts = Facts { payment_status: None, learnt };
    match order {
        Order::TransactionCancel { .. } | Order::ApmProvisionCancel { .. } => {
            Reading::Success(Verdict::Done(facts))
        }
        Order::BatchCancel { payments } => match body {
            Some(body) if body.result == Some(true) => Reading::Success(read_receipt(payments, body)),
            Some(_) | None => Reading::Contradiction,
        },
        Order::AsyncCancel { .. } | Order::SyncCancelRollback { .. } => Reading::Contradiction,
    }
}

/// What the reply to a batch says of each payment that was called.
fn read_receipt(called: &[(usize, Code, jiff::civil::Date)], body: &PaymentBody) -> Verdict {
    let results = body.payment_results.as_deref().unwrap_or_default();
    // Named once with another status than 1 is named so, however often it is named besides.
    let mut named: BTreeMap<&str, Item> = BTreeMap::new();
    for result in results {
        let Some(code) = result.merchant_unique_code.as_deref() else { continue };
        let item = named.entry(code).or_insert(Item::Ordered);
        if result.status != Some(1) {
            *item = Item::Named;
        }
    }
    let items = called
        .iter()
        .map(|(index, code, _)| (*index, named.get(code.as_str()).copied().unwrap_or(Item::Doubt)))
        .collect();
    let learnt = Learnt {
        bulk_payment_id: results.iter().find_map(|result| result.bulk_payment_id),
        ..Learnt::default()
    };
    Verdict::OrderedBatch(Facts { payment_status: None, learnt }, items)
}

/// Whether a reply's body names a payment, and not the one that was called.
fn names_another(order: &Order, body: &PaymentBody) -> bool {
    let named = body.unique_code.as_deref();
    match order {
        Order::TransactionCancel { unique_code, .. } => {
            named.is_some_and(|named| Uuid::parse_str(named) != Ok(*unique_code))
        }
        Order::ApmProvisionCancel { unique_code } => {
            named.is_some_and(|named| !named.eq_ignore_ascii_case(unique_code.as_str()))
        }
        // A batch's reply names its payments one by one, and is read one by one.
        Order::BatchCancel { .. } => false,
        Order::AsyncCancel { .. } | Order::SyncCancelRollback { .. } => false,
    }
}

/// What a reply that is no success means: by its codes, and where they are not known by its HTTP status.
fn by_codes(kind: Kind, answer: &Answer, last: &LastReply, codes: &Codes) -> Verdict {
    if let Some(known) = known_by(kind, answer.http_status, last, codes) {
        return by_class(kind, known, answer, last);
    }
    let has_envelope = match answer.envelope {
        Envelope::Missing => false,
        Envelope::Physical(_) | Envelope::Payment(_) => true,
    };
    if locks_out(answer.http_status, has_envelope) {
        return locked_out(answer.http_status, last);
    }
    match HttpStatus::of(answer.http_status) {
        HttpStatus::TryLater => busy(answer.retry_after),
        // That it wants to be asked later is enough; when, it need not say so that we can read it.
        HttpStatus::Unavailable if answer.retry_after.is_some() => busy(answer.retry_after),
        HttpStatus::Success
        | HttpStatus::NotAuthorized
        | HttpStatus::NotTheEndpoint
        | HttpStatus::Unavailable
        | HttpStatus::ServerError
        | HttpStatus::Other => Verdict::InDoubt,
    }
}

/// Surely not done, says the gateway. A `Retry-After` that cannot be read gives the usual delay.
fn busy(retry_after: Option<RetryAfter>) -> Verdict {
    Verdict::Busy(retry_after.filter(|wish| *wish != RetryAfter::Unreadable))
}

fn by_class(kind: Kind, known: Classified, answer: &Answer, last: &LastReply) -> Verdict {
    match (kind, known.class) {
        // Every refusal of a rollback may have been caused by an earlier copy's call. Why it was refused, the
        // page does not say by a code; so the reason is the one that a rule declares, or the page's first rule.
        (Kind::SyncCancelRollback, Class::Refused(reason) | Class::RefusedByState(reason)) => {
            Verdict::RefusedByState(match known.source {
                CodeSource::Rule(_) => reason,
                CodeSource::Integer(_) | CodeSource::Message(_) => RejectedReason::RollbackWindow,
            })
        }
        (_, Class::Refused(reason)) => Verdict::Refused(reason),
        (_, Class::RefusedByState(reason)) => Verdict::RefusedByState(reason),
        (_, Class::Busy) => busy(answer.retry_after),
        (_, Class::InDoubt) => Verdict::InDoubt,
        (_, Class::LockedOut) => locked_out(answer.http_status, last),
        (_, Class::NotConfigured) => Verdict::NotConfigured,
    }
}

#[cfg(test)]
mod tests;

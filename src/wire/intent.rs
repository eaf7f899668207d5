//! A letter's body becomes an intent, or is malformed. Strict: a typo must not cancel the wrong thing.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::envelope::{Letter, Source};
use super::origin;
use super::strict::{FieldError, Object, Value, parse_time, parse_uuid};
use crate::domain::intent::{
    BatchFault, BatchPayment, BatchPayments, CancelIntent, Code, IntentId, Kind, MerchantName, Target,
};

/// The largest body that is an intent.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The largest `reference`, as it stands in the body.
pub const REFERENCE_BYTES_MAX: usize = 4_096;

/// How many objects and arrays of a `reference` may lie in each other, itself counted. A listener parses it with
/// whatever JSON parser it has, and many of them recurse.
pub const REFERENCE_DEPTH_MAX: usize = 32;

/// A letter that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// The intent.
    pub intent: CancelIntent,
    /// The publisher's own object, byte for byte.
    pub reference: Option<String>,
}

impl Received {
    /// What of it people see at the dead letters.
    pub fn known(&self) -> PartialIntent {
        let Received { intent, reference } = self;
        PartialIntent {
            id: Some(intent.id),
            kind: Some(intent.kind()),
            merchant: Some(intent.merchant.clone()),
            requested_at: Some(intent.requested_at),
            reference: reference.clone(),
        }
    }
}

/// A letter that could not.
#[derive(Debug, Clone, PartialEq)]
pub struct Malformed {
    /// What is wrong with it.
    pub fault: FieldError,
    /// Whose intent it is, where that can be read.
    pub known: PartialIntent,
}

/// What of a malformed letter can be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PartialIntent {
    /// `intentId`.
    pub id: Option<IntentId>,
    /// The body's own `kind`.
    pub kind: Option<Kind>,
    /// `merchant`.
    pub merchant: Option<MerchantName>,
    /// `requestedAt`.
    pub requested_at: Option<Timestamp>,
    /// `reference`.
    pub reference: Option<String>,
}

/// What a letter is: by its body, by the key that its publisher gave, and by the lane that it came through.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// An intent.
    Intent(Received),
    /// No intent.
    Malformed(Malformed),
    /// An intent in a lane of another kind than its own and its key's: a copy that CC or BCC brought there.
    WrongLane(Received),
}

/// Judges a letter. The publisher's key alone judges, in every lane alike, so that all copies of one letter end alike; where it
/// is not known any more, nothing does. Of what the broker took from a lane the body alone speaks.
pub fn judge(letter: &Letter) -> Judgement {
    if origin::is_body_cut(letter) {
        let fault = FieldError::new("body", "is larger than 256 KiB");
        return Judgement::Malformed(Malformed { fault, known: read_known(&letter.body) });
    }
    let received = match decode(&letter.body) {
        Ok(received) => received,
        Err(malformed) => return Judgement::Malformed(malformed),
    };
    let lane = match letter.source {
        Source::Lane(kind) | Source::Returns(kind) => Some(kind),
        Source::Isolation => Kind::parse(&letter.routing_key),
        Source::Rescue | Source::Announcements => return Judgement::Intent(received),
    };
    let kind = received.intent.kind();
    match origin::routing_key(letter) {
        None => Judgement::Intent(received),
        Some(key) if key != kind.as_str() => {
            let fault = FieldError::new("kind", "is not the routing key that the intent was published with");
            Judgement::Malformed(Malformed { fault, known: read_known(&letter.body) })
        }
        Some(_) if lane.is_some_and(|lane| lane != kind) => Judgement::WrongLane(received),
        Some(_) => Judgement::Intent(received),
    }
}

/// Reads the body of a letter.
///
/// # Errors
/// [`Malformed`] names the first fault, and keeps what could be read, so that the right people hear of it.
pub fn decode(body: &[u8]) -> Result<Received, Malformed> {
    decode_or_all_faults(body).map_err(|faults| {
        let first = faults.into_iter().next();
        // There is at least one.
        let fault = first.unwrap_or_else(|| FieldError::new("body", "cannot be read"));
        Malformed { fault, known: read_known(body) }
    })
}

/// The same, with everything that is wrong.
///
/// # Errors
/// All faults, at least one; the first one is that of [`decode`].
pub fn decode_or_all_faults(body: &[u8]) -> Result<Received, Vec<FieldError>> {
    if body.len() > BODY_BYTES_MAX {
        return Err(vec![FieldError::new("body", "is larger than 256 KiB")]);
    }
    match std::str::from_utf8(body) {
        Ok(text) if text.starts_with('\u{feff}') => {
            Err(vec![FieldError::new("body", "begins with a byte order mark")])
        }
        Ok(text) => read(text),
        Err(_) => Err(vec![FieldError::new("body", "is not UTF-8")]),
    }
}

/// All that was found wrong so far, in the order of reading.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    /// What was read; `None` if it was a fault, which is kept.
    fn keep<T>(&mut self, read: Result<T, FieldError>) -> Option<T> {
        read.map_err(|fault| self.0.push(fault)).ok()
    }
}

fn read(text: &str) -> Result<Received, Vec<FieldError>> {
    let mut faults = Faults::default();
    let received = read_into(text, &mut faults);
    match received {
        Some(received) if faults.0.is_empty() => Ok(received),
        Some(_) | None => Err(faults.0),
    }
}

/// Reads on after a fault, so that one hides no other; `None` if there was one that cannot be done without.
fn read_into(text: &str, faults: &mut Faults) -> Option<Received> {
    let mut body = faults.keep(Object::parse(text))?;
    let id = body.required("intentId").and_then(|id| id.uuid());
    let id = id.and_then(|id| IntentId::try_new(id).ok_or_else(|| FieldError::new("intentId", "is nil")));
    let id = faults.keep(id);
    let kind = body.required("kind").and_then(|it| it.parsed(Kind::parse, "is not one of the five kinds"));
    let kind = faults.keep(kind);
    let requested_at = faults.keep(body.required("requestedAt").and_then(|at| at.time()));
    let merchant = body.optional("merchant").and_then(|merchant| match merchant {
        Some(merchant) => {
            merchant.parsed(MerchantName::parse, "is not 1 to 64 characters of a-z, 0-9, _ and -")
        }
        None => Ok(MerchantName::default()),
    });
    let merchant = faults.keep(merchant);
    let reference = faults.keep(body.optional("reference").and_then(|it| it.map(reference).transpose()));
    let payment = faults.keep(body.required("payment").and_then(Value::object));
    // Without a kind nobody knows what belongs there.
    let target = match (kind, payment) {
        (Some(kind), Some(payment)) => target(kind, payment, requested_at, faults),
        (Some(_) | None, _) => None,
    };
    faults.0.extend(body.unknown());
    let intent = CancelIntent { id: id?, requested_at: requested_at?, merchant: merchant?, target: target? };
    Some(Received { intent, reference: reference? })
}

/// The publisher's own object, as it stands; what is in it is not ours to judge.
fn reference(value: Value<'_>) -> Result<String, FieldError> {
    let text = value.raw_text();
    if !text.starts_with('{') {
        return Err(FieldError::new("reference", "is not an object"));
    }
    if text.len() > REFERENCE_BYTES_MAX {
        return Err(FieldError::new("reference", "is larger than 4,096 bytes"));
    }
    if depth(text) > REFERENCE_DEPTH_MAX {
        return Err(FieldError::new("reference", "is nested more than 32 deep"));
    }
    Ok(text.to_owned())
}

/// How many objects and arrays of this JSON value lie in each other at most. What opens and closes within a string
/// opens and closes nothing.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    let mut in_string = false;
    while let Some(byte) = bytes.next() {
        match (in_string, byte) {
            (true, b'\\') => drop(bytes.next()),
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (true | false, _) => {}
        }
    }
    deepest
}

const CODE: &str = "is not 1 to 100 printable ASCII characters without a space at either end";

fn target(
    kind: Kind,
    mut payment: Object<'_>,
    requested_at: Option<Timestamp>,
    faults: &mut Faults,
) -> Option<Target> {
    let target = match kind {
        Kind::AsyncCancel => {
            let id = faults.keep(payment.required("paymentRequestId").and_then(|it| it.uuid()));
            id.map(|payment_request_id| Target::AsyncCancel { payment_request_id })
        }
        Kind::SyncCancelRollback => {
            let id = faults.keep(payment.required("paymentRequestId").and_then(|it| it.uuid()));
            let ordered = faults.keep(payment.optional("cancelRequestedAt"));
            let cancel_requested_at = ordered.and_then(|ordered| {
                let at = faults.keep(ordered.as_ref().map(Value::time).transpose())?;
                if let (Some(ordered), Some(at), Some(requested_at)) = (ordered, at, requested_at)
                    && at > requested_at
                {
                    faults.0.push(FieldError::new(ordered.path, "is later than requestedAt"));
                }
                Some(at)
            });
            id.zip(cancel_requested_at).map(|(payment_request_id, cancel_requested_at)| {
                Target::SyncCancelRollback { payment_request_id, cancel_requested_at }
            })
        }
        Kind::TransactionCancel => {
            let unique_code = faults.keep(payment.required("uniqueCode").and_then(|it| it.uuid()));
            let date = faults.keep(payment.required("date").and_then(|it| it.date()));
            let records = payment.optional("deleteMarketplaceRecords");
            let records = faults.keep(records.and_then(|it| it.map(|value| value.bool()).transpose()));
            unique_code.zip(date).zip(records).map(|((unique_code, date), delete_marketplace_records)| {
                Target::TransactionCancel { unique_code, date, delete_marketplace_records }
            })
        }
        Kind::ApmProvisionCancel => {
            let code = |value: Value<'_>| value.parsed(Code::parse, CODE);
            let unique_code = faults.keep(payment.required("uniqueCode").and_then(code));
            let merchants = payment.optional("merchantUniqueCode");
            let merchants = faults.keep(merchants.and_then(|it| it.map(code).transpose()));
            unique_code.zip(merchants).map(|(unique_code, merchant_unique_code)| Target::ApmProvisionCancel {
                unique_code,
                merchant_unique_code,
            })
        }
        Kind::BatchCancel => {
            let payments = faults.keep(payment.required("payments"));
            let payments = payments.and_then(|payments| batch(payments, faults));
            payments.map(|payments| Target::BatchCancel { payments })
        }
    };
    faults.0.extend(payment.unknown());
    target
}

fn batch(value: Value<'_>, faults: &mut Faults) -> Option<BatchPayments> {
    let path = value.path.clone();
    let items = faults.keep(value.array())?;
    let length = || FieldError::new(path.clone(), "has not 1 to 500 payments");
    if items.is_empty() || items.len() > BatchPayments::LEN_MAX {
        return faults.keep(Err(length()));
    }
    // Every item is read before one that cannot be ends it.
    let payments: Vec<Option<BatchPayment>> =
        items.into_iter().map(|item| batch_payment(item, faults)).collect();
    let payments = payments.into_iter().collect::<Option<Vec<BatchPayment>>>()?;
    faults.keep(BatchPayments::try_new(payments).map_err(|fault| match fault {
        BatchFault::Length => length(),
        BatchFault::Twice { index } => FieldError::new(
            format!("{path}[{index}].merchantUniqueCode"),
            "is the code of an earlier payment too",
        ),
    }))
}

fn batch_payment(item: Value<'_>, faults: &mut Faults) -> Option<BatchPayment> {
    let mut item = faults.keep(item.object())?;
    let code = item.required("merchantUniqueCode").and_then(|it| it.parsed(Code::parse, CODE));
    let code = faults.keep(code);
    let date = faults.keep(item.required("date").and_then(|it| it.date()));
    faults.0.extend(item.unknown());
    Some(BatchPayment { merchant_unique_code: code?, date: date? })
}

/// What can be read of a body, valid or not: the first JSON value in it, if that is an object; of its fields those
/// that are valid and come once.
pub fn read_known(body: &[u8]) -> PartialIntent {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let Some(Ok(first)) = serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>().next() else {
        return PartialIntent::default();
    };
    let Ok(mut body) = Object::parse(first.get()) else { return PartialIntent::default() };
    let mut text = |name: &str| body.optional(name).ok().flatten().and_then(|value| value.text().ok());
    let id = text("intentId").and_then(|text| parse_uuid(&text)).and_then(IntentId::try_new);
    let kind = text("kind").and_then(|text| Kind::parse(&text));
    let requested_at = text("requestedAt").and_then(|text| parse_time(&text));
    let merchant = match body.optional("merchant") {
        Ok(Some(value)) => value.text().ok().and_then(|text| MerchantName::parse(&text)),
        Ok(None) => Some(MerchantName::default()),
        Err(_) => None,
    };
    let reference = body.optional("reference").ok().flatten().and_then(|value| reference(value).ok());
    PartialIntent { id, kind, merchant, requested_at, reference }
}

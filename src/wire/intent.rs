//! A letter's body becomes an intent, or is malformed. Strict: a typo must not cancel the wrong thing.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::strict::{Fault, Object, Value, parse_time, parse_uuid};
use crate::domain::intent::{
    BatchFault, BatchPayment, BatchPayments, CancelIntent, Code, IntentId, Kind, MerchantName, Target,
};

/// The largest body that is an intent.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The largest `reference`, as it stands in the body.
pub const REFERENCE_BYTES_MAX: usize = 4_096;

/// A letter that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// The wish.
    pub intent: CancelIntent,
    /// The publisher's own object, byte for byte.
    pub reference: Option<String>,
}

/// A letter that could not.
#[derive(Debug, Clone, PartialEq)]
pub struct Malformed {
    /// What is wrong with it.
    pub fault: Fault,
    /// Whose intent it is, where that can be read.
    pub known: Known,
}

/// What of a malformed letter can be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
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

/// Reads the body of a letter of this lane.
///
/// # Errors
/// [`Malformed`] names the first fault, and keeps what could be read, so that the right people hear of it.
pub fn decode(body: &[u8], lane: Kind) -> Result<Received, Malformed> {
    let known = || read_known(body);
    if body.len() > BODY_BYTES_MAX {
        return Err(Malformed { fault: Fault::new("body", "is larger than 256 KiB"), known: known() });
    }
    let text = match std::str::from_utf8(body) {
        Ok(text) if text.starts_with('\u{feff}') => {
            return Err(Malformed {
                fault: Fault::new("body", "begins with a byte order mark"),
                known: known(),
            });
        }
        Ok(text) => text,
        Err(_) => return Err(Malformed { fault: Fault::new("body", "is not UTF-8"), known: known() }),
    };
    read(text, lane).map_err(|fault| Malformed { fault, known: known() })
}

fn read(text: &str, lane: Kind) -> Result<Received, Fault> {
    let mut body = Object::parse(text)?;
    let id = body.required("intentId")?.uuid()?;
    let id = IntentId::try_new(id).ok_or_else(|| Fault::new("intentId", "is nil"))?;
    let kind = body.required("kind")?.parsed(Kind::parse, "is not one of the five kinds")?;
    if kind != lane {
        return Err(Fault::new("kind", "is not the routing key that the intent was published with"));
    }
    let requested_at = body.required("requestedAt")?.time()?;
    let merchant = match body.optional("merchant")? {
        Some(merchant) => {
            merchant.parsed(MerchantName::parse, "is not 1 to 64 characters of a-z, 0-9, _ and -")?
        }
        None => MerchantName::default(),
    };
    let reference = body.optional("reference")?.map(reference).transpose()?;
    let payment = body.required("payment")?.object()?;
    let target = target(kind, payment, requested_at)?;
    body.finish()?;
    Ok(Received { intent: CancelIntent { id, requested_at, merchant, target }, reference })
}

/// The publisher's own object, as it stands; what is in it is not ours to judge.
fn reference(value: Value<'_>) -> Result<String, Fault> {
    let text = value.raw_text();
    if !text.starts_with('{') {
        return Err(Fault::new("reference", "is not an object"));
    }
    if text.len() > REFERENCE_BYTES_MAX {
        return Err(Fault::new("reference", "is larger than 4,096 bytes"));
    }
    Ok(text.to_owned())
}

const CODE: &str = "is not 1 to 100 printable ASCII characters without a space at either end";

fn target(kind: Kind, mut payment: Object<'_>, requested_at: Timestamp) -> Result<Target, Fault> {
    let target = match kind {
        Kind::AsyncCancel => {
            Target::AsyncCancel { payment_request_id: payment.required("paymentRequestId")?.uuid()? }
        }
        Kind::SyncCancelRollback => {
            let payment_request_id = payment.required("paymentRequestId")?.uuid()?;
            let ordered = payment.optional("cancelRequestedAt")?;
            let cancel_requested_at = ordered.as_ref().map(Value::time).transpose()?;
            if let (Some(ordered), Some(at)) = (ordered, cancel_requested_at)
                && at > requested_at
            {
                return Err(Fault::new(ordered.path, "is later than requestedAt"));
            }
            Target::SyncCancelRollback { payment_request_id, cancel_requested_at }
        }
        Kind::TransactionCancel => Target::TransactionCancel {
            unique_code: payment.required("uniqueCode")?.uuid()?,
            date: payment.required("date")?.date()?,
            delete_marketplace_records: payment
                .optional("deleteMarketplaceRecords")?
                .map(|value| value.bool())
                .transpose()?,
        },
        Kind::ApmProvisionCancel => Target::ApmProvisionCancel {
            unique_code: payment.required("uniqueCode")?.parsed(Code::parse, CODE)?,
            merchant_unique_code: payment
                .optional("merchantUniqueCode")?
                .map(|value| value.parsed(Code::parse, CODE))
                .transpose()?,
        },
        Kind::BatchCancel => Target::BatchCancel { payments: batch(payment.required("payments")?)? },
    };
    payment.finish()?;
    Ok(target)
}

fn batch(value: Value<'_>) -> Result<BatchPayments, Fault> {
    let path = value.path.clone();
    let items = value.array()?;
    let length = || Fault::new(path.clone(), "has not 1 to 500 payments");
    if items.is_empty() || items.len() > BatchPayments::LEN_MAX {
        return Err(length());
    }
    let payments = items
        .into_iter()
        .map(|item| {
            let mut item = item.object()?;
            let merchant_unique_code = item.required("merchantUniqueCode")?.parsed(Code::parse, CODE)?;
            let date = item.required("date")?.date()?;
            item.finish()?;
            Ok(BatchPayment { merchant_unique_code, date })
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    BatchPayments::try_new(payments).map_err(|fault| match fault {
        BatchFault::Length => length(),
        BatchFault::Twice { index } => {
            Fault::new(format!("{path}[{index}].merchantUniqueCode"), "is the code of an earlier payment too")
        }
    })
}

/// What can be read of a body, valid or not: the first JSON value in it, if that is an object; of its fields those
/// that are valid and come once.
pub fn read_known(body: &[u8]) -> Known {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let Some(Ok(first)) = serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>().next() else {
        return Known::default();
    };
    let Ok(mut body) = Object::parse(first.get()) else { return Known::default() };
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
    Known { id, kind, merchant, requested_at, reference }
}

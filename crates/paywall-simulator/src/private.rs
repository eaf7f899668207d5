//! The Private API on the wire: cancel by unique code, and the two queries.

use jiff::{Timestamp, civil};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    answer::{Answer, PaymentBody, number},
    api::Endpoint,
    clock::local_text,
    request::{Fields, Invalid, guid},
    rules::Readings,
    world::{
        Activity, Identifier, World,
        pos::{self, MarketplaceRecords, PosRefusal, VirtualPos, pos_text},
    },
};

/// What the Private API is asked.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Cancel { unique_code: Uuid, date: civil::Date, records: MarketplaceRecords },
    Query { identifier: Identifier },
}

/// Reads the body of a cancel by unique code.
pub(super) fn read_cancel(body: &[u8]) -> Result<Request, Invalid> {
    let fields = Fields::read(body)?;
    let records = match fields.object("MarketPlace")? {
        None => MarketplaceRecords::Keep,
        Some(market) => match market.truth("DeleteExistingRecords")? {
            Some(true) => MarketplaceRecords::Delete,
            Some(false) | None => MarketplaceRecords::Keep,
        },
    };
    Ok(Request::Cancel { unique_code: fields.guid("UniqueCode")?, date: fields.date("Date")?, records })
}

/// Reads the header of a query by the merchant's code.
pub(super) fn read_query(merchant_unique_code: Option<&str>) -> Result<Request, Invalid> {
    let code = merchant_unique_code.filter(|code| !code.is_empty());
    let code = code.ok_or(Invalid::Header("merchantuniquecode"))?;
    Ok(Request::Query { identifier: Identifier::MerchantCode(code.to_owned()) })
}

/// Reads the header of a query by the gateway's code.
pub(super) fn read_query_by_unique_code(unique_code: Option<&str>) -> Result<Request, Invalid> {
    let code = unique_code.ok_or(Invalid::Header("uniquecode"))?;
    Ok(Request::Query { identifier: Identifier::UniqueCode(guid(code).ok_or(Invalid::Field("uniquecode"))?) })
}

impl Request {
    pub(super) fn identifier(&self) -> Identifier {
        match self {
            Self::Cancel { unique_code, .. } => Identifier::UniqueCode(*unique_code),
            Self::Query { identifier } => identifier.clone(),
        }
    }

    pub(super) fn date(&self) -> Option<civil::Date> {
        match self {
            Self::Cancel { date, .. } => Some(*date),
            Self::Query { .. } => None,
        }
    }

    pub(super) fn answer(
        &self,
        endpoint: Endpoint,
        world: &mut World,
        now: Timestamp,
        merchant: &str,
    ) -> Answer {
        match self {
            Self::Cancel { unique_code, date, records } => {
                match world.cancel_transaction(now, merchant, *unique_code, *date, *records) {
                    Ok(()) => Answer::payment(endpoint, "Success", PaymentBody::Null),
                    Err(refusal) => refused(endpoint, world, refusal),
                }
            }
            Self::Query { identifier } => match world.virtual_pos(merchant, identifier.clone()) {
                Some(payment) => {
                    let body = QueryBody { paywall: queried(world, payment, now) };
                    Answer::payment(endpoint, "Success", PaymentBody::Query(Box::new(body)))
                }
                None => refused(endpoint, world, PosRefusal::NotFound),
            },
        }
    }
}

/// A refusal in the integers of `paywall.md` §3.2, in the reading that the rules say.
fn refused(endpoint: Endpoint, world: &World, refusal: PosRefusal) -> Answer {
    let (sdk, documented) = match refusal {
        PosRefusal::NotFound => (404, 404),
        PosRefusal::AlreadyCancelled => (94, 93),
        PosRefusal::AlreadyRefunded => (93, 92),
        PosRefusal::NotSuitable => (92, 91),
        PosRefusal::TooLate => (269, 269),
        PosRefusal::MarketplaceRecords => (353, 353),
        PosRefusal::ProviderFailed => (111, 111),
    };
    let code = match world.rules.readings {
        Readings::Sdk => sdk,
        Readings::Documented => documented,
    };
    Answer::refused(endpoint, world.rules.refusal_http_status, code, "", pos_text(refusal))
}

/// The body of a query (`paywall.md` §7.3).
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueryBody {
    pub(super) paywall: QueriedPayment,
}

/// The fields that tell a payment's state; the page has more about gateway, card and tags.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueriedPayment {
    payment_id: u64,
    pub(super) unique_code: String,
    pub(super) merchant_unique_code: String,
    tracking_code: String,
    activity_id: u64,
    is_three_d_secure: bool,
    is_provision: bool,
    any_success_payment: bool,
    any_success_refund: bool,
    any_success_partial_refund: bool,
    any_success_cancel: bool,
    error: QueriedError,
    status: bool,
    status_name: &'static str,
    status_id: u8,
    type_name: &'static str,
    type_id: u8,
    installment: u8,
    currency_id: u8,
    currency_name: &'static str,
    last_activity_date_time: String,
    payment_amount: Box<RawValue>,
    activity_amount: Box<RawValue>,
    #[serde(rename = "IP")]
    ip: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct QueriedError {
    any_error: bool,
    error_type: Option<String>,
    error_message: Option<String>,
}

fn queried(world: &World, payment: &VirtualPos, now: Timestamp) -> QueriedPayment {
    let latest = payment.latest();
    let (status_id, type_id) = latest.map_or((1, 1), |latest| (latest.status(now), latest.kind));
    let failed = matches!(status_id, 5 | 7);
    let last_change = latest.map_or(now, |latest: &Activity| latest.changed_at(now).max(latest.date));
    QueriedPayment {
        payment_id: payment.number,
        unique_code: payment.unique_code.to_string(),
        merchant_unique_code: payment.merchant_code.clone(),
        tracking_code: format!("TRK{:012}", payment.number),
        activity_id: latest.map_or(0, |latest| latest.number),
        is_three_d_secure: false,
        is_provision: status_id == 3 || status_id == 12,
        any_success_payment: payment.any(pos::SALE, now),
        any_success_refund: payment.any(pos::REFUND, now),
        any_success_partial_refund: payment.any(pos::PARTIAL_REFUND, now),
        any_success_cancel: payment.any_cancel(now),
        error: QueriedError {
            any_error: failed,
            error_type: failed.then(|| "Provider".to_owned()),
            error_message: failed.then(|| "The provider refused the operation".to_owned()),
        },
        status: status_id == 4,
        status_name: status_name(status_id),
        status_id,
        type_name: type_name(type_id),
        type_id,
        installment: 1,
        currency_id: 1,
        currency_name: "TRY",
        last_activity_date_time: local_text(last_change, &world.rules.zone),
        payment_amount: number(&payment.amount),
        activity_amount: number(&payment.amount),
        ip: "127.0.0.1",
    }
}

/// The names are not published; these are the meanings.
fn type_name(kind: u8) -> &'static str {
    match kind {
        pos::SALE => "Sale",
        pos::REFUND => "Refund",
        pos::CANCEL => "Cancel",
        pos::PARTIAL_REFUND => "PartialRefund",
        _ => "Unknown",
    }
}

/// The names are not published; these are the meanings.
fn status_name(status: u8) -> &'static str {
    match status {
        1 => "Created",
        2 => "Started",
        3 => "WaitingForFinancialisation",
        4 => "Successful",
        5 => "Failed",
        6 => "InRecovery",
        7 => "FailedByQuery",
        8 => "IntermediateStep",
        9 => "QueryStarted",
        10 => "QueryEnded",
        11 => "CallbackReceived",
        12 => "Cancelled",
        13 => "Fraud",
        14 => "OnHold",
        _ => "Unknown",
    }
}

//! The Physical API on the wire: cancel, its withdrawal, inquiry, activities.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    answer::{Answer, PhysicalResult, number},
    api::Endpoint,
    clock::local_text,
    request::{Fields, Invalid, guid},
    rules::ActivityOrder,
    world::{
        Identifier, World,
        terminal::{self, Inconvenience, Ordered, PhysicalRefusal},
    },
};

/// Activities that one page may have.
const PAGE_SIZE_MAX: u64 = 1_000;

/// What the Physical API is asked.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Cancel { id: Uuid },
    RollBack { id: Uuid },
    Inquire { id: Uuid },
    Activities { id: Uuid, page_index: u64, page_size: u64 },
}

/// Reads the body of a cancel or a rollback.
pub(super) fn read_order(body: &[u8]) -> Result<Uuid, Invalid> {
    Fields::read(body)?.guid("PaymentRequestId")
}

/// Reads the path of an inquiry.
pub(super) fn read_inquiry(path_id: Option<&str>) -> Result<Request, Invalid> {
    let id = path_id.and_then(guid).ok_or(Invalid::Field("paymentRequestId"))?;
    Ok(Request::Inquire { id })
}

/// Reads the body of a query for activities.
pub(super) fn read_activities(body: &[u8]) -> Result<Request, Invalid> {
    let fields = Fields::read(body)?;
    let page_index = fields.number("pageIndex", 0)?;
    let page_size = fields.number("pageSize", 10)?;
    if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
        return Err(Invalid::Field("pageSize"));
    }
    Ok(Request::Activities { id: fields.guid("PaymentRequestId")?, page_index, page_size })
}

impl Request {
    pub(super) fn identifier(&self) -> Identifier {
        match self {
            Self::Cancel { id }
            | Self::RollBack { id }
            | Self::Inquire { id }
            | Self::Activities { id, .. } => Identifier::RequestId(*id),
        }
    }

    pub(super) fn answer(
        &self,
        endpoint: Endpoint,
        world: &mut World,
        now: Timestamp,
        merchant: &str,
    ) -> Answer {
        let answered = match self {
            Self::Cancel { id } => world.order_cancel(now, merchant, *id).map(order),
            Self::RollBack { id } => world.roll_back(now, merchant, *id).map(order),
            Self::Inquire { id } => inquiry(world, now, merchant, *id),
            Self::Activities { id, page_index, page_size } => {
                activities(world, now, merchant, *id, *page_index, *page_size)
            }
        };
        match answered {
            Ok(result) => Answer::physical(endpoint, result),
            Err(refusal) => refused(endpoint, world.rules.refusal_http_status, refusal),
        }
    }
}

/// A refusal in the words of `paywall.md` §3.3.
fn refused(endpoint: Endpoint, status: u16, refusal: PhysicalRefusal) -> Answer {
    let (code, text) = match refusal {
        PhysicalRefusal::NotFound => ("Payment.Request.RequestNotFound", "Payment request not found"),
        PhysicalRefusal::AlreadyReversed => {
            ("Payment.Async.AlreadyHasRefundOrCancel", "The payment has a refund or a cancel already")
        }
        PhysicalRefusal::NotConvenient(why) => (
            "Payment.Async.NotConvenientStatusForThisOperation",
            match why {
                Inconvenience::CancelUnderWay => "A cancel of the payment is under way",
                Inconvenience::NoSuccessfulSale => "The payment has no successful sale",
                Inconvenience::TooEarly => "Cancel commands cannot be revoked within the first 5 seconds",
                Inconvenience::TakenByDevice => "The cancel command has been received by the device",
                Inconvenience::NothingToWithdraw => "There is no cancel command that could be revoked",
            },
        ),
        PhysicalRefusal::NotDelivered => {
            ("Payment.Async.CloudNotSendToDevice", "The order could not be sent to the device")
        }
    };
    Answer::refused(endpoint, status, 1, code, text)
}

/// The result of a cancel or a rollback, in the order of the page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderResult {
    pub(super) payment_request_id: Uuid,
    payment_request_activity_id: Uuid,
    payment_request_activity_type_id: u8,
    payment_status: u8,
}

fn order(ordered: Ordered) -> PhysicalResult {
    PhysicalResult::Order(OrderResult {
        payment_request_id: ordered.request_id,
        payment_request_activity_id: ordered.activity_id,
        payment_request_activity_type_id: ordered.kind,
        payment_status: ordered.status,
    })
}

/// The result of an inquiry (`paywall.md` §7.1): the latest activity only.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InquiryResult {
    pub(super) payment_request_id: Uuid,
    payment_request_activity_id: Uuid,
    terminal_id: Uuid,
    merchant_unique_code: String,
    display_code: String,
    callback_address: Option<String>,
    amount: Box<RawValue>,
    payment_channel_id: u8,
    payment_channel: &'static str,
    currency_id: u8,
    currency: &'static str,
    #[serde(rename = "IP")]
    ip: &'static str,
    payment_type_id: u8,
    payment_type: &'static str,
    payment_status_id: u8,
    payment_status: &'static str,
    created_date: String,
    modified_date: Option<String>,
}

fn inquiry(
    world: &World,
    now: Timestamp,
    merchant: &str,
    id: Uuid,
) -> Result<PhysicalResult, PhysicalRefusal> {
    let payment = world.physical(merchant, id).ok_or(PhysicalRefusal::NotFound)?;
    let latest = payment.latest().ok_or(PhysicalRefusal::NotFound)?;
    let zone = &world.rules.zone;
    let created = payment.activities.first().map_or(latest.date, |sale| sale.date);
    let modified = latest.changed_at(now).max(latest.date);
    Ok(PhysicalResult::Inquiry(Box::new(InquiryResult {
        payment_request_id: payment.request_id,
        payment_request_activity_id: latest.id,
        terminal_id: payment.terminal_id,
        merchant_unique_code: payment.merchant_code.clone(),
        display_code: latest.number.to_string(),
        callback_address: None,
        amount: number(&payment.amount),
        payment_channel_id: 1,
        payment_channel: "Async",
        currency_id: 1,
        currency: "TRY",
        ip: "127.0.0.1",
        payment_type_id: latest.kind,
        payment_type: type_name(latest.kind),
        payment_status_id: latest.status(now),
        payment_status: status_name(latest.status(now)),
        created_date: local_text(created, zone),
        modified_date: (modified > created).then(|| local_text(modified, zone)),
    })))
}

/// The result of a query for activities (`paywall.md` §7.2): the whole history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ActivitiesResult {
    items: Vec<ActivityItem>,
    pagination: Pagination,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ActivityItem {
    id: Uuid,
    payment_type_id: u8,
    payment_type_name: &'static str,
    payment_status_id: u8,
    payment_status_name: &'static str,
    date: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pagination {
    current_page: u64,
    page_count: u64,
    page_size: u64,
    total_count: u64,
}

fn activities(
    world: &World,
    now: Timestamp,
    merchant: &str,
    id: Uuid,
    page_index: u64,
    page_size: u64,
) -> Result<PhysicalResult, PhysicalRefusal> {
    let payment = world.physical(merchant, id).ok_or(PhysicalRefusal::NotFound)?;
    let mut items: Vec<_> = payment
        .activities
        .iter()
        .map(|activity| ActivityItem {
            id: activity.id,
            payment_type_id: activity.kind,
            payment_type_name: type_name(activity.kind),
            payment_status_id: activity.status(now),
            payment_status_name: status_name(activity.status(now)),
            date: local_text(activity.date, &world.rules.zone),
        })
        .collect();
    if world.rules.activities == ActivityOrder::NewestFirst {
        items.reverse();
    }
    let total_count = items.len() as u64;
    let first = usize::try_from(page_index.saturating_mul(page_size)).unwrap_or(usize::MAX);
    let size = usize::try_from(page_size).unwrap_or(usize::MAX);
    Ok(PhysicalResult::Activities(ActivitiesResult {
        items: items.into_iter().skip(first).take(size).collect(),
        pagination: Pagination {
            current_page: page_index,
            page_count: total_count.div_ceil(page_size),
            page_size,
            total_count,
        },
    }))
}

/// Only `Sale` is seen in a sample; the others are named after their meaning.
fn type_name(kind: u8) -> &'static str {
    match kind {
        terminal::SALE => "Sale",
        terminal::CANCEL => "Cancel",
        terminal::REFUND => "Refund",
        _ => "Unknown",
    }
}

/// Only `Generated` and `SentToDevice` are seen in samples; the others are named after their meaning.
fn status_name(status: u8) -> &'static str {
    match status {
        1 => "Generated",
        2 => "SentToDevice",
        3 => "NotSentToDevice",
        4 => "Successful",
        5 => "Failed",
        7 => "FirebaseNotificationNotSent",
        8 => "SocketNotificationNotSent",
        9 => "FirebaseNotificationSent",
        10 => "SocketNotificationSent",
        11 => "Processing",
        12 => "Withdrawn",
        _ => "Unknown",
    }
}

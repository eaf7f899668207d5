//! What the gateway said, as plain facts: read tolerantly by `gateway`, judged by `classify` and `evidence`.
//!
//! A reply keeps *never sent*, *sent but unanswered* and *answered* apart: only the first is surely not done.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::fault::Fault;
use super::paywall::{ApmStatus, ApmType, PhysicalStatus, PhysicalType, VposStatus, VposType};
use super::retry::elapsed;
use super::step::Question;

/// What came back of one call.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing of the request reached the gateway.
    NeverSent(NeverSent),
    /// The request, or part of it, was sent; no HTTP status came back.
    Unanswered(Fault),
    /// An HTTP status came back, whatever its body.
    Answered(Answer),
}

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeverSent {
    /// Name not resolved, connection refused or not made in time, TLS not agreed.
    NotConnected(Fault),
    /// The request could not be built from our side: an address or a key that HTTP cannot carry.
    NotBuilt,
}

/// When the gateway wants to be asked again (`Retry-After`, RFC 9110 §10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So many seconds after the reply.
    Seconds(u64),
    /// At this time.
    At(Timestamp),
    /// It wants to be asked later, and when could not be read.
    Unreadable,
}

impl RetryAfter {
    /// How long that is from `now` on, within our bound; zero if it could not be read.
    pub fn wait(self, now: Timestamp, max: Duration) -> Duration {
        let wished = match self {
            RetryAfter::Seconds(seconds) => Duration::from_secs(seconds),
            RetryAfter::At(at) => elapsed(now, at),
            RetryAfter::Unreadable => Duration::ZERO,
        };
        wished.min(max)
    }
}

/// An HTTP reply to a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status code.
    pub http_status: u16,
    /// The reply's `Retry-After`.
    pub retry_after: Option<RetryAfter>,
    /// What was wrong with the body, where that is why there is no envelope.
    pub fault: Option<Fault>,
    /// What the body was.
    pub envelope: Envelope,
}

/// The body of a reply to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Envelope {
    /// Empty, cut off, too large, or not an envelope of this API.
    Missing,
    /// PhysicalAPI (`paywall.md` §4.1: both casings).
    Physical(PhysicalEnvelope),
    /// PaymentAPI and PaymentPrivateAPI (`paywall.md` §4.2).
    Payment(PaymentEnvelope),
}

/// The envelope of the PhysicalAPI. A field is `None` when it is absent or null.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PhysicalEnvelope {
    /// `Succeeded`.
    pub succeeded: Option<bool>,
    /// `Failed`.
    pub failed: Option<bool>,
    /// `ErrorCode`, in the page's table but in none of its samples.
    pub error_code: Option<i64>,
    /// `ClientMessage`, if it has the form of a fixed code: letters and digits, parted by dots.
    pub client_message: Option<String>,
    /// `Result`.
    pub result: Option<PhysicalResult>,
}

/// `Result` of a cancel or a rollback.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PhysicalResult {
    /// `PaymentRequestId`.
    pub payment_request_id: Option<Uuid>,
    /// `PaymentRequestActivityId`.
    pub activity_id: Option<Uuid>,
    /// `PaymentRequestActivityTypeId`.
    pub activity_type: Option<PhysicalType>,
    /// `PaymentStatus`.
    pub status: Option<PhysicalStatus>,
}

/// The envelope of the PaymentAPI and the PaymentPrivateAPI. A field is `None` when it is absent or null.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PaymentEnvelope {
    /// `ErrorCode`.
    pub error_code: Option<i64>,
    /// `ErrorCodeType`.
    pub error_code_type: Option<i64>,
    /// `Result`.
    pub result: Option<bool>,
    /// `Body`, unless it is absent, null, empty, or not an object.
    pub body: Option<PaymentBody>,
}

/// `Body` of a private cancel, an APM provision cancel or a batch: whatever of it is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PaymentBody {
    /// `Result`: a batch's order was taken.
    pub result: Option<bool>,
    /// `UniqueCode`, as received.
    pub unique_code: Option<String>,
    /// `MerchantUniqueCode`, as received.
    pub merchant_unique_code: Option<String>,
    /// `ApmTransactionId`.
    pub apm_transaction_id: Option<i64>,
    /// `Amount` and its currency.
    pub amount: Option<Amount>,
    /// `ProviderDummyResponse`.
    pub provider: Option<Provider>,
    /// `TotalPaymentCount`.
    pub total_payment_count: Option<i64>,
    /// `PaymentResults`; `None` when there is no such list.
    pub payment_results: Option<Vec<PaymentResult>>,
}

/// An amount with the digits that the gateway sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    /// The number's text as received, `8.00` stays `8.00`.
    pub value: String,
    /// ISO 4217 letters, if the reply has them.
    pub currency: Option<String>,
}

/// What a provider behind the gateway answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Provider {
    /// `ProviderDummyResponse.ErrorCode`.
    pub error_code: Option<i64>,
    /// `ProviderDummyResponse.HttpCode`.
    pub http_code: Option<i64>,
}

/// One element of a batch's `PaymentResults`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PaymentResult {
    /// `MerchantUniqueCode`, as received.
    pub merchant_unique_code: Option<String>,
    /// `Status`: 1 is *added to the process*; nothing else is documented.
    pub status: Option<i64>,
    /// `BulkPaymentId`.
    pub bulk_payment_id: Option<i64>,
}

/// What came back of one look. A look asks all that its kind has to ask.
#[derive(Debug, Clone, PartialEq)]
pub enum InquiryReply {
    /// PhysicalAPI: the payment's activities, and its inquiry, asked in this order.
    Physical {
        /// POST `/api/payment/activities`, all pages (`paywall.md` §7.2).
        activities: Read<Vec<Activity>>,
        /// GET `/api/payment/inquiry/{paymentRequestId}` (§7.1).
        inquiry: Read<PhysicalPayment>,
    },
    /// GET `/api/paywall/private/query/by/uniquecode` (§7.3).
    Transaction(Read<VposPayment>),
    /// GET `/api/paywall/private/query` per item: the item's index in the intent, and what it showed (§7.3).
    /// Items whose turn did not come are not in it.
    Batch(Vec<(usize, Read<VposPayment>)>),
    /// GET `/api/paywall/apm/query` (§7.4).
    Apm(Read<ApmPayment>),
}

impl InquiryReply {
    /// What a look gave that was cut off before it was answered.
    pub fn unanswered(question: &Question) -> InquiryReply {
        match question {
            Question::Physical { .. } => {
                InquiryReply::Physical { activities: Read::Unanswered, inquiry: Read::Unanswered }
            }
            Question::Transaction { .. } => InquiryReply::Transaction(Read::Unanswered),
            Question::Batch { payments } => {
                InquiryReply::Batch(payments.iter().map(|(index, _)| (*index, Read::Unanswered)).collect())
            }
            Question::Apm { .. } => InquiryReply::Apm(Read::Unanswered),
        }
    }
}

/// What one inquiry of a look gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Read<T> {
    /// No reply, or one that could not be read.
    Unanswered,
    /// A readable envelope that says success and holds what was asked for.
    Found(T),
    /// A readable envelope that says something else.
    Refused(ReadRefusal),
}

/// The codes of an inquiry that was answered, but not with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadRefusal {
    /// The HTTP status code.
    pub http_status: u16,
    /// `ErrorCode`.
    pub error_code: Option<i64>,
    /// `ClientMessage`, if it has the form of a fixed code.
    pub client_message: Option<String>,
}

/// One activity of a physical payment (`paywall.md` §7.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Activity {
    /// `Id`.
    pub id: Option<Uuid>,
    /// `PaymentTypeId`.
    pub kind: PhysicalType,
    /// `PaymentStatusId`.
    pub status: PhysicalStatus,
    /// `Date`, without an offset: good for ordering activities of one payment, and for nothing else.
    pub date: Option<jiff::civil::DateTime>,
}

/// A physical payment as its inquiry shows it: the latest activity only (`paywall.md` §7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalPayment {
    /// `PaymentRequestId`.
    pub payment_request_id: Option<Uuid>,
    /// `PaymentRequestActivityId`.
    pub activity_id: Option<Uuid>,
    /// `MerchantUniqueCode`, as received.
    pub merchant_unique_code: Option<String>,
    /// `Amount` and `Currency`.
    pub amount: Option<Amount>,
    /// `PaymentTypeId`.
    pub kind: Option<PhysicalType>,
    /// `PaymentStatusId`.
    pub status: Option<PhysicalStatus>,
}

/// A virtual-POS payment as the private query shows it (`paywall.md` §7.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VposPayment {
    /// `UniqueCode`, as received.
    pub unique_code: Option<String>,
    /// `MerchantUniqueCode`, as received.
    pub merchant_unique_code: Option<String>,
    /// `PaymentAmount`, and its currency if it is given in letters.
    pub amount: Option<Amount>,
    /// `TypeId` of the latest activity.
    pub kind: Option<VposType>,
    /// `StatusId` of the latest activity.
    pub status: Option<VposStatus>,
    /// `AnySuccessPayment`.
    pub any_success_payment: Option<bool>,
    /// `AnySuccessRefund`.
    pub any_success_refund: Option<bool>,
    /// `AnySuccessPartialRefund`.
    pub any_success_partial_refund: Option<bool>,
    /// `AnySuccessCancel`.
    pub any_success_cancel: Option<bool>,
}

/// A payment by an alternative method as its query shows it (`paywall.md` §7.4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApmPayment {
    /// `UniqueCode`, as received.
    pub unique_code: Option<String>,
    /// `MerchantUniqueCode`, as received.
    pub merchant_unique_code: Option<String>,
    /// `ApmTransactionId`.
    pub apm_transaction_id: Option<i64>,
    /// `Amount`.
    pub amount: Option<Amount>,
    /// `TypeId`.
    pub kind: Option<ApmType>,
    /// `StatusId`.
    pub status: Option<ApmStatus>,
}

//! Payments to begin with: what a caller says a payment is, and how it will behave.
//!
//! These types are the library's and the control API's at once.

use jiff::civil;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A payment to put into the simulated gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scheme", rename_all = "snake_case")]
pub enum Seed {
    /// A payment at a physical terminal.
    Physical(SeedPhysical),
    /// A virtual-POS payment: cancelled by unique code, or as an item of a batch.
    VirtualPos(SeedVirtualPos),
    /// A provision of an alternative payment method.
    Apm(SeedApm),
}

impl From<SeedPhysical> for Seed {
    fn from(seed: SeedPhysical) -> Self {
        Self::Physical(seed)
    }
}

impl From<SeedVirtualPos> for Seed {
    fn from(seed: SeedVirtualPos) -> Self {
        Self::VirtualPos(seed)
    }
}

impl From<SeedApm> for Seed {
    fn from(seed: SeedApm) -> Self {
        Self::Apm(seed)
    }
}

/// A payment at a physical terminal. The default is a successful sale that a cancel cancels at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedPhysical {
    /// Whose payment it is: the name of a key set.
    pub merchant: String,
    /// The id of the sale; absent: one is made up.
    pub payment_request_id: Option<Uuid>,
    /// The merchant's own code; absent: one is made up.
    pub merchant_unique_code: Option<String>,
    /// The amount as decimal text; its digits are kept.
    pub amount: String,
    /// The status of the sale activity (`paywall.md` §2.1): 4 successful.
    pub sale_status: u8,
    /// Activities after the sale that are there already, the oldest first.
    pub history: Vec<PastActivity>,
    /// How the cancel orders that come in will go: the first order by the first plan, and so on; the last plan repeats.
    pub cancels: Vec<CancelPlan>,
}

impl Default for SeedPhysical {
    fn default() -> Self {
        Self {
            merchant: "default".to_owned(),
            payment_request_id: None,
            merchant_unique_code: None,
            amount: "8.00".to_owned(),
            sale_status: 4,
            history: Vec::new(),
            cancels: vec![CancelPlan::at_once()],
        }
    }
}

impl SeedPhysical {
    /// A successful sale with this id.
    pub fn sold(payment_request_id: Uuid) -> Self {
        Self { payment_request_id: Some(payment_request_id), ..Self::default() }
    }

    /// The same with one plan for all its cancel orders.
    pub fn cancelling(self, plan: CancelPlan) -> Self {
        Self { cancels: vec![plan], ..self }
    }

    /// The same with one more activity in its past.
    pub fn after(mut self, activity: PastActivity) -> Self {
        self.history.push(activity);
        self
    }
}

/// A virtual-POS payment. The default is a successful sale of today that a cancel cancels at once, and a batch after two seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedVirtualPos {
    /// Whose payment it is: the name of a key set.
    pub merchant: String,
    /// The gateway's code for it; absent: one is made up.
    pub unique_code: Option<Uuid>,
    /// The merchant's own code; absent: one is made up.
    pub merchant_unique_code: Option<String>,
    /// The day of the payment in the gateway's zone; absent: today by the simulator's clock.
    pub date: Option<civil::Date>,
    /// The amount as decimal text; its digits are kept.
    pub amount: String,
    /// The status of the sale (`paywall.md` §2.4): 4 successful.
    pub sale_status: u8,
    /// Activities after the sale that are there already, the oldest first. Types as in `paywall.md` §2.3: 2 refund, 3 cancel.
    pub history: Vec<PastActivity>,
    /// How cancels by unique code will go: the first call by the first plan, and so on; the last plan repeats.
    /// A plan that does not begin with status 4 is answered with 111 (payment error), whatever becomes of it later.
    pub cancels: Vec<CancelPlan>,
    /// How it fares as an item of a batch.
    pub batch: BatchPlan,
    /// Whether marketplace earnings of it were approved: then a cancel is refused unless it says `DeleteExistingRecords`.
    pub marketplace_records: bool,
}

impl Default for SeedVirtualPos {
    fn default() -> Self {
        Self {
            merchant: "default".to_owned(),
            unique_code: None,
            merchant_unique_code: None,
            date: None,
            amount: "8.00".to_owned(),
            sale_status: 4,
            history: Vec::new(),
            cancels: vec![CancelPlan::at_once()],
            batch: BatchPlan::default(),
            marketplace_records: false,
        }
    }
}

impl SeedVirtualPos {
    /// A successful sale of today with this unique code.
    pub fn sold(unique_code: Uuid) -> Self {
        Self { unique_code: Some(unique_code), ..Self::default() }
    }

    /// A successful sale of today with this code of the merchant's.
    pub fn item(merchant_unique_code: impl Into<String>) -> Self {
        Self { merchant_unique_code: Some(merchant_unique_code.into()), ..Self::default() }
    }

    /// The same with the day of the payment.
    pub fn on(self, date: civil::Date) -> Self {
        Self { date: Some(date), ..self }
    }

    /// The same with what becomes of it in a batch.
    pub fn in_batch(self, batch: BatchPlan) -> Self {
        Self { batch, ..self }
    }

    /// The same with one more activity in its past.
    pub fn after(mut self, activity: PastActivity) -> Self {
        self.history.push(activity);
        self
    }
}

/// A provision of an alternative payment method. The default is an open one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedApm {
    /// Whose provision it is: the name of a key set.
    pub merchant: String,
    /// The gateway's code for it; absent: one is made up.
    pub unique_code: Option<String>,
    /// The merchant's own code; absent: one is made up.
    pub merchant_unique_code: Option<String>,
    /// The gateway's number for it; absent: one is made up.
    pub apm_transaction_id: Option<u64>,
    /// The amount as decimal text; its digits are kept.
    pub amount: String,
    /// What it is now.
    pub state: ApmState,
    /// What the provider says inside a reply that is a success outside.
    pub provider: ProviderSays,
}

impl Default for SeedApm {
    fn default() -> Self {
        Self {
            merchant: "default".to_owned(),
            unique_code: None,
            merchant_unique_code: None,
            apm_transaction_id: None,
            amount: "8.00".to_owned(),
            state: ApmState::Provisioned,
            provider: ProviderSays::Yes,
        }
    }
}

impl SeedApm {
    /// An open provision with this unique code.
    pub fn provisioned(unique_code: impl Into<String>) -> Self {
        Self { unique_code: Some(unique_code.into()), ..Self::default() }
    }
}

/// What a provision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApmState {
    /// Authorised and open: it can be cancelled.
    Provisioned,
    /// Cancelled.
    Cancelled,
    /// Refunded: 360.
    Refunded,
    /// Never authorised, or closed: 359.
    NotSuitable,
}

/// What the provider's part says inside a successful APM reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderSays {
    /// Code 0, HTTP 200; the provision is cancelled.
    Yes,
    /// Another code and HTTP 500, and nothing happened, though the outer reply is a success.
    NoAndMeansIt,
    /// Another code and HTTP 500, though the provision is cancelled.
    NoButDidIt,
}

/// An activity that a payment has in its past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastActivity {
    /// Its type, in the numbers of the payment's own side: cancel is 2 at a terminal and 3 at the virtual POS.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its status when it began.
    pub status: u8,
    /// How long ago it began, in milliseconds.
    #[serde(default)]
    pub ago_ms: u64,
    /// What becomes of it, counted from its beginning.
    #[serde(default)]
    pub then: Vec<PlannedStep>,
}

impl PastActivity {
    /// An activity that began a minute ago and stays as it is.
    pub fn ended(kind: u8, status: u8) -> Self {
        Self { kind, status, ago_ms: 60_000, then: Vec::new() }
    }
}

/// One later status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// When, in milliseconds after the order.
    pub after_ms: u64,
    /// Which status it has from then on.
    pub status: u8,
}

/// How one cancel goes.
///
/// At a terminal the first status is the one of the reply; 3, 7 and 8 are answered as not delivered. Nothing comes after a
/// status in which a cancel has ended (4, 5, 12; at a terminal 3, 7 and 8 too, at the virtual POS 7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelPlan {
    /// The status right after the order.
    pub first: u8,
    /// The later ones, counted from the order.
    #[serde(default)]
    pub then: Vec<PlannedStep>,
}

impl CancelPlan {
    /// Successful in the reply itself, as the page's sample.
    pub fn at_once() -> Self {
        Self { first: 4, then: Vec::new() }
    }

    /// Accepted (status 10: the device was told), taken by the device after one time and ended with a status after another.
    pub fn accepted(device_after_ms: u64, ends_after_ms: u64, end: u8) -> Self {
        Self {
            first: 10,
            then: vec![
                PlannedStep { after_ms: device_after_ms, status: 11 },
                PlannedStep { after_ms: ends_after_ms, status: end },
            ],
        }
    }

    /// Accepted, and never taken by the device.
    pub fn waiting() -> Self {
        Self { first: 10, then: Vec::new() }
    }

    /// Always this one status: 5 failed; 3, 7 or 8 not delivered; 6 unknown.
    pub fn only(status: u8) -> Self {
        Self { first: status, then: Vec::new() }
    }
}

/// What becomes of a payment as an item of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case", deny_unknown_fields)]
pub enum BatchPlan {
    /// Taken, and cancelled after a time.
    Cancelled {
        /// Milliseconds from the order to the end.
        after_ms: u64,
    },
    /// Taken, and failed after a time (type 3 with status 5, or 7).
    Failed {
        /// Milliseconds from the order to the end.
        after_ms: u64,
        /// 5 failed, 7 failed (found by query).
        status: u8,
    },
    /// Taken, and never ended.
    Pending,
    /// Not taken: named in the reply with another status than 1.
    Refused {
        /// The status of the item in the reply.
        status: i64,
        /// The text beside it.
        message: String,
    },
    /// Not named in the reply at all, and not taken.
    LeftOut,
    /// Not named in the reply, though it was taken and is cancelled after a time.
    LeftOutButCancelled {
        /// Milliseconds from the order to the end.
        after_ms: u64,
    },
    /// Taken, cancelled after a time, and named twice in the reply.
    Twice {
        /// Milliseconds from the order to the end.
        after_ms: u64,
        /// The status of its second mention.
        second_status: i64,
    },
}

impl Default for BatchPlan {
    fn default() -> Self {
        Self::Cancelled { after_ms: 2_000 }
    }
}

/// Every identifier of a seeded payment, whichever apply.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The payment's own id, by which the truth is asked: the request id, the unique code.
    pub id: String,
    /// Whose payment it is.
    pub merchant: String,
    /// Physical payments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_request_id: Option<Uuid>,
    /// Virtual-POS payments and provisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_code: Option<String>,
    /// The merchant's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merchant_unique_code: Option<String>,
    /// Provisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apm_transaction_id: Option<u64>,
    /// Virtual-POS payments: the day of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<civil::Date>,
}

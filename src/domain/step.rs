//! What one step of a letter may do at the gateway: a call, or the inquiries of one look.

use jiff::civil::Date;
use uuid::Uuid;

use super::intent::{Api, Code, Kind, MerchantName};

/// One call: the exact order that the endpoint of its kind takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Whose keys are used.
    pub merchant: MerchantName,
    /// What is ordered.
    pub order: Order,
}

/// What a call orders, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// POST `/api/payment/async/cancel`.
    AsyncCancel {
        /// `PaymentRequestId`.
        payment_request_id: Uuid,
    },
    /// POST `/api/payment/sync/cancel/rollback`.
    SyncCancelRollback {
        /// `PaymentRequestId` of the sale order.
        payment_request_id: Uuid,
    },
    /// POST `/api/paywall/private/cancel/by/uniqueCode`.
    TransactionCancel {
        /// `UniqueCode`.
        unique_code: Uuid,
        /// `Date`.
        date: Date,
        /// `MarketPlace.DeleteExistingRecords`; `None`: `MarketPlace` is not sent.
        delete_marketplace_records: Option<bool>,
    },
    /// POST `/api/paywall/apm/provision/cancel`.
    ApmProvisionCancel {
        /// `UniqueCode`.
        unique_code: Code,
    },
    /// POST `/api/paywall/payment/bulk/batch/cancel`. `CallbackUrl` comes from the configuration.
    BatchCancel {
        /// The payments to be called, each with its index in the intent.
        payments: Vec<(usize, Code, Date)>,
    },
}

impl Order {
    /// The payments of the intent that a batch's order names, by their indices; of any other order there are none.
    pub fn indices(&self) -> Vec<usize> {
        match self {
            Order::BatchCancel { payments } => payments.iter().map(|(index, ..)| *index).collect(),
            Order::AsyncCancel { .. }
            | Order::SyncCancelRollback { .. }
            | Order::TransactionCancel { .. }
            | Order::ApmProvisionCancel { .. } => Vec::new(),
        }
    }

    /// The kind whose order it is.
    pub fn kind(&self) -> Kind {
        match self {
            Order::AsyncCancel { .. } => Kind::AsyncCancel,
            Order::SyncCancelRollback { .. } => Kind::SyncCancelRollback,
            Order::TransactionCancel { .. } => Kind::TransactionCancel,
            Order::ApmProvisionCancel { .. } => Kind::ApmProvisionCancel,
            Order::BatchCancel { .. } => Kind::BatchCancel,
        }
    }
}

/// One look: all that its kind has to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// Whose keys are used.
    pub merchant: MerchantName,
    /// What is asked.
    pub question: Question,
}

/// What a look asks, by what can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The activities of a physical payment, all of them, and then its inquiry.
    Physical {
        /// `PaymentRequestId`.
        payment_request_id: Uuid,
    },
    /// A virtual-POS payment by the gateway's code.
    Transaction {
        /// `uniquecode`.
        unique_code: Uuid,
    },
    /// Payments of a batch by the merchant's codes, in this order, each with its index in the intent. At most
    /// [`Question::BATCH_LEN_MAX`]; the look ends after one call timeout, answered or not.
    Batch {
        /// `merchantuniquecode` of each.
        payments: Vec<(usize, Code)>,
    },
    /// A payment by an alternative method, by the merchant's code.
    Apm {
        /// `merchantuniquecode`.
        merchant_unique_code: Code,
    },
}

impl Question {
    /// The most payments of a batch that are asked for in one look.
    pub const BATCH_LEN_MAX: usize = 20;

    /// The API that answers.
    pub fn api(&self) -> Api {
        match self {
            Question::Physical { .. } => Api::Physical,
            Question::Transaction { .. } | Question::Batch { .. } => Api::Private,
            Question::Apm { .. } => Api::Payment,
        }
    }
}

//! A valid cancel intent: somebody asks for one payment (or one batch) to be cancelled.
//!
//! What is here has been parsed already; nothing past `wire` checks it again.

use std::fmt;

use jiff::{Timestamp, civil::Date};
use uuid::Uuid;

/// One of the gateway's three APIs. Each has an address, an envelope and a pair of keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// PhysicalAPI: payment terminals.
    Physical,
    /// PaymentPrivateAPI: what a merchant may do to a payment afterwards.
    Private,
    /// PaymentAPI: what a merchant's shop may do.
    Payment,
}

impl Api {
    /// All of them.
    pub const ALL: [Api; 3] = [Api::Physical, Api::Private, Api::Payment];

    /// The name that configuration, logs and metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Api::Physical => "physical",
            Api::Private => "private",
            Api::Payment => "payment",
        }
    }

    /// The API of this name.
    pub fn parse(text: &str) -> Option<Api> {
        Api::ALL.into_iter().find(|api| api.as_str() == text)
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What kind of cancellation is asked for. Each kind has one lane, one endpoint and one inquiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Order a terminal to cancel a sale.
    AsyncCancel,
    /// Withdraw such an order before the terminal has taken it.
    SyncCancelRollback,
    /// Cancel a virtual-POS payment by Paywall's own code.
    TransactionCancel,
    /// Cancel the provision of an alternative payment method.
    ApmProvisionCancel,
    /// Cancel a list of virtual-POS payments.
    BatchCancel,
}

impl Kind {
    /// All of them, in the order in which people list them.
    pub const ALL: [Kind; 5] = [
        Kind::AsyncCancel,
        Kind::SyncCancelRollback,
        Kind::TransactionCancel,
        Kind::ApmProvisionCancel,
        Kind::BatchCancel,
    ];

    /// The name on the wire: in intents, routing keys, queues, configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::AsyncCancel => "async_cancel",
            Kind::SyncCancelRollback => "sync_cancel_rollback",
            Kind::TransactionCancel => "transaction_cancel",
            Kind::ApmProvisionCancel => "apm_provision_cancel",
            Kind::BatchCancel => "batch_cancel",
        }
    }

    /// The kind of this name.
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The API that takes the call of this kind.
    pub fn api(self) -> Api {
        match self {
            Kind::AsyncCancel | Kind::SyncCancelRollback => Api::Physical,
            Kind::TransactionCancel => Api::Private,
            Kind::ApmProvisionCancel | Kind::BatchCancel => Api::Payment,
        }
    }

    /// The API that answers the inquiries of this kind.
    pub fn inquiry_api(self) -> Api {
        match self {
            Kind::AsyncCancel | Kind::SyncCancelRollback => Api::Physical,
            Kind::TransactionCancel | Kind::BatchCancel => Api::Private,
            Kind::ApmProvisionCancel => Api::Payment,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one intent for one payment (or batch), once. Never nil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntentId(Uuid);

impl IntentId {
    /// The id, unless it is nil.
    pub fn try_new(id: Uuid) -> Option<IntentId> {
        (!id.is_nil()).then_some(IntentId(id))
    }

    /// The plain uuid.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// Which key set pays for the call: `[a-z0-9_-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MerchantName(String);

impl MerchantName {
    /// The name of the merchant that an intent means when it names none.
    pub const DEFAULT: &'static str = "default";

    /// The name, if it is one.
    pub fn parse(text: &str) -> Option<MerchantName> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        fits.then(|| MerchantName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for MerchantName {
    fn default() -> Self {
        MerchantName(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for MerchantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A code that a merchant or the gateway gave a payment: 1 to 100 printable ASCII characters, none of them a
/// space at either end (an inquiry sends it in an HTTP header, which would lose it).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(String);

impl Code {
    /// The code, if it is one.
    pub fn parse(text: &str) -> Option<Code> {
        let fits = (1..=100).contains(&text.len())
            && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
            && !text.starts_with(' ')
            && !text.ends_with(' ');
        fits.then(|| Code(text.to_owned()))
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One payment of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchPayment {
    /// The code that the merchant gave the payment.
    pub merchant_unique_code: Code,
    /// The payment's calendar day in the gateway's zone.
    pub date: Date,
}

/// The payments of a batch: 1 to 500, no code twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchPayments(Vec<BatchPayment>);

impl BatchPayments {
    /// The most payments in a batch (our bound; the gateway's page names none).
    pub const LEN_MAX: usize = 500;

    /// The list, if it is neither empty nor too long nor names a code twice.
    pub fn try_new(payments: Vec<BatchPayment>) -> Result<BatchPayments, BatchFault> {
        if payments.is_empty() || payments.len() > Self::LEN_MAX {
            return Err(BatchFault::Length);
        }
        let mut seen = std::collections::HashSet::new();
        for (index, payment) in payments.iter().enumerate() {
            if !seen.insert(payment.merchant_unique_code.as_str()) {
                return Err(BatchFault::Twice { index });
            }
        }
        Ok(BatchPayments(payments))
    }

    /// The payments, in the order of the intent.
    pub fn as_slice(&self) -> &[BatchPayment] {
        &self.0
    }
}

/// Why a list of payments is no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFault {
    /// None at all, or more than [`BatchPayments::LEN_MAX`].
    Length,
    /// The payment at `index` has the code of an earlier one.
    Twice {
        /// Where it stands, from 0.
        index: usize,
    },
}

/// What the intent is about, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// [`Kind::AsyncCancel`].
    AsyncCancel {
        /// The gateway's id of the sale order.
        payment_request_id: Uuid,
    },
    /// [`Kind::SyncCancelRollback`].
    SyncCancelRollback {
        /// The gateway's id of the sale order (not of the cancel order).
        payment_request_id: Uuid,
        /// When the cancel order was given, if the publisher knows.
        cancel_requested_at: Option<Timestamp>,
    },
    /// [`Kind::TransactionCancel`].
    TransactionCancel {
        /// The gateway's code of the payment.
        unique_code: Uuid,
        /// The payment's calendar day in the gateway's zone.
        date: Date,
        /// Whether approved marketplace earnings are deleted; `None`: `MarketPlace` is not sent.
        delete_marketplace_records: Option<bool>,
    },
    /// [`Kind::ApmProvisionCancel`].
    ApmProvisionCancel {
        /// The gateway's code of the provision.
        unique_code: Code,
        /// The merchant's code, for the inquiry.
        merchant_unique_code: Option<Code>,
    },
    /// [`Kind::BatchCancel`].
    BatchCancel {
        /// The payments of the batch.
        payments: BatchPayments,
    },
}

impl Target {
    /// The kind that has such a target.
    pub fn kind(&self) -> Kind {
        match self {
            Target::AsyncCancel { .. } => Kind::AsyncCancel,
            Target::SyncCancelRollback { .. } => Kind::SyncCancelRollback,
            Target::TransactionCancel { .. } => Kind::TransactionCancel,
            Target::ApmProvisionCancel { .. } => Kind::ApmProvisionCancel,
            Target::BatchCancel { .. } => Kind::BatchCancel,
        }
    }
}

/// A valid cancel intent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelIntent {
    /// Names the intent.
    pub id: IntentId,
    /// When the order system asked for it.
    pub requested_at: Timestamp,
    /// Whose keys are used.
    pub merchant: MerchantName,
    /// What is to be cancelled.
    pub target: Target,
}

impl CancelIntent {
    /// The kind of the intent.
    pub fn kind(&self) -> Kind {
        self.target.kind()
    }

    /// The payments of a batch; empty for every other kind.
    pub fn items(&self) -> &[BatchPayment] {
        match &self.target {
            Target::BatchCancel { payments } => payments.as_slice(),
            Target::AsyncCancel { .. }
            | Target::SyncCancelRollback { .. }
            | Target::TransactionCancel { .. }
            | Target::ApmProvisionCancel { .. } => &[],
        }
    }
}

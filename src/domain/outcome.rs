//! What we tell the world about an intent, or about one payment of a batch.

use uuid::Uuid;

use super::paywall::{ApmStatus, ApmType, PhysicalStatus, PhysicalType, VposStatus, VposType};
use super::reply::Amount;

/// A closed list of reason codes: their names on the wire, and what each says to a person.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal, $message:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The reason's code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The reason with this code.
            pub fn parse(text: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
            }

            /// What the reason says to a person: ours, never the gateway's text.
            pub fn message(self) -> &'static str {
                match self { $($name::$variant => $message,)+ }
            }
        }
    };
}

reasons! {
    /// Why an intent has had no effect and never will.
    RejectedReason {
        /// The gateway refused a rollback while the order could still be seen waiting.
        RollbackWindow = "rollback_window", "The gateway refused to withdraw the cancel order, which was still waiting for the device.";
        /// The device had taken the cancel order.
        DeviceReceived = "device_received", "The device had already received the cancel order, which can no longer be withdrawn.";
        /// A rollback was refused, for a reason that a classification rule names so.
        RollbackRefused = "rollback_refused", "The gateway refused to withdraw the cancel order.";
        /// There is no cancel order to withdraw.
        NothingToWithdraw = "nothing_to_withdraw", "There is no cancel order that could be withdrawn.";
        /// The cancellation that was to be withdrawn is done.
        CancelCompleted = "cancel_completed", "The cancellation is already done and cannot be withdrawn.";
        /// The order was taken and then failed.
        CancelFailed = "cancel_failed", "The gateway took the cancel order, and the cancellation failed.";
        /// The payment's day was over.
        SameDayWindowClosed = "same_day_window_closed", "The payment's day was over; a payment can be cancelled on its own day only.";
        /// The payment was refunded.
        AlreadyRefunded = "already_refunded", "The payment has been refunded already.";
        /// A part of the payment was refunded.
        PartiallyRefunded = "partially_refunded", "A part of the payment has been refunded already.";
        /// The gateway does not know the payment.
        NotFound = "not_found", "The gateway knows no such payment.";
        /// The payment is in no state to be cancelled.
        NotSuitable = "not_suitable", "The payment is not in a state in which it can be cancelled.";
        /// The provider cannot cancel.
        Unsupported = "unsupported", "The payment's provider does not support this operation.";
        /// Approved marketplace earnings stand in the way.
        MarketplaceRecordsExist = "marketplace_records_exist", "The payment has marketplace earnings; they must be deleted with it.";
        /// The gateway found the request wrong.
        InvalidRequest = "invalid_request", "The gateway refused the request as invalid.";
        /// We found the intent wrong.
        InvalidIntent = "invalid_intent", "The intent is not valid.";
    }
}

reasons! {
    /// Why we stopped trying, nothing having happened.
    GivenUpReason {
        /// The budget of calls is spent.
        AttemptsExhausted = "attempts_exhausted", "Every call that the budget allows was made; none of them had an effect.";
        /// The budget of time is spent.
        DeadlinePassed = "deadline_passed", "The time for trying is over; nothing happened.";
        /// The gateway did not accept our keys or addresses.
        LockedOut = "locked_out", "The gateway did not accept our keys or our address for as long as we tried; nothing happened.";
        /// The gateway is not set up for this payment.
        NotConfigured = "not_configured", "The gateway is not set up for this payment's terminal, provider or connection; nothing happened.";
        /// The intent names a merchant whose keys we do not have.
        UnknownMerchant = "unknown_merchant", "The intent names a merchant that this worker has no keys for; nothing happened.";
        /// The intent was requested in our future.
        RequestedInFuture = "requested_in_future", "The intent's requestedAt is more than five minutes in the future; nothing happened.";
    }
}

reasons! {
    /// Why nothing can tell whether it happened.
    UnresolvedReason {
        /// Nothing that we can ask tells.
        NoEvidence = "no_evidence", "It may have happened; nothing that can be asked tells.";
        /// What we asked contradicts itself.
        ContradictingEvidence = "contradicting_evidence", "It may have happened; what the gateway shows contradicts itself.";
        /// It was too late to call, and nothing tells what had happened.
        DeadlinePassed = "deadline_passed", "The time for calling is over; it may have happened, and nothing that can be asked tells.";
        /// The letter took processes down.
        Poison = "poison", "Handling the intent ended the process again and again; it may have happened.";
        /// The broker took the letter away.
        Expired = "expired", "The broker removed the intent from its queue before it was settled; it may have happened.";
    }
}

reasons! {
    /// Why nothing more will be said.
    AbandonedReason {
        /// A person discarded the dead letter.
        Discarded = "discarded", "A person discarded the dead letter; this says nothing about the payment.";
    }
}

/// What became of an intent, or of one payment of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The payment is cancelled.
    Cancelled,
    /// The cancel order is withdrawn; the sale stands.
    RolledBack,
    /// No effect, and there never will be one.
    Rejected(RejectedReason),
    /// The gateway has taken the order; its end follows.
    Accepted,
    /// Surely nothing happened, and we stopped trying.
    GivenUp(GivenUpReason),
    /// It may have happened, and nothing tells.
    Unresolved(UnresolvedReason),
    /// A batch as a whole: every item has its own terminal event.
    Closed,
    /// A person discarded the dead letter.
    Abandoned(AbandonedReason),
}

impl Status {
    /// The status's name on the wire.
    pub fn name(self) -> StatusName {
        match self {
            Status::Cancelled => StatusName::Cancelled,
            Status::RolledBack => StatusName::RolledBack,
            Status::Rejected(_) => StatusName::Rejected,
            Status::Accepted => StatusName::Accepted,
            Status::GivenUp(_) => StatusName::GivenUp,
            Status::Unresolved(_) => StatusName::Unresolved,
            Status::Closed => StatusName::Closed,
            Status::Abandoned(_) => StatusName::Abandoned,
        }
    }

    /// The reason's code and message, where the status has one.
    pub fn reason(self) -> Option<(&'static str, &'static str)> {
        match self {
            Status::Rejected(reason) => Some((reason.as_str(), reason.message())),
            Status::GivenUp(reason) => Some((reason.as_str(), reason.message())),
            Status::Unresolved(reason) => Some((reason.as_str(), reason.message())),
            Status::Abandoned(reason) => Some((reason.as_str(), reason.message())),
            Status::Cancelled | Status::RolledBack | Status::Accepted | Status::Closed => None,
        }
    }
}

/// A status without its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatusName {
    /// See [`Status::Cancelled`].
    Cancelled,
    /// See [`Status::RolledBack`].
    RolledBack,
    /// See [`Status::Rejected`].
    Rejected,
    /// See [`Status::Accepted`].
    Accepted,
    /// See [`Status::GivenUp`].
    GivenUp,
    /// See [`Status::Unresolved`].
    Unresolved,
    /// See [`Status::Closed`].
    Closed,
    /// See [`Status::Abandoned`].
    Abandoned,
}

impl StatusName {
    /// All of them.
    pub const ALL: [StatusName; 8] = [
        StatusName::Cancelled,
        StatusName::RolledBack,
        StatusName::Rejected,
        StatusName::Accepted,
        StatusName::GivenUp,
        StatusName::Unresolved,
        StatusName::Closed,
        StatusName::Abandoned,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            StatusName::Cancelled => "cancelled",
            StatusName::RolledBack => "rolled_back",
            StatusName::Rejected => "rejected",
            StatusName::Accepted => "accepted",
            StatusName::GivenUp => "given_up",
            StatusName::Unresolved => "unresolved",
            StatusName::Closed => "closed",
            StatusName::Abandoned => "abandoned",
        }
    }

    /// The status of this name.
    pub fn parse(text: &str) -> Option<StatusName> {
        StatusName::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether anything may follow for the same subject.
    pub fn is_terminal(self) -> bool {
        match self {
            StatusName::Cancelled
            | StatusName::RolledBack
            | StatusName::Rejected
            | StatusName::Closed
            | StatusName::Abandoned => true,
            StatusName::Accepted | StatusName::GivenUp | StatusName::Unresolved => false,
        }
    }
}

/// What an outcome is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The intent: one payment, or a batch as a whole.
    Whole,
    /// One payment of a batch: its index in the intent.
    Item(usize),
}

/// The payment's status as the gateway gave it: evidence, not a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// PhysicalAPI.
    Physical(PhysicalType, PhysicalStatus),
    /// PaymentAPI, PaymentPrivateAPI.
    VirtualPos(VposType, VposStatus),
    /// Alternative methods.
    Apm(ApmType, ApmStatus),
}

impl PaymentStatus {
    /// Which enumeration the numbers belong to.
    pub fn scheme(self) -> &'static str {
        match self {
            PaymentStatus::Physical(..) => "physical",
            PaymentStatus::VirtualPos(..) => "virtual_pos",
            PaymentStatus::Apm(..) => "apm",
        }
    }
}

/// Identifiers that the gateway told us on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Learnt {
    /// The activity of a physical payment.
    pub payment_request_activity_id: Option<Uuid>,
    /// The gateway's code, where the intent does not have it.
    pub unique_code: Option<String>,
    /// The merchant's code, where the intent does not have it.
    pub merchant_unique_code: Option<String>,
    /// The transaction of an alternative method.
    pub apm_transaction_id: Option<i64>,
    /// The batch's number at the gateway.
    pub bulk_payment_id: Option<i64>,
    /// The payment's amount.
    pub amount: Option<Amount>,
}

/// One thing that we tell the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What it is about.
    pub subject: Subject,
    /// What became of it.
    pub status: Status,
    /// Evidence, as the gateway gave it.
    pub payment_status: Option<PaymentStatus>,
    /// Identifiers beyond those of the intent.
    pub learnt: Learnt,
    /// A batch as a whole: the item events announced so far, and under `accepted` the items still open.
    pub counts: Vec<(StatusName, usize)>,
}

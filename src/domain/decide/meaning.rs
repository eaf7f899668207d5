//! What evidence means for a letter: the tables of `design.md` §4.

use crate::domain::evidence::Shown;
use crate::domain::history::{Doubt, History, Why};
use crate::domain::intent::Kind;
use crate::domain::outcome::{RejectedReason, Status, StatusName};

/// What is shown of a letter's one payment means this.
pub(super) fn of_payment(kind: Kind, history: &History, shown: Shown) -> Meaning {
    match kind {
        Kind::AsyncCancel => async_cancel(history, shown),
        Kind::SyncCancelRollback => rollback(history, shown),
        Kind::TransactionCancel | Kind::BatchCancel => virtual_pos(Before::of_letter(history), shown),
        Kind::ApmProvisionCancel => apm(shown),
    }
}

/// What was done before, as far as evidence is read by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing was called.
    NotCalled,
    /// A call was not answered, or not so that it told anything.
    Unanswered,
    /// The last call was refused because of the payment's state.
    RefusedByState(RejectedReason),
    /// The gateway took the order.
    Ordered,
    /// A batch's reply named the payment with another status than 1.
    Named,
}

impl Before {
    pub(super) fn of_letter(history: &History) -> Before {
        if history.has_announced(StatusName::Accepted) {
            return Before::Ordered;
        }
        match (history.why, history.doubt) {
            (Some(Why::RefusedByState(reason)), _) => Before::RefusedByState(reason),
            (Some(Why::NotConfigured) | None, Doubt::MayHaveHappened) => Before::Unanswered,
            (Some(Why::NotConfigured) | None, Doubt::None) => match history.attempts {
                0 => Before::NotCalled,
                _called => Before::Unanswered,
            },
        }
    }
}

/// What a piece of evidence means for this letter, before the time it was asked at is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A fact that counts at once.
    Fact(Status),
    /// Rolled back, but perhaps by an order before ours: it counts as late as an absence where ours is in doubt.
    Withdrawn,
    /// On its way; counts at once.
    InProgress,
    /// An end; counts only when asked late enough.
    Rejected(RejectedReason),
    /// Surely not done, if asked late enough: call again.
    NotDone,
    /// Tells nothing: ask again.
    AskAgain,
    /// Tells nothing and never will.
    NeverTells,
}

/// The table for async cancels.
fn async_cancel(history: &History, shown: Shown) -> Meaning {
    let before = Before::of_letter(history);
    match shown {
        Shown::Cancelled => Meaning::Fact(Status::Cancelled),
        Shown::Withdrawn => match before {
            Before::Ordered | Before::RefusedByState(_) => Meaning::Fact(Status::RolledBack),
            Before::NotCalled | Before::Unanswered | Before::Named => Meaning::Withdrawn,
        },
        Shown::InProgress | Shown::ReceivedByDevice => Meaning::InProgress,
        Shown::CancelFailed => Meaning::Rejected(RejectedReason::CancelFailed),
        // It never reached the device, whichever copy ordered it.
        Shown::NotDelivered => match history.why {
            Some(Why::RefusedByState(reason)) => Meaning::Rejected(reason),
            Some(Why::NotConfigured) | None => Meaning::NotDone,
        },
        Shown::Refunded => Meaning::Rejected(RejectedReason::AlreadyRefunded),
        Shown::SaleStands => match before {
            Before::NotCalled | Before::Unanswered => Meaning::NotDone,
            Before::RefusedByState(reason) => Meaning::Rejected(reason),
            Before::Ordered | Before::Named => Meaning::InProgress,
        },
        Shown::SaleGone => Meaning::Rejected(RejectedReason::NotSuitable),
        Shown::NoSuchPayment => match before {
            Before::RefusedByState(_) => Meaning::Rejected(RejectedReason::NotFound),
            Before::NotCalled | Before::Unanswered | Before::Ordered | Before::Named => Meaning::AskAgain,
        },
        Shown::PartiallyRefunded
        | Shown::NotShown
        | Shown::Unanswered
        | Shown::Unknown
        | Shown::Contradictory => Meaning::AskAgain,
    }
}

/// The table for rollbacks.
fn rollback(history: &History, shown: Shown) -> Meaning {
    let before = Before::of_letter(history);
    match shown {
        Shown::Cancelled => Meaning::Rejected(RejectedReason::CancelCompleted),
        Shown::Withdrawn => Meaning::Fact(Status::RolledBack),
        Shown::ReceivedByDevice => Meaning::Rejected(RejectedReason::DeviceReceived),
        Shown::InProgress => match before {
            Before::RefusedByState(reason) => Meaning::Rejected(reason),
            Before::NotCalled | Before::Unanswered | Before::Ordered | Before::Named => Meaning::NotDone,
        },
        Shown::CancelFailed | Shown::NotDelivered | Shown::Refunded | Shown::SaleStands | Shown::SaleGone => {
            Meaning::Rejected(RejectedReason::NothingToWithdraw)
        }
        Shown::NoSuchPayment => match before {
            Before::RefusedByState(_) => Meaning::Rejected(RejectedReason::NotFound),
            Before::NotCalled | Before::Unanswered | Before::Ordered | Before::Named => Meaning::AskAgain,
        },
        Shown::PartiallyRefunded
        | Shown::NotShown
        | Shown::Unanswered
        | Shown::Unknown
        | Shown::Contradictory => Meaning::AskAgain,
    }
}

/// The table for transactions and for the payments of a batch.
pub(super) fn virtual_pos(before: Before, shown: Shown) -> Meaning {
    match shown {
        Shown::Cancelled => Meaning::Fact(Status::Cancelled),
        Shown::Refunded => Meaning::Rejected(RejectedReason::AlreadyRefunded),
        Shown::PartiallyRefunded => Meaning::Rejected(RejectedReason::PartiallyRefunded),
        Shown::InProgress => Meaning::InProgress,
        Shown::SaleStands | Shown::CancelFailed => match before {
            Before::NotCalled | Before::Unanswered => Meaning::NotDone,
            Before::RefusedByState(reason) => Meaning::Rejected(reason),
            Before::Ordered | Before::Named if shown == Shown::CancelFailed => {
                Meaning::Rejected(RejectedReason::CancelFailed)
            }
            Before::Ordered | Before::Named => Meaning::InProgress,
        },
        Shown::NoSuchPayment => match before {
            Before::NotCalled | Before::RefusedByState(_) | Before::Named => {
                Meaning::Rejected(RejectedReason::NotFound)
            }
            Before::Unanswered | Before::Ordered => Meaning::AskAgain,
        },
        Shown::Withdrawn
        | Shown::ReceivedByDevice
        | Shown::NotDelivered
        | Shown::SaleGone
        | Shown::NotShown
        | Shown::Unanswered
        | Shown::Unknown
        | Shown::Contradictory => Meaning::AskAgain,
    }
}

/// The table for provisions, refused by state and without a doubt: no query proves a cancelled provision.
fn apm(shown: Shown) -> Meaning {
    match shown {
        Shown::Refunded => Meaning::Rejected(RejectedReason::AlreadyRefunded),
        Shown::Unanswered => Meaning::AskAgain,
        Shown::Cancelled
        | Shown::Withdrawn
        | Shown::ReceivedByDevice
        | Shown::InProgress
        | Shown::CancelFailed
        | Shown::NotDelivered
        | Shown::PartiallyRefunded
        | Shown::SaleStands
        | Shown::SaleGone
        | Shown::NoSuchPayment
        | Shown::NotShown
        | Shown::Unknown
        | Shown::Contradictory => Meaning::NeverTells,
    }
}

//! What an inquiry's reply shows to be true (`paywall.md` §7): facts, never what we wish were true.

use super::codes::{Class, Codes, ReplyCodes};
use super::http_status::HttpStatus;
use super::intent::Kind;
use super::outcome::{Learnt, PaymentStatus, RejectedReason};
use super::paywall::{ApmStatus, ApmType, PhysicalStatus, PhysicalType, VposStatus, VposType};
use super::reply::{Activity, ApmPayment, InquiryReply, PhysicalPayment, Read, ReadRefusal, VposPayment};

/// What a look showed, as one word: the header `cancel-evidence`, and `reason.evidence` of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown {
    /// A cancel that is done.
    Cancelled,
    /// The latest cancel order was withdrawn.
    Withdrawn,
    /// The device has taken the latest cancel order.
    ReceivedByDevice,
    /// The latest cancel order, or cancel, is on its way.
    InProgress,
    /// The latest cancel failed.
    CancelFailed,
    /// The latest cancel order never reached the device.
    NotDelivered,
    /// The payment was refunded.
    Refunded,
    /// A part of the payment was refunded.
    PartiallyRefunded,
    /// The sale stands, and nothing was done to it.
    SaleStands,
    /// The sale itself failed or was withdrawn.
    SaleGone,
    /// The gateway knows no such payment.
    NoSuchPayment,
    /// An answer that shows nothing about a cancel: all that an APM query can do, but for a refund.
    NotShown,
    /// No answer, or none that could be read.
    Unanswered,
    /// A readable answer with numbers that we do not know, or a combination that means nothing to us.
    Unknown,
    /// Answers that exclude each other.
    Contradictory,
}

impl Shown {
    /// All of them.
    pub const ALL: [Shown; 15] = [
        Shown::Cancelled,
        Shown::Withdrawn,
        Shown::ReceivedByDevice,
        Shown::InProgress,
        Shown::CancelFailed,
        Shown::NotDelivered,
        Shown::Refunded,
        Shown::PartiallyRefunded,
        Shown::SaleStands,
        Shown::SaleGone,
        Shown::NoSuchPayment,
        Shown::NotShown,
        Shown::Unanswered,
        Shown::Unknown,
        Shown::Contradictory,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Shown::Cancelled => "cancelled",
            Shown::Withdrawn => "withdrawn",
            Shown::ReceivedByDevice => "received_by_device",
            Shown::InProgress => "in_progress",
            Shown::CancelFailed => "cancel_failed",
            Shown::NotDelivered => "not_delivered",
            Shown::Refunded => "refunded",
            Shown::PartiallyRefunded => "partially_refunded",
            Shown::SaleStands => "sale_stands",
            Shown::SaleGone => "sale_gone",
            Shown::NoSuchPayment => "no_such_payment",
            Shown::NotShown => "not_shown",
            Shown::Unanswered => "unanswered",
            Shown::Unknown => "unknown",
            Shown::Contradictory => "contradictory",
        }
    }

    /// What the word means.
    pub fn parse(text: &str) -> Option<Shown> {
        Shown::ALL.into_iter().find(|shown| shown.as_str() == text)
    }
}

/// What a look showed of one payment.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// As one word.
    pub shown: Shown,
    /// The payment's status as the gateway gave it.
    pub payment_status: Option<PaymentStatus>,
    /// Identifiers that the gateway told us.
    pub learnt: Learnt,
}

impl Evidence {
    fn bare(shown: Shown) -> Evidence {
        Evidence { shown, payment_status: None, learnt: Learnt::default() }
    }
}

/// What a look showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Findings {
    /// Of the intent's one payment.
    Payment(Evidence),
    /// Of those payments of a batch that were asked for: each one's index in the intent.
    Items(Vec<(usize, Evidence)>),
}

impl Findings {
    /// Whether nothing of the look was answered.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Findings::Payment(evidence) => evidence.shown == Shown::Unanswered,
            Findings::Items(items) => items.iter().all(|(_, evidence)| evidence.shown == Shown::Unanswered),
        }
    }
}

/// What the reply to a look shows.
pub fn weigh(reply: &InquiryReply, kind: Kind, codes: &Codes) -> Findings {
    match reply {
        InquiryReply::Physical { activities, inquiry } => {
            Findings::Payment(weigh_physical(activities, inquiry, kind, codes))
        }
        InquiryReply::Transaction(read) => Findings::Payment(weigh_vpos(read, kind, codes)),
        InquiryReply::Batch(reads) => Findings::Items(
            reads.iter().map(|(index, read)| (*index, weigh_vpos(read, kind, codes))).collect(),
        ),
        InquiryReply::Apm(read) => Findings::Payment(weigh_apm(read, kind, codes)),
    }
}

/// Whether a refused inquiry says, without a doubt, that there is no such payment.
fn says_not_found(refusal: &ReadRefusal, kind: Kind, codes: &Codes) -> bool {
    // These decide by themselves, whatever the envelope says: they speak of our keys, or of load.
    if HttpStatus::of(refusal.http_status).decides_alone() {
        return false;
    }
    let class = codes.class(
        kind.inquiry_api(),
        kind,
        &ReplyCodes {
            http_status: refusal.http_status,
            error_code: refusal.error_code,
            client_message: refusal.client_message.as_deref(),
        },
    );
    class.is_some_and(|known| known.class == Class::RefusedByState(RejectedReason::NotFound))
}

/// How the two answers about a physical payment stand to each other.
fn weigh_physical(
    activities: &Read<Vec<Activity>>,
    inquiry: &Read<PhysicalPayment>,
    kind: Kind,
    codes: &Codes,
) -> Evidence {
    let unknown_to = |read: Option<&ReadRefusal>| read.is_some_and(|r| says_not_found(r, kind, codes));
    let (listed, unlisted) = match activities {
        Read::Found(list) => (Some(list.as_slice()), list.is_empty()),
        Read::Refused(refusal) => (None, unknown_to(Some(refusal))),
        Read::Unanswered => (None, false),
    };
    match inquiry {
        Read::Found(payment) => weigh_activities(listed, Some(payment)),
        Read::Refused(refusal) if unknown_to(Some(refusal)) => match listed {
            Some(list) if !list.is_empty() => Evidence::bare(Shown::Contradictory),
            Some(_) | None if unlisted => Evidence::bare(Shown::NoSuchPayment),
            Some(_) | None => Evidence::bare(Shown::Unanswered),
        },
        Read::Refused(_) | Read::Unanswered => match listed {
            Some(list) if !list.is_empty() => weigh_activities(Some(list), None),
            Some(_) | None => Evidence::bare(Shown::Unanswered),
        },
    }
}

/// An activity, as far as weighing needs it.
#[derive(Clone, Copy)]
struct Act {
    id: Option<uuid::Uuid>,
    kind: PhysicalType,
    status: PhysicalStatus,
    date: Option<jiff::civil::DateTime>,
}

/// What all activities of a physical payment show. The inquiry was asked after the list, so what it shows is
/// newer; it knows the latest activity only, so without the list it can show no absence.
fn weigh_activities(listed: Option<&[Activity]>, payment: Option<&PhysicalPayment>) -> Evidence {
    let latest =
        payment.and_then(|p| Some(Act { id: p.activity_id, kind: p.kind?, status: p.status?, date: None }));
    let mut acts: Vec<Act> = listed
        .unwrap_or_default()
        .iter()
        .map(|a| Act { id: a.id, kind: a.kind, status: a.status, date: a.date })
        .collect();
    // What the inquiry shows replaces the same activity in the list.
    if let Some(latest) = latest {
        acts.retain(|act| act.id.is_none() || act.id != latest.id);
    }

    let amount_and_codes = |activity_id| Learnt {
        payment_request_activity_id: activity_id,
        merchant_unique_code: payment.and_then(|p| p.merchant_unique_code.clone()),
        amount: payment.and_then(|p| p.amount.clone()),
        ..Learnt::default()
    };
    let seen = |shown, act: &Act| Evidence {
        shown,
        payment_status: Some(PaymentStatus::Physical(act.kind, act.status)),
        learnt: amount_and_codes(act.id),
    };
    let done = |kind| {
        acts.iter()
            .chain(latest.iter())
            .find(|act| act.kind == kind && act.status == PhysicalStatus::Successful)
    };

    if let Some(act) = done(PhysicalType::Cancel) {
        return seen(Shown::Cancelled, act);
    }
    // It might be a cancel, or one that is done: beside it nothing else about the payment's cancels is sure.
    let unreadable = |act: &Act| match act.kind {
        PhysicalType::Sale | PhysicalType::Refund => false,
        PhysicalType::Cancel => shown_by_cancel(act.status) == Shown::Unknown,
        PhysicalType::Unknown | PhysicalType::Unlisted(_) => true,
    };
    if acts.iter().chain(latest.iter()).any(unreadable) {
        return Evidence::bare(Shown::Unknown);
    }
    // That nothing else happened, only the list can tell; and not one without the payment's own sale.
    let no_list = match listed {
        None => Some(Shown::Unanswered),
        Some([]) => Some(Shown::Contradictory),
        Some(_activities) => None,
    };
    if let Some(cancel) = latest.filter(|act| act.kind == PhysicalType::Cancel) {
        let shown = shown_by_cancel(cancel.status);
        let proven = matches!(shown, Shown::Withdrawn | Shown::ReceivedByDevice | Shown::InProgress);
        return match no_list {
            Some(no_list) if !proven => Evidence::bare(no_list),
            Some(_) | None => seen(shown, &cancel),
        };
    }
    if let Some(no_list) = no_list {
        return Evidence::bare(no_list);
    }
    let cancels: Vec<Act> = acts.iter().copied().filter(|act| act.kind == PhysicalType::Cancel).collect();
    if !cancels.is_empty() {
        return match latest_of(&cancels) {
            Some(cancel) => seen(shown_by_cancel(cancel.status), &cancel),
            None => Evidence::bare(Shown::Unknown),
        };
    }
    if let Some(act) = done(PhysicalType::Refund) {
        return seen(Shown::Refunded, act);
    }
    if let Some(act) = done(PhysicalType::Sale) {
        return seen(Shown::SaleStands, act);
    }
    let sales: Vec<Act> = acts.iter().copied().filter(|act| act.kind == PhysicalType::Sale).collect();
    match latest.filter(|act| act.kind == PhysicalType::Sale).or_else(|| latest_of(&sales)) {
        Some(sale) if matches!(sale.status, PhysicalStatus::Withdrawn | PhysicalStatus::Failed) => {
            seen(Shown::SaleGone, &sale)
        }
        Some(_) | None => Evidence::bare(Shown::Unknown),
    }
}

/// The latest of some activities, if their dates tell, or if they all say the same.
fn latest_of(acts: &[Act]) -> Option<Act> {
    let first = acts.first()?;
    if acts.iter().all(|act| act.status == first.status) {
        return Some(*first);
    }
    let newest = acts.iter().map(|act| act.date).collect::<Option<Vec<_>>>()?.into_iter().max()?;
    let mut at_newest = acts.iter().filter(|act| act.date == Some(newest));
    let candidate = at_newest.next()?;
    at_newest.all(|act| act.status == candidate.status).then_some(*candidate)
}

/// What the status of a payment's latest cancel means (`paywall.md` §2.1).
fn shown_by_cancel(status: PhysicalStatus) -> Shown {
    match status {
        PhysicalStatus::Successful => Shown::Cancelled,
        PhysicalStatus::Withdrawn => Shown::Withdrawn,
        PhysicalStatus::ReceivedByDevice => Shown::ReceivedByDevice,
        PhysicalStatus::Created
        | PhysicalStatus::SentToDevice
        | PhysicalStatus::FirebaseSent
        | PhysicalStatus::SocketSent => Shown::InProgress,
        PhysicalStatus::Failed => Shown::CancelFailed,
        PhysicalStatus::NotSentToDevice | PhysicalStatus::FirebaseNotSent | PhysicalStatus::SocketNotSent => {
            Shown::NotDelivered
        }
        PhysicalStatus::Unknown | PhysicalStatus::Unlisted(_) => Shown::Unknown,
    }
}

fn weigh_vpos(read: &Read<VposPayment>, kind: Kind, codes: &Codes) -> Evidence {
    let payment = match read {
        Read::Found(payment) => payment,
        Read::Refused(refusal) if says_not_found(refusal, kind, codes) => {
            return Evidence::bare(Shown::NoSuchPayment);
        }
        Read::Refused(_) | Read::Unanswered => return Evidence::bare(Shown::Unanswered),
    };
    Evidence {
        shown: shown_by_vpos(payment),
        payment_status: payment.kind.zip(payment.status).map(|(kind, s)| PaymentStatus::VirtualPos(kind, s)),
        learnt: Learnt {
            unique_code: payment.unique_code.clone(),
            merchant_unique_code: payment.merchant_unique_code.clone(),
            amount: payment.amount.clone(),
            ..Learnt::default()
        },
    }
}

/// What a virtual-POS payment's flags and latest activity show (`paywall.md` §7.3).
fn shown_by_vpos(payment: &VposPayment) -> Shown {
    let latest = (payment.kind, payment.status);
    if payment.any_success_cancel == Some(true)
        || latest == (Some(VposType::Cancel), Some(VposStatus::Successful))
        || payment.status == Some(VposStatus::Cancelled)
    {
        return Shown::Cancelled;
    }
    // A cancel that runs may still end; so it is asked for again before any refund is told.
    if payment.kind == Some(VposType::Cancel) && payment.status.is_some_and(is_running) {
        return Shown::InProgress;
    }
    if payment.any_success_refund == Some(true) {
        return Shown::Refunded;
    }
    if payment.any_success_partial_refund == Some(true) {
        return Shown::PartiallyRefunded;
    }
    // An absence must be said, not merely left out.
    let nothing_else = payment.any_success_cancel == Some(false) && payment.any_success_refund == Some(false);
    if payment.any_success_payment != Some(true) || !nothing_else {
        return Shown::Unknown;
    }
    match payment.kind {
        Some(VposType::Sale) => Shown::SaleStands,
        Some(VposType::Cancel) if payment.status.is_some_and(has_failed) => Shown::CancelFailed,
        Some(VposType::Refund | VposType::PartialRefund) if payment.status.is_some_and(has_failed) => {
            Shown::SaleStands
        }
        Some(VposType::Refund | VposType::PartialRefund)
            if payment.status == Some(VposStatus::Successful) =>
        {
            Shown::Contradictory
        }
        // A latest activity that is not named may be a cancel that runs.
        None => Shown::Unknown,
        Some(VposType::Cancel | VposType::Refund | VposType::PartialRefund | VposType::Unlisted(_)) => {
            Shown::Unknown
        }
    }
}

fn is_running(status: VposStatus) -> bool {
    match status {
        VposStatus::Created
        | VposStatus::Started
        | VposStatus::WaitingForFinancialisation
        | VposStatus::InRecovery
        | VposStatus::IntermediateStep
        | VposStatus::ProviderQueryStarted
        | VposStatus::ProviderQueryEnded
        | VposStatus::ProviderCallbackReceived
        | VposStatus::OnHold => true,
        VposStatus::Successful
        | VposStatus::Failed
        | VposStatus::FailedByQuery
        | VposStatus::Cancelled
        | VposStatus::Fraud
        | VposStatus::Unlisted(_) => false,
    }
}

fn has_failed(status: VposStatus) -> bool {
    matches!(status, VposStatus::Failed | VposStatus::FailedByQuery)
}

fn weigh_apm(read: &Read<ApmPayment>, kind: Kind, codes: &Codes) -> Evidence {
    let payment = match read {
        Read::Found(payment) => payment,
        Read::Refused(refusal) if says_not_found(refusal, kind, codes) => {
            return Evidence::bare(Shown::NoSuchPayment);
        }
        Read::Refused(_) | Read::Unanswered => return Evidence::bare(Shown::Unanswered),
    };
    let refunded = payment.kind == Some(ApmType::Refund) && payment.status == Some(ApmStatus::Successful);
    Evidence {
        shown: if refunded { Shown::Refunded } else { Shown::NotShown },
        payment_status: payment.kind.zip(payment.status).map(|(kind, s)| PaymentStatus::Apm(kind, s)),
        learnt: Learnt {
            unique_code: payment.unique_code.clone(),
            merchant_unique_code: payment.merchant_unique_code.clone(),
            apm_transaction_id: payment.apm_transaction_id,
            amount: payment.amount.clone(),
            ..Learnt::default()
        },
    }
}

#[cfg(test)]
mod tests;

//! Virtual-POS payments: cancelled by unique code, or as items of a batch.

use jiff::{Timestamp, civil};
use uuid::Uuid;

use super::{
    Activity, Body, FAILED, FAILED_BY_QUERY, Identifier, SUCCESSFUL, Statuses, WITHDRAWN, World, next_plan,
    steps,
};
use crate::{
    clock::{after_ms, day},
    seed::{BatchPlan, CancelPlan, PlannedStep},
    truth::{Origin, PaymentState},
};

/// Types of activities at the virtual POS (`paywall.md` §2.3): 2 and 3 are swapped.
pub(crate) const SALE: u8 = 1;
pub(crate) const REFUND: u8 = 2;
pub(crate) const CANCEL: u8 = 3;
pub(crate) const PARTIAL_REFUND: u8 = 4;

/// `paywall.md` §2.4.
pub(super) const STATUSES: Statuses =
    Statuses { max: 14, ended: &[SUCCESSFUL, FAILED, FAILED_BY_QUERY, WITHDRAWN] };

/// A virtual-POS payment.
#[derive(Debug, Clone)]
pub(crate) struct VirtualPos {
    pub(crate) number: u64,
    pub(crate) unique_code: Uuid,
    pub(crate) merchant_code: String,
    pub(crate) date: civil::Date,
    pub(crate) amount: String,
    pub(crate) activities: Vec<Activity>,
    pub(super) plans: Vec<CancelPlan>,
    pub(super) orders: usize,
    pub(super) batch: BatchPlan,
    pub(super) marketplace_records: bool,
}

impl VirtualPos {
    pub(crate) fn any(&self, kind: u8, now: Timestamp) -> bool {
        self.activities.iter().any(|activity| activity.kind == kind && activity.status(now) == SUCCESSFUL)
    }

    /// Cancelled, as a sale or as a pre-authorisation (status 12).
    pub(crate) fn any_cancel(&self, now: Timestamp) -> bool {
        self.any(CANCEL, now)
    }

    /// The latest activity; the sale is always there.
    pub(crate) fn latest(&self) -> Option<&Activity> {
        self.activities.last()
    }

    pub(super) fn provision_cancelled(&self, now: Timestamp) -> bool {
        self.activities.iter().any(|activity| activity.status(now) == WITHDRAWN)
    }

    pub(super) fn state(&self, now: Timestamp) -> PaymentState {
        if self.any_cancel(now) || self.provision_cancelled(now) {
            return PaymentState::Cancelled;
        }
        if self.any(REFUND, now) {
            return PaymentState::Refunded;
        }
        if self.any(PARTIAL_REFUND, now) {
            return PaymentState::PartiallyRefunded;
        }
        if !self.any(SALE, now) {
            return PaymentState::NotPaid;
        }
        let last = self.activities.iter().rev().find(|activity| activity.kind == CANCEL);
        match last.map(|cancel| cancel.status(now)) {
            None => PaymentState::Stands,
            Some(FAILED | FAILED_BY_QUERY) => PaymentState::CancelFailed,
            Some(_) => PaymentState::Pending,
        }
    }
}

/// Why the virtual POS refuses a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PosRefusal {
    NotFound,
    AlreadyCancelled,
    AlreadyRefunded,
    NotSuitable,
    TooLate,
    MarketplaceRecords,
    ProviderFailed,
}

/// What a cancel does with marketplace earnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarketplaceRecords {
    Keep,
    Delete,
}

/// One item of a batch reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchLine {
    pub(crate) merchant_code: String,
    pub(crate) result: BatchResult,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BatchResult {
    Taken,
    /// Named with a status that is not 1, and a text.
    Other {
        status: i64,
        message: String,
    },
}

impl World {
    /// Cancels a virtual-POS payment by its unique code.
    pub(crate) fn cancel_transaction(
        &mut self,
        now: Timestamp,
        merchant: &str,
        unique_code: Uuid,
        date: civil::Date,
        records: MarketplaceRecords,
    ) -> Result<(), PosRefusal> {
        let (today, id, number) = (day(now, &self.rules.zone), self.made_up_uuid(), self.next_number());
        let payment = self
            .virtual_pos_mut(merchant, &Identifier::UniqueCode(unique_code))
            .ok_or(PosRefusal::NotFound)?;
        suits_cancel(payment, now, date, today)?;
        if payment.marketplace_records && records == MarketplaceRecords::Keep {
            return Err(PosRefusal::MarketplaceRecords);
        }
        let plan = next_plan(&payment.plans, &mut payment.orders);
        push_cancel(payment, id, number, now, steps(now, plan.first, &plan.then));
        if plan.first != SUCCESSFUL {
            return Err(PosRefusal::ProviderFailed);
        }
        payment.marketplace_records = false;
        Ok(())
    }

    /// Takes a list of payments to cancel. The number is that of the batch; the lines are what its reply names.
    pub(crate) fn cancel_batch(
        &mut self,
        now: Timestamp,
        merchant: &str,
        items: &[(String, civil::Date)],
    ) -> (u64, Vec<BatchLine>) {
        self.last_bulk += 1;
        let lines =
            items.iter().flat_map(|(code, date)| self.cancel_item(now, merchant, code, *date)).collect();
        (self.last_bulk, lines)
    }

    fn cancel_item(
        &mut self,
        now: Timestamp,
        merchant: &str,
        code: &str,
        date: civil::Date,
    ) -> Vec<BatchLine> {
        let (today, id, number) = (day(now, &self.rules.zone), self.made_up_uuid(), self.next_number());
        let refused_status = self.rules.batch_refused_status;
        let line = |result| BatchLine { merchant_code: code.to_owned(), result };
        let refused = |message: &str| {
            vec![line(BatchResult::Other { status: refused_status, message: message.to_owned() })]
        };
        let Some(payment) = self.virtual_pos_mut(merchant, &Identifier::MerchantCode(code.to_owned())) else {
            return refused("Payment not found");
        };
        match suits_cancel(payment, now, date, today) {
            Ok(()) => {}
            Err(refusal) => return refused(pos_text(refusal)),
        }
        let then = |after_ms, status| vec![PlannedStep { after_ms, status }];
        let (then, lines) = match &payment.batch {
            BatchPlan::Cancelled { after_ms } => {
                (then(*after_ms, SUCCESSFUL), vec![line(BatchResult::Taken)])
            }
            BatchPlan::Failed { after_ms, status } => {
                (then(*after_ms, *status), vec![line(BatchResult::Taken)])
            }
            BatchPlan::Pending => (Vec::new(), vec![line(BatchResult::Taken)]),
            BatchPlan::Refused { status, message } => {
                return vec![line(BatchResult::Other { status: *status, message: message.clone() })];
            }
            BatchPlan::LeftOut => return Vec::new(),
            BatchPlan::LeftOutButCancelled { after_ms } => (then(*after_ms, SUCCESSFUL), Vec::new()),
            BatchPlan::Twice { after_ms, second_status } => {
                let second = match second_status {
                    1 => BatchResult::Taken,
                    status => {
                        BatchResult::Other { status: *status, message: "Already in process".to_owned() }
                    }
                };
                (then(*after_ms, SUCCESSFUL), vec![line(BatchResult::Taken), line(second)])
            }
        };
        // 2: the provider is being asked. An item without delay is cancelled at once.
        push_cancel(payment, id, number, now, steps(now, 2, &then));
        lines
    }

    pub(crate) fn virtual_pos(&self, merchant: &str, identifier: Identifier) -> Option<&VirtualPos> {
        match &self.payment(merchant, identifier)?.body {
            Body::VirtualPos(payment) => Some(payment),
            Body::Physical(_) | Body::Apm(_) => None,
        }
    }

    fn virtual_pos_mut(&mut self, merchant: &str, identifier: &Identifier) -> Option<&mut VirtualPos> {
        let at = self.find(merchant, identifier)?;
        match &mut self.payments.get_mut(at)?.body {
            Body::VirtualPos(payment) => Some(payment),
            Body::Physical(_) | Body::Apm(_) => None,
        }
    }
}

/// Whether a virtual-POS payment can be cancelled now. What it is comes before the time of day.
fn suits_cancel(
    payment: &VirtualPos,
    now: Timestamp,
    date: civil::Date,
    today: civil::Date,
) -> Result<(), PosRefusal> {
    if date != payment.date {
        return Err(PosRefusal::NotFound);
    }
    match payment.state(now) {
        PaymentState::Cancelled => Err(PosRefusal::AlreadyCancelled),
        PaymentState::Refunded | PaymentState::PartiallyRefunded => Err(PosRefusal::AlreadyRefunded),
        PaymentState::NotPaid | PaymentState::Pending => Err(PosRefusal::NotSuitable),
        PaymentState::Stands
        | PaymentState::RolledBack
        | PaymentState::CancelFailed
        | PaymentState::Undelivered
        | PaymentState::Unknown => {
            if today > payment.date {
                Err(PosRefusal::TooLate)
            } else {
                Ok(())
            }
        }
    }
}

fn push_cancel(payment: &mut VirtualPos, id: Uuid, number: u64, now: Timestamp, steps: Vec<(Timestamp, u8)>) {
    let date = payment.latest().map_or(now, |latest| now.max(after_ms(latest.date, 1)));
    payment.activities.push(Activity {
        id,
        number,
        kind: CANCEL,
        date,
        origin: Origin::Called,
        withdrawn: None,
        steps,
    });
}

/// The English text beside a refusal of the virtual POS. It decides nothing.
pub(crate) fn pos_text(refusal: PosRefusal) -> &'static str {
    match refusal {
        PosRefusal::NotFound => "Payment not found",
        PosRefusal::AlreadyCancelled => "Payment has a successful cancel",
        PosRefusal::AlreadyRefunded => "Payment has a successful refund",
        PosRefusal::NotSuitable => "Payment is not suitable for this operation",
        PosRefusal::TooLate => "This operation cannot be done at this time",
        PosRefusal::MarketplaceRecords => "Payment has marketplace earnings",
        PosRefusal::ProviderFailed => "Payment error",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::{
        clock::before_ms,
        seed::{PastActivity, SeedVirtualPos},
    };

    fn check_pos(seed: SeedVirtualPos, now: Timestamp, date: civil::Date, expected: Result<(), PosRefusal>) {
        let told = format!("{seed:?}");
        let answered = pos_world(seed).cancel_transaction(now, M, ID, date, MarketplaceRecords::Keep);
        assert_eq!(answered, expected, "{told}");
    }

    #[test]
    fn a_transaction_is_cancelled_on_its_day_by_its_date_and_only_once() {
        let sold = SeedVirtualPos::default;
        let past = |kind, status| sold().after(PastActivity::ended(kind, status));
        let day_over = noon(12 * 3_600);
        check_pos(sold(), noon(0), TODAY, Ok(()));
        check_pos(sold(), noon(0), TODAY.yesterday().unwrap(), Err(PosRefusal::NotFound));
        check_pos(sold(), before_ms(day_over, 1), TODAY, Ok(()));
        check_pos(sold(), day_over, TODAY, Err(PosRefusal::TooLate));
        check_pos(past(CANCEL, 4), noon(0), TODAY, Err(PosRefusal::AlreadyCancelled));
        check_pos(past(CANCEL, 4), day_over, TODAY, Err(PosRefusal::AlreadyCancelled));
        check_pos(past(REFUND, 4), noon(0), TODAY, Err(PosRefusal::AlreadyRefunded));
        check_pos(past(PARTIAL_REFUND, 4), noon(0), TODAY, Err(PosRefusal::AlreadyRefunded));
        check_pos(past(CANCEL, 2), noon(0), TODAY, Err(PosRefusal::NotSuitable));
        check_pos(past(CANCEL, 5), noon(0), TODAY, Ok(()));
        check_pos(SeedVirtualPos { sale_status: 5, ..sold() }, noon(0), TODAY, Err(PosRefusal::NotSuitable));
        check_pos(
            SeedVirtualPos { sale_status: 12, ..sold() },
            noon(0),
            TODAY,
            Err(PosRefusal::AlreadyCancelled),
        );
        let failing = SeedVirtualPos { cancels: vec![CancelPlan::only(5)], ..sold() };
        check_pos(failing, noon(0), TODAY, Err(PosRefusal::ProviderFailed));
    }

    #[test]
    fn marketplace_earnings_keep_a_payment_until_the_caller_lets_them_go() {
        let mut world = pos_world(SeedVirtualPos { marketplace_records: true, ..SeedVirtualPos::default() });
        let kept = world.cancel_transaction(noon(0), M, ID, TODAY, MarketplaceRecords::Keep);
        assert_eq!(kept, Err(PosRefusal::MarketplaceRecords));
        assert_eq!(state_of(&world, noon(0)), PaymentState::Stands);
        let deleted = world.cancel_transaction(noon(0), M, ID, TODAY, MarketplaceRecords::Delete);
        assert_eq!(deleted, Ok(()));
        assert_eq!(state_of(&world, noon(0)), PaymentState::Cancelled);
    }

    fn check_item(batch: BatchPlan, statuses: &[i64], end: PaymentState, cancels: u64) {
        let told = format!("{batch:?}");
        let mut world = pos_world(SeedVirtualPos::default().in_batch(batch));
        let (_, lines) = world.cancel_batch(noon(0), M, &[("A-1".to_owned(), TODAY)]);
        let named: Vec<_> = lines
            .iter()
            .map(|line| match &line.result {
                BatchResult::Taken => 1,
                BatchResult::Other { status, .. } => *status,
            })
            .collect();
        assert_eq!(named, statuses, "{told}");
        assert_eq!(state_of(&world, noon(3_600)), end, "{told}");
        assert_eq!(effects_of(&world, noon(3_600)).cancels, cancels, "{told}");
    }

    #[test]
    fn an_item_of_a_batch_ends_as_it_was_seeded_whatever_the_reply_named() {
        let after_ms = 30_000;
        let refused = BatchPlan::Refused { status: 3, message: "no".to_owned() };
        check_item(BatchPlan::Cancelled { after_ms }, &[1], PaymentState::Cancelled, 1);
        check_item(BatchPlan::Failed { after_ms, status: 5 }, &[1], PaymentState::CancelFailed, 0);
        check_item(BatchPlan::Failed { after_ms, status: 7 }, &[1], PaymentState::CancelFailed, 0);
        check_item(BatchPlan::Pending, &[1], PaymentState::Pending, 0);
        check_item(refused, &[3], PaymentState::Stands, 0);
        check_item(BatchPlan::LeftOut, &[], PaymentState::Stands, 0);
        check_item(BatchPlan::LeftOutButCancelled { after_ms }, &[], PaymentState::Cancelled, 1);
        check_item(BatchPlan::Twice { after_ms, second_status: 2 }, &[1, 2], PaymentState::Cancelled, 1);
    }

    #[test]
    fn an_item_is_not_taken_twice_nor_after_its_day_nor_under_another_date() {
        let mut world = pos_world(SeedVirtualPos::default());
        let mut send = |now, code: &str, date| {
            let (_, lines) = world.cancel_batch(now, M, &[(code.to_owned(), date)]);
            matches!(lines[0].result, BatchResult::Taken)
        };
        assert!(!send(noon(0), "nobody", TODAY));
        assert!(!send(noon(0), "A-1", TODAY.yesterday().unwrap()));
        assert!(!send(noon(12 * 3_600), "A-1", TODAY));
        assert!(send(noon(0), "A-1", TODAY));
        assert!(!send(noon(1), "A-1", TODAY), "its cancel is under way");
        assert!(!send(noon(60), "A-1", TODAY), "it is cancelled");
    }
}

//! Payments at physical terminals: orders, withdrawals, and what the device does with them.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Activity, Body, FAILED, Identifier, SUCCESSFUL, Statuses, WITHDRAWN, World, next_plan, steps};
use crate::{
    clock::after_ms,
    seed::CancelPlan,
    truth::{Origin, PaymentState},
};

/// Types of activities at a terminal (`paywall.md` §2.2).
pub(crate) const SALE: u8 = 1;
pub(crate) const CANCEL: u8 = 2;
pub(crate) const REFUND: u8 = 3;

/// `paywall.md` §2.1. A cancel has ended when it was not delivered, too: the device will never see it.
pub(super) const STATUSES: Statuses = Statuses { max: 12, ended: &[3, SUCCESSFUL, FAILED, 7, 8, WITHDRAWN] };

/// The status from which on nothing can be withdrawn.
const TAKEN_BY_DEVICE: u8 = 11;

/// A payment at a physical terminal.
#[derive(Debug, Clone)]
pub(crate) struct Physical {
    pub(crate) request_id: Uuid,
    pub(crate) merchant_code: String,
    pub(crate) terminal_id: Uuid,
    pub(crate) amount: String,
    pub(crate) activities: Vec<Activity>,
    pub(super) plans: Vec<CancelPlan>,
    pub(super) orders: usize,
}

impl Physical {
    pub(super) fn last_cancel(&self) -> Option<&Activity> {
        self.activities.iter().rev().find(|activity| activity.kind == CANCEL)
    }

    pub(super) fn any(&self, kind: u8, status: u8, now: Timestamp) -> bool {
        self.activities.iter().any(|activity| activity.kind == kind && activity.status(now) == status)
    }

    /// The latest activity; the sale is always there.
    pub(crate) fn latest(&self) -> Option<&Activity> {
        self.activities.last()
    }

    pub(super) fn state(&self, now: Timestamp) -> PaymentState {
        if self.any(CANCEL, SUCCESSFUL, now) {
            return PaymentState::Cancelled;
        }
        if self.any(REFUND, SUCCESSFUL, now) {
            return PaymentState::Refunded;
        }
        if !self.any(SALE, SUCCESSFUL, now) {
            return PaymentState::NotPaid;
        }
        match self.last_cancel().map(|cancel| cancel.status(now)) {
            None => PaymentState::Stands,
            Some(WITHDRAWN) => PaymentState::RolledBack,
            Some(FAILED) => PaymentState::CancelFailed,
            Some(3 | 7 | 8) => PaymentState::Undelivered,
            Some(_) => PaymentState::Pending,
        }
    }
}

/// Why the Physical API refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PhysicalRefusal {
    NotFound,
    AlreadyReversed,
    NotConvenient(Inconvenience),
    NotDelivered,
}

/// What makes the status of a payment not convenient. All say the same code; only the text tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inconvenience {
    CancelUnderWay,
    NoSuccessfulSale,
    TooEarly,
    TakenByDevice,
    NothingToWithdraw,
}

/// What an order, or its withdrawal, is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) request_id: Uuid,
    pub(crate) activity_id: Uuid,
    pub(crate) kind: u8,
    pub(crate) status: u8,
}

impl World {
    /// Orders a cancel of a payment at a terminal.
    pub(crate) fn order_cancel(
        &mut self,
        now: Timestamp,
        merchant: &str,
        id: Uuid,
    ) -> Result<Ordered, PhysicalRefusal> {
        let (activity_id, number) = (self.made_up_uuid(), self.next_number());
        let payment = self.physical_mut(merchant, id).ok_or(PhysicalRefusal::NotFound)?;
        match payment.state(now) {
            PaymentState::Cancelled | PaymentState::Refunded | PaymentState::PartiallyRefunded => {
                return Err(PhysicalRefusal::AlreadyReversed);
            }
            PaymentState::Pending => {
                return Err(PhysicalRefusal::NotConvenient(Inconvenience::CancelUnderWay));
            }
            PaymentState::NotPaid => {
                return Err(PhysicalRefusal::NotConvenient(Inconvenience::NoSuccessfulSale));
            }
            PaymentState::Stands
            | PaymentState::RolledBack
            | PaymentState::CancelFailed
            | PaymentState::Undelivered
            | PaymentState::Unknown => {}
        }
        let plan = next_plan(&payment.plans, &mut payment.orders);
        let date = payment.latest().map_or(now, |latest| now.max(after_ms(latest.date, 1)));
        let steps = steps(now, plan.first, &plan.then);
        let kind = CANCEL;
        payment.activities.push(Activity {
            id: activity_id,
            number,
            kind,
            date,
            origin: Origin::Called,
            withdrawn: None,
            steps,
        });
        match plan.first {
            3 | 7 | 8 => Err(PhysicalRefusal::NotDelivered),
            status => Ok(Ordered { request_id: id, activity_id, kind, status }),
        }
    }

    /// Withdraws the cancel order of a payment at a terminal.
    pub(crate) fn roll_back(
        &mut self,
        now: Timestamp,
        merchant: &str,
        id: Uuid,
    ) -> Result<Ordered, PhysicalRefusal> {
        let wait_ms = self.rules.rollback_wait_ms;
        let payment = self.physical_mut(merchant, id).ok_or(PhysicalRefusal::NotFound)?;
        let cancel = payment.activities.iter_mut().rev().find(|activity| activity.kind == CANCEL);
        let refuse = |why| Err(PhysicalRefusal::NotConvenient(why));
        let Some(cancel) = cancel else {
            return refuse(Inconvenience::NothingToWithdraw);
        };
        match cancel.status(now) {
            1 | 2 | 9 | 10 if now < after_ms(cancel.began(), wait_ms) => refuse(Inconvenience::TooEarly),
            1 | 2 | 9 | 10 => {
                cancel.steps.retain(|(at, _)| *at <= now);
                cancel.steps.push((now, WITHDRAWN));
                cancel.withdrawn = Some(now);
                let Activity { id: activity_id, kind, .. } = *cancel;
                Ok(Ordered { request_id: id, activity_id, kind, status: WITHDRAWN })
            }
            TAKEN_BY_DEVICE | SUCCESSFUL | FAILED => refuse(Inconvenience::TakenByDevice),
            _ => refuse(Inconvenience::NothingToWithdraw),
        }
    }

    pub(crate) fn physical(&self, merchant: &str, id: Uuid) -> Option<&Physical> {
        match &self.payment(merchant, Identifier::RequestId(id))?.body {
            Body::Physical(physical) => Some(physical),
            Body::VirtualPos(_) | Body::Apm(_) => None,
        }
    }

    fn physical_mut(&mut self, merchant: &str, id: Uuid) -> Option<&mut Physical> {
        let at = self.find(merchant, &Identifier::RequestId(id))?;
        match &mut self.payments.get_mut(at)?.body {
            Body::Physical(physical) => Some(physical),
            Body::VirtualPos(_) | Body::Apm(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::*, *};
    use crate::{
        seed::{PastActivity, PlannedStep, SeedPhysical},
        truth::Effects,
    };

    #[test]
    fn an_accepted_cancel_is_taken_by_the_device_and_then_ends_by_the_clock_alone() {
        let plan = CancelPlan::accepted(10_000, 20_000, SUCCESSFUL);
        let mut world = terminal_world(SeedPhysical::default().cancelling(plan));
        assert_eq!(world.order_cancel(noon(0), M, ID).unwrap().status, 10);
        let status = |world: &World, now| world.physical(M, ID).unwrap().latest().unwrap().status(now);
        assert_eq!(status(&world, noon(9)), 10);
        assert_eq!(status(&world, noon(10)), TAKEN_BY_DEVICE);
        assert_eq!(status(&world, noon(20)), SUCCESSFUL);
        assert_eq!(effects_of(&world, noon(19)), Effects { orders: 1, cancels: 0, rollbacks: 0 });
        assert_eq!(effects_of(&world, noon(20)), Effects { orders: 1, cancels: 1, rollbacks: 0 });
    }

    fn check_rollback(seconds: u64, expected: Result<u8, PhysicalRefusal>) {
        let plan = CancelPlan::accepted(10_000, 20_000, SUCCESSFUL);
        let mut world = terminal_world(SeedPhysical::default().cancelling(plan));
        world.order_cancel(noon(0), M, ID).unwrap();
        let answered = world.roll_back(noon(seconds), M, ID);
        assert_eq!(answered.map(|ordered| ordered.status), expected, "after {seconds} s");
    }

    #[test]
    fn a_cancel_can_be_withdrawn_from_the_fifth_second_until_the_device_has_it() {
        let refused = |why| Err(PhysicalRefusal::NotConvenient(why));
        check_rollback(0, refused(Inconvenience::TooEarly));
        check_rollback(4, refused(Inconvenience::TooEarly));
        check_rollback(5, Ok(WITHDRAWN));
        check_rollback(9, Ok(WITHDRAWN));
        check_rollback(10, refused(Inconvenience::TakenByDevice));
        check_rollback(20, refused(Inconvenience::TakenByDevice));
    }

    #[test]
    fn a_withdrawn_cancel_never_ends_and_the_sale_stands() {
        let plan = CancelPlan::accepted(10_000, 20_000, SUCCESSFUL);
        let mut world = terminal_world(SeedPhysical::default().cancelling(plan));
        world.order_cancel(noon(0), M, ID).unwrap();
        world.roll_back(noon(6), M, ID).unwrap();
        assert_eq!(state_of(&world, noon(3_600)), PaymentState::RolledBack);
        assert_eq!(effects_of(&world, noon(3_600)), Effects { orders: 1, cancels: 0, rollbacks: 1 });
        let again = world.roll_back(noon(7), M, ID);
        assert_eq!(again, Err(PhysicalRefusal::NotConvenient(Inconvenience::NothingToWithdraw)));
    }

    fn check_order(seed: SeedPhysical, expected: Result<u8, PhysicalRefusal>) {
        let told = format!("{seed:?}");
        let answered = terminal_world(seed).order_cancel(noon(0), M, ID).map(|ordered| ordered.status);
        assert_eq!(answered, expected, "{told}");
    }

    #[test]
    fn a_cancel_is_ordered_only_where_the_money_is_still_taken_and_no_cancel_runs() {
        let past = |kind, status| SeedPhysical::default().after(PastActivity::ended(kind, status));
        let inconvenient = |why| Err(PhysicalRefusal::NotConvenient(why));
        check_order(SeedPhysical::default(), Ok(4));
        check_order(past(CANCEL, 4), Err(PhysicalRefusal::AlreadyReversed));
        check_order(past(REFUND, 4), Err(PhysicalRefusal::AlreadyReversed));
        for running in [1, 2, 6, 9, 10, 11] {
            check_order(past(CANCEL, running), inconvenient(Inconvenience::CancelUnderWay));
        }
        for over in [3, 5, 7, 8, 12] {
            check_order(past(CANCEL, over), Ok(4));
        }
        for unpaid in [1, 5, 12] {
            let seed = SeedPhysical { sale_status: unpaid, ..SeedPhysical::default() };
            check_order(seed, inconvenient(Inconvenience::NoSuccessfulSale));
        }
        for lost in [3, 7, 8] {
            check_order(
                SeedPhysical::default().cancelling(CancelPlan::only(lost)),
                Err(PhysicalRefusal::NotDelivered),
            );
        }
    }

    #[test]
    fn an_order_that_was_not_delivered_can_be_given_again_and_goes_by_the_next_plan() {
        let cancels = vec![CancelPlan::only(3), CancelPlan::at_once()];
        let mut world = terminal_world(SeedPhysical { cancels, ..SeedPhysical::default() });
        assert_eq!(world.order_cancel(noon(0), M, ID), Err(PhysicalRefusal::NotDelivered));
        assert_eq!(state_of(&world, noon(0)), PaymentState::Undelivered);
        assert_eq!(world.order_cancel(noon(0), M, ID).unwrap().status, SUCCESSFUL);
        let dates: Vec<_> = world.physical(M, ID).unwrap().activities.iter().map(|one| one.date).collect();
        assert!(dates.is_sorted_by(|one, next| one < next), "a standing clock keeps them apart: {dates:?}");
    }

    #[test]
    fn nothing_is_withdrawn_where_no_cancel_runs() {
        let nothing = Err(PhysicalRefusal::NotConvenient(Inconvenience::NothingToWithdraw));
        assert_eq!(terminal_world(SeedPhysical::default()).roll_back(noon(0), M, ID), nothing);
        for over in [3, 7, 8, 12] {
            let seed = SeedPhysical::default().after(PastActivity::ended(CANCEL, over));
            assert_eq!(terminal_world(seed).roll_back(noon(0), M, ID), nothing);
        }
    }

    #[test]
    fn a_payment_is_found_only_with_the_keys_of_its_own_merchant() {
        let mut world = terminal_world(SeedPhysical::default());
        assert_eq!(world.order_cancel(noon(0), "other", ID), Err(PhysicalRefusal::NotFound));
        assert_eq!(world.roll_back(noon(0), "other", ID), Err(PhysicalRefusal::NotFound));
    }

    /// A plan of any shape: a first status, and up to two later ones.
    fn any_plan() -> impl Strategy<Value = CancelPlan> {
        let step = (0_u64..30_000, 1_u8..=12).prop_map(|(after_ms, status)| PlannedStep { after_ms, status });
        let then = proptest::collection::vec(step, 0..3);
        (1_u8..=12, then).prop_map(|(first, mut then): (u8, Vec<PlannedStep>)| {
            // What has ended has no future.
            then.sort_by_key(|step| step.after_ms);
            let ended = |status: &u8| STATUSES.ended.contains(status);
            let end = then.iter().position(|step| ended(&step.status)).map_or(then.len(), |end| end + 1);
            then.truncate(if ended(&first) { 0 } else { end });
            CancelPlan { first, then }
        })
    }

    proptest! {
        #[test]
        fn whatever_is_called_and_whenever_money_moves_back_at_most_once(
            cancels in proptest::collection::vec(any_plan(), 1..4),
            calls in proptest::collection::vec((0_u64..10, any::<bool>()), 0..30),
        ) {
            let mut world = terminal_world(SeedPhysical { cancels, ..SeedPhysical::default() });
            let mut seconds = 0;
            for (later, cancel) in calls {
                seconds += later;
                let answered = if cancel {
                    world.order_cancel(noon(seconds), M, ID)
                } else {
                    world.roll_back(noon(seconds), M, ID)
                };
                let before = state_of(&world, noon(seconds));
                if before == PaymentState::Cancelled && !cancel {
                    prop_assert!(answered.is_err(), "what is cancelled is not withdrawn");
                }
            }
            let effects = effects_of(&world, noon(seconds + 60));
            prop_assert!(effects.cancels <= 1);
            prop_assert_eq!(
                effects.cancels == 1,
                state_of(&world, noon(seconds + 60)) == PaymentState::Cancelled
            );
            prop_assert!(effects.rollbacks + effects.cancels <= effects.orders);
        }
    }
}

//! Virtual-POS payments, one by one: what an inquiry shows, and what is told of it.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{
    CancelPlan, FaultKind, PastActivity, PaymentState, PlannedStep, SeedApm, SeedVirtualPos,
};
use serde_json::json;

use super::scene::{Looks, Row, Scene};
use crate::support::Context;
use crate::support::broker_test;

const REFUND: u8 = 2;
const CANCEL: u8 = 3;
const PARTIAL_REFUND: u8 = 4;

fn sold_and(kind: u8, status: u8) -> SeedVirtualPos {
    SeedVirtualPos::default().after(PastActivity::ended(kind, status))
}

fn transaction(name: &str, seed: SeedVirtualPos) -> Row {
    Row::new(name, Kind::TransactionCancel, seed)
}

broker_test!(a_successful_cancel_is_told_as_cancelled_whoever_made_it);
async fn a_successful_cancel_is_told_as_cancelled_whoever_made_it(t: Context) -> Result<()> {
    let preauthorisation = || SeedVirtualPos { sale_status: 12, ..SeedVirtualPos::default() };
    let told = |row: Row| row.says(["cancelled"]).calls(1).leaves(PaymentState::Cancelled);
    let cancel = Some(("virtual_pos", "cancel", "successful"));
    Scene::open(&t, "")
        .await?
        .play(vec![
            told(transaction("refused", sold_and(CANCEL, 4))).payment_status(cancel),
            told(transaction("unheard", sold_and(CANCEL, 4)).struck(FaultKind::Reset)).payment_status(cancel),
            told(
                transaction("ours, unheard", SeedVirtualPos::default()).struck_after_effect(FaultKind::Reset),
            )
            .payment_status(cancel),
            told(transaction("a preauthorisation in 12", preauthorisation())),
        ])
        .await?;
    Ok(())
}

broker_test!(a_refunded_transaction_is_rejected_with_the_kind_of_its_refund);
async fn a_refunded_transaction_is_rejected_with_the_kind_of_its_refund(t: Context) -> Result<()> {
    let refunded = |row: Row| {
        row.says(["rejected/already_refunded"]).evidence("refunded").calls(1).leaves(PaymentState::Refunded)
    };
    let partially = |row: Row| {
        row.says(["rejected/partially_refunded"])
            .evidence("partially_refunded")
            .calls(1)
            .leaves(PaymentState::PartiallyRefunded)
    };
    Scene::open(&t, "")
        .await?
        .play(vec![
            refunded(transaction("in full, refused", sold_and(REFUND, 4))),
            refunded(transaction("in full, unheard", sold_and(REFUND, 4)).struck(FaultKind::Reset)),
            partially(transaction("in part, refused", sold_and(PARTIAL_REFUND, 4))),
            partially(transaction("in part, unheard", sold_and(PARTIAL_REFUND, 4)).struck(FaultKind::Reset)),
        ])
        .await?;
    Ok(())
}

broker_test!(a_cancel_under_way_is_accepted_once_and_followed_to_its_end);
async fn a_cancel_under_way_is_accepted_once_and_followed_to_its_end(t: Context) -> Result<()> {
    let under_way = |status, end| {
        let then = vec![PlannedStep { after_ms: 1_500, status: end }];
        SeedVirtualPos::default().after(PastActivity { kind: CANCEL, status, ago_ms: 0, then })
    };
    let mut rows = Vec::new();
    for status in [1, 2, 3, 6, 8, 9, 10, 11, 14] {
        rows.push(
            transaction(&format!("in {status}, then done"), under_way(status, 4))
                .says(["accepted", "cancelled"])
                .calls(1)
                .leaves(PaymentState::Cancelled),
        );
    }
    for end in [5, 7] {
        rows.push(
            transaction(&format!("in 2, then {end}"), under_way(2, end))
                .says(["accepted", "rejected/cancel_failed"])
                .evidence("cancel_failed")
                .calls(1)
                .leaves(PaymentState::CancelFailed),
        );
    }
    Scene::open(&t, "").await?.play_in_two_acts(rows).await?;
    Ok(())
}

broker_test!(a_successful_payment_and_nothing_else_is_not_done);
async fn a_successful_payment_and_nothing_else_is_not_done(t: Context) -> Result<()> {
    let fails_first = |status| SeedVirtualPos {
        cancels: vec![CancelPlan::only(status), CancelPlan::at_once()],
        ..SeedVirtualPos::default()
    };
    let again = |row: Row| row.says(["cancelled"]).calls(2).attempts(2).leaves(PaymentState::Cancelled);
    let refused = |row: Row| row.struck(FaultKind::error_code(359)).says(["rejected/not_suitable"]).calls(1);
    Scene::open(&t, "")
        .await?
        .play(vec![
            again(transaction("unanswered before", SeedVirtualPos::default()).struck(FaultKind::Reset)),
            again(transaction("a cancel in 5 counts as nothing", fails_first(5))),
            again(transaction("a cancel in 7 counts as nothing", fails_first(7))),
            refused(transaction("refused before", SeedVirtualPos::default())).evidence("sale_stands"),
            refused(transaction("refused before, beside a cancel in 5", sold_and(CANCEL, 5)))
                .evidence("cancel_failed"),
        ])
        .await?;
    Ok(())
}

broker_test!(one_more_look_buys_the_payment_status_of_a_success);
async fn one_more_look_buys_the_payment_status_of_a_success(t: Context) -> Result<()> {
    let bought =
        |kind, seed| Row::new(format!("{kind}"), kind, seed).says(["cancelled"]).calls(1).looks(Looks::Some);
    Scene::open(&t, "inquiry.after_success = ['transaction_cancel', 'apm_provision_cancel']")
        .await?
        .play(vec![
            bought(Kind::TransactionCancel, SeedVirtualPos::default().into()).payment_status(Some((
                "virtual_pos",
                "cancel",
                "successful",
            ))),
            bought(Kind::ApmProvisionCancel, paywall_simulator::Seed::from(SeedApm::default()))
                .payment_status(Some(("apm", "sale", "successful"))),
            // A look that tells nothing takes nothing away from the success.
            bought(Kind::TransactionCancel, SeedVirtualPos::default().into())
                .fault_on_inquiry(paywall_simulator::Fault::new(FaultKind::http(500)).until_cleared())
                .payment_status(None),
            // The provision cannot be asked about without the merchant's code.
            Row::new("no code to ask by", Kind::ApmProvisionCancel, SeedApm::default())
                .with("/payment/merchantUniqueCode", json!(null))
                .says(["cancelled"])
                .looks(Looks::None)
                .payment_status(None),
        ])
        .await?;
    Ok(())
}

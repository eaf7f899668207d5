//! Payments at physical terminals: what an inquiry shows, and what is told of it.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{
    CancelPlan, ClockStart, Endpoint, Fault, FaultKind, PastActivity, PaymentState, PlannedStep,
    SeedPhysical, SeedVirtualPos, SimulatorConfig,
};
use serde_json::json;

use super::scene::{Looks, Row, SOON_UNRESOLVED, Scene, id_of, payment_of};
use crate::support::Context;
use crate::support::broker_test;

const CANCEL: u8 = 2;
const REFUND: u8 = 3;

/// A successful sale with one more activity in its past.
fn sold_and(kind: u8, status: u8) -> SeedPhysical {
    SeedPhysical::default().after(PastActivity::ended(kind, status))
}

/// A sale that is itself in this state.
fn sale(sale_status: u8) -> SeedPhysical {
    SeedPhysical { sale_status, ..SeedPhysical::default() }
}

fn refused_by_state() -> FaultKind {
    FaultKind::client_message("Payment.Async.NotConvenientStatusForThisOperation")
}

fn cancel(name: &str, seed: SeedPhysical) -> Row {
    Row::new(name, Kind::AsyncCancel, seed)
}

fn rollback(name: &str, seed: SeedPhysical) -> Row {
    Row::new(name, Kind::SyncCancelRollback, seed)
}

broker_test!(any_successful_cancel_is_told_as_cancelled);
async fn any_successful_cancel_is_told_as_cancelled(t: Context) -> Result<()> {
    let told = |row: Row| {
        row.says(["cancelled"]).calls(1).leaves(PaymentState::Cancelled).payment_status(Some((
            "physical",
            "cancel",
            "successful",
        )))
    };
    Scene::open(&t, "")
        .await?
        .play(vec![
            told(cancel("cancelled before", sold_and(CANCEL, 4))),
            told(cancel("our own, unheard", SeedPhysical::default()).struck_after_effect(FaultKind::Reset)),
            // Not only the latest activity is looked at.
            told(cancel(
                "cancelled before a failed one",
                sold_and(CANCEL, 4).after(PastActivity::ended(CANCEL, 5)),
            )),
            told(cancel(
                "cancelled before a failed refund",
                sold_and(CANCEL, 4).after(PastActivity::ended(REFUND, 5)),
            )),
        ])
        .await?;
    Ok(())
}

broker_test!(a_withdrawn_order_is_told_as_rolled_back_and_is_never_ordered_again);
async fn a_withdrawn_order_is_told_as_rolled_back_and_is_never_ordered_again(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let ordered = scene.stage.simulator.seed(SeedPhysical::default().cancelling(CancelPlan::waiting()))?;
    let order = scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &ordered, scene.today()));
    scene.publish(&order).await?;
    scene
        .stage
        .ledger
        .wait_for("accepted", |events| {
            events.iter().any(|e| e["subject"] == order["intentId"] && e["data"]["status"] == "accepted")
        })
        .await?;
    let withdrawal = scene.cancellation(
        Kind::SyncCancelRollback,
        payment_of(Kind::SyncCancelRollback, &ordered, scene.today()),
    );
    scene.publish(&withdrawal).await?;
    // The order of an earlier intent was withdrawn, and whether ours came through is open.
    let unheard = scene.stage.simulator.seed(sold_and(CANCEL, 12))?;
    let fault = Fault::new(FaultKind::Reset).on(Endpoint::AsyncCancel).of(&unheard.id);
    scene.stage.simulator.plan(fault).await?;
    let doubtful =
        scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &unheard, scene.today()));
    scene.publish(&doubtful).await?;
    scene
        .ends_of(&[&order, &withdrawal, &doubtful].map(|cancellation| id_of(cancellation).to_owned()))
        .await?;
    let curtain = scene.close().await?;

    assert_eq!(curtain.heard(id_of(&order)), ["accepted", "rolled_back"]);
    assert_eq!(curtain.heard(id_of(&withdrawal)), ["rolled_back"]);
    assert_eq!(curtain.heard(id_of(&doubtful)), ["rolled_back"]);
    for payment in [&ordered, &unheard] {
        let truth = curtain.scene.truth(&payment.id);
        assert_eq!((truth.calls_of(Endpoint::AsyncCancel), truth.state), (1, PaymentState::RolledBack));
    }
    Ok(())
}

broker_test!(an_order_that_an_inquiry_finds_under_way_is_accepted_once_and_followed);
async fn an_order_that_an_inquiry_finds_under_way_is_accepted_once_and_followed(t: Context) -> Result<()> {
    let rows = [1, 2, 9, 10, 11].map(|status| {
        let plan = CancelPlan { first: status, then: vec![PlannedStep { after_ms: 1_500, status: 4 }] };
        cancel(&format!("our own order, unheard, in {status}"), SeedPhysical::default().cancelling(plan))
            .struck_after_effect(FaultKind::Reset)
            .says(["accepted", "cancelled"])
            .calls(1)
            .leaves(PaymentState::Cancelled)
    });
    let anothers = PastActivity {
        kind: CANCEL,
        status: 10,
        ago_ms: 0,
        then: vec![PlannedStep { after_ms: 1_500, status: 4 }],
    };
    let refused =
        cancel("another's order, because of which ours was refused", SeedPhysical::default().after(anothers))
            .says(["accepted", "cancelled"])
            .calls(1)
            .leaves(PaymentState::Cancelled);
    // It goes first: five faults in a row pause the lane, and what is published in that moment can come again.
    let rows = [refused].into_iter().chain(rows).collect();
    Scene::open(&t, "").await?.play_in_two_acts(rows).await?;
    Ok(())
}

broker_test!(an_ordered_cancel_that_fails_is_rejected_as_failed);
async fn an_ordered_cancel_that_fails_is_rejected_as_failed(t: Context) -> Result<()> {
    Scene::open(&t, "")
        .await?
        .play(vec![
            cancel(
                "accepted, then failed",
                SeedPhysical::default().cancelling(CancelPlan::accepted(300, 600, 5)),
            )
            .says(["accepted", "rejected/cancel_failed"])
            .evidence("cancel_failed")
            .calls(1)
            .leaves(PaymentState::CancelFailed)
            .payment_status(Some(("physical", "cancel", "failed"))),
            cancel("failed and unheard", SeedPhysical::default().cancelling(CancelPlan::only(5)))
                .struck_after_effect(FaultKind::Reset)
                .says(["rejected/cancel_failed"])
                .calls(1)
                .leaves(PaymentState::CancelFailed),
        ])
        .await?;
    Ok(())
}

broker_test!(an_order_that_never_reached_the_device_is_given_again_unless_it_was_refused);
async fn an_order_that_never_reached_the_device_is_given_again_unless_it_was_refused(
    t: Context,
) -> Result<()> {
    let mut rows = Vec::new();
    for status in [3, 7, 8] {
        let cancels = vec![CancelPlan::only(status), CancelPlan::at_once()];
        rows.push(
            cancel(&format!("not delivered: {status}"), SeedPhysical { cancels, ..SeedPhysical::default() })
                .says(["cancelled"])
                .calls(2)
                .attempts(2)
                .leaves(PaymentState::Cancelled),
        );
        rows.push(
            cancel(&format!("refused beside an old {status}"), sold_and(CANCEL, status))
                .struck(refused_by_state())
                .says(["rejected/not_suitable"])
                .evidence("not_delivered")
                .calls(1)
                .leaves(PaymentState::Undelivered),
        );
    }
    Scene::open(&t, "").await?.play(rows).await?;
    Ok(())
}

broker_test!(a_refunded_payment_is_rejected_as_already_refunded);
async fn a_refunded_payment_is_rejected_as_already_refunded(t: Context) -> Result<()> {
    let told = |row: Row| {
        row.says(["rejected/already_refunded"]).evidence("refunded").calls(1).leaves(PaymentState::Refunded)
    };
    Scene::open(&t, "")
        .await?
        .play(vec![
            told(cancel("refused", sold_and(REFUND, 4))),
            told(cancel("unheard", sold_and(REFUND, 4)).struck(FaultKind::Reset)),
        ])
        .await?;
    Ok(())
}

broker_test!(a_standing_sale_is_called_again_after_doubt_and_rejected_after_a_refusal);
async fn a_standing_sale_is_called_again_after_doubt_and_rejected_after_a_refusal(t: Context) -> Result<()> {
    Scene::open(&t, "")
        .await?
        .play(vec![
            cancel("unanswered before", SeedPhysical::default())
                .struck(FaultKind::Reset)
                .says(["cancelled"])
                .calls(2)
                .leaves(PaymentState::Cancelled),
            cancel("refused by state before", SeedPhysical::default())
                .struck(refused_by_state())
                .says(["rejected/not_suitable"])
                .evidence("sale_stands")
                .calls(1)
                .leaves(PaymentState::Stands)
                .payment_status(Some(("physical", "sale", "successful"))),
        ])
        .await?;
    Ok(())
}

broker_test!(a_standing_sale_after_an_accepted_order_is_in_progress_until_nobody_can_tell);
async fn a_standing_sale_after_an_accepted_order_is_in_progress_until_nobody_can_tell(
    t: Context,
) -> Result<()> {
    let scene = Scene::open(&t, SOON_UNRESOLVED).await?;
    let payment = scene.stage.simulator.seed(SeedPhysical::default())?;
    // The gateway says that it has the order, and knows nothing of it afterwards.
    let accepted = json!({
        "result": {
            "paymentRequestId": payment.id,
            "paymentRequestActivityId": uuid::Uuid::new_v4(),
            "paymentRequestActivityTypeId": 2,
            "paymentStatus": 10,
        },
        "failed": false, "message": null, "clientMessage": null, "succeeded": true,
    });
    let what = FaultKind::Raw { status: 200, headers: vec![], body: accepted.to_string() };
    scene.stage.simulator.plan(Fault::new(what).on(Endpoint::AsyncCancel).of(&payment.id)).await?;
    let cancellation =
        scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &payment, scene.today()));
    scene.publish(&cancellation).await?;
    scene.ends_of(&[id_of(&cancellation).to_owned()]).await?;
    let curtain = scene.close().await?;

    assert_eq!(curtain.heard(id_of(&cancellation)), ["accepted", "unresolved/no_evidence"]);
    assert_eq!(curtain.end(id_of(&cancellation))["data"]["reason"]["evidence"], "sale_stands");
    assert_eq!(curtain.scene.truth(&payment.id).calls_of(Endpoint::AsyncCancel), 1);
    assert_eq!(curtain.dead_letter(id_of(&cancellation)).headers["cancel-announced"], "accepted,unresolved");
    Ok(())
}

broker_test!(a_sale_that_failed_or_was_withdrawn_is_rejected_as_not_suitable);
async fn a_sale_that_failed_or_was_withdrawn_is_rejected_as_not_suitable(t: Context) -> Result<()> {
    let mut rows = Vec::new();
    for status in [12, 5] {
        let told = |row: Row| {
            row.says(["rejected/not_suitable"]).evidence("sale_gone").calls(1).leaves(PaymentState::NotPaid)
        };
        rows.push(told(cancel(&format!("refused, sale in {status}"), sale(status))));
        rows.push(told(cancel(&format!("unheard, sale in {status}"), sale(status)).struck(FaultKind::Reset)));
    }
    Scene::open(&t, "").await?.play(rows).await?;
    Ok(())
}

broker_test!(an_unknown_payment_is_rejected_after_a_refusal_and_unresolved_after_doubt);
async fn an_unknown_payment_is_rejected_after_a_refusal_and_unresolved_after_doubt(t: Context) -> Result<()> {
    let mut rows = Vec::new();
    for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel] {
        rows.push(
            Row::about_nobody(format!("{kind}: refused"), kind)
                .says(["rejected/not_found"])
                .evidence("no_such_payment")
                .calls(1),
        );
        rows.push(
            Row::about_nobody(format!("{kind}: unheard"), kind)
                .struck(FaultKind::Reset)
                .says(["unresolved/no_evidence"])
                .evidence("no_such_payment")
                .calls(1)
                .attempts(1),
        );
    }
    let curtain = Scene::open(&t, SOON_UNRESOLVED).await?.play(rows).await?;
    assert_eq!(curtain.dead.len(), 3);
    assert!(curtain.dead.iter().all(|dead| dead.headers["cancel-doubt"] == "true"));
    assert!(curtain.dead.iter().all(|dead| dead.headers["cancel-phase"] == "settle"));
    Ok(())
}

broker_test!(an_inquiry_that_is_down_for_a_while_is_asked_again_and_the_truth_is_told);
async fn an_inquiry_that_is_down_for_a_while_is_asked_again_and_the_truth_is_told(t: Context) -> Result<()> {
    let mut rows = Vec::new();
    let down = [
        FaultKind::http(503),
        FaultKind::Reset,
        FaultKind::Garbage,
        FaultKind::http(401),
        FaultKind::error_code(1),
    ];
    for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel] {
        let (status, state) = super::verdicts::success_of(kind);
        for fault in &down {
            let inquiry = Fault::new(fault.clone()).times(3);
            rows.push(
                Row::new(format!("{kind}: done, inquiry {fault:?}"), kind, super::verdicts::ready_for(kind))
                    .struck_after_effect(FaultKind::Reset)
                    .fault_on_inquiry(inquiry.clone())
                    .says([status])
                    .calls(1)
                    .leaves(state),
            );
            rows.push(
                Row::new(
                    format!("{kind}: not done, inquiry {fault:?}"),
                    kind,
                    super::verdicts::ready_for(kind),
                )
                .struck(FaultKind::Reset)
                .fault_on_inquiry(inquiry)
                .says([status])
                .calls(2)
                .leaves(state),
            );
        }
    }
    Scene::open(&t, "").await?.play(rows).await?;
    Ok(())
}

broker_test!(an_inquiry_that_is_down_for_ever_leaves_the_doubt_unresolved);
async fn an_inquiry_that_is_down_for_ever_leaves_the_doubt_unresolved(t: Context) -> Result<()> {
    let mut rows = Vec::new();
    for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel] {
        let down = Fault::new(FaultKind::http(503)).until_cleared();
        for (name, fault) in [
            ("done", Fault::new(FaultKind::Reset).after_effect()),
            ("not done", Fault::new(FaultKind::Reset)),
        ] {
            rows.push(
                Row::new(format!("{kind}: {name}"), kind, super::verdicts::ready_for(kind))
                    .fault_on_call(fault)
                    .fault_on_inquiry(down.clone())
                    .says(["unresolved/no_evidence"])
                    .evidence("unanswered")
                    .payment_status(None)
                    .calls(1)
                    .attempts(1),
            );
        }
    }
    let curtain = Scene::open(&t, SOON_UNRESOLVED).await?.play(rows).await?;
    assert!(curtain.dead.iter().all(|dead| dead.headers["cancel-doubt"] == "true"));
    Ok(())
}

broker_test!(answers_that_exclude_each_other_leave_the_doubt_unresolved);
async fn answers_that_exclude_each_other_leave_the_doubt_unresolved(t: Context) -> Result<()> {
    // The list has a sale, and the inquiry knows no such payment.
    let unknown = FaultKind::client_message("Payment.Request.RequestNotFound");
    let contradicting = |kind| {
        Row::new(format!("{kind}"), kind, super::verdicts::ready_for(kind))
            .struck(FaultKind::Reset)
            .fault(Fault::new(unknown.clone()).on(Endpoint::PhysicalInquiry).until_cleared())
            .says(["unresolved/contradicting_evidence"])
            .evidence("contradictory")
            .calls(1)
    };
    Scene::open(&t, SOON_UNRESOLVED)
        .await?
        .play(vec![contradicting(Kind::AsyncCancel), contradicting(Kind::SyncCancelRollback)])
        .await?;
    Ok(())
}

broker_test!(a_number_that_nobody_knows_leaves_the_doubt_unresolved);
async fn a_number_that_nobody_knows_leaves_the_doubt_unresolved(t: Context) -> Result<()> {
    let marked_as_fraud = SeedVirtualPos::default().after(PastActivity::ended(3, 13));
    let unknown = |row: Row| row.says(["unresolved/no_evidence"]).evidence("unknown").calls(1).attempts(1);
    Scene::open(&t, SOON_UNRESOLVED)
        .await?
        .play(vec![
            unknown(cancel("a cancel in 6", SeedPhysical::default().cancelling(CancelPlan::only(6)))),
            unknown(rollback("of a cancel in 6, unheard", sold_and(CANCEL, 6)).struck(FaultKind::Reset)),
            unknown(Row::new("a cancel marked as fraud", Kind::TransactionCancel, marked_as_fraud)),
        ])
        .await?;
    Ok(())
}

broker_test!(looks_can_be_limited_in_number);
async fn looks_can_be_limited_in_number(t: Context) -> Result<()> {
    let row = Row::new("transaction", Kind::TransactionCancel, SeedVirtualPos::default())
        .struck_after_effect(FaultKind::Reset)
        .fault_on_inquiry(Fault::new(FaultKind::http(503)).until_cleared())
        .says(["unresolved/no_evidence"])
        .calls(1);
    let curtain = Scene::open(&t, "inquiry.asks_max = 2").await?.play(vec![row]).await?;
    assert_eq!(curtain.scene.stage.simulator.requests_to(Endpoint::PrivateQueryByUniqueCode).len(), 2);
    assert_eq!(curtain.dead[0].headers["cancel-asked"], "2");
    Ok(())
}

broker_test!(a_rollback_of_a_completed_cancel_is_rejected);
async fn a_rollback_of_a_completed_cancel_is_rejected(t: Context) -> Result<()> {
    let told = |row: Row| {
        row.says(["rejected/cancel_completed"])
            .evidence("cancelled")
            .calls(1)
            .leaves(PaymentState::Cancelled)
            .payment_status(Some(("physical", "cancel", "successful")))
    };
    Scene::open(&t, "")
        .await?
        .play(vec![
            told(rollback("refused", sold_and(CANCEL, 4))),
            told(rollback("unheard", sold_and(CANCEL, 4)).struck(FaultKind::Reset)),
        ])
        .await?;
    Ok(())
}

broker_test!(a_withdrawn_order_is_told_as_rolled_back_whoever_withdrew_it);
async fn a_withdrawn_order_is_told_as_rolled_back_whoever_withdrew_it(t: Context) -> Result<()> {
    let waiting = || SeedPhysical::default().after(PastActivity::ended(CANCEL, 10));
    let told = |row: Row| {
        row.says(["rolled_back"]).calls(1).leaves(PaymentState::RolledBack).payment_status(Some((
            "physical",
            "cancel",
            "withdrawn",
        )))
    };
    Scene::open(&t, "")
        .await?
        .play(vec![
            told(rollback("withdrawn before", sold_and(CANCEL, 12))),
            told(rollback("by ours, unheard", waiting()).struck_after_effect(FaultKind::Reset)),
        ])
        .await?;
    Ok(())
}

broker_test!(a_rollback_after_the_device_has_the_order_is_refused_after_exactly_one_call);
async fn a_rollback_after_the_device_has_the_order_is_refused_after_exactly_one_call(
    t: Context,
) -> Result<()> {
    Scene::open(&t, "")
        .await?
        .play(vec![
            rollback("refused", sold_and(CANCEL, 11))
                .says(["rejected/device_received"])
                .evidence("received_by_device")
                .calls(1)
                .attempts(1)
                .leaves(PaymentState::Pending),
            rollback("unheard", sold_and(CANCEL, 11))
                .struck(FaultKind::Reset)
                .says(["rejected/device_received"])
                .calls(1),
        ])
        .await?;
    Ok(())
}

broker_test!(a_rollback_within_the_window_is_refused_after_exactly_one_call);
async fn a_rollback_within_the_window_is_refused_after_exactly_one_call(t: Context) -> Result<()> {
    // The clock of the gateway stands: the order is never old enough.
    let standing = ClockStart::FrozenAt("2026-03-01T09:00:00Z".parse()?);
    let simulator = SimulatorConfig { clock: standing, ..SimulatorConfig::default() };
    let mut scene = Scene::without_worker(&t, "", Some(simulator)).await?;
    scene.work().await?;
    let rows = [1, 2, 9, 10].map(|status| {
        let just_ordered = PastActivity { ago_ms: 0, ..PastActivity::ended(CANCEL, status) };
        rollback(&format!("too early, order in {status}"), SeedPhysical::default().after(just_ordered))
            .says(["rejected/rollback_window"])
            .evidence("in_progress")
            .calls(1)
            .attempts(1)
            .leaves(PaymentState::Pending)
    });
    let curtain = scene.play(rows.into()).await?;
    let gateway = &curtain.events[0]["data"]["reason"]["gateway"];
    assert_eq!(gateway["clientMessage"], "Payment.Async.NotConvenientStatusForThisOperation");
    Ok(())
}

broker_test!(a_rollback_in_doubt_whose_order_still_waits_is_called_again);
async fn a_rollback_in_doubt_whose_order_still_waits_is_called_again(t: Context) -> Result<()> {
    let rows = [1, 2, 9, 10].map(|status| {
        rollback(&format!("order in {status}"), sold_and(CANCEL, status))
            .struck(FaultKind::Reset)
            .says(["rolled_back"])
            .calls(2)
            .attempts(2)
            .leaves(PaymentState::RolledBack)
    });
    Scene::open(&t, "").await?.play(rows.into()).await?;
    Ok(())
}

broker_test!(a_rollback_is_never_called_before_its_wait_is_over);
async fn a_rollback_is_never_called_before_its_wait_is_over(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "rollback.wait = '1500ms'").await?;
    let requested = scene.clock.now();
    let earlier = requested - jiff::SignedDuration::from_secs(60);
    let waiting = || SeedPhysical::default().after(PastActivity::ended(CANCEL, 10));
    let curtain = scene
        .play(vec![
            rollback("the time of the order is not told", waiting())
                .says(["rolled_back"])
                .calls(1)
                .attempts(1),
            rollback("the order is old enough", waiting())
                .with("/payment/cancelRequestedAt", json!(earlier.to_string()))
                .says(["rolled_back"])
                .calls(1)
                .attempts(1),
        ])
        .await?;

    let waited = |index: usize| {
        let payment = &curtain.scene.stage.simulator.truth().payments[index];
        payment.log[0].at.duration_since(requested).as_millis()
    };
    assert!(waited(0) >= 1_500, "{} ms", waited(0));
    assert!(waited(1) < waited(0), "{} ms, and not {} ms", waited(1), waited(0));
    Ok(())
}

broker_test!(a_rollback_with_no_live_cancel_is_rejected_as_nothing_to_withdraw);
async fn a_rollback_with_no_live_cancel_is_rejected_as_nothing_to_withdraw(t: Context) -> Result<()> {
    let told = |row: Row| row.says(["rejected/nothing_to_withdraw"]).calls(1);
    let mut rows = vec![
        told(rollback("no cancel at all", SeedPhysical::default())).evidence("sale_stands"),
        told(rollback("no cancel at all, unheard", SeedPhysical::default()).struck(FaultKind::Reset)),
        told(rollback("refunded", sold_and(REFUND, 4))).evidence("refunded"),
        told(rollback("failed", sold_and(CANCEL, 5))).evidence("cancel_failed"),
        told(rollback("no sale", sale(5))).evidence("sale_gone"),
    ];
    for status in [3, 7, 8] {
        rows.push(
            told(rollback(&format!("not delivered: {status}"), sold_and(CANCEL, status)))
                .evidence("not_delivered"),
        );
    }
    let curtain = Scene::open(&t, "").await?.play(rows).await?;
    assert!(curtain.dead.is_empty());
    Ok(())
}

broker_test!(no_inquiry_is_made_where_the_reply_told_everything);
async fn no_inquiry_is_made_where_the_reply_told_everything(t: Context) -> Result<()> {
    let row = cancel("done", SeedPhysical::default()).says(["cancelled"]).looks(Looks::None);
    Scene::open(&t, "inquiry.after_success = ['async_cancel']").await?.play(vec![row]).await?;
    Ok(())
}

//! Copies, deliveries that come again, and messages that nobody waits for.

use anyhow::{Context as _, Result};
use cancel_worker::domain::intent::Kind;
use lapin::options::{BasicGetOptions, QueueDeleteOptions};
use paywall_simulator::{BatchPlan, CancelPlan, PaymentState, SeedPhysical, SeedVirtualPos};
use serde_json::{Value, json};

use super::batch::{Batch, Item};
use super::scene::{Row, Scene, endpoint_of, id_of, payment_of};
use super::verdicts::{OF_ONE_PAYMENT, ready_for, success_of};
use crate::support::Context;
use crate::support::broker_test;

broker_test!(a_second_copy_of_an_intent_tells_the_same_event);
async fn a_second_copy_of_an_intent_tells_the_same_event(t: Context) -> Result<()> {
    let mut rows: Vec<Row> = OF_ONE_PAYMENT
        .into_iter()
        .map(|kind| {
            let (status, state) = success_of(kind);
            Row::new(format!("{kind} twice"), kind, ready_for(kind)).copies(2).says([status]).leaves(state)
        })
        .collect();
    rows.push(
        Row::new(
            "an order twice",
            Kind::AsyncCancel,
            SeedPhysical::default().cancelling(CancelPlan::accepted(300, 800, 4)),
        )
        .copies(2)
        .says(["accepted", "cancelled"])
        .leaves(PaymentState::Cancelled),
    );
    rows.push(
        Row::about_nobody("a refusal twice", Kind::TransactionCancel).copies(2).says(["rejected/not_found"]),
    );
    rows.push(
        Row::new(
            "a batch twice",
            Kind::BatchCancel,
            SeedVirtualPos::default().in_batch(BatchPlan::Cancelled { after_ms: 300 }),
        )
        .copies(2)
        .says(["accepted", "closed"])
        .leaves(PaymentState::Cancelled),
    );
    Scene::open(&t, "").await?.play(rows).await?;
    Ok(())
}

broker_test!(a_late_copy_of_an_ordered_cancel_orders_nothing_again);
async fn a_late_copy_of_an_ordered_cancel_orders_nothing_again(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let payment = scene.stage.simulator.seed(SeedPhysical::default().cancelling(CancelPlan::waiting()))?;
    let order = scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &payment, scene.today()));
    scene.publish(&order).await?;
    scene
        .stage
        .ledger
        .wait_for("accepted", |events| events.iter().any(|e| e["data"]["status"] == "accepted"))
        .await?;
    let withdrawal = scene.cancellation(
        Kind::SyncCancelRollback,
        payment_of(Kind::SyncCancelRollback, &payment, scene.today()),
    );
    scene.publish(&withdrawal).await?;
    scene.ends_of(&[&order, &withdrawal].map(|cancellation| id_of(cancellation).to_owned())).await?;

    scene.publish(&order).await?;
    let ends = |events: &[Value]| {
        events
            .iter()
            .filter(|e| e["subject"] == order["intentId"] && e["data"]["status"] == "rolled_back")
            .count()
    };
    scene.stage.ledger.wait_for("end of the late copy", |events| ends(events) == 2).await?;
    let curtain = scene.close().await?;

    assert_eq!(curtain.heard(id_of(&order)), ["accepted", "rolled_back"]);
    let truth = curtain.scene.truth(&payment.id);
    assert_eq!((truth.effects.orders, truth.state), (1, PaymentState::RolledBack));
    Ok(())
}

broker_test!(a_copy_of_what_this_process_has_done_is_asked_about_and_not_called);
async fn a_copy_of_what_this_process_has_done_is_asked_about_and_not_called(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let mut told = Vec::new();
    for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel] {
        let payment = scene.stage.simulator.seed(ready_for(kind))?;
        let cancellation = scene.cancellation(kind, payment_of(kind, &payment, scene.today()));
        scene.publish(&cancellation).await?;
        told.push((kind, cancellation, payment));
    }
    let subjects: Vec<String> =
        told.iter().map(|(_, cancellation, _)| id_of(cancellation).to_owned()).collect();
    scene.ends_of(&subjects).await?;
    for (_, cancellation, _) in &told {
        scene.publish(cancellation).await?;
    }
    let ends_of = |events: &[Value], subject: &str| {
        events.iter().filter(|e| e["subject"] == subject && e["data"]["terminal"] == true).count()
    };
    let ended_twice = |events: &[Value]| subjects.iter().all(|subject| ends_of(events, subject) == 2);
    scene.stage.ledger.wait_for("the ends of the copies", ended_twice).await?;
    let curtain = scene.close().await?;

    for (kind, cancellation, payment) in &told {
        assert_eq!(curtain.heard(id_of(cancellation)), [success_of(*kind).0], "{kind}");
        assert_eq!(curtain.scene.truth(&payment.id).calls_of(endpoint_of(*kind)), 1, "{kind}");
    }
    Ok(())
}

broker_test!(a_delivery_that_comes_again_is_asked_about_before_it_is_called);
async fn a_delivery_that_comes_again_is_asked_about_before_it_is_called(t: Context) -> Result<()> {
    let mut scene = Scene::without_worker(&t, "", None).await?;
    let mut told = Vec::new();
    for kind in OF_ONE_PAYMENT {
        let payment = scene.stage.simulator.seed(ready_for(kind))?;
        let cancellation = scene.cancellation(kind, payment_of(kind, &payment, scene.today()));
        scene.publish(&cancellation).await?;
        told.push((kind, cancellation, payment));
    }
    let batch = Batch::new(
        "batch",
        vec![Item::of(
            "item",
            SeedVirtualPos::default().in_batch(BatchPlan::Cancelled { after_ms: 0 }),
            "cancelled",
        )],
        ["accepted", "closed"],
        json!({ "cancelled": 1 }),
    );
    let batch_cancellation = batch.publish(&scene).await?;
    for kind in Kind::ALL {
        take_and_give_back(&scene, kind).await?;
    }

    scene.work().await?;
    let mut subjects: Vec<String> =
        told.iter().map(|(_, cancellation, _)| id_of(cancellation).to_owned()).collect();
    subjects.push(id_of(&batch_cancellation).to_owned());
    scene.ends_of(&subjects).await?;
    let curtain = scene.close().await?;

    for (kind, cancellation, payment) in &told {
        let (status, state) = success_of(*kind);
        assert_eq!(curtain.heard(id_of(cancellation)), [status], "{kind}");
        let truth = curtain.scene.truth(&payment.id);
        assert_eq!((truth.calls_of(endpoint_of(*kind)), truth.state), (1, state), "{kind}");
        // The call that an earlier process may have made counts, too.
        assert_eq!(curtain.end(id_of(cancellation))["data"]["attempts"], 2, "{kind}");
        if *kind != Kind::ApmProvisionCancel {
            assert_ne!(truth.log[0].endpoint, endpoint_of(*kind), "{kind} is asked about first");
        }
    }
    let wrong = batch.check(&curtain, &batch_cancellation);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Takes what lies in a lane, as a process would, and dies with it.
async fn take_and_give_back(scene: &Scene, kind: Kind) -> Result<()> {
    let lane = format!("{}.intents.{kind}", scene.stage.topology().prefix());
    let channel = scene.stage.connection().create_channel().await?;
    channel
        .basic_get(lane.as_str().into(), BasicGetOptions::default())
        .await?
        .context("the lane is empty")?;
    channel.close(200, "the process is gone".into()).await?;
    scene.wait_for_depth(&lane, 1).await
}

broker_test!(an_outcome_that_no_ledger_listens_to_is_kept);
async fn an_outcome_that_no_ledger_listens_to_is_kept(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let channel = scene.stage.connection().create_channel().await?;
    channel.queue_delete(scene.stage.ledger.queue().into(), QueueDeleteOptions::default()).await?;
    let payment = scene.stage.simulator.seed(SeedPhysical::default())?;
    let cancellation =
        scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &payment, scene.today()));
    scene.publish(&cancellation).await?;

    let unrouted = scene.stage.topology().unrouted();
    scene.wait_for_depth(&unrouted, 1).await?;
    let kept = scene.stage.take_all(&unrouted).await?;
    assert_eq!(kept[0].routing_key, "async_cancel.cancelled");
    let event: Value = serde_json::from_slice(&kept[0].body)?;
    assert_eq!(event["subject"], cancellation["intentId"]);
    scene.close().await?;
    Ok(())
}

broker_test!(an_intent_with_an_unknown_routing_key_is_kept);
async fn an_intent_with_an_unknown_routing_key_is_kept(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let payment = scene.stage.simulator.seed(SeedPhysical::default())?;
    let cancellation =
        scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &payment, scene.today()));
    let bytes = serde_json::to_vec(&cancellation)?;
    scene.stage.publish_bytes("async-cancel", bytes.clone()).await?;

    let unrouted = scene.stage.topology().unrouted();
    scene.wait_for_depth(&unrouted, 1).await?;
    let kept = scene.stage.take_all(&unrouted).await?;
    assert_eq!((kept[0].routing_key.as_str(), &kept[0].body), ("async-cancel", &bytes));
    let curtain = scene.close().await?;
    assert_eq!(curtain.scene.truth(&payment.id).calls_total(), 0);
    Ok(())
}

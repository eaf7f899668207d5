//! Time and budgets: days that end, cancellations from the future, letters that grow too old.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use jiff::{SignedDuration, ToSpan};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use paywall_simulator::{
    Api, BatchPlan, Endpoint, Fault, FaultKind, PaymentState, SeedPhysical, SeedVirtualPos,
};
use serde_json::{Value, json};

use super::batch::{Batch, Item};
use super::scene::{Looks, QUIET, Row, SOON_UNRESOLVED, Scene, id_of, payment_of, zone};
use super::verdicts::{OF_ONE_PAYMENT, ready_for, success_of};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::{PATIENCE, said};

/// Both kinds that can be held to the day of the payment.
const BOTH: &str = "same_day.enforce = ['batch_cancel', 'transaction_cancel']";

fn sold_on(date: jiff::civil::Date) -> SeedVirtualPos {
    SeedVirtualPos::default().on(date).in_batch(BatchPlan::Cancelled { after_ms: 0 })
}

fn noon_of(date: jiff::civil::Date) -> Value {
    json!(date.at(12, 0, 0, 0).to_zoned(zone()).unwrap().timestamp().to_string())
}

broker_test!(what_was_requested_after_its_day_is_rejected_without_a_call);
async fn what_was_requested_after_its_day_is_rejected_without_a_call(t: Context) -> Result<()> {
    let scene = Scene::open(&t, BOTH).await?;
    let days_ago = |days: i64| scene.today() - days.days();
    let mixed = Batch::new(
        "one of two is too late",
        vec![
            Item::of("late", sold_on(days_ago(3)), "rejected/same_day_window_closed")
                .on(days_ago(3))
                .calls(0),
            Item::of("in-time", sold_on(scene.today()), "cancelled"),
        ],
        ["accepted", "closed"],
        json!({ "cancelled": 1, "rejected": 1 }),
    );
    let all = Batch::new(
        "all are too late",
        vec![
            Item::of("late", sold_on(days_ago(1)), "rejected/same_day_window_closed")
                .on(days_ago(1))
                .calls(0),
        ],
        ["closed"],
        json!({ "rejected": 1 }),
    );
    let (mixed_cancellation, all_cancellation) = (mixed.publish(&scene).await?, all.publish(&scene).await?);
    let row = Row::new("transaction", Kind::TransactionCancel, sold_on(days_ago(3)))
        .says(["rejected/same_day_window_closed"])
        .calls(0)
        .attempts(0)
        .looks(Looks::None)
        .leaves(PaymentState::Stands);
    let cast = scene.publish_rows(vec![row]).await?;
    scene
        .ends_of(&[&mixed_cancellation, &all_cancellation].map(|cancellation| id_of(cancellation).to_owned()))
        .await?;
    let curtain = scene.finish(cast).await?;

    let wrong = [mixed.check(&curtain, &mixed_cancellation), all.check(&curtain, &all_cancellation)].concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

broker_test!(what_is_handled_too_late_is_asked_about_and_not_called);
async fn what_is_handled_too_late_is_asked_about_and_not_called(t: Context) -> Result<()> {
    let scene = Scene::open(&t, BOTH).await?;
    let day = scene.today() - 3.days();
    let late = |name: &str, seed: SeedVirtualPos| {
        Row::new(name, Kind::TransactionCancel, seed.on(day))
            .with("/requestedAt", noon_of(day))
            .calls(0)
            .attempts(0)
    };
    let cancelled = SeedVirtualPos::default().after(paywall_simulator::PastActivity::ended(3, 4));
    let batch = Batch::new(
        "batch",
        vec![
            Item::of("stands", sold_on(day), "rejected/same_day_window_closed").on(day).calls(0),
            Item::of("cancelled", cancelled.clone(), "cancelled").on(day).calls(0),
        ],
        ["closed"],
        json!({ "cancelled": 1, "rejected": 1 }),
    )
    .requested_on(day);
    let cancellation = batch.publish(&scene).await?;
    scene.ends_of(&[id_of(&cancellation).to_owned()]).await?;
    let curtain = scene
        .play(vec![
            late("stands", SeedVirtualPos::default())
                .says(["rejected/same_day_window_closed"])
                .evidence("sale_stands")
                .leaves(PaymentState::Stands),
            late("cancelled by another copy", cancelled).says(["cancelled"]).leaves(PaymentState::Cancelled),
        ])
        .await?;
    let wrong = batch.check(&curtain, &cancellation);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

broker_test!(what_is_handled_too_late_and_cannot_be_asked_about_is_unresolved);
async fn what_is_handled_too_late_and_cannot_be_asked_about_is_unresolved(t: Context) -> Result<()> {
    let scene = Scene::open(&t, &format!("{BOTH}\n{SOON_UNRESOLVED}")).await?;
    let day = scene.today() - 3.days();
    let row = Row::new("transaction", Kind::TransactionCancel, sold_on(day))
        .with("/requestedAt", noon_of(day))
        .fault_on_inquiry(Fault::new(FaultKind::http(503)).until_cleared())
        .says(["unresolved/deadline_passed"])
        .calls(0)
        .attempts(0);
    scene.play(vec![row]).await?;
    Ok(())
}

broker_test!(midnight_ends_what_was_not_done_and_nothing_that_was_ordered);
async fn midnight_ends_what_was_not_done_and_nothing_that_was_ordered(t: Context) -> Result<()> {
    let scene = Scene::open(&t, &format!("{BOTH}\ninquiry.age_max = '20s'")).await?;
    let day = scene.today();
    // The day ends in five seconds, and nobody can ask before.
    scene.set_local_time(23, 59, 55);
    let midnight = scene.clock.now() + SignedDuration::from_secs(5);
    let blind = || Fault::new(FaultKind::http(503)).until_cleared();
    let not_heard = || Fault::new(FaultKind::Reset).after_effect();
    let not_done = || Fault::new(FaultKind::Reset);
    let item =
        |name: &str, batch, says| Item::of(name, SeedVirtualPos::default().in_batch(batch), says).on(day);
    let at_once = || BatchPlan::Cancelled { after_ms: 0 };
    let too_late = "rejected/same_day_window_closed";
    let batches = [
        Batch::new(
            "ordered",
            vec![
                item("ends-tomorrow", BatchPlan::Cancelled { after_ms: 7_000 }, "cancelled"),
                item(
                    "fails-tomorrow",
                    BatchPlan::Failed { after_ms: 7_000, status: 5 },
                    "rejected/cancel_failed",
                ),
            ],
            ["accepted", "closed"],
            json!({ "cancelled": 1, "rejected": 1 }),
        ),
        Batch::new(
            "not done",
            // It may have been called, and a bulk queue may hold it over midnight.
            vec![item("not-done", at_once(), "unresolved/deadline_passed")],
            ["unresolved/deadline_passed"],
            json!({ "unresolved": 1 }),
        )
        .struck(not_done())
        .struck_when_asked(blind()),
        Batch::new("done", vec![item("done", at_once(), "cancelled")], ["closed"], json!({ "cancelled": 1 }))
            .struck(not_heard())
            .struck_when_asked(blind()),
    ];
    let transaction = |name, fault| {
        Row::new(name, Kind::TransactionCancel, SeedVirtualPos::default().on(day))
            .fault_on_call(fault)
            .fault_on_inquiry(blind())
            .calls(1)
    };
    let rows = vec![
        transaction("not done", not_done()).says([too_late]).leaves(PaymentState::Stands),
        transaction("done", not_heard()).says(["cancelled"]).leaves(PaymentState::Cancelled),
    ];
    let mut cancellations = Vec::new();
    for batch in &batches {
        cancellations.push(batch.publish(&scene).await?);
    }
    let cast = scene.publish_rows(rows).await?;
    assert!(scene.clock.now() < midnight, "the machine is too slow to tell anything of this");
    let simulator = scene.stage.simulator.handle();
    simulator.wait_until(PATIENCE, |simulator| simulator.now() > midnight).await?;
    simulator.clear_faults().await?;

    let subjects: Vec<String> =
        cancellations.iter().map(|cancellation| id_of(cancellation).to_owned()).collect();
    scene.ends_of(&subjects).await?;
    let curtain = scene.finish(cast).await?;
    let wrong: Vec<String> = batches
        .iter()
        .zip(&cancellations)
        .flat_map(|(batch, cancellation)| batch.check(&curtain, cancellation))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What ends by the day's end was not told before another copy's last call could have been answered.
    let counts_from = midnight + SignedDuration::try_from(2 * QUIET)?;
    for event in curtain.events.iter().filter(|event| said(event) == too_late) {
        let decided_at: jiff::Timestamp = event["data"]["decidedAt"].as_str().unwrap().parse()?;
        assert!(decided_at >= counts_from, "{event}");
    }
    Ok(())
}

broker_test!(an_intent_from_the_future_is_given_up_without_a_call);
async fn an_intent_from_the_future_is_given_up_without_a_call(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let tomorrow = json!((scene.clock.now() + SignedDuration::from_mins(10)).to_string());
    let soon = json!((scene.clock.now() + SignedDuration::from_mins(4)).to_string());
    let mut rows: Vec<Row> = OF_ONE_PAYMENT
        .into_iter()
        .map(|kind| {
            Row::new(format!("{kind} of tomorrow"), kind, ready_for(kind))
                .with("/requestedAt", tomorrow.clone())
                .says(["given_up/requested_in_future"])
                .calls(0)
                .attempts(0)
                .looks(Looks::None)
        })
        .collect();
    rows.push(
        Row::new("clocks differ a little", Kind::AsyncCancel, SeedPhysical::default())
            .with("/requestedAt", soon)
            .says(["cancelled"])
            .calls(1),
    );
    scene.play(rows).await?;
    Ok(())
}

broker_test!(an_intent_for_a_merchant_without_keys_is_given_up_without_a_call);
async fn an_intent_for_a_merchant_without_keys_is_given_up_without_a_call(t: Context) -> Result<()> {
    let rows = OF_ONE_PAYMENT.map(|kind| {
        Row::new(format!("{kind}"), kind, ready_for(kind))
            .with("/merchant", json!("nobody"))
            .says(["given_up/unknown_merchant"])
            .calls(0)
            .attempts(0)
            .looks(Looks::None)
    });
    Scene::open(&t, "").await?.play(rows.into()).await?;
    Ok(())
}

broker_test!(each_merchant_is_called_with_its_own_keys);
async fn each_merchant_is_called_with_its_own_keys(t: Context) -> Result<()> {
    let others = SeedPhysical { merchant: "other".to_owned(), ..SeedPhysical::default() };
    let rows = vec![
        Row::new("its own payment", Kind::AsyncCancel, others.clone())
            .with("/merchant", json!("other"))
            .says(["cancelled"])
            .leaves(PaymentState::Cancelled),
        Row::new("another's payment", Kind::AsyncCancel, others)
            .says(["rejected/not_found"])
            .leaves(PaymentState::Stands),
    ];
    Scene::open(&t, "").await?.play(rows).await?;
    Ok(())
}

broker_test!(what_can_never_be_sent_is_given_up_by_its_age);
async fn what_can_never_be_sent_is_given_up_by_its_age(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "retry.age_max = '2s'").await?;
    let refusing = FaultKind::RefuseConnection { for_ms: None };
    scene.stage.simulator.plan(Fault::new(refusing).at(Api::Physical)).await?;
    let row = Row::new("never sent", Kind::AsyncCancel, SeedPhysical::default())
        .says(["given_up/deadline_passed"])
        .calls(0)
        .attempts(0)
        .looks(Looks::None);
    let curtain = scene.play(vec![row]).await?;
    assert_eq!(curtain.dead[0].headers["cancel-phase"], "call");
    Ok(())
}

broker_test!(what_the_broker_took_from_a_lane_is_unresolved_and_never_called);
async fn what_the_broker_took_from_a_lane_is_unresolved_and_never_called(t: Context) -> Result<()> {
    let mut scene = Scene::without_worker(&t, "", None).await?;
    let mut cancellations = Vec::new();
    for kind in OF_ONE_PAYMENT {
        let payment = scene.stage.simulator.seed(ready_for(kind))?;
        let cancellation = scene.cancellation(kind, payment_of(kind, &payment, scene.today()));
        publish_with_expiration(&scene, &cancellation).await?;
        cancellations.push((cancellation, payment));
    }
    let rescue = format!("{}.rescue", scene.stage.topology().prefix());
    scene.wait_for_depth(&rescue, 4).await?;

    scene.work().await?;
    let subjects: Vec<String> =
        cancellations.iter().map(|(cancellation, _)| id_of(cancellation).to_owned()).collect();
    scene.ends_of(&subjects).await?;
    let curtain = scene.close().await?;

    for (cancellation, payment) in &cancellations {
        assert_eq!(curtain.heard(id_of(cancellation)), ["unresolved/expired"]);
        assert_eq!(curtain.end(id_of(cancellation))["data"]["attempts"], 0);
        let truth = curtain.scene.truth(&payment.id);
        assert_eq!((truth.calls_total(), truth.inquiries_total()), (0, 0));
    }
    Ok(())
}

/// What no order system may do: the broker takes the letter away before anybody has seen it.
async fn publish_with_expiration(scene: &Scene, cancellation: &Value) -> Result<()> {
    scene.remember(cancellation)?;
    let channel = scene.stage.connection().create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let exchange = format!("{}.intents", scene.stage.topology().prefix());
    let properties = BasicProperties::default().with_delivery_mode(2).with_expiration("1".into());
    channel
        .basic_publish(
            exchange.as_str().into(),
            cancellation["kind"].as_str().unwrap().into(),
            BasicPublishOptions::default(),
            &serde_json::to_vec(cancellation)?,
            properties,
        )
        .await?
        .await?;
    Ok(())
}

broker_test!(where_the_same_day_rule_is_not_enforced_the_gateway_decides);
async fn where_the_same_day_rule_is_not_enforced_the_gateway_decides(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let day = scene.today() - 3.days();
    // Not enforced for this kind: the gateway's own refusal decides.
    let row = Row::new("not enforced", Kind::TransactionCancel, sold_on(day))
        .says(["rejected/not_suitable"])
        .evidence("sale_stands")
        .calls(1)
        .leaves(PaymentState::Stands);
    let curtain = scene.play(vec![row]).await?;
    assert_eq!(curtain.events[0]["data"]["reason"]["gateway"]["errorCode"], 269);
    assert_eq!(curtain.scene.stage.simulator.requests_to(Endpoint::TransactionCancel).len(), 1);
    Ok(())
}

broker_test!(a_clock_that_is_set_back_makes_no_wait_longer);
/// What waits when this machine's clock is set back by an hour waits as long as it was to wait, and no hour longer.
async fn a_clock_that_is_set_back_makes_no_wait_longer(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "retry.delays = ['3s']").await?;
    let row = |name: &str, kind, fault: FaultKind| {
        let (status, state) = success_of(kind);
        Row::new(name, kind, ready_for(kind)).struck(fault).says([status]).leaves(state).calls(2)
    };
    let rows = vec![
        row("a busy gateway", Kind::AsyncCancel, FaultKind::http(429)).attempts(2),
        row(
            "a cancellation to be asked later",
            Kind::ApmProvisionCancel,
            FaultKind::http_retry_after(503, "3"),
        )
        .attempts(2),
        row("a doubt that has to be quiet", Kind::TransactionCancel, FaultKind::Reset).attempts(2),
        row("a door that is shut", Kind::AsyncCancel, FaultKind::http(401)).of_merchant("other").attempts(1),
    ];
    let waiting = rows.len() as u64;
    let cast = scene.publish_rows(rows).await?;
    scene.wait_for_waits(waiting).await?;
    scene.set_back(SignedDuration::from_hours(1));
    // Each of them comes back early by the hour, once.
    let letters = scene.early_letters();
    scene.finish(cast).await?;
    assert_eq!(letters.letters(), waiting);
    Ok(())
}

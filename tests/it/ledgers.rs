//! Ledgers that are full: nobody is stopped, nothing is lost, and the gateway is not called again.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{Endpoint, SeedPhysical, SeedVirtualPos};
use serde_json::json;

use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::{Stage, intent, said};

/// Binds a ledger that takes one message and refuses the rest, and fills it.
async fn full_ledger(t: &Context, stage: &Stage, pattern: &str) -> Result<String> {
    let name = format!("{}.full-ledger", t.prefix());
    t.on_cleanup([name.clone()], []);
    let channel = stage.connection().create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), durable, arguments).await?;
    channel
        .queue_bind(
            name.as_str().into(),
            format!("{}.outcomes", t.prefix()).as_str().into(),
            pattern.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    // A quorum queue notices its length a little late: it is full when it says so.
    loop {
        let publishing = channel.basic_publish(
            "".into(),
            name.as_str().into(),
            BasicPublishOptions::default(),
            b"in the way",
            BasicProperties::default(),
        );
        if publishing.await?.await?.is_nack() {
            return Ok(name);
        }
    }
}

broker_test!(an_event_that_a_full_ledger_refuses_is_announced_again_without_a_second_call);
async fn an_event_that_a_full_ledger_refuses_is_announced_again_without_a_second_call(
    t: Context,
) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let full = full_ledger(&t, &stage, "async_cancel.#").await?;
    let working = stage.work_consuming().await?;
    let payment = stage.simulator.seed(SeedPhysical::default())?;
    let cancellation = intent(Kind::AsyncCancel, json!({ "paymentRequestId": payment.id }));
    let id = cancellation["intentId"].as_str().unwrap_or_default().to_owned();
    stage.publish(&cancellation).await?;

    // The healthy ledger hears it at every try, always with the same id and the same bytes.
    let events = stage
        .ledger
        .wait_for("third try", |events| events.iter().filter(|event| event["subject"] == *id).count() >= 3)
        .await?;
    assert!(events.iter().all(|event| event == &events[0]), "{events:#?}");
    stage.take_all(&full).await?;
    let booked = loop {
        let booked = stage.take_all(&full).await?;
        if !booked.is_empty() {
            break booked;
        }
        tokio::task::yield_now().await;
    };

    let booked: serde_json::Value = serde_json::from_slice(&booked[0].body)?;
    assert_eq!(booked, events[0]);
    assert_eq!(said(&booked), "cancelled");
    let truth = stage.simulator.truth_of(&payment.id).expect("it was seeded");
    assert_eq!(truth.calls_of(Endpoint::AsyncCancel), 1);
    working.stop().await?;
    Ok(())
}

broker_test!(a_ledger_that_is_full_for_one_kind_does_not_stop_the_others);
async fn a_ledger_that_is_full_for_one_kind_does_not_stop_the_others(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    full_ledger(&t, &stage, "async_cancel.#").await?;
    let working = stage.work_consuming().await?;
    for _ in 0..20 {
        let payment = stage.simulator.seed(SeedPhysical::default())?;
        stage.publish(&intent(Kind::AsyncCancel, json!({ "paymentRequestId": payment.id }))).await?;
    }
    let mut others = Vec::new();
    for _ in 0..20 {
        let payment = stage.simulator.seed(SeedVirtualPos::default())?;
        let cancellation = intent(
            Kind::TransactionCancel,
            json!({ "uniqueCode": payment.unique_code, "date": payment.date }),
        );
        stage.publish(&cancellation).await?;
        others.push((cancellation["intentId"].as_str().unwrap_or_default().to_owned(), payment));
    }

    for (id, payment) in others {
        assert_eq!(said(&stage.ledger.end_of(&id).await?), "cancelled");
        let truth = stage.simulator.truth_of(&payment.id).expect("it was seeded");
        assert_eq!(truth.calls_of(Endpoint::TransactionCancel), 1);
    }
    working.stop().await?;
    Ok(())
}

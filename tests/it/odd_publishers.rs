//! Publishers that route oddly, use an id twice, or give what a person at the dead letters wants to see: one letter has one
//! end, and nobody is told two.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Confirmation};
use serde_json::{Value, json};

use crate::process::cancellations::{Cancellation, Copies, Course, audit, nothing_is_left};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::{Stage, Taken, said};

/// Properties of a letter: its headers, with copies to these keys.
fn copied_to(header: &str, keys: &[&str]) -> BasicProperties {
    let keys: Vec<_> = keys.iter().map(|key| AMQPValue::LongString((*key).into())).collect();
    let mut headers = FieldTable::default();
    headers.insert(header.into(), AMQPValue::FieldArray(FieldArray::from(keys)));
    BasicProperties::default().with_delivery_mode(2).with_headers(headers)
}

async fn publish(stage: &Stage, key: &str, properties: BasicProperties, intent: &Value) -> Result<()> {
    let channel = stage.connection().create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let exchange = format!("{}.intents", stage.topology().prefix());
    let body = serde_json::to_vec(intent)?;
    let options = BasicPublishOptions::default();
    let confirm = channel
        .basic_publish(exchange.as_str().into(), key.into(), options, &body, properties)
        .await?
        .await?;
    ensure!(matches!(confirm, Confirmation::Ack(_)), "{confirm:?}");
    Ok(())
}

/// The dead letters, by their reason.
async fn dead_letters(stage: &Stage, len: u32) -> Result<BTreeMap<String, Taken>> {
    stage.until_depth(&format!("{}.dead-letters", stage.topology().prefix()), len).await?;
    let dead = stage.dead_letters().await?;
    Ok(dead.into_iter().map(|letter| (letter.headers["cancel-reason"].clone(), letter)).collect())
}

fn told(stage: &Stage, cancellation: &Cancellation) -> Vec<String> {
    stage.ledger.events_of(cancellation.subject()).iter().map(said).collect()
}

fn calls(stage: &Stage, cancellation: &Cancellation) -> u64 {
    let truth = stage.simulator.truth_of(&cancellation.payments[0].1).expect("the payment is known");
    truth.calls_of(cancellation.endpoint)
}

broker_test!(the_publishers_key_judges_all_copies_of_a_letter_alike);
async fn the_publishers_key_judges_all_copies_of_a_letter_alike(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = stage.work_consuming().await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    // Neither key is the letter's kind, and the copy is in the kind's own lane.
    publish(&stage, "some.key", copied_to("CC", &["transaction_cancel"]), &cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;
    let dead = dead_letters(&stage, 1).await?;
    assert_eq!(dead["invalid_intent"].headers["cancel-routing-key"], "some.key");
    assert_eq!(told(&stage, &cancellation), ["rejected/invalid_intent"]);
    assert_eq!(calls(&stage, &cancellation), 0);
    worker.stop().await?;
    nothing_is_left(&stage).await
}

broker_test!(a_copy_in_another_kinds_lane_is_told_to_nobody);
async fn a_copy_in_another_kinds_lane_is_told_to_nobody(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = stage.work_consuming().await?;
    for header in ["CC", "BCC"] {
        let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
        let properties = copied_to(header, &["async_cancel"]);
        publish(&stage, "transaction_cancel", properties, &cancellation.intent).await?;
        cancellation.ended(&stage, 1).await?;
        let dead = dead_letters(&stage, 1).await?;
        let copy = dead.get("wrong_lane").with_context(|| format!("{:?}", dead.keys()))?;
        assert_eq!(copy.routing_key, "transaction_cancel.wrong_lane");
        assert_eq!(copy.headers["cancel-intent-id"], cancellation.subject());
        assert_eq!(copy.body, serde_json::to_vec(&cancellation.intent)?);
        cancellation.is_told_truly(&stage, Copies::One)?;
    }
    worker.stop().await?;
    nothing_is_left(&stage).await
}

broker_test!(an_intent_id_with_another_body_is_called_once_and_told_once);
async fn an_intent_id_with_another_body_is_called_once_and_told_once(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = stage.work_consuming().await?;
    let first = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&first.intent).await?;
    first.ended(&stage, 1).await?;

    let reuse = |kind: Kind, lay: &[(&str, Value)]| -> Result<Cancellation> {
        let mut other = Cancellation::new(&stage, kind, Course::AtOnce)?;
        other.intent["intentId"] = first.intent["intentId"].clone();
        other.intent["requestedAt"] = first.intent["requestedAt"].clone();
        for (field, value) in lay {
            other.intent[field] = value.clone();
        }
        Ok(other)
    };
    let payment = first.intent["payment"].clone();
    let others = [
        ("another payment", reuse(Kind::TransactionCancel, &[])?),
        ("another kind", reuse(Kind::AsyncCancel, &[])?),
        (
            "another merchant",
            reuse(Kind::TransactionCancel, &[("payment", payment.clone()), ("merchant", json!("other"))])?,
        ),
        (
            "another time",
            reuse(
                Kind::TransactionCancel,
                &[("payment", payment.clone()), ("requestedAt", json!("2026-01-02T03:04:05Z"))],
            )?,
        ),
        ("no intent at all", reuse(Kind::TransactionCancel, &[("payment", json!({}))])?),
    ];
    for (what, other) in &others {
        stage.publish(&other.intent).await?;
        let dead = dead_letters(&stage, 1).await.context(*what)?;
        let letter = dead.get("intent_id_reused").with_context(|| format!("{what}: {:?}", dead.keys()))?;
        assert_eq!(letter.headers["cancel-intent-id"], first.subject(), "{what}");
        assert_eq!(calls(&stage, other), 0, "{what}");
    }
    // White space and the publisher's own object make no other intent: it is a copy, and ends as one.
    let mut same = first.intent.clone();
    same["reference"] = json!({ "again": true });
    stage.publish_bytes("transaction_cancel", serde_json::to_vec_pretty(&same)?).await?;
    first.ended(&stage, 2).await?;
    assert!(told(&stage, &first).iter().all(|said| said == "cancelled"), "{:?}", told(&stage, &first));
    worker.stop().await?;
    nothing_is_left(&stage).await
}

broker_test!(what_the_broker_takes_from_a_lane_is_judged_by_its_body_alone);
async fn what_the_broker_takes_from_a_lane_is_judged_by_its_body_alone(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let expired = |properties: BasicProperties| properties.with_expiration("1".into());
    let kind = Kind::TransactionCancel;
    let [plain, by_copy] =
        [Cancellation::new(&stage, kind, Course::AtOnce)?, Cancellation::new(&stage, kind, Course::AtOnce)?];
    let mut malformed = Cancellation::new(&stage, kind, Course::AtOnce)?;
    malformed.intent["payment"] = json!({});
    // Published before anybody consumes.
    publish(&stage, "transaction_cancel", expired(BasicProperties::default()), &plain.intent).await?;
    let copied = expired(copied_to("CC", &["transaction_cancel"]));
    publish(&stage, "some.key", copied, &by_copy.intent).await?;
    publish(&stage, "transaction_cancel", expired(BasicProperties::default()), &malformed.intent).await?;
    stage.until_depth(&format!("{}.rescue", stage.topology().prefix()), 3).await?;
    let worker = stage.work_consuming().await?;
    for (cancellation, expected) in [
        (&plain, "unresolved/expired"),
        (&by_copy, "unresolved/expired"),
        (&malformed, "rejected/invalid_intent"),
    ] {
        cancellation.ended(&stage, 1).await?;
        assert_eq!(told(&stage, cancellation), [expected]);
        assert_eq!(calls(&stage, cancellation), 0);
    }
    worker.stop().await?;
    Ok(())
}

broker_test!(what_the_publisher_gave_is_at_the_dead_letter_and_what_it_forged_is_not);
async fn what_the_publisher_gave_is_at_the_dead_letter_and_what_it_forged_is_not(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = stage.work_consuming().await?;
    let mut cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    cancellation.intent["merchant"] = json!("nobody");
    let mut forged = FieldTable::default();
    for name in
        ["cancel-routing-key", "cancel-unreadable", "cancel-user-id", "cancel-doubt", "cancel-replay-of"]
    {
        forged.insert(name.into(), AMQPValue::LongString("forged".into()));
    }
    let properties = BasicProperties::default()
        .with_message_id("m-1".into())
        .with_app_id("orders".into())
        .with_user_id("guest".into())
        .with_headers(forged);
    publish(&stage, "transaction_cancel", properties, &cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;
    let dead = dead_letters(&stage, 1).await?;
    let headers = &dead["unknown_merchant"].headers;
    let given = |name: &str| headers.get(name).map(String::as_str);
    assert_eq!(given("cancel-routing-key"), Some("transaction_cancel"));
    assert_eq!(given("cancel-message-id"), Some("m-1"));
    assert_eq!(given("cancel-app-id"), Some("orders"));
    assert_eq!(given("cancel-user-id"), Some("guest"));
    assert_eq!(given("cancel-doubt"), Some("false"));
    assert_eq!(given("cancel-unreadable"), None);
    assert_eq!(given("cancel-replay-of"), None);
    worker.stop().await?;
    Ok(())
}

broker_test!(an_outcome_names_its_occasion_in_its_properties_and_the_rule_that_read_the_reply);
async fn an_outcome_names_its_occasion_in_its_properties_and_the_rule_that_read_the_reply(
    t: Context,
) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let queue = audit(&t, &stage).await?;
    let worker = stage.work_consuming().await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;
    let channel = stage.connection().create_channel().await?;
    let message = channel
        .basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true })
        .await?
        .context("the outcome is there")?;
    let event: Value = serde_json::from_slice(&message.data)?;
    let properties = &message.properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.correlation_id()).as_deref(), Some(cancellation.subject()));
    assert_eq!(text(properties.message_id()).as_deref(), event["id"].as_str());
    assert_eq!(text(properties.kind()).as_deref(), Some("cancel.outcome.v1"));
    assert_eq!(text(properties.app_id()).as_deref(), Some("cancel-worker"));
    let time: jiff::Timestamp = event["time"].as_str().context("it has a time")?.parse()?;
    assert_eq!(properties.timestamp().map(i64::try_from).transpose()?, Some(time.as_second()));
    let rule = properties.headers().as_ref().and_then(|headers| headers.inner().get("cancel-rule").cloned());
    assert_eq!(rule, Some(AMQPValue::LongString("success".into())));
    worker.stop().await?;
    Ok(())
}

//! The harness keeps its own promises.

use anyhow::{Context as _, Result, ensure};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, ErrorKind, ExchangeKind};

use crate::support::Context;
use crate::support::broker_test;

broker_test!(a_confirmed_letter_comes_back);
async fn a_confirmed_letter_comes_back(t: Context) -> Result<()> {
    let queue = format!("{}.letters", t.prefix());
    t.on_cleanup([queue.clone()], []);
    let connection = t.connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.queue_declare(queue.as_str().into(), durable(), quorum()).await?;

    let confirmation = channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions { mandatory: true, ..Default::default() },
            b"a letter",
            BasicProperties::default().with_delivery_mode(2),
        )
        .await?
        .await?;
    ensure!(matches!(confirmation, Confirmation::Ack(None)), "not confirmed: {confirmation:?}");

    let letter = channel
        .basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true })
        .await?
        .context("the queue is empty")?;
    assert_eq!(letter.data, b"a letter");
    Ok(())
}

broker_test!(a_cleaned_up_test_leaves_nothing_behind);
async fn a_cleaned_up_test_leaves_nothing_behind(t: Context) -> Result<()> {
    let inner = t.another();
    let queue = format!("{}.queue", inner.prefix());
    let exchange = format!("{}.exchange", inner.prefix());
    inner.on_cleanup([queue.clone(), format!("{}.never-declared", inner.prefix())], [exchange.clone()]);
    let connection = t.connect().await?;
    let channel = connection.create_channel().await?;
    channel.queue_declare(queue.as_str().into(), durable(), quorum()).await?;
    channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions { durable: true, internal: true, ..Default::default() },
            FieldTable::default(),
        )
        .await?;

    inner.clean_up().await?;

    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
    ensure!(is_not_found(&found), "the queue: {found:?}");
    let channel = connection.create_channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let found = channel
        .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, passive, FieldTable::default())
        .await;
    ensure!(is_not_found(&found), "the exchange: {found:?}");
    Ok(())
}

broker_test!(a_broker_of_ours_can_be_asked_and_operated);
async fn a_broker_of_ours_can_be_asked_and_operated(t: Context) -> Result<()> {
    let broker = t.broker();
    if let Some(version) = broker.ctl(&["version"]).await {
        assert_eq!(version?.trim(), broker.version());
    }
    if let Some(overview) = broker.management("/api/overview").await {
        assert_eq!(overview?["rabbitmq_version"].as_str(), Some(broker.version()));
    }
    Ok(())
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..Default::default() }
}

/// A queue as the contract's topology has them.
fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(1_000_000));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments
}

fn is_not_found<T>(answer: &lapin::Result<T>) -> bool {
    const NOT_FOUND: u16 = 404;
    match answer {
        Ok(_) => false,
        Err(error) => matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND),
    }
}

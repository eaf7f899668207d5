//! Delays that are on time, and what is said of those that are not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::Stopped;
use cancel_worker::clock::Clock;
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::lateness::{Alarmed, Figures, LatenessLimits};
use cancel_worker::memory::Delays;
use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use paywall_simulator::{Fault, FaultKind};
use serde_json::json;
use uuid::Uuid;

use crate::process::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::{PATIENCE, Stage, intent};

/// One delay queue, so that every wait goes through it.
const ONE_TIER: &str = "[retry]\ndelays = [\"1s\"]\n";

/// Stuck after five seconds: nobody waits for the broker's three minutes.
const SHORT: LatenessLimits = LatenessLimits {
    late_after: Duration::from_secs(3),
    stuck_after: Duration::from_secs(2),
    told_every: Duration::from_secs(600),
};

fn figures(delays: &Delays) -> Result<Figures> {
    delays.figures(Clock::system().now()).remove("1s").context("there is one tier")
}

/// Waits until this is said of the tier. The queues are looked at every ten seconds.
async fn alarmed(delays: &Delays, expected: Option<Alarmed>) -> Result<()> {
    let waiting = async {
        while figures(delays)?.alarm != expected {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.with_context(|| format!("it is never said to be {expected:?}: {:?}", figures(delays)))?
}

/// A cancellation that the gateway is too busy for at first, so that it waits once.
async fn busy_cancellation(stage: &Stage) -> Result<Cancellation> {
    let cancellation = Cancellation::new(stage, Kind::TransactionCancel, Course::AtOnce)?;
    let busy = FaultKind::http_retry_after(503, "0");
    stage.simulator.plan(Fault::new(busy).of(&cancellation.payments[0].1)).await?;
    Ok(cancellation)
}

broker_test!(waits_that_end_on_time_raise_no_alarm_between_their_hops_nor_at_their_end);
async fn waits_that_end_on_time_raise_no_alarm_between_their_hops_nor_at_their_end(t: Context) -> Result<()> {
    let stage = Stage::new(&t, &format!("{ONE_TIER}[rollback]\nwait = \"5500ms\"\n")).await?;
    let (worker, delays) = stage.work_watching(SHORT)?;
    let rollback = intent(Kind::SyncCancelRollback, json!({ "paymentRequestId": Uuid::new_v4() }));

    // Six hops of a second each. Were any of them measured from the first, the last would be late.
    stage.publish(&rollback).await?;
    stage.ledger.end_of(rollback["intentId"].as_str().context("an intent has an id")?).await?;

    assert_eq!(worker.stop().await?, Stopped::Drained);
    let Figures { gone, back, late, overdue, alarm, .. } = figures(&delays)?;
    ensure!(gone >= 6, "{gone} hops");
    assert_eq!((back, late, overdue, alarm), (gone, 0, 0, None));
    Ok(())
}

broker_test!(letters_that_somebody_holds_are_alarmed_until_they_are_back);
/// A consumer that nobody knows of, as a person at the broker may leave one behind.
async fn letters_that_somebody_holds_are_alarmed_until_they_are_back(t: Context) -> Result<()> {
    let stage = Stage::new(&t, ONE_TIER).await?;
    let (worker, delays) = stage.work_watching(SHORT)?;
    let channel = stage.connection().create_channel().await?;
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let queue = format!("{}.delay.1s", t.prefix());
    let mut holding = channel
        .basic_consume(
            queue.as_str().into(),
            "somebody".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let cancellation = busy_cancellation(&stage).await?;
    stage.publish(&cancellation.intent).await?;
    let _held = holding.next().await.context("the consumer has ended")??;

    alarmed(&delays, Some(Alarmed::Stuck)).await?;
    assert_eq!(figures(&delays)?.overdue, 1);

    channel.close(200, "done".into()).await?;
    cancellation.ended(&stage, 1).await?;
    alarmed(&delays, None).await?;
    assert_eq!(figures(&delays)?.overdue, 0);
    assert_eq!(worker.stop().await?, Stopped::Drained);
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(a_way_back_that_is_missing_is_alarmed);
async fn a_way_back_that_is_missing_is_alarmed(t: Context) -> Result<()> {
    let stage = Stage::new(&t, ONE_TIER).await?;
    let (worker, delays) = stage.work_watching(SHORT)?;
    let before = busy_cancellation(&stage).await?;
    stage.publish(&before.intent).await?;
    before.ended(&stage, 1).await?;
    let channel = stage.connection().create_channel().await?;
    let (queue, exchange) =
        (format!("{}.returns.transaction_cancel", t.prefix()), format!("{}.returns", t.prefix()));
    let key = stage
        .topology()
        .bindings()
        .iter()
        .find(|binding| binding.source == exchange && format!("{:?}", binding.destination).contains(&queue))
        .map(|binding| binding.key.clone())
        .context("the returns are bound")?;
    channel
        .queue_unbind(
            queue.as_str().into(),
            exchange.as_str().into(),
            key.as_str().into(),
            FieldTable::default(),
        )
        .await?;

    let cancellation = busy_cancellation(&stage).await?;
    stage.publish(&cancellation.intent).await?;

    alarmed(&delays, Some(Alarmed::Stuck)).await?;
    let Figures { gone, back, overdue, .. } = figures(&delays)?;
    assert_eq!((gone, back, overdue), (2, 1, 1));
    assert_eq!(worker.stop().await?, Stopped::Drained);
    Ok(())
}

//! In one lane lies a message that the broker can deliver to nobody who speaks AMQP 0-9-1: it closes the connection at each
//! try. How soon is that told, and how much do the other lanes feel of it?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::Bench;
use crate::support::amqp10::publish_with_a_uuid;

/// What it is called on the command line.
pub(crate) const NAME: &str = "a message that cannot be delivered";
/// How many letters a second each of the other lanes is offered.
const OFFERED: f64 = 50.0;
/// For so long.
const LASTS: Duration = Duration::from_secs(60);
/// Within this the queue has a name.
const ALARM_MAX: Duration = Duration::from_secs(30);
/// The lane that it lies in.
const TROUBLED: Kind = Kind::AsyncCancel;
/// The others.
const OTHERS: [Kind; 4] =
    [Kind::SyncCancelRollback, Kind::TransactionCancel, Kind::ApmProvisionCancel, Kind::BatchCancel];

/// Offers the same without the message and with it, and says what came of it.
pub(crate) async fn measure(bench: &Bench) -> Result<Value> {
    let without = offer(bench).await?;
    let intents = format!("{}.intents", bench.prefix);
    publish_with_a_uuid(bench.stage.url(), &intents, TROUBLED.as_str(), b"{}").await?;
    let published = Instant::now();
    let alarm = timeout(ALARM_MAX, bench.worker.stderr.event("lane_stopped")).await.context("no alarm")??;
    let alarm_after = published.elapsed();
    let queue = format!("{intents}.{TROUBLED}");
    ensure!(alarm["messaging.destination.name"] == queue, "another queue is blamed: {alarm}");
    let with = offer(bench).await?;

    println!("{NAME}: {OFFERED} letters a second in each of four other lanes, for {} s", LASTS.as_secs());
    println!("  the alarm names its queue after {} ms", alarm_after.as_millis());
    for (name, took) in [("without", &without), ("with", &with)] {
        let (p50, p95) = (percentile(took, 50).as_millis(), percentile(took, 95).as_millis());
        println!("  {name:<8} {} letters, all have ended, p50 {p50} ms, p95 {p95} ms", took.len());
    }
    Ok(json!({
        "alarm_ms": alarm_after.as_millis() as u64,
        "p95_ms_without": percentile(&without, 95).as_millis() as u64,
        "p95_ms_with": percentile(&with, 95).as_millis() as u64,
        "letters": [without.len(), with.len()],
    }))
}

/// What each letter took to its end, in order.
async fn offer(bench: &Bench) -> Result<Vec<Duration>> {
    let mut publishing = JoinSet::new();
    let turn = bench.offer(&OTHERS, OFFERED, LASTS, &mut publishing).await?;
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    bench.all_ended(&turn).await?;
    let ended = turn.sent.iter().filter_map(|(id, (_, at, _))| Some(bench.heard.at(id)? - *at));
    let mut took: Vec<Duration> = ended.collect();
    took.sort();
    Ok(took)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

//! Lanes whose endpoint is down, slow or limited: they pause and come back, and the others do not feel it.

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::{Stopped, Timeouts};
use cancel_worker::domain::intent::Kind;
use cancel_worker::worker::handling_max;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{Api, Endpoint, Fault, FaultKind, SeedApm, SeedPhysical, SeedVirtualPos};
use serde_json::{Value, json};

use crate::process::cancellations::nothing_is_left;
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::{Lines, Process};
use crate::support::proxy::{Frame, Proxy};
use crate::support::stage::{PATIENCE, Stage, UNHURRIED, intent, load, said};

/// Few letters in hand, so that it is seen what stays in the lane.
const SMALL_LANES: &str =
    "lanes = { async_cancel = { prefetch = 5 }, sync_cancel_rollback = { prefetch = 5 } }";

/// So many failing calls in a row pause a lane.
const ENOUGH: usize = 5;

/// A letter, and the payment that it is about.
struct Sent {
    id: String,
    payment: String,
}

/// Publishes a cancellation that can be granted at once.
async fn send(stage: &Stage, kind: Kind, merchant: &str) -> Result<Sent> {
    let merchant = merchant.to_owned();
    let (payment, target) = match kind {
        Kind::AsyncCancel => {
            let seed = SeedPhysical { merchant: merchant.clone(), ..SeedPhysical::default() };
            let payment = stage.simulator.seed(seed)?;
            (payment.id.clone(), json!({ "paymentRequestId": payment.id }))
        }
        Kind::TransactionCancel => {
            let seed = SeedVirtualPos { merchant: merchant.clone(), ..SeedVirtualPos::default() };
            let payment = stage.simulator.seed(seed)?;
            (payment.id, json!({ "uniqueCode": payment.unique_code, "date": payment.date }))
        }
        Kind::ApmProvisionCancel => {
            let seed = SeedApm { merchant: merchant.clone(), ..SeedApm::default() };
            let payment = stage.simulator.seed(seed)?;
            (payment.id, json!({ "uniqueCode": payment.unique_code }))
        }
        Kind::SyncCancelRollback | Kind::BatchCancel => anyhow::bail!("not needed"),
    };
    let mut cancellation = intent(kind, target);
    cancellation["merchant"] = merchant.into();
    stage.publish(&cancellation).await?;
    Ok(Sent { id: cancellation["intentId"].as_str().context("an id")?.to_owned(), payment })
}

async fn send_many(stage: &Stage, kind: Kind, merchant: &str, count: usize) -> Result<Vec<Sent>> {
    let mut sent = Vec::new();
    for _ in 0..count {
        sent.push(send(stage, kind, merchant).await?);
    }
    Ok(sent)
}

/// Waits until all of them are cancelled, and says how many attempts that took together.
async fn all_cancelled(stage: &Stage, sent: &[Sent]) -> Result<u64> {
    let mut attempts = 0;
    for Sent { id, .. } in sent {
        let end = stage.ledger.end_of(id).await?;
        assert_eq!(said(&end), "cancelled");
        attempts += end["data"]["attempts"].as_u64().context("attempts")?;
    }
    Ok(attempts)
}

/// So many requests have come to an endpoint.
fn calls(stage: &Stage, endpoint: Endpoint) -> usize {
    stage.simulator.requests_to(endpoint).len()
}

fn lane(stage: &Stage, kind: Kind) -> String {
    format!("{}.intents.{}", stage.topology().prefix(), kind.as_str())
}

/// How many letters are ready in a queue, and how many consumers it has.
async fn state(stage: &Stage, queue: &str) -> Result<(u32, u32)> {
    let channel = stage.connection().create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
    channel.close(200, "seen".into()).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}

/// Waits until a queue has so many consumers, and says how many letters are ready in it then. One letter that is asked
/// for by itself counts as a consumer while it is not settled.
async fn until_consumers(stage: &Stage, queue: &str, wanted: u32) -> Result<u32> {
    let waiting = async {
        loop {
            let (ready, consumers) = state(stage, queue).await?;
            if consumers == wanted {
                return Ok(ready);
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.with_context(|| format!("{queue} never had {wanted} consumers"))?
}

/// Publishes as many as pause a lane that is down, and waits until it is paused.
async fn pause(stage: &Stage, kind: Kind, fault: Fault) -> Result<(u64, Vec<Sent>)> {
    until_consumers(stage, &lane(stage, kind), 1).await?;
    let fault = stage.simulator.plan(fault.until_cleared()).await?;
    let sent = send_many(stage, kind, "default", ENOUGH).await?;
    until_consumers(stage, &lane(stage, kind), 0).await?;
    Ok((fault, sent))
}

fn down() -> Fault {
    Fault::new(FaultKind::http(503)).on(Endpoint::AsyncCancel)
}

broker_test!(an_endpoint_that_is_down_stops_its_lane_alone_and_burns_no_attempts);
async fn an_endpoint_that_is_down_stops_its_lane_alone_and_burns_no_attempts(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let working = stage.work_consuming().await?;
    let (fault, mut letters) = pause(&stage, Kind::AsyncCancel, down()).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 30).await?);
    let others = send_many(&stage, Kind::TransactionCancel, "default", 30).await?;
    assert_eq!(all_cancelled(&stage, &others).await?, 30, "the other lane does not feel it");
    // Probes go on, one after the other.
    let probed = calls(&stage, Endpoint::AsyncCancel);
    stage.simulator.wait_until(PATIENCE, |_| calls(&stage, Endpoint::AsyncCancel) >= probed + 2).await?;
    let ready = until_consumers(&stage, &lane(&stage, Kind::AsyncCancel), 0).await?;
    assert!(ready >= 20, "only {ready} of 30 letters stayed in the lane");

    let in_vain = calls(&stage, Endpoint::AsyncCancel) as u64;
    assert!(in_vain < 15, "{in_vain} calls to an endpoint that is down");
    stage.simulator.clear_fault(fault).await?;
    let attempts = all_cancelled(&stage, &letters).await?;
    assert!(attempts <= 35 + in_vain + 1, "{attempts} attempts for 35 letters and {in_vain} calls in vain");
    until_consumers(&stage, &lane(&stage, Kind::AsyncCancel), 1).await?;
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

/// The names of these events, in the order in which they were told about this kind.
fn course(lines: &Lines, kind: Kind, of: &[&str]) -> Vec<Value> {
    let lines = lines.all();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["cancel.kind"] == kind.as_str())
        .filter(|line| of.iter().any(|name| line["event"] == *name))
        .collect()
}

broker_test!(a_pause_is_told_and_one_letter_at_a_time_finds_out);
async fn a_pause_is_told_and_one_letter_at_a_time_finds_out(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let worker = Process::work(&stage, &[("CANCEL_WORKER_LOG", "debug")])?;
    let (fault, mut letters) = pause(&stage, Kind::AsyncCancel, down()).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 20).await?);
    stage.simulator.wait_until(PATIENCE, |_| calls(&stage, Endpoint::AsyncCancel) >= ENOUGH + 3).await?;
    stage.simulator.clear_fault(fault).await?;
    let resumed = worker.stderr.event("lane_resumed").await?;
    all_cancelled(&stage, &letters).await?;
    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());
    let paused = ended.stderr.event("lane_paused").await?;
    assert_eq!((&paused["why"], &paused["level"]), (&json!("endpoint_down"), &json!("warn")));
    assert!(resumed["duration_ms"].as_u64().is_some_and(|ms| ms > 0), "{resumed}");
    let told = course(&ended.stderr, Kind::AsyncCancel, &["called", "lane_probing", "lane_resumed"]);
    let names: Vec<&str> = told.iter().filter_map(|line| line["event"].as_str()).collect();
    let until_resumed = names.split(|name| *name == "lane_resumed").next().unwrap_or_default();
    let probing = until_resumed.iter().position(|name| *name == "lane_probing").context("a probe")?;
    assert_eq!(probing, ENOUGH, "{names:?}");
    for pair in until_resumed[probing..].chunks(2) {
        assert_eq!(pair, ["lane_probing", "called"], "{names:?}");
    }
    Ok(())
}

broker_test!(an_endpoint_that_hangs_is_paused_and_heals);
async fn an_endpoint_that_hangs_is_paused_and_heals(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let working = stage.work_consuming().await?;
    let hang = Fault::new(FaultKind::Hang).on(Endpoint::AsyncCancel);
    let (fault, mut letters) = pause(&stage, Kind::AsyncCancel, hang).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 10).await?);
    stage.simulator.clear_fault(fault).await?;
    all_cancelled(&stage, &letters).await?;
    for Sent { payment, .. } in &letters {
        let truth = stage.simulator.truth_of(payment).context("it was seeded")?;
        assert_eq!(truth.effects.cancels, 1);
    }
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(a_gateway_that_refuses_connections_pauses_its_lanes_and_heals);
async fn a_gateway_that_refuses_connections_pauses_its_lanes_and_heals(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let working = stage.work_consuming().await?;
    let closed = Fault::new(FaultKind::RefuseConnection { for_ms: None }).at(Api::Physical);
    let (fault, mut letters) = pause(&stage, Kind::AsyncCancel, closed).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 10).await?);
    let others = send_many(&stage, Kind::TransactionCancel, "default", 10).await?;
    assert_eq!(all_cancelled(&stage, &others).await?, 10);
    stage.simulator.clear_fault(fault).await?;
    assert_eq!(all_cancelled(&stage, &letters).await?, 15, "what was never sent is no attempt");
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(one_payment_that_is_always_in_doubt_pauses_no_lane);
async fn one_payment_that_is_always_in_doubt_pauses_no_lane(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = Process::work(&stage, &[])?;
    let payment = stage.simulator.seed(SeedPhysical::default())?;
    let fault = Fault::new(FaultKind::http(500)).of(&payment.id).on(Endpoint::AsyncCancel).until_cleared();
    stage.simulator.plan(fault).await?;
    let cancellation = intent(Kind::AsyncCancel, json!({ "paymentRequestId": payment.id }));
    stage.publish(&cancellation).await?;
    let id = cancellation["intentId"].as_str().context("an id")?;
    assert_eq!(said(&stage.ledger.end_of(id).await?), "given_up/attempts_exhausted");
    let ended = worker.stop_by("TERM").await?;
    assert!(ended.stderr.events("lane_paused").is_empty(), "{}", ended.stderr.text());
    Ok(())
}

broker_test!(one_merchants_trouble_does_not_pause_the_lane_of_another);
async fn one_merchants_trouble_does_not_pause_the_lane_of_another(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let worker = Process::work(&stage, &[])?;
    let first = send_many(&stage, Kind::AsyncCancel, "other", 1).await?;
    assert_eq!(all_cancelled(&stage, &first).await?, 1);
    let fault = stage.simulator.plan(down().by("default").until_cleared()).await?;
    let letters = send_many(&stage, Kind::AsyncCancel, "default", 20).await?;
    let paused = worker.stderr.event("lane_paused").await?;
    assert_eq!(paused["cancel.merchant"], "default");
    let others = send_many(&stage, Kind::AsyncCancel, "other", 20).await?;
    assert_eq!(all_cancelled(&stage, &others).await?, 20);
    stage.simulator.clear_fault(fault).await?;
    all_cancelled(&stage, &letters).await?;
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());
    assert!(ended.stderr.events("lane_paused").iter().all(|line| line["cancel.merchant"] == "default"));
    Ok(())
}

broker_test!(a_worker_whose_lane_is_paused_stops_with_0_and_another_goes_on);
async fn a_worker_whose_lane_is_paused_stops_with_0_and_another_goes_on(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let worker = Process::work(&stage, &[])?;
    let (fault, mut letters) = pause(&stage, Kind::AsyncCancel, down()).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 10).await?);
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());

    stage.simulator.clear_fault(fault).await?;
    let later = stage.work()?;
    all_cancelled(&stage, &letters).await?;
    assert_eq!(later.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(a_lane_that_is_paused_stays_so_when_the_connection_is_cut);
async fn a_lane_that_is_paused_stays_so_when_the_connection_is_cut(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let proxy = Proxy::start(stage.url()).await?;
    let worker = Process::work_through(&stage, proxy.url())?;
    let first = worker.stderr.event("generation_started").await?;
    let (fault, mut letters) = pause(&stage, Kind::AsyncCancel, down()).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 20).await?);
    // The next letter that has found out that it is still down.
    let ack = proxy.hold(Frame::ack());
    ack.held().await?;
    ack.cut();
    let again = |line: &str| {
        serde_json::from_str::<Value>(line)
            .is_ok_and(|line| line["event"] == "generation_started" && line["generation"] == 2)
    };
    let second = worker.stderr.wait_for("second generation", again).await?;
    let second: Value = serde_json::from_str(&second)?;
    assert_eq!(
        second["consumers_len"].as_u64(),
        first["consumers_len"].as_u64().map(|consumers| consumers - 1),
        "its lane is not consumed"
    );
    let ready = until_consumers(&stage, &lane(&stage, Kind::AsyncCancel), 0).await?;
    assert!(ready >= 10, "only {ready} of 20 letters stayed in the lane");
    stage.simulator.clear_fault(fault).await?;
    all_cancelled(&stage, &letters).await?;
    assert_eq!(worker.stop_by("TERM").await?.code, Some(0));
    Ok(())
}

broker_test!(a_retry_after_slows_its_merchant_and_no_other);
async fn a_retry_after_slows_its_merchant_and_no_other(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let working = stage.work_consuming().await?;
    let later = Fault::new(FaultKind::http_retry_after(429, "3")).by("default").on(Endpoint::AsyncCancel);
    stage.simulator.plan(later).await?;
    let mut slowed = send_many(&stage, Kind::AsyncCancel, "default", 1).await?;
    stage.simulator.wait_for_calls(&slowed[0].payment, Endpoint::AsyncCancel, 1, PATIENCE).await?;
    let told = stage.simulator.now();
    // Until the reply has come back: the first letter lies in a delay queue.
    until_one_waits(&stage, Kind::AsyncCancel).await?;
    slowed.extend(send_many(&stage, Kind::AsyncCancel, "default", 10).await?);
    let others = send_many(&stage, Kind::AsyncCancel, "other", 10).await?;
    assert_eq!(all_cancelled(&stage, &others).await?, 10);
    assert_eq!(all_cancelled(&stage, &slowed).await?, 11 + 1, "its waits are no attempts");
    for Sent { payment, .. } in &slowed[1..] {
        let truth = stage.simulator.truth_of(payment).context("it was seeded")?;
        let called = truth.log.first().context("a call")?.at;
        assert!(called.duration_since(told).as_millis() >= 2_900, "it was called too soon");
    }
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

/// Waits until a letter lies where letters wait: in a delay queue, or behind it.
async fn until_one_waits(stage: &Stage, kind: Kind) -> Result<()> {
    let queues: Vec<String> = stage
        .topology()
        .queues()
        .iter()
        .map(|queue| queue.name.clone())
        .filter(|name| name.contains(".delay.") || name.contains(".returns."))
        .collect();
    let waiting = async {
        loop {
            for queue in &queues {
                if state(stage, queue).await?.0 > 0 {
                    return Ok(());
                }
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.with_context(|| format!("no letter of {kind} waits"))?
}

broker_test!(a_lane_never_takes_all_places_of_its_api);
async fn a_lane_never_takes_all_places_of_its_api(t: Context) -> Result<()> {
    // Of four places each of two lanes keeps one; so one lane alone has three.
    let tuning = r#"
        gateway = { call_timeout = "40s", physical = { concurrency = 4 } }
        inquiry = { quiet = "40s" }
        retry = { delays = ["1s"] }
    "#;
    let stage = Stage::new(&t, tuning).await?;
    let working = stage.work_consuming().await?;
    let hang = Fault::new(FaultKind::Hang).on(Endpoint::AsyncCancel).until_cleared();
    let fault = stage.simulator.plan(hang).await?;
    let letters = send_many(&stage, Kind::AsyncCancel, "default", 20).await?;
    stage.simulator.wait_until(PATIENCE, |_| calls(&stage, Endpoint::AsyncCancel) >= 3).await?;

    // The neighbour is called all the same.
    let payment = stage.simulator.seed(SeedPhysical::default())?;
    let neighbour = intent(Kind::SyncCancelRollback, json!({ "paymentRequestId": payment.id }));
    stage.publish(&neighbour).await?;
    stage.simulator.wait_for_calls(&payment.id, Endpoint::CancelRollback, 1, PATIENCE).await?;
    // What waited too long for a place waits at the broker.
    until_one_waits(&stage, Kind::AsyncCancel).await?;
    assert_eq!(calls(&stage, Endpoint::AsyncCancel), 3, "more calls at once than it has places");
    stage.simulator.clear_fault(fault).await?;
    assert_eq!(all_cancelled(&stage, &letters).await?, 20, "waiting for a place is no attempt");
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(who_waits_for_a_place_does_not_hold_up_the_end);
async fn who_waits_for_a_place_does_not_hold_up_the_end(t: Context) -> Result<()> {
    let tuning = r#"
        gateway = { call_timeout = "40s", physical = { concurrency = 1 } }
        inquiry = { quiet = "40s" }
    "#;
    let stage = Stage::new(&t, tuning).await?;
    let working = stage.work_consuming().await?;
    let hang = Fault::new(FaultKind::Hang).on(Endpoint::AsyncCancel).until_cleared();
    stage.simulator.plan(hang).await?;
    let letters = send_many(&stage, Kind::AsyncCancel, "default", 20).await?;
    stage.simulator.wait_until(PATIENCE, |_| calls(&stage, Endpoint::AsyncCancel) == 1).await?;
    let stopping = tokio::spawn(working.stop());
    // All but the one that is called are given back through a delay queue.
    until_one_waits(&stage, Kind::AsyncCancel).await?;
    stage.simulator.clear_faults().await?;
    assert_eq!(stopping.await??, Stopped::Drained);
    assert_eq!(calls(&stage, Endpoint::AsyncCancel), 1);
    let later = stage.work()?;
    assert_eq!(all_cancelled(&stage, &letters).await?, 20);
    assert_eq!(later.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(no_more_is_called_in_a_second_than_the_rate_allows);
async fn no_more_is_called_in_a_second_than_the_rate_allows(t: Context) -> Result<()> {
    const RATE: f64 = 20.0;
    let stage = Stage::new(&t, "gateway = { physical = { rate = 20.0 } }").await?;
    let working = stage.work_consuming().await?;
    let letters = send_many(&stage, Kind::AsyncCancel, "default", 30).await?;
    assert_eq!(all_cancelled(&stage, &letters).await?, 30);
    let came: Vec<_> =
        stage.simulator.requests_to(Endpoint::AsyncCancel).iter().map(|request| request.at).collect();
    let (first, last) = (came.first().context("calls")?, came.last().context("calls")?);
    let least = (came.len() - 1) as f64 / RATE;
    let took = last.duration_since(*first).as_secs_f64();
    ensure!(took >= least - 0.1, "{} calls in {took} s", came.len());
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(an_api_that_lets_no_merchant_in_pauses_its_lanes_and_heals);
async fn an_api_that_lets_no_merchant_in_pauses_its_lanes_and_heals(t: Context) -> Result<()> {
    let stage = Stage::new(&t, SMALL_LANES).await?;
    let worker = Process::work(&stage, &[])?;
    for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback] {
        until_consumers(&stage, &lane(&stage, kind), 1).await?;
    }
    let shut = Fault::new(FaultKind::http(401)).at(Api::Physical).until_cleared();
    let fault = stage.simulator.plan(shut).await?;
    let mut letters = send_many(&stage, Kind::AsyncCancel, "default", 1).await?;
    letters.extend(send_many(&stage, Kind::AsyncCancel, "other", 1).await?);
    for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback] {
        until_consumers(&stage, &lane(&stage, kind), 0).await?;
    }
    letters.extend(send_many(&stage, Kind::AsyncCancel, "default", 20).await?);
    let others = send_many(&stage, Kind::TransactionCancel, "default", 10).await?;
    assert_eq!(all_cancelled(&stage, &others).await?, 10);
    let (ready, _) = state(&stage, &lane(&stage, Kind::AsyncCancel)).await?;
    assert!(ready >= 10, "only {ready} of 20 letters stayed in the lane");
    stage.simulator.clear_fault(fault).await?;
    assert_eq!(all_cancelled(&stage, &letters).await?, 22, "a lock-out is no attempt");
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());
    assert!(ended.stderr.events("lane_paused").iter().all(|line| line["why"] == "locked_out"));
    Ok(())
}

broker_test!(a_suspect_whose_endpoint_is_paused_waits_and_stays_a_suspect);
async fn a_suspect_whose_endpoint_is_paused_waits_and_stays_a_suspect(t: Context) -> Result<()> {
    // One delay, long enough to be looked into.
    let stage = Stage::new(&t, "retry = { delays = [\"10s\"] }").await?;
    let fault = Fault::new(FaultKind::http(401)).at(Api::Payment).by("default").until_cleared();
    stage.simulator.plan(fault).await?;
    let working = stage.work_consuming().await?;
    send(&stage, Kind::ApmProvisionCancel, "default").await?;
    until_one_waits(&stage, Kind::ApmProvisionCancel).await?;
    let delay = format!("{}.delay.10s", t.prefix());
    stage.take_all(&delay).await?;

    // A provision in doubt is called, wherever it is handled.
    let cancellation = intent(Kind::ApmProvisionCancel, json!({ "uniqueCode": "APM-1" }));
    let text = |text: &str| AMQPValue::LongString(text.into());
    let now = stage.simulator.now().to_string();
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("cancel-phase", text("call")),
        ("cancel-attempt", AMQPValue::LongLongInt(0)),
        ("cancel-first-seen", text(&now)),
        ("cancel-doubt", AMQPValue::Boolean(false)),
        ("cancel-strikes", AMQPValue::LongLongInt(2)),
    ] {
        headers.insert(name.into(), value);
    }
    let channel = stage.connection().create_channel().await?;
    channel
        .basic_publish(
            format!("{}.isolation", t.prefix()).as_str().into(),
            "apm_provision_cancel".into(),
            BasicPublishOptions::default(),
            &serde_json::to_vec(&cancellation)?,
            BasicProperties::default().with_headers(headers),
        )
        .await?;
    until_one_waits(&stage, Kind::ApmProvisionCancel).await?;
    let waiting = stage.take_all(&delay).await?;
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].headers.get("cancel-strikes").map(String::as_str), Some("2"));
    assert_eq!(waiting[0].headers.get("cancel-attempt").map(String::as_str), Some("0"));
    assert_eq!(working.stop().await?, Stopped::Drained);
    Ok(())
}

broker_test!(copies_of_a_letter_in_hand_hold_up_nobody_and_get_its_answer);
async fn copies_of_a_letter_in_hand_hold_up_nobody_and_get_its_answer(t: Context) -> Result<()> {
    const COPIES: usize = 150;
    let stage = Stage::new(&t, &format!("{UNHURRIED}lanes.transaction_cancel.prefetch = 10")).await?;
    let payment = stage.simulator.seed(SeedVirtualPos::default())?;
    let hang = stage.simulator.plan(Fault::new(FaultKind::Hang).of(&payment.id).until_cleared()).await?;
    let cancellation =
        intent(Kind::TransactionCancel, json!({ "uniqueCode": payment.unique_code, "date": payment.date }));
    let proxy = Proxy::start(stage.url()).await?;
    let worker = Process::work_through(&stage, proxy.url())?;
    for _ in 0..COPIES {
        stage.publish(&cancellation).await?;
    }
    stage.simulator.wait_for_calls(&payment.id, Endpoint::TransactionCancel, 1, PATIENCE).await?;

    // The gateway has the letter and does not answer; behind it lie its copies; and behind these another merchant's.
    let other = send(&stage, Kind::TransactionCancel, "other").await?;
    stage.ledger.end_of(&other.id).await?;
    let id = cancellation["intentId"].as_str().context("an id")?;
    ensure!(stage.ledger.events_of(id).is_empty(), "the gateway has not answered");

    stage.simulator.clear_fault(hang).await?;
    let told = |events: &[Value]| events.iter().filter(|event| event["subject"] == id).count();
    stage.ledger.wait_for("answers to all copies", |events| told(events) == COPIES).await?;
    ensure!(worker.stop_by("TERM").await?.code == Some(0), "it does not end in order");
    nothing_is_left(&stage).await?;
    let handling_max = handling_max(&load(stage.toml())?, &Timeouts::default());
    let longest = proxy.longest_in_hand();
    ensure!(
        longest <= handling_max,
        "in hand for {longest:?}, and {handling_max:?} is said to be the longest"
    );
    let events = stage.ledger.events_of(id);
    ensure!(events.iter().all(|event| event == &events[0] && said(event) == "cancelled"), "{events:#?}");
    let truth = stage.simulator.truth_of(&payment.id).context("it was seeded")?;
    ensure!(truth.calls_of(Endpoint::TransactionCancel) == 1, "{truth:#?}");
    Ok(())
}

//! Signals: no more is taken, what is in hand is finished or given back, and the log says which.

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use paywall_simulator::{Fault, FaultKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::{Ended, Process};
use crate::support::proxy::{Frame, Proxy};
use crate::support::stage::{PATIENCE, Stage, intent};

pub(super) const DONE: i32 = 0;
pub(super) const GAVE_BACK: i32 = 75;

/// What the log says about the end: the names of those events, from the signal on, that are about the stop or about
/// what is decided. Anything else (a call that is cut off, an endpoint that fails) may come at any time among them.
pub(super) fn told(ended: &Ended) -> Vec<String> {
    const ABOUT_THE_END: [&str; 5] = ["stopping", "drain_started", "decided", "drain_finished", "gave_back"];
    let lines = ended.stderr.all();
    let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter_map(|line| Some(line["event"].as_str()?.to_owned()))
        .skip_while(|event| event != "stopping")
        .filter(|event| ABOUT_THE_END.contains(&event.as_str()))
        .collect()
}

/// Waits until a letter is handed out by this queue, looks at it and leaves it there.
async fn back_in(stage: &Stage, queue: &str) -> Result<Value> {
    let channel = stage.connection().create_channel().await?;
    let mut consumer = channel
        .basic_consume(queue.into(), "look".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("the queue is gone")??;
    // What is not acked goes back.
    channel.close(200, "seen".into()).await?;
    Ok(serde_json::from_slice(&delivery.data)?)
}

async fn idle(t: Context, signal: &str, name: &str) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = Process::work(&stage, &[])?;
    worker.stderr.event("generation_started").await?;

    let ended = worker.stop_by(signal).await?;

    assert_eq!(ended.code, Some(DONE));
    assert_eq!(told(&ended), ["stopping", "drain_started", "drain_finished"]);
    assert_eq!(ended.stderr.event("stopping").await?["signal"], name);
    assert_eq!(ended.stderr.event("drain_started").await?["held"], 0, "a consumer that waits holds nothing");
    Ok(())
}

broker_test!(sigterm_ends_an_idle_worker_and_says_so);
async fn sigterm_ends_an_idle_worker_and_says_so(t: Context) -> Result<()> {
    idle(t, "TERM", "SIGTERM").await
}

broker_test!(sigint_ends_an_idle_worker_and_says_so);
async fn sigint_ends_an_idle_worker_and_says_so(t: Context) -> Result<()> {
    idle(t, "INT", "SIGINT").await
}

async fn during_a_call(t: Context, signal: &str) -> Result<()> {
    // The call may hang for as long as the test needs it to.
    let stage = Stage::new(&t, "gateway = { call_timeout = \"40s\" }\ninquiry = { quiet = \"40s\" }").await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.simulator.plan(Fault::new(FaultKind::Hang).on(cancellation.endpoint)).await?;
    let worker = Process::work(&stage, &[])?;
    stage.publish(&cancellation.intent).await?;
    stage.simulator.wait_for_calls(&cancellation.payments[0].1, cancellation.endpoint, 1, PATIENCE).await?;

    worker.signal(signal).await?;
    let drain = worker.stderr.event("drain_started").await?;
    stage.simulator.release();
    let ended = worker.ended().await?;

    assert_eq!(drain["held"], 1);
    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    assert_eq!(told(&ended), ["stopping", "drain_started", "decided", "drain_finished"]);
    cancellation.ended(&stage, 1).await?;
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(sigterm_during_a_call_lets_it_end_and_tells_the_outcome);
async fn sigterm_during_a_call_lets_it_end_and_tells_the_outcome(t: Context) -> Result<()> {
    during_a_call(t, "TERM").await
}

broker_test!(sigint_during_a_call_lets_it_end_and_tells_the_outcome);
async fn sigint_during_a_call_lets_it_end_and_tells_the_outcome(t: Context) -> Result<()> {
    during_a_call(t, "INT").await
}

broker_test!(a_call_longer_than_the_grace_period_is_given_back_and_ended_by_another);
async fn a_call_longer_than_the_grace_period_is_given_back_and_ended_by_another(t: Context) -> Result<()> {
    let tuning =
        "gateway = { call_timeout = \"2s\" }\ninquiry = { quiet = \"2s\" }\nshutdown = { grace = \"200ms\" }";
    let stage = Stage::new(&t, tuning).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.simulator.plan(Fault::new(FaultKind::Hang).on(cancellation.endpoint)).await?;
    let worker = Process::work(&stage, &[])?;
    stage.publish(&cancellation.intent).await?;
    stage.simulator.wait_for_calls(&cancellation.payments[0].1, cancellation.endpoint, 1, PATIENCE).await?;

    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(GAVE_BACK), "{}", ended.stderr.text());
    assert_eq!(told(&ended), ["stopping", "drain_started", "gave_back"]);
    assert_eq!(ended.stderr.event("gave_back").await?["letters_len"], 1);
    let lane = format!("{}.intents.transaction_cancel", stage.topology().prefix());
    assert_eq!(back_in(&stage, &lane).await?, cancellation.intent, "the letter is back in its lane");
    let later = Process::work(&stage, &[("CANCEL_WORKER__SHUTDOWN__GRACE", "30s")])?;
    cancellation.ended(&stage, 1).await?;
    assert_eq!(later.stop_by("TERM").await?.code, Some(DONE));
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(a_worker_that_waits_for_a_broker_ends_with_0);
async fn a_worker_that_waits_for_a_broker_ends_with_0(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let url = format!("amqp://guest:secret@{closed}/%2f");
    let worker = Process::work(&stage, &[("CANCEL_WORKER__AMQP__URL", &url)])?;
    worker.stderr.event("waiting_for_broker").await?;

    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    assert_eq!(told(&ended), ["stopping", "drain_started", "drain_finished"]);
    Ok(())
}

broker_test!(a_letter_whose_outcome_is_not_confirmed_in_time_is_given_back);
async fn a_letter_whose_outcome_is_not_confirmed_in_time_is_given_back(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "shutdown = { grace = \"300ms\" }").await?;
    let proxy = Proxy::start(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let publish = proxy.hold(Frame::publish_to(&format!("{}.announce", stage.topology().prefix())));
    let worker = Process::work_through(&stage, proxy.url())?;
    stage.publish(&cancellation.intent).await?;
    publish.held().await?;

    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(GAVE_BACK), "{}", ended.stderr.text());
    let gave_back = ended.stderr.events("gave_back");
    assert_eq!(gave_back.first().context("it says so")?["letters_len"], 1);
    assert!(stage.ledger.events().is_empty());
    Ok(())
}

broker_test!(a_connection_lost_while_stopping_is_told_as_letters_given_back);
async fn a_connection_lost_while_stopping_is_told_as_letters_given_back(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let proxy = Proxy::start(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let publish = proxy.hold(Frame::publish_to(&format!("{}.announce", stage.topology().prefix())));
    let worker = Process::work_through(&stage, proxy.url())?;
    stage.publish(&cancellation.intent).await?;
    publish.held().await?;
    worker.signal("TERM").await?;
    worker.stderr.event("drain_started").await?;

    publish.cut();

    let ended = worker.ended().await?;
    assert_eq!(ended.code, Some(GAVE_BACK), "{}", ended.stderr.text());
    assert_eq!(told(&ended), ["stopping", "drain_started", "gave_back"]);
    Ok(())
}

broker_test!(twenty_restarts_under_a_backlog_leave_no_letter_a_suspect);
async fn twenty_restarts_under_a_backlog_leave_no_letter_a_suspect(t: Context) -> Result<()> {
    const RESTARTS: usize = 20;
    /// What a life finds: more than it is given time for.
    const BACKLOG: usize = 400;
    /// Enough of each life is over when it has done so much.
    const DONE_IN_A_LIFE: usize = 40;
    // What is given back does not return while the test lasts. A quorum queue that gets a message in the very moment in
    // which its consumer is cancelled may set it aside for that consumer and never send it; it comes redelivered.
    let stage = Stage::new(&t, "retry.delays = ['5m']").await?;
    // Letters that are decided without a call: nothing slows them down.
    let unknown = |_: usize| {
        let mut intent =
            intent(Kind::TransactionCancel, json!({ "uniqueCode": Uuid::new_v4(), "date": "2026-01-01" }));
        intent["merchant"] = "nobody".into();
        intent
    };
    let mut isolated = Vec::new();
    for life in 0..RESTARTS {
        let backlog: Vec<Value> = (0..BACKLOG).map(unknown).collect();
        for some in backlog.chunks(250) {
            try_join_all(some.iter().map(|intent| stage.publish(intent))).await?;
        }
        let before = stage.ledger.events().len();
        let worker = Process::work(&stage, &[])?;
        // The ledger may still be reading what an earlier life has told: then the stop comes at once, while letters are
        // being sent of which none has been begun.
        worker.stderr.event("generation_started").await?;
        stage.ledger.wait_for("more outcomes", |events| events.len() >= before + DONE_IN_A_LIFE).await?;
        let ended = worker.stop_by("TERM").await?;
        ensure!(
            ended.code == Some(DONE),
            "life {life} ended with {:?}:\n{}",
            ended.code,
            ended.stderr.text()
        );
        isolated.extend(ended.stderr.events("isolated").iter().map(|event| format!("life {life}: {event}")));
    }
    ensure!(isolated.is_empty(), "{} letters were suspects:\n{}", isolated.len(), isolated.join("\n"));
    Ok(())
}

//! The broker is short of memory or disk: nothing new is begun, what is in hand waits for its word, and a signal is
//! obeyed in time.

use anyhow::{Result, ensure};
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Fault, FaultKind};

use super::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use super::signals::{DONE, GAVE_BACK, told};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::road::{Road, Which};
use crate::support::stage::{PATIENCE, Stage};

const PATIENT: &str = "gateway = { call_timeout = \"40s\" }\ninquiry = { quiet = \"40s\" }\n";

async fn worker_on(stage: &Stage, road: &Road) -> Result<Process> {
    let worker = Process::work_through(stage, road.url())?;
    worker.stderr.event("generation_started").await?;
    Ok(worker)
}

async fn alarm(road: &Road, worker: &Process) -> Result<()> {
    ensure!(road.block() == 1);
    worker.stderr.event("broker_blocked").await?;
    Ok(())
}

/// The gateway has the call when the alarm begins, and answers while it lasts.
async fn with_a_call_in_hand(stage: &Stage, road: &Road, cancellation: &Cancellation) -> Result<Process> {
    stage.simulator.plan(Fault::new(FaultKind::Hang).on(cancellation.endpoint)).await?;
    let worker = worker_on(stage, road).await?;
    stage.publish(&cancellation.intent).await?;
    stage.simulator.wait_for_calls(&cancellation.payments[0].1, cancellation.endpoint, 1, PATIENCE).await?;
    alarm(road, &worker).await?;
    stage.simulator.release();
    worker.stderr.event("decided").await?;
    Ok(worker)
}

broker_test!(what_an_alarm_holds_up_is_told_when_it_is_over);
async fn what_an_alarm_holds_up_is_told_when_it_is_over(t: Context) -> Result<()> {
    let stage = Stage::new(&t, PATIENT).await?;
    let road = Road::to(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let worker = with_a_call_in_hand(&stage, &road, &cancellation).await?;

    ensure!(road.unblock() == 1);

    cancellation.ended(&stage, 1).await?;
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    ensure!(ended.stderr.events("generation_ended").is_empty(), "{}", ended.stderr.text());
    ensure!(ended.stderr.events("broker_unblocked").len() == 1);
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(a_connection_lost_during_an_alarm_calls_nothing_twice);
/// Its connection is lost on top of the alarm: the letter comes again, and nothing is called for it.
async fn a_connection_lost_during_an_alarm_calls_nothing_twice(t: Context) -> Result<()> {
    let stage = Stage::new(&t, PATIENT).await?;
    let road = Road::to(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let worker = with_a_call_in_hand(&stage, &road, &cancellation).await?;

    ensure!(road.cut(Which::All) == 2);

    cancellation.ended(&stage, 1).await?;
    assert_eq!(worker.stop_by("TERM").await?.code, Some(DONE));
    ensure!(stage.simulator.requests_to(cancellation.endpoint).len() == 1, "it was called twice");
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(sigterm_during_an_alarm_gives_back_what_cannot_be_told);
async fn sigterm_during_an_alarm_gives_back_what_cannot_be_told(t: Context) -> Result<()> {
    let stage = Stage::new(&t, &format!("{PATIENT}shutdown = {{ grace = \"300ms\" }}")).await?;
    let road = Road::to(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let worker = with_a_call_in_hand(&stage, &road, &cancellation).await?;

    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(GAVE_BACK), "{}", ended.stderr.text());
    assert_eq!(ended.stderr.event("gave_back").await?["letters_len"], 1);
    assert!(stage.ledger.events().is_empty());
    Ok(())
}

broker_test!(sigterm_during_an_alarm_gives_back_what_was_not_begun);
/// A letter that has arrived during the alarm is given back uncalled, and another process ends it with one call.
async fn sigterm_during_an_alarm_gives_back_what_was_not_begun(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "shutdown = { grace = \"300ms\" }").await?;
    let road = Road::to(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let worker = worker_on(&stage, &road).await?;
    alarm(&road, &worker).await?;
    stage.publish(&cancellation.intent).await?;
    road.delivered(1).await?;

    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(GAVE_BACK), "{}", ended.stderr.text());
    assert_eq!(ended.stderr.event("gave_back").await?["letters_len"], 1);
    ensure!(stage.simulator.requests_to(cancellation.endpoint).is_empty(), "it was called");
    let later = Process::work(&stage, &[("CANCEL_WORKER__SHUTDOWN__GRACE", "30s")])?;
    cancellation.ended(&stage, 1).await?;
    assert_eq!(later.stop_by("TERM").await?.code, Some(DONE));
    ensure!(stage.simulator.requests_to(cancellation.endpoint).len() == 1);
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(sigterm_during_an_alarm_with_nothing_in_hand_ends_with_0);
async fn sigterm_during_an_alarm_with_nothing_in_hand_ends_with_0(t: Context) -> Result<()> {
    // It waits for nothing, and the test not for so long.
    let stage = Stage::new(&t, "shutdown = { grace = \"5m\" }").await?;
    let road = Road::to(stage.url()).await?;
    let worker = worker_on(&stage, &road).await?;
    alarm(&road, &worker).await?;

    let ended = worker.stop_by("TERM").await?;

    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    assert_eq!(told(&ended), ["stopping", "drain_started", "drain_finished"]);
    Ok(())
}

broker_test!(an_alarm_that_ends_while_stopping_leaves_nothing_behind);
/// An alarm that ends within the grace period costs nothing: what is in hand is told, and nothing given back.
async fn an_alarm_that_ends_while_stopping_leaves_nothing_behind(t: Context) -> Result<()> {
    let stage = Stage::new(&t, PATIENT).await?;
    let road = Road::to(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let worker = with_a_call_in_hand(&stage, &road, &cancellation).await?;
    worker.signal("TERM").await?;
    worker.stderr.event("drain_started").await?;

    ensure!(road.unblock() == 1);

    let ended = worker.ended().await?;
    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    cancellation.ended(&stage, 1).await?;
    cancellation.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

//! The worker dies, or is asked to go: at random, and at every point between receive and settle.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Fault, FaultKind};
use rand::Rng;
use tokio::time::sleep;

use crate::audit::{Audit, Leave};
use crate::load::endpoint_of;
use crate::process::Worker;
use crate::proxy::Sign;
use crate::stage::{Play, Setting, Stage};

/// How long a point may take to be reached.
const POINT_MAX: Duration = Duration::from_secs(60);
/// How long a point waits for more than one letter.
const MORE_MAX: Duration = Duration::from_millis(500);

/// The points between receive and settle at which a process can die. `ARCHITECTURE.md` says what follows from each.
#[derive(Debug, Clone, Copy)]
enum Point {
    Delivered,
    InTheCallBeforeItsEffect,
    InTheCallAfterItsEffect,
    BeforePublishing,
    BeforeTheConfirm,
    BeforeTheAck,
    AfterTheAck,
}

pub(crate) async fn killed_at_random(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, mut worker, load) = Stage::at_work(play, Setting::default()).await?;
    for point in points {
        load.reached(point).await?;
        let moment = Duration::from_millis(stage.rng.random_range(0..400));
        sleep(moment).await;
        worker = replaced(&mut stage, worker).await?;
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

pub(crate) async fn killed_when_delivered(play: Play) -> Result<Audit> {
    killed_at(play, Point::Delivered).await
}

pub(crate) async fn killed_in_the_call_before_its_effect(play: Play) -> Result<Audit> {
    killed_at(play, Point::InTheCallBeforeItsEffect).await
}

pub(crate) async fn killed_in_the_call_after_its_effect(play: Play) -> Result<Audit> {
    killed_at(play, Point::InTheCallAfterItsEffect).await
}

pub(crate) async fn killed_before_publishing(play: Play) -> Result<Audit> {
    killed_at(play, Point::BeforePublishing).await
}

pub(crate) async fn killed_before_the_confirm(play: Play) -> Result<Audit> {
    killed_at(play, Point::BeforeTheConfirm).await
}

pub(crate) async fn killed_before_the_ack(play: Play) -> Result<Audit> {
    killed_at(play, Point::BeforeTheAck).await
}

pub(crate) async fn killed_after_the_ack(play: Play) -> Result<Audit> {
    killed_at(play, Point::AfterTheAck).await
}

async fn killed_at(mut play: Play, point: Point) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, mut worker, load) = Stage::at_work(play, Setting::default()).await?;
    for part in points {
        load.reached(part).await?;
        let count = stage.rng.random_range(1..8);
        reach(&stage, &worker, point, count).await.with_context(|| format!("the point {point:?}"))?;
        worker = replaced(&mut stage, worker).await?;
        stage.simulator.clear_faults().await?;
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// Brings letters, about so many, to this point, and holds them there.
async fn reach(stage: &Stage, worker: &Worker, point: Point, count: u64) -> Result<()> {
    let held = |sign: Sign| async move {
        let (role, way) = sign.travels();
        worker.proxy.stall(role, way);
        worker.proxy.wait_held(sign, 1, POINT_MAX).await?;
        // More if there are more: one confirm can stand for many.
        let _ = worker.proxy.wait_held(sign, count, MORE_MAX).await;
        Ok(())
    };
    match point {
        Point::Delivered => held(Sign::Delivery).await,
        Point::BeforePublishing => held(Sign::Publish).await,
        Point::BeforeTheConfirm => held(Sign::Confirm).await,
        Point::BeforeTheAck => held(Sign::Ack).await,
        Point::AfterTheAck => {
            let passed = worker.proxy.passed(Sign::Ack);
            worker.proxy.wait_passed(Sign::Ack, passed + count, POINT_MAX).await
        }
        Point::InTheCallBeforeItsEffect | Point::InTheCallAfterItsEffect => {
            for kind in Kind::ALL {
                let hang = Fault::new(FaultKind::Hang).on(endpoint_of(kind)).times(8);
                let hang = match point {
                    Point::InTheCallAfterItsEffect => hang.after_effect(),
                    _before => hang,
                };
                stage.simulator.plan(hang).await?;
            }
            let struck = |simulator: &paywall_simulator::Handle| {
                simulator.faults().iter().map(|fault| fault.struck).sum::<u64>() >= count
            };
            Ok(stage.simulator.wait_until(POINT_MAX, struck).await?)
        }
    }
}

/// The worker is killed, and another process takes over.
async fn replaced(stage: &mut Stage, worker: Worker) -> Result<Worker> {
    worker.kill().await?;
    let next = stage.worker().await?;
    let after = next.working().await?;
    stage.recovered(after);
    Ok(next)
}

pub(crate) async fn terminated_under_load(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, mut worker, load) = Stage::at_work(play, Setting::default()).await?;
    for part in points {
        load.reached(part).await?;
        worker.terminate().await?;
        let status = worker.ended().await?;
        // With a gateway and a broker in health, the grace period is always enough.
        ensure!(status.code() == Some(0), "SIGTERM ended with {status}:\n{}", worker.last_words());
        worker = stage.worker().await?;
        let after = worker.working().await?;
        stage.recovered(after);
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

pub(crate) async fn two_workers_and_one_killed(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes);
    let mut stage = Stage::set(play, Setting::default()).await?;
    let mut workers = vec![stage.worker().await?, stage.worker().await?];
    for worker in &workers {
        worker.working().await?;
    }
    let load = stage.load(stage.plan());
    for part in points {
        load.reached(part).await?;
        let unlucky = workers.swap_remove(stage.rng.random_range(0..workers.len()));
        let next = replaced(&mut stage, unlucky).await?;
        workers.push(next);
    }
    stage.close(load, workers, Leave::Nothing).await
}

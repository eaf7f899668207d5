//! What people and their programs do to the topology and to the letters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lapin::Connection;
use lapin::options::{ExchangeUnbindOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::audit::{Audit, Leave};
use crate::load::{Plan, Published};
use crate::process::START_MAX;
use crate::stage::{Play, Setting, Stage};

/// The queue of a ledger that nobody reads is full with so many events.
const FULL_AT: i64 = 40;

/// An operator deletes one of the worker's queues. What lay in it would be gone by that order, and no promise covers it:
/// so the queue that is deleted is empty, which is made sure of by holding the load until everything has ended. What
/// is published before the worker has declared the queue again is kept in the unrouted queue; a person moves it back.
pub(crate) async fn queue_deleted(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, worker, mut load) = Stage::at_work(play, Setting::default()).await?;
    for part in points {
        load.reached(part).await?;
        load.hold();
        stage.while_moving_unrouted_intents(stage.at_rest(&load)).await?;
        let queue = stage.in_transit().choose(&mut stage.rng).cloned().unwrap_or_default();
        let delete = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
            Ok(())
        };
        stage.broker.visit(delete).await?;
        load.go_on();
        let revival = stage.while_moving_unrouted_intents(stage.revival(&load, &worker)).await?;
        revival.into_iter().for_each(|after| stage.recovered(after));
    }
    // What was published in the last moment of the last gap.
    stage.until_ended(&mut load, || stage.move_unrouted_intents()).await?;
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// The binding between announcements and outcomes is gone: what is announced is returned, and the next generation
/// declares the binding again.
pub(crate) async fn outcomes_unbound(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, worker, load) = Stage::at_work(play, Setting::default()).await?;
    let announce = format!("{}.announce", stage.topology.prefix());
    for part in points {
        load.reached(part).await?;
        let (announce, outcomes) = (announce.clone(), stage.topology.outcomes());
        let unbind = |connection: Arc<Connection>| async move {
            let channel = connection.create_channel().await?;
            let (outcomes, announce) = (outcomes.as_str().into(), announce.as_str().into());
            let options = ExchangeUnbindOptions::default();
            channel.exchange_unbind(outcomes, announce, "".into(), options, FieldTable::default()).await?;
            Ok(())
        };
        stage.broker.visit(unbind).await?;
        stage.revived(&load, &worker).await?;
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// No ledger is bound for a while: the events are kept in the unrouted queue, and a person moves them.
pub(crate) async fn ledger_unbound(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, worker, mut load) = Stage::at_work(play, Setting::default()).await?;
    for part in points {
        load.reached(part).await?;
        stage.ledgers[0].unbind().await?;
        sleep(Duration::from_millis(stage.rng.random_range(300..3_000))).await;
        stage.ledgers[0].bind_again().await?;
        stage.move_unrouted().await?;
    }
    // What was on its way while the binding came back.
    stage.until_ended(&mut load, || async { stage.move_unrouted().await.map(drop) }).await?;
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// One of three ledgers reads nothing for a while, and its queue is full: its events wait and are announced again, the
/// other two hear everything meanwhile.
pub(crate) async fn one_of_three_ledgers_full(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes.min(4));
    let setting = Setting { ledgers: vec![None, None, Some(FULL_AT)], ..Setting::default() };
    let (mut stage, worker, load) = Stage::at_work(play, setting).await?;
    for part in points {
        load.reached(part).await?;
        stage.ledgers[2].pause();
        worker.wait_told("announcement_parked", worker.told("announcement_parked") + 5, START_MAX).await?;
        sleep(Duration::from_millis(stage.rng.random_range(0..2_000))).await;
        stage.ledgers[2].book();
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// The order system publishes every intent twice, as after a lost confirm: the second copy at once, or a while later.
///
/// Left out is what two copies cannot tell truly by design: an async cancel whose order is withdrawn, or never reaches
/// its device, of which one copy may be refused while the other orders again.
pub(crate) async fn published_twice(play: Play) -> Result<Audit> {
    let plan = |plan| Plan { published: Published::Twice, ..plan };
    let (stage, worker, load) = Stage::at_work_on(play, Setting::default(), plan).await?;
    stage.close(load, vec![worker], Leave::Nothing).await
}

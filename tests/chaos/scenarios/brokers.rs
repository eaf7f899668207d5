//! The broker goes away, or takes nothing more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use tokio::time::sleep;

use crate::audit::{Audit, Leave};
use crate::broker::Broker;
use crate::stage::{Play, Setting, Stage};

/// A broker needs its time to start, so it is not stopped as often as a worker is killed.
const STOPS_MAX: usize = 4;

/// How many nodes a cluster has.
const NODES: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Stop {
    InOrder,
    Killed,
}

pub(crate) async fn broker_restarted(play: Play) -> Result<Audit> {
    stopped(play, Stop::InOrder).await
}

pub(crate) async fn broker_killed(play: Play) -> Result<Audit> {
    stopped(play, Stop::Killed).await
}

async fn stopped(mut play: Play, how: Stop) -> Result<Audit> {
    let points = play.points(play.strikes.div_ceil(2).min(STOPS_MAX));
    let (mut stage, worker, load) = Stage::at_work(play, Setting::default()).await?;
    for part in points {
        load.reached(part).await?;
        sleep(Duration::from_millis(stage.rng.random_range(0..300))).await;
        match how {
            Stop::InOrder => stage.broker.stop().await?,
            Stop::Killed => stage.broker.kill().await?,
        }
        stage.broker.start().await?;
        stage.revived(&load, &worker).await?;
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// What ails a node of a cluster.
#[derive(Debug, Clone, Copy)]
enum Ail {
    Killed,
    CutOff,
}

/// A cluster of three goes on without one of them. The time until somebody works again counts from the loss.
pub(crate) async fn cluster_node_killed(play: Play) -> Result<Audit> {
    node_lost(play, Ail::Killed).await
}

/// The two that hear each other go on; the one that does not stops serving when it notices. Until then whoever is with it
/// publishes in vain.
pub(crate) async fn cluster_node_cut_off(play: Play) -> Result<Audit> {
    node_lost(play, Ail::CutOff).await
}

async fn node_lost(mut play: Play, ail: Ail) -> Result<Audit> {
    let points = play.points(play.strikes.div_ceil(2).min(STOPS_MAX));
    let (mut stage, worker, mut load) = Stage::at_work(play, Setting::default()).await?;
    for (turn, part) in points.into_iter().enumerate() {
        load.reached(part).await?;
        // The first one first: that is where the worker begins.
        let node = turn % NODES + 1;
        match ail {
            Ail::Killed => stage.broker.kill_node(node).await?,
            Ail::CutOff => stage.broker.cut_node(node).await?,
        }
        stage.revived(&load, &worker).await?;
        sleep(Duration::from_millis(stage.rng.random_range(8_000..14_000))).await;
        match ail {
            Ail::Killed => stage.broker.start_node(node).await?,
            Ail::CutOff => stage.broker.repair_node(node).await?,
        }
    }
    let is_operated = AtomicBool::new(false);
    let operate = || async {
        if worker.told("delay_stuck") > 0 && !is_operated.swap(true, Ordering::Relaxed) {
            restart_nodes(&stage.broker).await?;
        }
        Ok(())
    };
    stage.until_ended(&mut load, operate).await?;
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// What the README says of `delay_stuck` after nodes did not hear each other: RabbitMQ may go on with what lies in a delay
/// queue only after its nodes were restarted.
async fn restart_nodes(broker: &Broker) -> Result<()> {
    let depths = ["list_queues", "name", "leader", "messages", "messages_ready", "messages_unacknowledged"];
    println!(
        "chaos: a delay queue is stuck, and the nodes are restarted one by one:\n{}",
        broker.ctl(&depths).await?
    );
    for node in 1..=NODES {
        broker.kill_node(node).await?;
        broker.start_node(node).await?;
    }
    Ok(())
}

pub(crate) async fn broker_alarmed(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes.min(STOPS_MAX));
    let (mut stage, worker, load) = Stage::at_work(play, Setting::default()).await?;
    for part in points {
        load.reached(part).await?;
        stage.broker.alarm().await?;
        sleep(Duration::from_millis(stage.rng.random_range(1_000..6_000))).await;
        stage.broker.calm().await?;
        stage.revived(&load, &worker).await?;
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// While the broker takes no announcement, nothing that is in hand can be settled: the worker goes all the same when its
/// grace period is over, and says so.
pub(crate) async fn terminated_during_an_alarm(mut play: Play) -> Result<Audit> {
    let points = play.points(play.strikes.min(STOPS_MAX));
    let (mut stage, mut worker, load) =
        Stage::at_work(play, Setting { tuning: "shutdown.grace = '3s'", ..Setting::default() }).await?;
    for part in points {
        load.reached(part).await?;
        stage.broker.alarm().await?;
        worker.terminate().await?;
        let status = worker.ended().await?;
        ensure!(
            matches!(status.code(), Some(0 | 75)),
            "SIGTERM ended with {status}:\n{}",
            worker.last_words()
        );
        stage.broker.calm().await?;
        worker = stage.worker().await?;
        let after = worker.working().await?;
        stage.recovered(after);
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

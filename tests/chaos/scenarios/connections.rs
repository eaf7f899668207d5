//! The network between worker and broker breaks: each of the two connections, in each manner, each way.
//!
//! Whoever is not told notices by the heartbeats at the latest, which these workers want every 2 s.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use tokio::time::sleep;

use crate::audit::{Audit, Leave};
use crate::proxy::{Role, Way};
use crate::stage::{Play, Setting, Stage};

/// How a connection breaks.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// Both ends are reset.
    Cut,
    /// The end where this way leads to is reset; the other one is not told.
    CutAt(Way),
    /// Nothing comes through this way, and nobody is told.
    Stalled(Way),
    /// This way is ended in order, the other one goes on.
    HalfClosed(Way),
}

/// A break that heals by itself before anybody notices, and one that lasts longer than two heartbeats.
const SHORT_MS: u64 = 1_200;
const LONG_MS: u64 = 6_500;

async fn broken(mut play: Play, role: Role, how: Break) -> Result<Audit> {
    let points = play.points(play.strikes);
    let (mut stage, worker, load) = Stage::at_work(play, Setting::default()).await?;
    for (turn, part) in points.into_iter().enumerate() {
        load.reached(part).await?;
        // A moment of the work, not always the one right after a confirm.
        sleep(Duration::from_millis(stage.rng.random_range(0..200))).await;
        // The first break is always one that lasts.
        let lasts = if turn == 0 || stage.rng.random_bool(0.5) { LONG_MS } else { SHORT_MS };
        match how {
            Break::Cut => worker.proxy.cut(role),
            Break::CutAt(way) => {
                worker.proxy.reset(role, way);
                sleep(Duration::from_millis(lasts)).await;
                worker.proxy.bury();
            }
            Break::Stalled(way) => {
                worker.proxy.stall(role, way);
                sleep(Duration::from_millis(lasts)).await;
                worker.proxy.flow();
            }
            Break::HalfClosed(way) => {
                worker.proxy.half_close(role, way);
                sleep(Duration::from_millis(lasts)).await;
                worker.proxy.bury();
            }
        }
        stage.revived(&load, &worker).await?;
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

pub(crate) async fn consuming_cut(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::Cut).await
}

pub(crate) async fn consuming_cut_at_the_broker(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::CutAt(Way::ToBroker)).await
}

pub(crate) async fn consuming_cut_at_the_worker(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::CutAt(Way::ToWorker)).await
}

pub(crate) async fn consuming_stalled_to_the_broker(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::Stalled(Way::ToBroker)).await
}

pub(crate) async fn consuming_stalled_to_the_worker(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::Stalled(Way::ToWorker)).await
}

pub(crate) async fn consuming_half_closed_to_the_broker(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::HalfClosed(Way::ToBroker)).await
}

pub(crate) async fn consuming_half_closed_to_the_worker(play: Play) -> Result<Audit> {
    broken(play, Role::Consume, Break::HalfClosed(Way::ToWorker)).await
}

pub(crate) async fn publishing_cut(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::Cut).await
}

pub(crate) async fn publishing_cut_at_the_broker(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::CutAt(Way::ToBroker)).await
}

pub(crate) async fn publishing_cut_at_the_worker(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::CutAt(Way::ToWorker)).await
}

pub(crate) async fn publishing_stalled_to_the_broker(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::Stalled(Way::ToBroker)).await
}

pub(crate) async fn publishing_stalled_to_the_worker(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::Stalled(Way::ToWorker)).await
}

pub(crate) async fn publishing_half_closed_to_the_broker(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::HalfClosed(Way::ToBroker)).await
}

pub(crate) async fn publishing_half_closed_to_the_worker(play: Play) -> Result<Audit> {
    broken(play, Role::Publish, Break::HalfClosed(Way::ToWorker)).await
}

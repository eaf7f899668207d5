//! The gateway answers badly, late, or not at all; and every fault comes before its effect, or after it.

use std::time::Duration;

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Api, Endpoint, Fault, FaultKind};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::audit::{Audit, Leave};
use crate::load::{Cancellation, FaultsOf, Plan, endpoint_of};
use crate::stage::{Play, Setting, Stage};

/// What asks, and changes nothing.
const INQUIRIES: [Endpoint; 4] =
    [Endpoint::PhysicalInquiry, Endpoint::PhysicalActivities, Endpoint::PrivateQuery, Endpoint::ApmQuery];

/// Faults of single cancellations, as the seed draws them.
async fn each_for_itself(play: Play, faults: FaultsOf) -> Result<Audit> {
    let plan = |plan| Plan { faults, ..plan };
    let (stage, worker, load) = Stage::at_work_on(play, Setting::default(), plan).await?;
    stage.close(load, vec![worker], Leave::Nothing).await
}

/// A few faults of the calls of one cancellation, each before or after its effect.
fn drawn(rng: &mut StdRng, cancellation: &Cancellation, chance: f64, kinds: &[FaultKind]) -> Vec<Fault> {
    if !rng.random_bool(chance) {
        return Vec::new();
    }
    let count = rng.random_range(1..=3);
    (0..count)
        .filter_map(|_| {
            // A call names all payments of a batch, so a fault of its first payment is a fault of the batch.
            let fault = Fault::new(kinds.choose(rng)?.clone())
                .on(endpoint_of(cancellation.kind))
                .of(&cancellation.payments[0].id);
            Some(if rng.random_bool(0.5) { fault.after_effect() } else { fault })
        })
        .collect()
}

pub(crate) async fn gateway_resets(play: Play) -> Result<Audit> {
    each_for_itself(play, |rng, cancellation| {
        drawn(rng, cancellation, 0.6, &[FaultKind::Reset, FaultKind::Close])
    })
    .await
}

/// Some never answer; some are slow, and have their effect when nobody waits for it any more.
pub(crate) async fn gateway_hangs(play: Play) -> Result<Audit> {
    each_for_itself(play, |rng, cancellation| {
        drawn(
            rng,
            cancellation,
            0.4,
            &[FaultKind::Hang, FaultKind::Delay { ms: 1_500 }, FaultKind::Delay { ms: 3_000 }],
        )
    })
    .await
}

pub(crate) async fn gateway_talks_garbage(play: Play) -> Result<Audit> {
    each_for_itself(play, |rng, cancellation| {
        let mut kinds = vec![
            FaultKind::Garbage,
            FaultKind::Empty,
            FaultKind::Truncated,
            FaultKind::Oversized,
            FaultKind::Contradiction,
            FaultKind::error_code(987_654),
        ];
        match cancellation.kind {
            Kind::AsyncCancel | Kind::SyncCancelRollback => kinds.push(FaultKind::ForeignId),
            Kind::ApmProvisionCancel => kinds.push(FaultKind::ProviderFailure),
            Kind::TransactionCancel | Kind::BatchCancel => {}
        }
        drawn(rng, cancellation, 0.6, &kinds)
    })
    .await
}

/// While the load goes on, `storm` plans faults for the whole gateway; each storm lasts a while.
async fn storms<F>(
    play: Play,
    merchants: &'static [&'static str],
    faults: FaultsOf,
    storm: F,
) -> Result<Audit>
where
    F: Fn(&mut StdRng) -> Vec<Fault>,
{
    let mut play = play;
    let points = play.points(play.strikes);
    let plan = |plan| Plan { merchants, faults, ..plan };
    let (mut stage, worker, load) = Stage::at_work_on(play, Setting::default(), plan).await?;
    for part in points {
        load.reached(part).await?;
        let mut planned = Vec::new();
        for fault in storm(&mut stage.rng) {
            planned.push(stage.simulator.plan(fault).await?);
        }
        sleep(Duration::from_millis(stage.rng.random_range(1_500..5_000))).await;
        for fault in planned {
            stage.simulator.clear_fault(fault).await?;
        }
    }
    stage.close(load, vec![worker], Leave::Nothing).await
}

fn nothing(_: &mut StdRng, _: &Cancellation) -> Vec<Fault> {
    Vec::new()
}

pub(crate) async fn gateway_storms_of_5xx(play: Play) -> Result<Audit> {
    storms(play, &["default"], nothing, |rng| {
        [500, 502, 503, 504]
            .map(|status| {
                let fault = Fault::new(FaultKind::http(status)).until_cleared().with_ratio(0.35);
                if status != 503 && rng.random_bool(0.5) { fault.after_effect() } else { fault }
            })
            .to_vec()
    })
    .await
}

pub(crate) async fn gateway_storms_of_429(play: Play) -> Result<Audit> {
    storms(play, &["default"], nothing, |rng| {
        let retry_after = rng.random_range(0..3).to_string();
        vec![
            Fault::new(FaultKind::http_retry_after(429, retry_after)).until_cleared().with_ratio(0.5),
            Fault::new(FaultKind::http(429)).until_cleared().with_ratio(0.6),
        ]
    })
    .await
}

pub(crate) async fn gateway_refuses_connections(play: Play) -> Result<Audit> {
    storms(play, &["default"], nothing, |rng| {
        Api::ALL
            .into_iter()
            .filter(|_| rng.random_bool(0.7))
            .map(|api| Fault::new(FaultKind::RefuseConnection { for_ms: None }).at(api))
            .collect()
    })
    .await
}

/// Many calls end in doubt, and meanwhile nothing that could tell answers.
pub(crate) async fn inquiry_down(play: Play) -> Result<Audit> {
    let doubt: FaultsOf =
        |rng, cancellation| drawn(rng, cancellation, 0.7, &[FaultKind::Reset, FaultKind::http(500)]);
    storms(play, &["default"], doubt, |rng| {
        let down = [FaultKind::http(503), FaultKind::Hang, FaultKind::Garbage, FaultKind::Reset];
        INQUIRIES
            .into_iter()
            .filter_map(|endpoint| Some(Fault::new(down.choose(rng)?.clone()).on(endpoint).until_cleared()))
            .collect()
    })
    .await
}

/// One merchant's keys are not accepted for a while: its letters wait, and the other merchant notices nothing.
pub(crate) async fn one_merchant_locked_out(play: Play) -> Result<Audit> {
    storms(play, &["default", "other"], nothing, |rng| {
        let status = if rng.random_bool(0.5) { 401 } else { 403 };
        vec![Fault::new(FaultKind::http(status)).by("other").until_cleared()]
    })
    .await
}

//! A letter that takes down every process that touches its payment: it costs three deaths and no neighbour.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cancel_worker::amqp::Stopped;
use cancel_worker::clock::{Clock, JitterSource};
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::retry::Jitter;
use futures_util::future::try_join_all;
use paywall_simulator::{Endpoint, Fault, FaultId, FaultKind, Handle};
use serde_json::Value;

use super::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::proxy::{Frame, Proxy};
use crate::support::stage::{PATIENCE, Stage, Taken, UNHURRIED, said};

/// Up to three hundred letters in hand in every lane; budgets that nobody spends.
const CROWDED: &str = r#"
[lanes]
prefetch = 300
[gateway]
call_timeout = "2s"
[retry]
attempts_max = 12
age_max = "10m"
[inquiry]
quiet = "2s"
age_max = "10m"
"#;

/// A lane with room for one more, and one that is not so full, for the stories with more deaths.
const FULL: usize = 299;
const HALF_EMPTY: usize = 60;

/// With these, a process waits for the gateway as long as it lives.
const PATIENT: [(&str, &str); 2] =
    [("CANCEL_WORKER__GATEWAY__CALL_TIMEOUT", "100s"), ("CANCEL_WORKER__INQUIRY__QUIET", "100s")];

/// How often the queues are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How often a process may die of one letter.
const DEATHS_MAX: usize = 3;

/// Nothing of a whole story takes longer.
const STORY_MAX: Duration = Duration::from_secs(100);

/// A crowd of letters, and the poison among them.
struct Crowd {
    stage: Stage,
    neighbours: Vec<Cancellation>,
    poison: Vec<Cancellation>,
    /// What holds up the gateway while the crowd gathers.
    hanging: Vec<FaultId>,
}

impl Crowd {
    /// All but the poison are published before anybody takes one.
    async fn new(t: &Context, poison: &[Kind], lane_len: usize) -> Result<Crowd> {
        let stage = Stage::new(t, CROWDED).await?;
        let cancellation = |kind: &Kind| Cancellation::new(&stage, *kind, Course::AtOnce);
        let poison = poison.iter().map(cancellation).collect::<Result<Vec<_>>>()?;
        let kinds = [
            (Kind::AsyncCancel, lane_len),
            (Kind::TransactionCancel, 10),
            (Kind::ApmProvisionCancel, 8),
            (Kind::BatchCancel, 4),
        ];
        let mut neighbours = Vec::new();
        for (kind, len) in kinds {
            for _ in 0..len {
                neighbours.push(Cancellation::new(&stage, kind, Course::AtOnce)?);
            }
        }
        for cancellation in &poison {
            // Whoever touches it is killed before an answer comes.
            let hang = Fault::new(FaultKind::Hang).of(&cancellation.payments[0].1);
            stage.simulator.plan(hang.until_cleared()).await?;
        }
        // Of the calls that are under way when the first process dies, every other one has had its effect.
        let half = u32::try_from(neighbours.len() / 2)?;
        let mut hanging = Vec::new();
        for hang in [
            Fault::new(FaultKind::Hang).times(half).after_effect(),
            Fault::new(FaultKind::Hang).until_cleared(),
        ] {
            hanging.push(stage.simulator.plan(hang).await?);
        }
        try_join_all(neighbours.iter().map(|cancellation| stage.publish(&cancellation.intent))).await?;
        Ok(Crowd { stage, neighbours, poison, hanging })
    }

    /// The first death: a process has called for all of the crowd, and is killed as it touches the poison.
    async fn first_death(&self) -> Result<()> {
        let simulator = &self.stage.simulator;
        let worker = Process::work(&self.stage, &PATIENT)?;
        let crowd_len = self.neighbours.len();
        simulator.wait_until(STORY_MAX, |handle| handle.requests().len() >= crowd_len).await?;
        try_join_all(self.poison.iter().map(|cancellation| self.stage.publish(&cancellation.intent))).await?;
        simulator.wait_until(STORY_MAX, |handle| self.touches(handle) > 0).await?;
        worker.kill().await?;
        for fault in &self.hanging {
            simulator.clear_fault(*fault).await?;
        }
        Ok(())
    }

    /// How often the gateway has been called or asked about the poison.
    fn touches(&self, simulator: &Handle) -> u64 {
        let truths =
            self.poison.iter().filter_map(|cancellation| simulator.truth_of(&cancellation.payments[0].1));
        truths.map(|truth| truth.calls.values().sum::<u64>()).sum()
    }

    /// After the first, starts one process after the other, each killed as soon as it touches the poison, until all of the poison is
    /// told to be some. Says how many died, and gives the one that lives.
    async fn outlive(&self) -> Result<(usize, Process)> {
        self.first_death().await?;
        let (mut deaths, mut seen) = (1, self.touches(&self.stage.simulator));
        loop {
            let worker = Process::work(&self.stage, &[])?;
            let touched = self.stage.simulator.wait_until(STORY_MAX, |handle| self.touches(handle) > seen);
            let told = self.stage.ledger.wait_within(STORY_MAX, "word of the poison", |events| {
                let poison = |event: &&Value| said(event) == "unresolved/poison";
                let subjects: BTreeSet<_> =
                    events.iter().filter(poison).filter_map(|event| event["subject"].as_str()).collect();
                self.poison.iter().all(|cancellation| subjects.contains(cancellation.subject()))
            });
            tokio::select! {
                touched = touched => {
                    touched?;
                    worker.kill().await?;
                    deaths += 1;
                    seen = self.touches(&self.stage.simulator);
                    ensure!(deaths <= DEATHS_MAX * self.poison.len(), "{deaths} deaths and no end");
                }
                told = told => {
                    told?;
                    return Ok((deaths, worker));
                }
            }
        }
    }

    /// Waits until every neighbour has its last word.
    async fn ends(&self) -> Result<()> {
        let all: BTreeSet<&str> = self.neighbours.iter().map(Cancellation::subject).collect();
        let ended = |events: &[Value]| {
            let ended: BTreeSet<&str> = events
                .iter()
                .filter(|event| event["data"]["terminal"] == true)
                .filter_map(|event| event["subject"].as_str())
                .collect();
            all.is_subset(&ended)
        };
        self.stage.ledger.wait_within(STORY_MAX, "end of every neighbour", ended).await?;
        Ok(())
    }

    /// Works until nothing is left in any queue. A process that died between a publish and its ack has left two copies
    /// of a letter, and the second may still be on its way when the first has had its last word.
    ///
    /// Gives the dead letters.
    async fn comes_to_rest(&self, mut worker: Process) -> Result<Vec<Taken>> {
        let resting = async {
            let mut dead = self.stage.dead_letters().await?;
            loop {
                while nothing_is_left(&self.stage).await.is_err() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    dead.extend(self.stage.dead_letters().await?);
                }
                // What it still held is settled now, and may have gone to wait.
                let ended = worker.stop_by("TERM").await?;
                assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());
                if nothing_is_left(&self.stage).await.is_ok() {
                    return Ok(dead);
                }
                worker = Process::work(&self.stage, &[])?;
            }
        };
        match tokio::time::timeout(PATIENCE, resting).await {
            Ok(rested) => rested,
            Err(_) => {
                let told = |cancellation: &Cancellation| {
                    self.stage.ledger.events_of(cancellation.subject()).iter().map(said).collect()
                };
                let told: Vec<Vec<String>> = self.poison.iter().map(told).collect();
                bail!(
                    "it never comes to rest: {:?}; the poison was touched {} times, and told as {told:?}",
                    nothing_is_left(&self.stage).await,
                    self.touches(&self.stage.simulator),
                )
            }
        }
    }
}

async fn poison_dies(t: Context, poison: &[Kind], lane_len: usize) -> Result<()> {
    let crowd = Crowd::new(&t, poison, lane_len).await?;

    let (deaths, worker) = crowd.outlive().await?;

    // It has taken at least one with it, or it was none.
    ensure!(deaths >= crowd.poison.len(), "{deaths} deaths");
    crowd.ends().await?;
    let mut dead = crowd.comes_to_rest(worker).await?;
    for neighbour in &crowd.neighbours {
        neighbour.is_told_truly(&crowd.stage, Copies::Two)?;
        let ends = crowd.stage.ledger.events_of(neighbour.subject());
        let dead = ends.iter().find(|event| event["data"]["status"] == "unresolved");
        ensure!(dead.is_none(), "an innocent is told as {dead:?}");
    }
    for cancellation in &crowd.poison {
        let body = serde_json::to_vec(&cancellation.intent)?;
        let of_it = |letter: &Taken| letter.body == body;
        let poison = dead.iter().find(|letter| of_it(letter) && letter.headers["cancel-reason"] == "poison");
        let Taken { routing_key, headers, .. } = poison.context("the poison is a dead letter")?;
        assert_eq!(*routing_key, format!("{}.poison", cancellation.kind.as_str()));
        assert_eq!(headers["cancel-strikes"], "3");
        dead.retain(|letter| !of_it(letter));
        // Whoever is killed between a publish and its ack leaves two copies. The second may find no process left that
        // dies of it; it is as unresolved as the first, under the same event id.
        let told: BTreeSet<String> =
            crowd.stage.ledger.events_of(cancellation.subject()).iter().map(said).collect();
        ensure!(told.contains("unresolved/poison"), "it is told as {told:?}");
        ensure!(told.iter().all(|said| said.starts_with("unresolved/")), "it is told as {told:?}");
    }
    ensure!(dead.is_empty(), "dead letters of innocents: {dead:#?}");
    Ok(())
}

broker_test!(a_poison_letter_costs_three_deaths_and_no_neighbour);
async fn a_poison_letter_costs_three_deaths_and_no_neighbour(t: Context) -> Result<()> {
    poison_dies(t, &[Kind::AsyncCancel], FULL).await
}

broker_test!(a_poison_provision_costs_three_deaths_and_no_neighbour);
/// Nothing can be asked about a provision: it waits before it is called again, and keeps its strikes.
async fn a_poison_provision_costs_three_deaths_and_no_neighbour(t: Context) -> Result<()> {
    poison_dies(t, &[Kind::ApmProvisionCancel], HALF_EMPTY).await
}

broker_test!(two_poison_letters_at_once_cost_six_deaths_and_no_neighbour);
async fn two_poison_letters_at_once_cost_six_deaths_and_no_neighbour(t: Context) -> Result<()> {
    poison_dies(t, &[Kind::AsyncCancel, Kind::TransactionCancel], HALF_EMPTY).await
}

broker_test!(a_suspect_is_not_handled_before_it_has_left_its_lane);
/// A suspect lies in the isolation before it is acked in its lane. Were it handled right then, and took the process down,
/// there would be two of it.
async fn a_suspect_is_not_handled_before_it_has_left_its_lane(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let suspect = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let (_, id) = &suspect.payments[0];
    stage.simulator.plan(Fault::new(FaultKind::Hang).after_effect().of(id)).await?;
    let first = Process::work(&stage, &[])?;
    stage.publish(&suspect.intent).await?;
    stage.simulator.wait_for_calls(id, suspect.endpoint, 1, PATIENCE).await?;
    first.kill().await?;

    let proxy = Proxy::start(stage.url()).await?;
    let ack = proxy.hold(Frame::ack());
    let environment = [("CANCEL_WORKER__AMQP__URL", proxy.url()), ("RUST_LOG", "debug")];
    let second = Process::work(&stage, &environment)?;
    ack.held().await?;
    let handed_out = |line: &str| {
        let line = serde_json::from_str::<Value>(line).unwrap_or_default();
        line["event"] == "received" && line["cancel.source"] == "isolation"
    };
    second.stderr.wait_for("suspect in the isolation", handed_out).await?;
    // Whatever is not held up has been handled by the time when this has been.
    let other = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&other.intent).await?;
    other.ended(&stage, 1).await?;
    let touches = || {
        let truth = stage.simulator.truth_of(id).context("it was seeded")?;
        anyhow::Ok(truth.calls_total() + truth.inquiries_total())
    };
    assert_eq!(touches()?, 1, "its ack has not arrived");

    ack.release();
    suspect.ended(&stage, 1).await?;
    let ended = second.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());
    suspect.is_told_truly(&stage, Copies::One)?;
    nothing_is_left(&stage).await
}

broker_test!(a_step_that_panics_is_told_as_poison_and_its_neighbours_go_on);
/// A bug that strikes one letter wherever it is handled, and no process: the letter is poison, its neighbours go on.
async fn a_step_that_panics_is_told_as_poison_and_its_neighbours_go_on(t: Context) -> Result<()> {
    // Nobody of them is out of patience while the other one panics.
    let stage = Stage::new(&t, UNHURRIED).await?;
    let neighbours: Vec<Cancellation> = (0..20)
        .map(|_| Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce))
        .collect::<Result<_>>()?;
    let hang = Fault::new(FaultKind::Hang).on(Endpoint::TransactionCancel);
    let hang = stage.simulator.plan(hang.until_cleared()).await?;
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = Arc::clone(&is_broken);
    let rng = JitterSource::from_fn(move || {
        assert!(!broken.load(Ordering::Relaxed), "the jitter is broken");
        Jitter::new(0.5)
    });
    let worker = stage.work_with(Clock::system(), rng)?;
    for neighbour in &neighbours {
        stage.publish(&neighbour.intent).await?;
    }
    let called = |handle: &Handle| handle.requests_to(Endpoint::TransactionCancel).len() == neighbours.len();
    stage.simulator.wait_until(PATIENCE, called).await?;

    is_broken.store(true, Ordering::Relaxed);
    let poison = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    stage.publish(&poison.intent).await?;
    let told = stage.ledger.end_of(poison.subject()).await?;
    assert_eq!(said(&told), "unresolved/poison");
    is_broken.store(false, Ordering::Relaxed);
    stage.simulator.clear_fault(hang).await?;

    for neighbour in &neighbours {
        neighbour.ended(&stage, 1).await?;
    }
    assert_eq!(worker.stop().await?, Stopped::Drained);
    for neighbour in &neighbours {
        neighbour.is_told_truly(&stage, Copies::One)?;
        let (_, id) = &neighbour.payments[0];
        let truth = stage.simulator.truth_of(id).context("it was seeded")?;
        assert_eq!((truth.calls_total(), truth.inquiries_total()), (1, 0), "it was in nobody's way");
    }
    let dead = stage.dead_letters().await?;
    let [letter] = &dead[..] else { panic!("one letter is dead: {dead:#?}") };
    assert_eq!(letter.headers["cancel-strikes"], "3");
    nothing_is_left(&stage).await
}

//! Plays the scenes: everything is started, the intents are published, and what the ledger hears is followed until
//! each has its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::tz::TimeZone;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::judge::{self, Afterwards, Heard, Report};
use super::scenes::{Scene, scenes};
use super::{say, table};
use crate::amqp::browse::{Tail, queue_depths, scan};
use crate::amqp::preflight::apply;
use crate::amqp::{Error, PublishSession, Settings, Stopped};
use crate::clock::Clock;
use crate::domain::outcome::StatusName;
use crate::wire::envelope::{Address, Headers, Message, Messages};
use crate::wire::outcome::LETTER_CONTENT_TYPE;
use crate::worker::{self, Worker};
use paywall_simulator::Handle;

/// How long the outcomes are waited for. Without a fault of ours the longest story takes some ten seconds.
const OUTCOMES_MAX: Duration = Duration::from_secs(45);

/// After the worker has stopped: how long nothing more must come to take the ledger's queue for empty.
const SILENCE: Duration = Duration::from_millis(300);

/// How long the broker may take to settle its own moves from queue to queue.
const QUEUES_EMPTY_MAX: Duration = Duration::from_secs(5);

/// So many dead letters are looked at; there should be two.
const DEAD_LETTERS_MAX: usize = 100;

/// Everything that is there for one demo.
pub(super) struct House {
    pub(super) settings: Settings,
    pub(super) worker: Arc<Worker>,
    pub(super) simulator: Handle,
    pub(super) clock: Clock,
    pub(super) zone: TimeZone,
    pub(super) call_timeout: Duration,
    pub(super) rollback_wait: Duration,
    pub(super) grace: Duration,
    pub(super) ledger_queue: String,
    /// Ends the worker.
    pub(super) worker_stop: CancellationToken,
    /// The worker, and whatever else must have ended before the queues are deleted.
    pub(super) tasks: TaskTracker,
}

/// How far it was played.
pub(super) enum Played {
    /// To the end, whatever it shows.
    ToTheEnd(Report),
    /// Somebody said stop.
    Stopped,
}

/// Plays all scenes, tells what happens as it happens, and prints the tables.
pub(super) async fn play(
    house: Arc<House>,
    order_system: PublishSession,
    stop: CancellationToken,
) -> Result<Played, Error> {
    let (broker, topology) = (house.settings.broker(), house.settings.topology());
    apply(broker, topology).await?;
    let mut ledger = Tail::as_ledger(broker, topology, &house.ledger_queue, "#").await?;
    if stop.is_cancelled() {
        return Ok(Played::Stopped);
    }
    let working = house.tasks.spawn({
        let house = Arc::clone(&house);
        async move {
            let House { worker, settings, worker_stop, grace, .. } = &*house;
            worker::run(Arc::clone(worker), settings, worker_stop, *grace).await
        }
    });

    let now = house.clock.now();
    let scenes = scenes(now, now.to_zoned(house.zone.clone()).date());
    greet(&house, &scenes);
    let mut troubles = set(&house.simulator, &scenes).await;
    let begun = Instant::now();
    troubles.extend(publish(order_system, &scenes).await);
    let mut heard = Heard::default();
    if follow(&mut ledger, &scenes, &mut heard, begun, &stop).await?.is_stopped() {
        return Ok(Played::Stopped);
    }

    house.worker_stop.cancel();
    match working.await {
        Ok(Stopped::Drained) => {}
        Ok(Stopped::GaveBack { unsettled }) => {
            troubles.push(format!("the worker gave {unsettled} letters back to the broker"));
        }
        Err(_) => troubles.push("the worker panicked".to_owned()),
    }
    listen_until_silent(&mut ledger, &mut heard, begun).await?;
    ledger.close().await;

    let dead_letters = scan(broker, &topology.dead_letters(), DEAD_LETTERS_MAX).await?;
    troubles.extend(leftovers(&house).await?);
    let afterwards = Afterwards { heard, dead_letters, troubles };
    let report = judge::judge(&scenes, afterwards, &house.simulator);
    say(format_args!("\n{}\n\n{}\n", table::outcomes(&report), table::checks(&report)));
    Ok(Played::ToTheEnd(report))
}

/// What this is, in a few lines.
fn greet(house: &House, scenes: &[Scene]) {
    let urls = house.simulator.urls();
    let settings = &house.settings;
    say(format_args!(
        "{} intents go through the RabbitMQ at {}, all names begin with {}.",
        scenes.len(),
        settings.broker(),
        settings.topology().prefix()
    ));
    say(format_args!(
        "The gateway is a truthful stand-in: Physical API {}, Private API {}, Payment API {}, control {}.",
        urls.physical, urls.private, urls.payment, urls.control
    ));
    say(format_args!(
        "The worker runs in this process; a call may take {:?}, a rollback waits {:?}. This takes some 12 s.\n",
        house.call_timeout, house.rollback_wait
    ));
}

/// Puts the payments into the gateway, and plans what goes wrong. Says what could not be set.
async fn set(simulator: &Handle, scenes: &[Scene]) -> Vec<String> {
    let mut troubles = Vec::new();
    for scene in scenes {
        for seed in scene.parts.iter().filter_map(|part| part.payment.as_ref()?.seed.clone()) {
            if let Err(error) = simulator.seed(seed) {
                troubles.push(format!("a payment could not be staged: {error}"));
            }
        }
        for fault in &scene.faults {
            if let Err(error) = simulator.plan(fault.clone()).await {
                troubles.push(format!("a fault could not be planned: {error}"));
            }
        }
    }
    troubles
}

/// Publishes all letters as an order system does, and waits for the confirms.
async fn publish(order_system: PublishSession, scenes: &[Scene]) -> Option<String> {
    let mut letters = scenes.iter().map(|scene| Message {
        address: Address::Intents,
        routing_key: scene.kind.as_str().to_owned(),
        headers: Headers::new(),
        content_type: LETTER_CONTENT_TYPE,
        message_id: None,
        occasion: None,
        body: Bytes::from(scene.body.clone()),
    });
    let published = match letters.next() {
        None => Ok(()),
        Some(first) => order_system.publisher().publish(Messages::new(first, letters)).await,
    };
    order_system.close().await;
    published.err().map(|error| format!("not all intents were published: {error}"))
}

/// Why nothing more is waited for.
enum Followed {
    /// Everything has its end, or the time is over.
    Enough,
    /// Somebody said stop.
    Stopped,
}

impl Followed {
    fn is_stopped(&self) -> bool {
        match self {
            Followed::Enough => false,
            Followed::Stopped => true,
        }
    }
}

/// Follows the ledger until each subject has its end. A line for each event.
async fn follow(
    ledger: &mut Tail,
    scenes: &[Scene],
    heard: &mut Heard,
    begun: Instant,
    stop: &CancellationToken,
) -> Result<Followed, Error> {
    let stories: BTreeMap<String, &'static str> = scenes
        .iter()
        .flat_map(|scene| scene.parts.iter().map(|part| (scene.subject_of(part), part.story)))
        .collect();
    let mut open: Vec<&String> = stories.keys().collect();
    let deadline = begun + OUTCOMES_MAX;
    while !open.is_empty() {
        let passing = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Followed::Stopped),
            passing = timeout_at(deadline, ledger.next()) => passing,
        };
        let Ok(passing) = passing else {
            say(format_args!("Nothing more is waited for: {} s are over.", OUTCOMES_MAX.as_secs()));
            break;
        };
        let Some(passing) = passing? else { break };
        let Some(event) = heard.note(&passing, begun.elapsed()) else { continue };
        if is_end(&event.status) {
            open.retain(|subject| **subject != event.subject);
        }
        let done = stories.len() - open.len();
        let reason = event.reason.as_deref().unwrap_or_default();
        say(format_args!(
            "{:5.1} s  [{done:2}/{}]  {:20}  {:10}  {reason:25}  {}",
            begun.elapsed().as_secs_f32(),
            stories.len(),
            event.kind,
            event.status,
            stories.get(&event.subject).copied().unwrap_or("(nobody asked for this)"),
        ));
    }
    Ok(Followed::Enough)
}

/// Whether nothing more is said of a subject, unless a person does something.
fn is_end(status: &str) -> bool {
    match StatusName::parse(status) {
        Some(StatusName::Accepted) | None => false,
        Some(
            StatusName::Cancelled
            | StatusName::RolledBack
            | StatusName::Rejected
            | StatusName::GivenUp
            | StatusName::Unresolved
            | StatusName::Closed
            | StatusName::Abandoned,
        ) => true,
    }
}

/// What comes when everything has been said already, is too much: it is heard all the same.
async fn listen_until_silent(ledger: &mut Tail, heard: &mut Heard, begun: Instant) -> Result<(), Error> {
    let until = Instant::now() + QUEUES_EMPTY_MAX;
    while Instant::now() < until {
        let Ok(passing) = timeout(SILENCE, ledger.next()).await else { break };
        let Some(passing) = passing? else { break };
        heard.note(&passing, begun.elapsed());
    }
    Ok(())
}

/// Every letter has come to its end, so that every queue is empty but those of the dead letters.
async fn leftovers(house: &House) -> Result<Vec<String>, Error> {
    let (broker, topology) = (house.settings.broker(), house.settings.topology());
    let dead_letters = topology.dead_letters();
    let names: Vec<&str> = topology
        .queues()
        .iter()
        .map(|queue| queue.name.as_str())
        .filter(|name| !name.starts_with(&dead_letters))
        .collect();
    let until = Instant::now() + QUEUES_EMPTY_MAX;
    loop {
        let depths = queue_depths(broker, &names).await?;
        let left: Vec<String> = names
            .iter()
            .zip(depths)
            .filter(|(_, depth)| *depth > 0)
            .map(|(name, depth)| format!("{depth} messages are left in queue {name}"))
            .collect();
        if left.is_empty() || Instant::now() >= until {
            return Ok(left);
        }
        tokio::time::sleep(SILENCE).await;
    }
}

//! One generation of the connection, and the loop that builds one after the other.
//!
//! Built in this order: connections, channels, prefetch, topology, consumers; so that nothing is delivered before
//! its bound is set and its answer can be published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt};
use lapin::{Connection, Event};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};
use tokio_util::sync::CancellationToken;

use super::connect::{Broker, Error, SettingsError, Timeouts, within};
use super::consumer::{Consumer, Delivery, Intake};
use super::declare;
use super::generation::{Ended, Fault, Generation, Role};
use super::publisher::{PublishSession, Publisher};
use super::topology::Topology;
use crate::clock::Dice;
use crate::config::{Amqp, Declare};
use crate::domain::intent::Kind;
use crate::domain::retry::Tiers;
use crate::telemetry::events;
use crate::wire::envelope::Letter;

/// The longest pause before the next try to connect. Chance chooses below it, so that the workers of a broker that
/// restarts do not all come at once.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often somebody who waits for a broker hears that we still do.
const WAITING_TOLD_EVERY: Duration = Duration::from_secs(10);

/// How often the depth of the unrouted queue is read.
const UNROUTED_READ_EVERY: Duration = Duration::from_secs(10);

/// Deliveries between the consumers and the one who takes them. They hold permits, so there are never many.
const DELIVERIES_WAITING_MAX: usize = 16;

/// What a session is built from. Outlives every generation; so do the permits in it.
#[derive(Debug, Clone)]
pub struct Settings {
    broker: Broker,
    topology: Arc<Topology>,
    declare: Declare,
    intake: Intake,
}

impl Settings {
    /// From the configuration: `lanes` are the kinds that are served, each with its prefetch; `name` is the
    /// worker's instance.
    ///
    /// # Errors
    /// What is wrong with the addresses or the TLS files.
    pub fn new(
        amqp: &Amqp,
        name: &str,
        lanes: &BTreeMap<Kind, u16>,
        tiers: &Tiers,
        timeouts: Timeouts,
    ) -> Result<Settings, SettingsError> {
        Ok(Settings {
            broker: Broker::new(amqp, name, timeouts)?,
            topology: Arc::new(Topology::new(&amqp.prefix, tiers.as_slice())),
            declare: amqp.declare,
            intake: Intake::new(lanes),
        })
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// How many deliveries are held, of whatever generation.
    pub fn held(&self) -> usize {
        self.intake.held()
    }
}

/// One generation: two connections and everything on them.
pub struct Session {
    broker: Broker,
    at: usize,
    generation: Generation,
    publishing: PublishSession,
    consuming: Connection,
    consumers: Vec<Consumer>,
    deliveries: mpsc::Receiver<Delivery>,
    draining: CancellationToken,
    // Stopped when it is dropped.
    tasks: JoinSet<()>,
}

impl Session {
    /// Builds a generation at the first address that answers. `number` is its name in logs, `first` the address to
    /// begin with.
    ///
    /// # Errors
    /// The step that failed, and what was said. [`Error::Differs`] when the topology is not what it must be.
    pub async fn open(settings: &Settings, number: u64, first: usize) -> Result<Session, Error> {
        let Settings { broker, topology, declare, intake } = settings;
        let Timeouts { step, .. } = broker.timeouts;
        let generation = Generation::new(number);
        let mut tasks = JoinSet::new();

        let (consuming, at) = broker.connect(Role::Consume, first).await?;
        tasks.spawn(watch(Role::Consume, consuming.events_listener(), generation.clone()));
        let publish_connection = broker.connect_at(Role::Publish, at).await?;
        let publishing =
            PublishSession::on(broker, publish_connection, Arc::clone(topology), generation.clone()).await?;

        let mut consumers = Vec::new();
        for served in intake.served() {
            let queue = topology.queue_of(served.source);
            consumers.push(Consumer::prepare(&consuming, intake, served, queue, step).await?);
        }

        match declare {
            Declare::Missing => declare::declare(broker, &consuming, topology).await?,
            Declare::Nothing => {}
        }

        let (out, deliveries) = mpsc::channel(DELIVERIES_WAITING_MAX);
        let draining = CancellationToken::new();
        for consumer in &consumers {
            let stream = consumer.consume(step).await?;
            let pump = consumer.pump(stream, out.clone(), generation.clone(), draining.clone(), step);
            tasks.spawn(pump);
        }
        Ok(Session {
            broker: broker.clone(),
            at,
            generation,
            publishing,
            consuming,
            consumers,
            deliveries,
            draining,
            tasks,
        })
    }

    /// The next delivery, of whatever source. `None`: the generation has ended, or it was drained.
    ///
    /// Can be dropped while it waits; no delivery is lost by that.
    pub async fn next(&mut self) -> Option<Delivery> {
        tokio::select! {
            biased;
            // What is still waiting belongs to nobody any more, and comes again: starting its story would only
            // turn it into doubt.
            _ = self.generation.ended() => None,
            delivery = self.deliveries.recv() => delivery,
        }
    }

    /// What publishes in this generation.
    pub fn publisher(&self) -> &Publisher {
        self.publishing.publisher()
    }

    /// The generation itself: its number, and why it ended.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Waits until the generation ends, and says why.
    pub async fn ended(&self) -> Ended {
        self.generation.ended().await
    }

    /// The broker that it is connected to: host, port and virtual host.
    pub fn address(&self) -> String {
        self.broker.shown(self.at)
    }

    /// How many messages are ready in a queue, by its full name.
    ///
    /// # Errors
    /// When the queue is not there, or the broker does not answer.
    pub async fn queue_depth(&self, queue: &str) -> Result<u32, Error> {
        // A channel of its own: it ends if the queue is not there.
        let step = self.broker.timeouts.step;
        let opening = self.consuming.create_channel();
        let channel = within("open a channel", step, opening).await?;
        let depth = declare::depth(&channel, queue, step).await?;
        let _ = within("close a channel", step, channel.close(200, "done".into())).await;
        Ok(depth)
    }

    /// Takes nothing more. What the broker has sent already still comes out of [`next`](Session::next), and then
    /// `None`: a letter that was sent and is given back would come again as a suspect.
    ///
    /// A quorum queue may have set one more aside, for an ack that was on its way, without ever sending it. That
    /// one is free again when the session is closed, and then says `redelivered` although nobody has seen it.
    pub async fn stop_consuming(&self) {
        self.draining.cancel();
        let cancelling: Vec<_> =
            self.consumers.iter().map(|consumer| consumer.cancel(self.broker.timeouts.step)).collect();
        let cancelled = join_all(cancelling).await;
        if let Some(error) = cancelled.into_iter().find_map(Result::err) {
            // Then not everything was cancelled, and nobody can tell what still comes.
            match error {
                Error::Failed { source, .. } => {
                    self.generation.end(Ended::ConnectionLost { role: Role::Consume, source: Some(source) });
                }
                Error::Late { .. } | Error::Differs { .. } | Error::NameTooLong { .. } => {
                    self.generation.end(Ended::ConnectionLost { role: Role::Consume, source: None });
                }
            }
        }
    }

    /// Ends the generation, and gives out the letters that were delivered and that nobody has taken. They come again.
    pub fn give_back(&mut self) -> Vec<Letter> {
        self.generation.end(Ended::Closed);
        // The permits that wait with the consumers, or with deliveries that nobody has taken, are the next
        // generation's from now on, however long the close takes.
        self.tasks.abort_all();
        self.deliveries.close();
        std::iter::from_fn(|| self.deliveries.try_recv().ok()).map(|delivery| delivery.letter).collect()
    }

    /// Ends the generation and closes both connections, each within its deadline. What is unsettled comes again.
    pub async fn close(mut self) {
        self.give_back();
        tokio::join!(self.broker.close(&self.consuming), self.broker.close(self.publishing.connection()));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.generation.end(Ended::Closed);
    }
}

/// Watches a connection: its end is the generation's end, an alarm is told.
pub(super) async fn watch(
    role: Role,
    events: impl Stream<Item = Event> + Send + 'static,
    generation: Generation,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => events::broker_blocked(&role.to_string(), &reason),
            Event::ConnectionUnblocked => events::broker_unblocked(&role.to_string()),
            Event::Error(error) => {
                generation.end(Ended::ConnectionLost { role, source: Some(Fault(error)) });
                return;
            }
            Event::Connected | Event::SendFlow(_) => {}
            // The client library's enum, and it grows.
            _ => {}
        }
    }
    generation.end(Ended::ConnectionLost { role, source: None });
}

/// How a run of generations came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything that was held is settled.
    Drained,
    /// The grace period, or the connection, ended first.
    GaveBack {
        /// How many deliveries were held then. They come again.
        unsettled: usize,
    },
}

/// Whoever tells the stories of deliveries. Any function of a delivery and its publisher is one.
pub trait Stories: Send {
    /// A delivery has come; `publisher` is the one that can announce for it.
    fn begin(&mut self, delivery: Delivery, publisher: &Publisher);

    /// A letter was delivered, and its generation ended before it was begun. It comes again, said to be redelivered.
    fn not_begun(&mut self, letter: &Letter);
}

impl<F: FnMut(Delivery, &Publisher) + Send> Stories for F {
    fn begin(&mut self, delivery: Delivery, publisher: &Publisher) {
        self(delivery, publisher);
    }

    fn not_begun(&mut self, _letter: &Letter) {}
}

/// Builds one generation after the other until `stop`, and hands every delivery to `stories` together with the
/// publisher that can announce for it. Starting while there is no broker waits for one, saying so.
///
/// A story may outlive its generation; its permit is back when its delivery is settled or dropped. After `stop`
/// nothing more is taken, and what is held may take until `grace` to be settled.
pub async fn run_generations(
    settings: &Settings,
    dice: &Dice,
    stop: &CancellationToken,
    grace: Duration,
    mut stories: impl Stories,
) -> Stopped {
    let mut number = 0;
    let mut address = 0;
    loop {
        number += 1;
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return stopped_without_broker(settings, grace).await,
            opened = wait_for_broker(settings, dice, number, address) => opened,
        };
        let mut session = opened;
        address = session.at;
        events::generation_started(number, &session.address(), session.consumers.len());
        let why = serve(&mut session, settings, stop, &mut stories).await;
        match why {
            None => return drain(session, settings, grace, &mut stories).await,
            Some(why) => events::generation_ended(number, &why, settings.intake.held()),
        }
        for letter in session.give_back() {
            stories.not_begun(&letter);
        }
        // Not waited for: while the broker has an alarm, a close takes its whole deadline.
        tokio::spawn(session.close());
        pause(dice).await;
    }
}

/// Tries until a generation stands.
async fn wait_for_broker(settings: &Settings, dice: &Dice, number: u64, first: usize) -> Session {
    let mut tries = 0;
    let mut told: Option<(String, Instant)> = None;
    loop {
        tries += 1;
        let error = match Session::open(settings, number, first).await {
            Ok(session) => return session,
            Err(error) => error,
        };
        // The same step failing again is no news; how exactly it fails changes all the time.
        let text = error.to_string();
        let known =
            told.as_ref().is_some_and(|(before, at)| *before == text && at.elapsed() < WAITING_TOLD_EVERY);
        if !known {
            events::waiting_for_broker(&settings.broker.to_string(), &error, tries);
            told = Some((text, Instant::now()));
        }
        pause(dice).await;
    }
}

async fn pause(dice: &Dice) {
    tokio::time::sleep(dice.roll().part_of(PAUSE_MAX)).await;
}

/// Hands deliveries on until the generation ends (then why) or somebody says stop (then `None`).
async fn serve(
    session: &mut Session,
    settings: &Settings,
    stop: &CancellationToken,
    stories: &mut impl Stories,
) -> Option<Ended> {
    let publisher = session.publisher().clone();
    let mut look = interval_at(Instant::now(), UNROUTED_READ_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let unrouted = settings.topology.unrouted();
    let mut depth_before = 0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            delivery = session.next() => match delivery {
                Some(delivery) => stories.begin(delivery, &publisher),
                None => return Some(session.ended().await),
            },
            _ = look.tick() => match session.queue_depth(&unrouted).await {
                Ok(depth) => {
                    if depth > 0 {
                        events::unrouted(&unrouted, depth);
                    } else if depth_before > 0 {
                        events::unrouted_cleared(&unrouted);
                    }
                    depth_before = depth;
                }
                Err(error) => events::depth_unknown(&unrouted, &error),
            },
        }
    }
}

/// Takes nothing more, lets what is held be finished, and closes.
async fn drain(
    mut session: Session,
    settings: &Settings,
    grace: Duration,
    stories: &mut impl Stories,
) -> Stopped {
    let begun = Instant::now();
    events::drain_started(settings.intake.held(), grace);
    let publisher = session.publisher().clone();
    let finishing = async {
        session.stop_consuming().await;
        while let Some(delivery) = session.next().await {
            stories.begin(delivery, &publisher);
        }
        tokio::select! {
            biased;
            // Nothing of it can be settled any more.
            _ = session.ended() => {}
            () = settings.intake.given_back() => {}
        }
    };
    let _ = timeout_at(begun + grace, finishing).await;
    // In this order, so that none is missed that is just being let go of.
    let held = settings.intake.held();
    let unsettled = held + session.generation.given_back();
    session.close().await;
    said(unsettled, begun)
}

/// There is no connection: nothing can be settled, but what was begun may be finished.
async fn stopped_without_broker(settings: &Settings, grace: Duration) -> Stopped {
    let begun = Instant::now();
    let unsettled = settings.intake.held();
    events::drain_started(unsettled, grace);
    let _ = tokio::time::timeout(grace, settings.intake.given_back()).await;
    said(unsettled, begun)
}

fn said(unsettled: usize, begun: Instant) -> Stopped {
    if unsettled == 0 {
        events::drain_finished(begun.elapsed());
        Stopped::Drained
    } else {
        events::gave_back(unsettled, begun.elapsed());
        Stopped::GaveBack { unsettled }
    }
}

//! One generation of the connection, and the loop that builds one after the other.
//!
//! Built in this order: connections, then channels, prefetch and topology, then consumers; so that nothing is delivered
//! before its bound is set and its answer can be published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use futures_util::{Stream, StreamExt};
use lapin::{ErrorKind, Event};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::connect::{Broker, Error, SettingsError, Timeouts, within};
use super::consumer::{Consumer, Delivery, Intake, Outlet};
use super::declare::{self, Depth};
use super::generation::{Ended, Fault, Generation, Role};
use super::link::Link;
use super::preflight::{self, Preflight, Requirements};
use super::publisher::{PublishSession, Publisher};
use super::topology::Topology;
use super::watchdog::{Pace, watch_answers};
use crate::clock::Dice;
use crate::config::Amqp;
use crate::domain::breaker::Take;
use crate::domain::intent::Kind;
use crate::domain::retry::Tiers;
use crate::management::Management;
use crate::telemetry::events;
use crate::wire::envelope::{Letter, Source};

/// The longest pause before the next try to connect. Chance chooses below it, so that the workers of a broker that
/// restarts do not all come at once.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often somebody who waits for a broker hears that we still do.
const WAITING_TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long before it is looked again whether a broker fits: a person has to mend it.
const UNFIT_PAUSE: Duration = Duration::from_secs(2);

/// How often the depths of the queues that are watched are read.
const DEPTHS_READ_EVERY: Duration = Duration::from_secs(10);

/// What a session is built from. Outlives every generation; so do the permits in it.
#[derive(Debug, Clone)]
pub struct Settings {
    broker: Broker,
    topology: Arc<Topology>,
    preflight: Preflight,
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
        let management =
            amqp.management_url.as_ref().map(|url| Management::new(url, &amqp.tls)).transpose()?;
        let requirements = Requirements { worker: Some(amqp.declare), handling_max: None, management };
        Ok(Settings {
            broker: Broker::new(amqp, name, timeouts)?,
            topology: Arc::new(Topology::new(&amqp.prefix, tiers.as_slice())),
            preflight: Preflight::new(requirements),
            intake: Intake::new(lanes),
        })
    }

    /// The same for letters that may be in hand for so long, from their delivery to their ack: a broker that waits
    /// less long for an ack does not fit.
    pub fn for_handling_of(self, handling_max: Duration) -> Settings {
        let requirements =
            Requirements { handling_max: Some(handling_max), ..self.preflight.requirements().clone() };
        Settings { preflight: Preflight::new(requirements), ..self }
    }

    /// What is looked at before letters are taken.
    pub fn requirements(&self) -> &Requirements {
        self.preflight.requirements()
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Says how much is taken from the lane of a kind from now on, whatever generation there is. At first it is
    /// everything. Its returns are taken all the time.
    pub fn take(&self, lane: Kind, take: Take) {
        self.intake.take(Source::Lane(lane), take);
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
    consuming: Arc<Link>,
    consumers_len: usize,
    deliveries: mpsc::Receiver<Delivery>,
    /// The delivery that is next, while an alarm holds it up.
    next: Option<Delivery>,
    draining: CancellationToken,
    /// They end with the generation, and give out what they have not handed on.
    pumps: JoinSet<Vec<Letter>>,
    /// The broker does not fit any more.
    unfit: CancellationToken,
    // Stopped when it is dropped.
    tasks: JoinSet<()>,
}

impl Session {
    /// Builds a generation at the first address where all of it can be built: a node that lets us in and is of no
    /// use is passed over like one that is not there. `number` is its name in logs, `first` the address to begin
    /// with.
    ///
    /// # Errors
    /// The step that failed, and what was said; of several addresses, where we came farthest. [`Error::Unfit`] when
    /// the broker is not as it must be.
    pub async fn open(settings: &Settings, number: u64, first: usize) -> Result<Session, Error> {
        let broker = &settings.broker;
        let mut failed = None;
        for at in (0..broker.addresses_len()).map(|turn| first + turn) {
            let consuming = match broker.connect_at(Role::Consume, at).await {
                Ok(consuming) => consuming,
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            match Session::open_on(settings, number, at, consuming).await {
                Ok(session) => return Ok(session),
                Err(error) => failed = Some(error),
            }
        }
        // There is at least one address, so one has failed.
        Err(failed.unwrap_or_else(|| Error::Late { step: "connect".to_owned(), after: Duration::ZERO }))
    }

    async fn open_on(settings: &Settings, number: u64, at: usize, consuming: Link) -> Result<Session, Error> {
        let Settings { broker, topology, preflight, intake } = settings;
        let Timeouts { step, blocked, .. } = broker.timeouts;
        let generation = Generation::new(number);
        let mut tasks = JoinSet::new();

        let consuming = Arc::new(consuming);
        tasks.spawn(watch(Role::Consume, consuming.events_listener(), blocked, generation.clone()));
        let opening = consuming.create_channel();
        let watched = within("open the channel of the watchdog", step, opening).await?;
        let pace = Pace::of(consuming.configuration().heartbeat());
        tasks.spawn(watch_answers(Role::Consume, watched, pace, generation.clone()));

        // At once, for a worker that has lost its broker is in a hurry; and all of it before anything is consumed.
        let publishing = async {
            let connection = broker.connect_at(Role::Publish, at).await?;
            PublishSession::on(broker, connection, Arc::clone(topology), generation.clone()).await
        };
        let preparing = try_join_all(intake.served().iter().map(async |served| {
            let queue = topology.queue_of(served.source);
            let consumer = Consumer::new(&consuming, intake, served, queue, step);
            let line = consumer.prepare().await?;
            Ok((consumer, line))
        }));
        let looking = preflight.before_consuming(broker, &consuming, at, topology);
        let (publishing, consumers, ()) = tokio::try_join!(publishing, preparing, looking)?;

        // Every delivery in it holds a permit, so there is always room.
        let (out, deliveries) = mpsc::channel(intake.held_max());
        let draining = CancellationToken::new();
        let mut pumps = JoinSet::new();
        let outlet = Outlet { out, generation: generation.clone(), draining: draining.clone() };
        let consumers = try_join_all(consumers.into_iter().map(async |(consumer, line)| {
            let consuming = match line {
                Some(line) => {
                    let stream = consumer.consume(&line).await.map_err(|error| {
                        preflight.refused(error, broker.vhost(at), topology, consumer.queue())
                    })?;
                    Some((line, stream))
                }
                // Its lane is paused.
                None => None,
            };
            Ok::<_, Error>((consumer, consuming))
        }))
        .await?;
        let consumers_len = consumers.iter().filter(|(_, consuming)| consuming.is_some()).count();
        for (consumer, consuming) in consumers {
            pumps.spawn(consumer.tend(consuming, outlet.clone()));
        }
        let unfit = CancellationToken::new();
        tasks.spawn(preflight.watch(broker, at, topology, unfit.clone()));
        Ok(Session {
            broker: broker.clone(),
            at,
            generation,
            publishing,
            consuming,
            consumers_len,
            deliveries,
            next: None,
            draining,
            pumps,
            unfit,
            tasks,
        })
    }

    /// The next delivery, of whatever source. `None`: the generation has ended, or it was drained.
    ///
    /// While the broker says that an alarm blocks what we publish, nothing comes out: what is begun could not be
    /// told. Can be dropped while it waits; no delivery is lost by that.
    pub async fn next(&mut self) -> Option<Delivery> {
        let Session { generation, deliveries, next, .. } = self;
        tokio::select! {
            biased;
            // What is still waiting belongs to nobody any more, and comes again: starting its story would only
            // turn it into doubt.
            _ = generation.ended() => None,
            delivery = async {
                if next.is_none() {
                    *next = Some(deliveries.recv().await?);
                }
                // Asked for only now: an alarm that has begun while we waited counts.
                generation.unblocked().await;
                next.take()
            } => delivery,
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
        depth_of(&self.consuming, queue, self.broker.timeouts.step).await
    }

    /// Takes nothing more. What the broker has sent already still comes out of [`next`](Session::next), and then
    /// `None`: a letter that was sent and is given back would come again as a suspect.
    ///
    /// A quorum queue may have set one more aside, for an ack that was on its way, without ever sending it. That
    /// one is free again when the session is closed, and then says `redelivered` although nobody has seen it.
    pub fn stop_consuming(&self) {
        self.draining.cancel();
    }

    /// Ends the generation, and gives out what was delivered and not begun. It comes again.
    pub async fn give_back(&mut self) -> NotBegun {
        self.generation.end(Ended::Closed);
        let mut letters: Vec<Letter> = Vec::new();
        // They do not wait for anybody: the permits that they hold are the next generation's from now on, however
        // long the close takes.
        while let Some(pumped) = self.pumps.join_next().await {
            letters.extend(pumped.unwrap_or_default());
        }
        let beyond_permits = letters.len();
        self.deliveries.close();
        let waiting =
            self.next.take().into_iter().chain(std::iter::from_fn(|| self.deliveries.try_recv().ok()));
        letters.extend(waiting.map(|delivery| delivery.letter));
        self.tasks.abort_all();
        NotBegun { letters, beyond_permits }
    }

    /// Ends the generation and closes both connections, each within its deadline. What is unsettled comes again.
    pub async fn close(mut self) {
        self.give_back().await;
        tokio::join!(self.broker.close(&self.consuming), self.publishing.shut());
    }
}

/// What was delivered and not begun when a generation ended.
#[derive(Debug)]
pub struct NotBegun {
    /// The letters.
    pub letters: Vec<Letter>,
    /// So many of them held no permit: those were with stories of an older generation.
    beyond_permits: usize,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.generation.end(Ended::Closed);
    }
}

/// Watches a connection: its end is the generation's end, and so is an alarm that lasts for `blocked_max`.
pub(super) async fn watch(
    role: Role,
    events: impl Stream<Item = Event> + Send + 'static,
    blocked_max: Duration,
    generation: Generation,
) {
    let mut events = std::pin::pin!(events);
    let mut blocked_until = None;
    let why = loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = deadline(blocked_until) => break Ended::Blocked { after: blocked_max },
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                generation.note_blocked();
                blocked_until.get_or_insert_with(|| Instant::now() + blocked_max);
                events::broker_blocked(&role.to_string(), &reason);
            }
            Some(Event::ConnectionUnblocked) => {
                generation.note_unblocked();
                blocked_until = None;
                events::broker_unblocked(&role.to_string());
            }
            Some(Event::Error(error)) if matches!(error.kind(), ErrorKind::MissingHeartbeatError) => {
                break Ended::Silent { role };
            }
            Some(Event::Error(error)) => break Ended::ConnectionLost { role, source: Some(Fault(error)) },
            None => break Ended::ConnectionLost { role, source: None },
            Some(Event::Connected | Event::SendFlow(_)) => {}
            // The client library's enum, and it grows.
            Some(_) => {}
        }
    };
    generation.end(why);
}

async fn deadline(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
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

    /// The queues whose depths it wants to know now and then, by their full names.
    fn watched(&self) -> Vec<String> {
        Vec::new()
    }

    /// The depths of those queues, as far as they could be read.
    fn looked(&mut self, _depths: Vec<(String, Depth)>) {}
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
        events::generation_started(number, &session.address(), session.consumers_len);
        let why = serve(&mut session, settings, stop, &mut stories).await;
        match why {
            None => return drain(session, settings, grace, &mut stories).await,
            Some(why) => {
                if let Ended::Unfit = why {
                    // The connection is sound: what is in hand need not come again.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        _ = timeout(grace, finish(&mut session, settings, &mut stories)) => {}
                    }
                    if stop.is_cancelled() {
                        return drain(session, settings, grace, &mut stories).await;
                    }
                }
                events::generation_ended(number, &why, settings.intake.held());
                address = next_address(session.at, &why);
            }
        }
        for letter in session.give_back().await.letters {
            stories.not_begun(&letter);
        }
        // Not waited for: while the broker has an alarm, a close takes its whole deadline.
        tokio::spawn(session.close());
        pause(dice).await;
    }
}

/// The address to begin with after a generation has ended. One that merely lost its connection comes back to where
/// it was, if that is still there; where something was of no use while the connection stood, the next one may do.
fn next_address(at: usize, why: &Ended) -> usize {
    match why {
        Ended::Closed
        | Ended::Unfit
        | Ended::ConnectionLost { .. }
        | Ended::Returned { .. }
        | Ended::Refused { .. }
        | Ended::Unsendable { .. } => at,
        Ended::Silent { .. }
        | Ended::Blocked { .. }
        | Ended::ConsumerCancelled { .. }
        | Ended::ConsumerBroke { .. }
        | Ended::Unconfirmed { .. }
        | Ended::PublishFailed { .. }
        | Ended::AckFailed { .. } => at + 1,
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
        if let Error::Unfit { findings } = &error {
            if !known {
                preflight::tell(&settings.broker.to_string(), findings);
                told = Some((text, Instant::now()));
            }
            tokio::time::sleep(UNFIT_PAUSE).await;
            continue;
        }
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
    // A task of its own: a broker that does not answer it must hold up nobody here.
    let consuming = Arc::clone(&session.consuming);
    let step = settings.broker.timeouts.step;
    session.tasks.spawn(watch_depth(consuming, settings.topology.unrouted(), step));
    let mut look = interval_at(Instant::now() + DEPTHS_READ_EVERY, DEPTHS_READ_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (looks, mut looked) = mpsc::channel(1);
    let unfit = session.unfit.clone();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = unfit.cancelled() => return Some(Ended::Unfit),
            delivery = session.next() => match delivery {
                Some(delivery) => stories.begin(delivery, &publisher),
                None => return Some(session.ended().await),
            },
            _ = look.tick() => {
                let watched = stories.watched();
                if let Ok(place) = looks.clone().try_reserve_owned()
                    && !watched.is_empty()
                {
                    let consuming = Arc::clone(&session.consuming);
                    // Not waited for here: a broker that does not answer it must hold up nobody.
                    session.tasks.spawn(async move {
                        place.send(depths_of(&consuming, &watched, step).await);
                    });
                }
            }
            Some(depths) = looked.recv() => stories.looked(depths),
        }
    }
}

/// Reads the depth of the queue where nothing should lie, again and again.
async fn watch_depth(connection: Arc<Link>, queue: String, step: Duration) {
    let mut look = interval_at(Instant::now(), DEPTHS_READ_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut depth_before = 0;
    loop {
        look.tick().await;
        match depth_of(&connection, &queue, step).await {
            Ok(depth) => {
                if depth > 0 {
                    events::unrouted(&queue, depth);
                } else if depth_before > 0 {
                    events::unrouted_cleared(&queue);
                }
                depth_before = depth;
            }
            Err(error) => events::depth_unknown(&queue, &error),
        }
    }
}

async fn depth_of(connection: &Link, queue: &str, step: Duration) -> Result<u32, Error> {
    // A channel of its own: it ends if the queue is not there.
    let opening = connection.create_channel();
    let channel = within("open a channel", step, opening).await?;
    let depth = declare::depth(&channel, queue, step).await?;
    let _ = within("close a channel", step, channel.close(200, "done".into())).await;
    Ok(depth)
}

/// The depths of these queues, by their full names. One that cannot be read is left out, and told.
async fn depths_of(connection: &Link, queues: &[String], step: Duration) -> Vec<(String, Depth)> {
    let channel = match within("open a channel", step, connection.create_channel()).await {
        Ok(channel) => channel,
        Err(error) => {
            events::depth_unknown("all", &error);
            return Vec::new();
        }
    };
    let looking = queues.iter().map(|queue| declare::depth_and_consumers(&channel, queue, step));
    let looked = queues.iter().zip(join_all(looking).await);
    let _ = within("close a channel", step, channel.close(200, "done".into())).await;
    let mut depths = Vec::new();
    let mut unknown = None;
    for (queue, depth) in looked {
        match depth {
            Ok(depth) => depths.push((queue.clone(), depth)),
            // One that is not there ends the channel for all that come after it.
            Err(error) => drop(unknown.get_or_insert((queue, error))),
        }
    }
    if let Some((queue, error)) = unknown {
        events::depth_unknown(queue, &error);
    }
    depths
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
    let _ = timeout_at(begun + grace, finish(&mut session, settings, stories)).await;
    // In this order, so that none is missed that is just being let go of.
    let held = settings.intake.held();
    let unsettled = held + session.generation.given_back();
    let unsettled = unsettled + session.give_back().await.beyond_permits;
    session.close().await;
    said(unsettled, begun)
}

/// Takes nothing more, and waits until everything that is held is settled.
async fn finish(session: &mut Session, settings: &Settings, stories: &mut impl Stories) {
    let publisher = session.publisher().clone();
    session.stop_consuming();
    while let Some(delivery) = session.next().await {
        stories.begin(delivery, &publisher);
    }
    tokio::select! {
        biased;
        // Nothing of it can be settled any more.
        _ = session.ended() => {}
        () = settings.intake.given_back() => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_comes_back_to_its_address_and_what_was_of_no_use_to_the_next() {
        let role = Role::Consume;
        assert_eq!(next_address(1, &Ended::ConnectionLost { role, source: None }), 1);
        let after = Duration::from_secs(30);
        for why in [
            Ended::Silent { role },
            Ended::Blocked { after },
            Ended::Unconfirmed { after },
            Ended::ConsumerCancelled { queue: "a-queue".to_owned() },
            Ended::AckFailed { source: None },
        ] {
            assert_eq!(next_address(1, &why), 2, "{why}");
        }
    }
}

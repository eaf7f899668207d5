//! One generation of the connection.
//!
//! Built in this order: connections, then channels, prefetch and topology, then consumers; so that nothing is delivered
//! before its bound is set and its answer can be published.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connect::{Broker, Timeouts};
use super::connection::Connection;
use super::consumer::{Consumer, Delivery, DeliverySink};
use super::consumer_channel::ConsumerChannel;
use super::depths::depth_of;
use super::error::Error;
use super::generation::{Ended, Generation, Role};
use super::publisher::{PublishSession, Publisher};
use super::settings::Settings;
use super::step::within;
use super::watchdog::{Pace, watch, watch_answers};
use crate::wire::envelope::{Letter, Source};

/// Which connections a generation consumes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One for all queues.
    Joint,
    /// One for each, and one more: whose own connection ends is to blame for it.
    Apart,
    /// One, for the queue of this source alone.
    Only(Source),
}

/// One generation: a connection that publishes, one that consumes (or several), and everything on them.
pub struct Session {
    broker: Broker,
    at: usize,
    generation: Generation,
    layout: Layout,
    publishing: PublishSession,
    consuming: Arc<Connection>,
    /// Where each queue has a connection of its own.
    apart: Vec<(Source, Arc<Connection>)>,
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
        let never = CancellationToken::new();
        let opened = Session::open_unless(&never, settings, number, first, Layout::Joint).await?;
        opened.ok_or_else(not_tried)
    }

    /// The same by the connections of this layout. `None`: somebody said stop before anything was consumed. A stop that
    /// comes later finds a session, for what the broker has sent by then has to be given back.
    pub(super) async fn open_unless(
        stop: &CancellationToken,
        settings: &Settings,
        number: u64,
        first: usize,
        layout: Layout,
    ) -> Result<Option<Session>, Error> {
        let broker = &settings.broker;
        let mut failed = None;
        for at in (0..broker.addresses_len()).map(|turn| first + turn) {
            let connecting = broker.connect_at(Role::Consume, at);
            let consuming = match stop.run_until_cancelled(connecting).await {
                None => return Ok(None),
                Some(Ok(consuming)) => consuming,
                Some(Err(error)) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            let preparing = Box::pin(Prepared::on(settings, number, at, consuming, layout));
            let opened = match stop.run_until_cancelled(preparing).await {
                None => return Ok(None),
                Some(Ok(prepared)) => prepared.consume(settings).await,
                Some(Err(error)) => Err(error),
            };
            match opened {
                Ok(session) => return Ok(Some(session)),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(not_tried))
    }

    /// The next delivery, of whatever source. `None`: the generation has ended, or it was drained.
    ///
    /// While the broker says that an alarm blocks what we publish, nothing comes out: what is begun could not be
    /// told. Can be dropped while it waits; no delivery is lost by that.
    pub async fn next(&mut self) -> Option<Delivery> {
        let Session { generation, deliveries, next, .. } = self;
        tokio::select! {
            biased;
            // What is still waiting belongs to nobody any more, and comes again: beginning its step would only
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

    /// The number of that address.
    pub(super) fn address_number(&self) -> usize {
        self.at
    }

    /// Which connections it consumes by.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The connection that it consumes and looks around by.
    pub(super) fn consuming(&self) -> &Arc<Connection> {
        &self.consuming
    }

    /// How many queues it consumed when it began.
    pub(super) fn consumers_len(&self) -> usize {
        self.consumers_len
    }

    /// Cancelled when the broker does not fit any more.
    pub(super) fn unfit(&self) -> &CancellationToken {
        &self.unfit
    }

    /// Something that goes on until it is given back.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The source whose own connection has ended, while all others live.
    pub(super) fn ended_alone(&self) -> Option<Source> {
        let mut ended = self.apart.iter().filter(|(_, connection)| !connection.status().connected());
        let (source, _) = ended.next()?;
        let others_live = ended.next().is_none() && self.consuming.status().connected();
        others_live.then_some(*source)
    }

    /// Waits until everything that it has delivered is settled, after it has taken its last.
    pub(super) async fn all_settled(&mut self) {
        while self.pumps.join_next().await.is_some() {}
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
        let apart = join_all(self.apart.iter().map(|(_, connection)| self.broker.close(connection)));
        tokio::join!(self.broker.close(&self.consuming), apart, self.publishing.shut());
    }
}

/// What is said where no address was tried. That cannot be: there is at least one.
fn not_tried() -> Error {
    Error::Late { step: "connect".to_owned(), after: Duration::ZERO }
}

/// All of a generation but its consumers: nothing is delivered yet.
struct Prepared {
    at: usize,
    generation: Generation,
    layout: Layout,
    publishing: PublishSession,
    consuming: Arc<Connection>,
    consumers: Vec<PreparedConsumer>,
    tasks: JoinSet<()>,
}

/// A consumer with its channel, if its lane is not paused, and its connection.
struct PreparedConsumer {
    source: Source,
    connection: Arc<Connection>,
    consumer: Consumer,
    line: Option<ConsumerChannel>,
}

impl Prepared {
    async fn on(
        settings: &Settings,
        number: u64,
        at: usize,
        consuming: Connection,
        layout: Layout,
    ) -> Result<Prepared, Error> {
        let Settings { broker, topology, preflight, intake } = settings;
        let Timeouts { step, blocked, .. } = broker.timeouts;
        let generation = Generation::new(number);
        let mut tasks = JoinSet::new();

        let consuming = Arc::new(consuming);
        tasks.spawn(watch(Role::Consume, consuming.events_listener(), blocked, generation.clone()));
        let opening = consuming.create_channel();
        let watched = within("open the channel of the watchdog", step, opening).await?;
        let pace = Pace::of(consuming.configuration().heartbeat());
        tasks.spawn(watch_answers(
            Role::Consume,
            watched,
            pace,
            generation.clone(),
            consuming.held().clone(),
        ));

        // At once, for a worker that has lost its broker is in a hurry; and all of it before anything is consumed.
        let publishing = async {
            let connection = broker.connect_at(Role::Publish, at).await?;
            PublishSession::on(broker, connection, Arc::clone(topology), generation.clone()).await
        };
        let served = intake.served().iter().filter(|served| match layout {
            Layout::Joint | Layout::Apart => true,
            Layout::Only(source) => served.source == source,
        });
        let preparing = try_join_all(served.map(async |served| {
            let queue = topology.queue_of(served.source);
            let connection = match layout {
                Layout::Joint | Layout::Only(_) => Arc::clone(&consuming),
                Layout::Apart => Arc::new(broker.connect_at(Role::Consume, at).await?),
            };
            let consumer = Consumer::new(&connection, intake, served, queue, step);
            let consumer = match layout {
                Layout::Joint | Layout::Apart => consumer,
                Layout::Only(_) => consumer.alone(),
            };
            let line = consumer.prepare().await?;
            Ok(PreparedConsumer { source: served.source, connection, consumer, line })
        }));
        let looking = async {
            match layout {
                Layout::Joint | Layout::Apart => {
                    preflight.before_consuming(broker, &consuming, at, topology).await
                }
                // Its worker has looked.
                Layout::Only(_) => Ok(()),
            }
        };
        let (publishing, consumers, ()) = tokio::try_join!(publishing, preparing, looking)?;
        Ok(Prepared { at, generation, layout, publishing, consuming, consumers, tasks })
    }

    async fn consume(self, settings: &Settings) -> Result<Session, Error> {
        let Settings { broker, topology, preflight, intake } = settings;
        let Prepared { at, generation, layout, publishing, consuming, consumers, mut tasks } = self;
        let blocked = broker.timeouts.blocked;

        // Every delivery in it holds a permit, so there is always room.
        let (out, deliveries) = mpsc::channel(intake.held_max());
        let draining = CancellationToken::new();
        let mut pumps = JoinSet::new();
        let sink = DeliverySink { out, generation: generation.clone(), draining: draining.clone() };
        let mut apart = Vec::new();
        let mut prepared = Vec::new();
        for PreparedConsumer { source, connection, consumer, line } in consumers {
            if layout == Layout::Apart {
                let events = connection.events_listener();
                tasks.spawn(watch(Role::Consume, events, blocked, generation.clone()));
                apart.push((source, connection));
            }
            prepared.push((consumer, line));
        }
        let beginning = try_join_all(prepared.into_iter().map(async |(consumer, line)| {
            let consuming = match line {
                Some(line) => match consumer.consume(&line).await {
                    Ok(stream) => Some((line, stream)),
                    // A connection that is lost in this very moment may be lost because of what it delivers: that is
                    // the generation's end, and not the end of a try to build one.
                    Err(_) if !consumer.is_connected() => None,
                    Err(error) => {
                        return Err(preflight.refused(error, broker.vhost(at), topology, consumer.queue()));
                    }
                },
                // Its lane is paused.
                None => None,
            };
            Ok::<_, Error>((consumer, consuming))
        }));
        let consumers = beginning.await?;
        let consumers_len = consumers.iter().filter(|(_, consuming)| consuming.is_some()).count();
        for (consumer, consuming) in consumers {
            pumps.spawn(consumer.tend(consuming, sink.clone()));
        }
        let unfit = CancellationToken::new();
        match layout {
            Layout::Joint | Layout::Apart => {
                tasks.spawn(preflight.watch(broker, at, topology, unfit.clone()));
            }
            // Its worker watches.
            Layout::Only(_) => {}
        }
        Ok(Session {
            broker: broker.clone(),
            at,
            generation,
            layout,
            publishing,
            consuming,
            apart,
            consumers_len,
            deliveries,
            next: None,
            draining,
            pumps,
            unfit,
            tasks,
        })
    }
}

/// What was delivered and not begun when a generation ended.
#[derive(Debug)]
pub struct NotBegun {
    /// The letters.
    pub letters: Vec<Letter>,
    /// How many of them held no permit: steps of an older generation hold those.
    pub(super) beyond_permits: usize,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.generation.end(Ended::Closed);
    }
}

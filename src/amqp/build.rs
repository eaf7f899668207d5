//! Builds one generation.
//!
//! In this order: connections, then channels, prefetch and topology, then consumers; so that nothing is delivered before
//! its bound is set and its answer can be published.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::consumer::{Consumer, DeliverySink};
use super::consumer_channel::ConsumerChannel;
use super::error::Error;
use super::generation::{Generation, Role};
use super::publisher::PublishSession;
use super::session::{Layout, Session};
use super::settings::Settings;
use super::watchdog::{guard, watch};

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

    /// The same by the connections of this layout. `None`: the stop came before anything was consumed. A stop that
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
    /// Each with its channel, if its lane is not paused.
    consumers: Vec<(Consumer, Option<ConsumerChannel>)>,
    tasks: JoinSet<()>,
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
        let step = broker.timeouts.step;
        let generation = Generation::new(number);
        let is_of_one = matches!(layout, Layout::Only(_));
        let mut tasks = JoinSet::new();

        let consuming = Arc::new(consuming);
        guard(Role::Consume, &consuming, broker.timeouts, &generation, &mut tasks).await?;

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
            let consumer = if is_of_one { consumer.alone() } else { consumer };
            let channel = consumer.prepare().await?;
            Ok((consumer, channel))
        }));
        let looking = async {
            // For one queue alone, the generation of the others looks.
            if is_of_one {
                Ok(())
            } else {
                preflight.before_consuming(broker, &consuming, at, topology).await
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
        if layout == Layout::Apart {
            for (Consumer { source, connection, .. }, _) in &consumers {
                let events = connection.events_listener();
                tasks.spawn(watch(Role::Consume, events, blocked, generation.clone()));
                apart.push((*source, Arc::clone(connection)));
            }
        }
        let beginning = try_join_all(consumers.into_iter().map(async |(consumer, channel)| {
            let consuming = match channel {
                Some(channel) => match channel.consume().await {
                    Ok(stream) => Some((channel, stream)),
                    // A connection that is lost in this very moment may be lost because of what it delivers: that is
                    // the generation's end, and not the end of a try to build one.
                    Err(_) if !consumer.connection.status().connected() => None,
                    Err(error) => {
                        return Err(preflight.refused(error, broker.vhost(at), topology, &consumer.queue));
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
        if !matches!(layout, Layout::Only(_)) {
            tasks.spawn(preflight.watch(broker, at, topology, unfit.clone()));
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

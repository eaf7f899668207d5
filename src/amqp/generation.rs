//! A generation: everything that was built on one pair of connections. Any broken part ends the whole of it; then
//! the broker takes back all that is unacked, and the next generation is built.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// One generation of the connection. Cheap to clone; all clones are the same generation.
#[derive(Clone)]
pub struct Generation(Arc<Inner>);

struct Inner {
    number: u64,
    ended: watch::Sender<Option<Ended>>,
    /// Since when an alarm of the broker blocks what we publish.
    blocked: watch::Sender<Option<Instant>>,
    /// Deliveries that were let go of unsettled.
    given_back: AtomicUsize,
}

impl Generation {
    /// A generation that has not ended.
    pub(super) fn new(number: u64) -> Generation {
        Generation(Arc::new(Inner {
            number,
            ended: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
            given_back: AtomicUsize::new(0),
        }))
    }

    /// Its number: the first of a process is 1.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// A delivery of it was let go of unsettled: the broker takes it back when the generation has ended.
    pub(super) fn note_given_back(&self) {
        self.0.given_back.fetch_add(1, Ordering::Relaxed);
    }

    /// How many of its deliveries were let go of unsettled.
    pub(super) fn given_back(&self) -> usize {
        self.0.given_back.load(Ordering::Relaxed)
    }

    /// The broker says that an alarm blocks the publishing connection.
    pub(super) fn note_blocked(&self) {
        self.0.blocked.send_if_modified(|since| {
            let first = since.is_none();
            since.get_or_insert_with(Instant::now);
            first
        });
    }

    /// The broker says that the alarm is over.
    pub(super) fn note_unblocked(&self) {
        self.0.blocked.send_replace(None);
    }

    /// Since when an alarm of the broker blocks what we publish, and every change of that.
    pub fn blocked(&self) -> watch::Receiver<Option<Instant>> {
        self.0.blocked.subscribe()
    }

    /// Whether an alarm of the broker blocks what we publish: then nothing new is begun.
    pub fn is_blocked(&self) -> bool {
        self.0.blocked.borrow().is_some()
    }

    /// Waits until no alarm blocks what we publish.
    pub(super) async fn unblocked(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.blocked().wait_for(Option::is_none).await;
    }

    /// Whether they are the same one.
    pub(super) fn is(&self, other: &Generation) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Ends it. The first reason stays; the later ones are its consequences.
    pub(super) fn end(&self, why: Ended) {
        self.0.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why);
            }
            first
        });
    }

    /// Why it ended, if it has.
    pub fn why(&self) -> Option<Ended> {
        self.0.ended.borrow().clone()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.0.ended.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()).unwrap_or(Ended::Closed)
    }

    /// What `work` gives, unless it ends before.
    pub(super) async fn while_it_lasts<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.ended() => None,
            done = work => Some(done),
        }
    }

    /// What a step hears that it interrupted.
    pub(super) fn interrupted(&self) -> Interrupted {
        Interrupted { generation: self.number(), why: self.why().unwrap_or(Ended::Closed) }
    }
}

/// Numbers the generations of a process: those of all queues, and those of queues that are consumed alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Arc<AtomicU64>);

impl Numbers {
    /// The next one: the first is 1.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Generation").field(&self.number()).finish()
    }
}

/// One of our two connections. They are two because a broker's alarm stops *all* writes of a connection that
/// publishes, acks included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes deliveries and acks them.
    Consume,
    /// Publishes and hears the confirms.
    Publish,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Consume => "consume",
            Role::Publish => "publish",
        })
    }
}

/// What the client library or the broker says. Never holds an address or a password.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct ClientError(#[from] pub(super) lapin::Error);

/// Why a generation ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ended {
    /// We closed it.
    #[error("it was closed")]
    Closed,
    /// The broker does not fit any more: a policy was set, or a binding taken away.
    #[error("the broker does not fit any more")]
    Unfit,
    /// Its queues go back to one connection.
    #[error("its queues go back to one connection")]
    Regrouped,
    /// A connection broke, or the broker closed it.
    #[error("the {role} connection was lost")]
    ConnectionLost {
        /// Which one.
        role: Role,
        /// What was said, if anything was.
        #[source]
        source: Option<ClientError>,
    },
    /// The broker did not answer on a connection that looks open, for most of two heartbeats: it hangs, or the
    /// network swallows what is sent.
    #[error("the broker is silent on the {role} connection")]
    Silent {
        /// Which one.
        role: Role,
    },
    /// An alarm of the broker lasted for too long. What we hold is let go of before the broker takes it back.
    #[error("an alarm of the broker has blocked the publish connection for {} s", after.as_secs_f32())]
    Blocked {
        /// The bound that has passed.
        after: Duration,
    },
    /// The broker cancelled a consumer: its queue was deleted, or has lost its leader.
    #[error("the broker cancelled the consumer of queue `{queue}`")]
    ConsumerCancelled {
        /// The queue.
        queue: String,
    },
    /// The channel of a consumer broke.
    #[error("the consumer of queue `{queue}` broke")]
    ConsumerBroke {
        /// The queue.
        queue: String,
        /// What was said.
        #[source]
        source: ClientError,
    },
    /// The broker returned a message. With our topology that can only mean a broken one; and since it does not
    /// say reliably which confirm belongs to it, nothing that was confirmed at the same time is believed.
    #[error("the broker has no route from exchange `{exchange}` for routing key `{routing_key}`")]
    Returned {
        /// Where the message was published to.
        exchange: String,
        /// The key it was published with.
        routing_key: String,
    },
    /// The broker refused a message of an announcement: a queue behind the exchange is full.
    #[error("the broker refused a message to exchange `{exchange}` with routing key `{routing_key}`")]
    Refused {
        /// Where the message was published to.
        exchange: String,
        /// The key it was published with.
        routing_key: String,
    },
    /// The broker did not confirm a message in time.
    #[error("the broker did not confirm a message within {} s", after.as_secs_f32())]
    Unconfirmed {
        /// The deadline that has passed.
        after: Duration,
    },
    /// The publishing channel broke.
    #[error("publishing failed")]
    PublishFailed {
        /// What was said.
        #[source]
        source: ClientError,
    },
    /// A message that no broker can take. That is a bug of ours.
    #[error("a message cannot be sent: {what}")]
    Unsendable {
        /// What is wrong with it; no values.
        what: &'static str,
    },
    /// An ack went nowhere: its channel is gone. The letter will be delivered again.
    #[error("an ack could not be sent")]
    AckFailed {
        /// What was said; nothing if the channel was gone already.
        #[source]
        source: Option<ClientError>,
    },
}

/// Not even the announcement could be confirmed, or the ack not be sent: the generation has ended, the broker takes
/// back what is unacked, and the step has nothing more to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("interrupted: generation {generation} of the connection has ended")]
pub struct Interrupted {
    /// Its number.
    pub generation: u64,
    /// Why it ended.
    #[source]
    pub why: Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let generation = Generation::new(1);
        generation.end(Ended::Unconfirmed { after: Duration::from_secs(30) });
        generation.end(Ended::Closed);
        assert!(matches!(generation.ended().await, Ended::Unconfirmed { .. }));
    }

    #[tokio::test]
    async fn a_clone_hears_the_end() {
        let generation = Generation::new(1);
        let other = generation.clone();
        let listener = tokio::spawn(async move { other.ended().await });
        generation.end(Ended::Closed);
        assert!(matches!(listener.await.expect("no panic"), Ended::Closed));
    }
}

//! Publishing, pipelined and exact: one task owns one channel.
//!
//! The client library allots a publish its tag under one lock and queues its frames under another, so that tasks
//! which share a channel get each other's confirms. Here one task does both, in one poll.
//!
//! And it attaches a returned message to whichever confirm resolves next, which need not be the message's own: an
//! unroutable message can look confirmed. But that confirm resolves *no later* than the right one. So:
//!
//! 1. Collect every confirm that is ready, until there is truly none: until a poll was pending *and nothing woke us
//!    during it*, for `FuturesUnordered` also yields when it merely wants a pause.
//! 2. If one of them carries a return, believe none of them, and end the generation: with our topology a return
//!    means a broken one.
//! 3. If one of them carries a nack, that very message was refused (the tag of a nack is exact). What was confirmed
//!    with it is not believed yet, but only once everything published until then has been answered, and without a
//!    return. That costs at most one more round trip, and only while the broker refuses.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::Timeouts;
use super::generation::{ClientError, Ended, Generation, Interrupted, Role};
use super::step::sleep_until_if;

/// How many groups wait for their turn; more wait outside.
const QUEUED_GROUPS_MAX: usize = 1_024;

/// How many messages are on their way at once, apart from the last group's.
const IN_FLIGHT_MESSAGES_MAX: usize = 4_096;

/// How long the confirms of what is published already are waited for after the generation has ended for a reason that
/// has nothing to do with publishing. What is known to be announced is not announced again when its letter comes back.
const LAST_CONFIRMS_MAX: Duration = Duration::from_secs(5);

/// A message as it is published.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// Every message of a group has been confirmed by the broker, and none was returned. Made here and nowhere else.
#[derive(Debug)]
pub struct Confirmed(());

/// A group that was not confirmed as a whole.
#[derive(Debug)]
pub(super) enum Unconfirmed {
    /// The broker refused these messages, by their index in the group, and has taken the others.
    Refused(Vec<usize>),
    /// It is not known: the generation has ended.
    Interrupted(Interrupted),
}

/// The way to the task that owns a publishing channel.
#[derive(Debug, Clone)]
pub(super) struct Confirms {
    groups: mpsc::Sender<Group>,
    generation: Generation,
    /// Cancelled when the task has ended: nothing more is confirmed.
    over: CancellationToken,
}

#[derive(Debug)]
struct Group {
    messages: Vec<Outgoing>,
    reply: oneshot::Sender<Result<Confirmed, Vec<usize>>>,
}

impl Confirms {
    /// Starts the task that owns `channel`, which must be in confirm mode and used by nothing else.
    pub(super) fn start(
        channel: Channel,
        timeouts: Timeouts,
        generation: Generation,
        tasks: &mut JoinSet<()>,
    ) -> Confirms {
        let (groups, queue) = mpsc::channel(QUEUED_GROUPS_MAX);
        let pipeline = Pipeline {
            channel,
            confirm_timeout: timeouts.confirm,
            blocked_max: timeouts.blocked,
            in_flight: FuturesUnordered::new(),
            woken: Arc::new(Woken::default()),
            groups: HashMap::new(),
            sent: BTreeMap::new(),
            held: VecDeque::new(),
            next_group: 0,
            next_number: 0,
        };
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let running = generation.clone();
        tasks.spawn(async move {
            let _guard = guard;
            pipeline.run(queue, running).await;
        });
        Confirms { groups, generation, over }
    }

    /// Waits until nothing more is confirmed.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Publishes a group and waits for the confirms of all of it, as long as the generation lasts; and a moment longer, if
    /// that ends for a reason that has nothing to do with publishing.
    pub(super) async fn confirm(&self, messages: Vec<Outgoing>) -> Result<Confirmed, Unconfirmed> {
        if self.generation.why().is_some() {
            return Err(Unconfirmed::Interrupted(self.generation.interrupted()));
        }
        let (reply, answer) = oneshot::channel();
        let answered = async {
            self.groups.send(Group { messages, reply }).await.ok()?;
            answer.await.ok()
        };
        // That the reply is dropped is not enough: a group that comes in at the very moment in which the pipeline goes
        // is kept by the channel between us, with its reply, for as long as there are publishers.
        let answer = tokio::select! {
            biased;
            answer = answered => answer,
            () = too_late(&self.generation) => None,
        };
        match answer {
            Some(Ok(confirmed)) => Ok(confirmed),
            Some(Err(refused)) => Err(Unconfirmed::Refused(refused)),
            None => Err(Unconfirmed::Interrupted(self.generation.interrupted())),
        }
    }
}

/// Waits until no confirm is waited for any more.
async fn too_late(generation: &Generation) {
    if publishing_lives(&generation.ended().await) {
        tokio::time::sleep(LAST_CONFIRMS_MAX).await;
    }
}

/// Whether a generation has ended for a reason that has nothing to do with publishing.
fn publishing_lives(why: &Ended) -> bool {
    match why {
        Ended::ConnectionLost { role: Role::Consume, .. }
        | Ended::Silent { role: Role::Consume }
        | Ended::ConsumerCancelled { .. }
        | Ended::ConsumerBroke { .. }
        | Ended::AckFailed { .. } => true,
        Ended::ConnectionLost { role: Role::Publish, .. }
        | Ended::Silent { role: Role::Publish }
        | Ended::Closed
        | Ended::Unfit
        | Ended::Regrouped
        | Ended::Blocked { .. }
        | Ended::Returned { .. }
        | Ended::Refused { .. }
        | Ended::Unconfirmed { .. }
        | Ended::PublishFailed { .. }
        | Ended::Unsendable { .. } => false,
    }
}

/// The one owner of a publishing channel.
struct Pipeline {
    channel: Channel,
    confirm_timeout: Duration,
    blocked_max: Duration,
    in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
    woken: Arc<Woken>,
    groups: HashMap<u64, Open>,
    /// What has not been answered yet, by number, and when it was sent. Every deadline is equally long, so the
    /// first one passes first.
    sent: BTreeMap<u64, Sent>,
    /// What was confirmed together with a nack, until everything below a number has been answered.
    held: VecDeque<Held>,
    next_group: u64,
    next_number: u64,
}

/// When a message was sent, and when the clock of its deadline began: later, by the time that an alarm has taken.
struct Sent {
    at: Instant,
    clock_from: Instant,
}

impl Sent {
    fn now() -> Sent {
        let now = Instant::now();
        Sent { at: now, clock_from: now }
    }

    /// An alarm, and while it lasted the clock stood still; but however many follow each other, no message waits
    /// for them longer than for one.
    fn forgive(&mut self, blocked_since: Instant, blocked_max: Duration) {
        let blocked = blocked_since.max(self.clock_from).elapsed();
        self.clock_from = (self.clock_from + blocked).min(self.at + blocked_max);
    }
}

/// A group of which something is still unknown.
struct Open {
    reply: oneshot::Sender<Result<Confirmed, Vec<usize>>>,
    unknown: usize,
    refused: Vec<usize>,
}

struct Held {
    until_answered_below: u64,
    groups: Vec<u64>,
}

/// What became of one publish. Of a confirmation, the return that it carries may be another message's.
struct Answer {
    number: u64,
    group: u64,
    index: usize,
    exchange: ShortString,
    routing_key: ShortString,
    confirmation: lapin::Result<Confirmation>,
}

impl Pipeline {
    async fn run(mut self, mut queue: mpsc::Receiver<Group>, generation: Generation) {
        let ended = tokio::select! {
            biased;
            why = generation.ended() => {
                // A group that was not published is told so by its reply, which is dropped.
                drop(queue);
                if publishing_lives(&why) {
                    let _ = tokio::time::timeout(LAST_CONFIRMS_MAX, self.last_confirms()).await;
                }
                return;
            }
            ended = self.pipeline(&mut queue, generation.blocked()) => ended,
        };
        // Before the replies are dropped with `self`: the tasks that wait for them ask why.
        if let Err(why) = ended {
            generation.end(why);
        }
    }

    /// Takes in the confirms of what is published already.
    async fn last_confirms(&mut self) {
        while !self.in_flight.is_empty() {
            let answers = Collect(&mut self.in_flight, &self.woken).await;
            if self.digest(answers).is_err() {
                return;
            }
        }
    }

    /// Publishes what comes and answers it, until the last publisher is gone or something ends the generation.
    ///
    /// While the broker says that an alarm blocks us, no deadline passes: the broker reads nothing then, and answers
    /// nothing. How long that may last is bounded by the watch over the connection.
    async fn pipeline(
        &mut self,
        queue: &mut mpsc::Receiver<Group>,
        mut blocked: watch::Receiver<Option<Instant>>,
    ) -> Result<(), Ended> {
        let mut open = true;
        let mut blocked_since = *blocked.borrow_and_update();
        while open || !self.in_flight.is_empty() {
            let room = open && self.in_flight.len() < IN_FLIGHT_MESSAGES_MAX;
            let deadline = match blocked_since {
                Some(_) => None,
                None => self.sent.first_key_value().map(|(_, sent)| sent.clock_from + self.confirm_timeout),
            };
            tokio::select! {
                biased;
                answers = Collect(&mut self.in_flight, &self.woken) => self.digest(answers)?,
                Ok(()) = blocked.changed() => {
                    let now_blocked_since = *blocked.borrow_and_update();
                    if let (Some(since), None) = (blocked_since, now_blocked_since) {
                        self.sent.values_mut().for_each(|sent| sent.forgive(since, self.blocked_max));
                    }
                    blocked_since = now_blocked_since;
                }
                () = sleep_until_if(deadline) => return Err(Ended::Unconfirmed { after: self.confirm_timeout }),
                group = queue.recv(), if room => match group {
                    Some(group) => self.publish(group),
                    None => open = false,
                },
            }
        }
        Ok(())
    }

    /// Puts a group on its way. Each publish is first polled by the next `Collect`, in this order, by this task.
    fn publish(&mut self, Group { messages, reply }: Group) {
        let group = self.next_group;
        self.next_group += 1;
        self.groups.insert(group, Open { reply, unknown: messages.len(), refused: vec![] });
        for (index, message) in messages.into_iter().enumerate() {
            let number = self.next_number;
            self.next_number += 1;
            self.sent.insert(number, Sent::now());
            let channel = self.channel.clone();
            self.in_flight.push(Box::pin(async move {
                let Outgoing { exchange, routing_key, properties, body } = message;
                let confirmation = publish(&channel, &exchange, &routing_key, properties, &body).await;
                Answer { number, group, index, exchange, routing_key, confirmation }
            }));
        }
        self.answer_if_known(group);
    }

    /// Takes in what was collected: all that was ready, in no order.
    fn digest(&mut self, answers: Vec<Answer>) -> Result<(), Ended> {
        let mut confirmed = Vec::with_capacity(answers.len());
        let mut refused = Vec::new();
        let mut returned = None;
        for answer in answers {
            self.sent.remove(&answer.number);
            match answer.confirmation {
                Ok(Confirmation::Ack(None)) => confirmed.push(answer.group),
                Ok(Confirmation::Nack(None)) => refused.push((answer.group, answer.index)),
                Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) => {
                    returned = Some(returned_by(&message));
                }
                // The channel is not in confirm mode: then nothing is known, as if it had been returned.
                Ok(Confirmation::NotRequested) => {
                    returned = Some(Ended::Returned {
                        exchange: answer.exchange.to_string(),
                        routing_key: answer.routing_key.to_string(),
                    });
                }
                Err(error) => return Err(Ended::PublishFailed { source: ClientError(error) }),
            }
        }
        if let Some(why) = returned {
            return Err(why);
        }
        if refused.is_empty() {
            self.release(confirmed);
        } else {
            self.held.push_back(Held { until_answered_below: self.next_number, groups: confirmed });
        }
        for (group, index) in refused {
            self.refuse(group, index);
        }
        let answered_below = self.sent.first_key_value().map_or(self.next_number, |(number, _)| *number);
        while let Some(held) = self.held.pop_front_if(|held| held.until_answered_below <= answered_below) {
            self.release(held.groups);
        }
        Ok(())
    }

    fn release(&mut self, groups: Vec<u64>) {
        for group in groups {
            if let Some(open) = self.groups.get_mut(&group) {
                open.unknown -= 1;
            }
            self.answer_if_known(group);
        }
    }

    fn refuse(&mut self, group: u64, index: usize) {
        if let Some(open) = self.groups.get_mut(&group) {
            open.unknown -= 1;
            open.refused.push(index);
        }
        self.answer_if_known(group);
    }

    fn answer_if_known(&mut self, group: u64) {
        if self.groups.get(&group).is_some_and(|open| open.unknown == 0)
            && let Some(Open { reply, mut refused, .. }) = self.groups.remove(&group)
        {
            refused.sort_unstable();
            // A task that has stopped waiting does not settle either.
            let _ = reply.send(if refused.is_empty() { Ok(Confirmed(())) } else { Err(refused) });
        }
    }
}

async fn publish(
    channel: &Channel,
    exchange: &ShortString,
    routing_key: &ShortString,
    properties: BasicProperties,
    body: &[u8],
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    channel.basic_publish(exchange.clone(), routing_key.clone(), options, body, properties).await?.await
}

fn returned_by(message: &BasicReturnMessage) -> Ended {
    Ended::Returned {
        exchange: message.delivery.exchange.to_string(),
        routing_key: message.delivery.routing_key.to_string(),
    }
}

/// Whether this task was woken since it looked last, and the waker to pass that on to.
#[derive(Default)]
struct Woken {
    flag: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::SeqCst);
        self.task.wake();
    }
}

/// Every item that is ready, at least one, until there is truly none left: no poll was pending while something
/// woke us. Pending for ever where there is nothing in flight.
struct Collect<'a, S>(&'a mut S, &'a Arc<Woken>);

impl<S: Stream + Unpin> Future for Collect<'_, S> {
    type Output = Vec<S::Item>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<S::Item>> {
        let Collect(stream, woken) = &mut *self;
        woken.task.register(cx.waker());
        let waker = Waker::from(Arc::clone(woken));
        let mut own = Context::from_waker(&waker);
        let mut ready = Vec::new();
        loop {
            woken.flag.store(false, Ordering::SeqCst);
            match Pin::new(&mut **stream).poll_next(&mut own) {
                Poll::Ready(Some(item)) => ready.push(item),
                Poll::Ready(None) => break,
                Poll::Pending if woken.flag.load(Ordering::SeqCst) => {}
                Poll::Pending => break,
            }
        }
        if ready.is_empty() { Poll::Pending } else { Poll::Ready(ready) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_only_wants_a_pause_is_polled_on() {
        // Pending and awake, before each of three items.
        let mut turn = 0;
        let mut yielding = stream::poll_fn(move |cx| {
            turn += 1;
            match turn {
                1 | 3 | 5 => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                2 | 4 | 6 => Poll::Ready(Some(turn)),
                _ => Poll::Pending,
            }
        });
        let woken = Arc::new(Woken::default());
        assert_eq!(Collect(&mut yielding, &woken).await, [2, 4, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_a_deadline_stands_still_during_an_alarm_but_not_for_ever() {
        let second = Duration::from_secs(1);
        let mut sent = Sent::now();
        let begun = sent.at;
        tokio::time::advance(second * 2).await;
        let blocked_since = Instant::now();
        tokio::time::advance(second * 5).await;
        sent.forgive(blocked_since, second * 60);
        assert_eq!(
            sent.clock_from,
            begun + second * 5,
            "two seconds have passed before the alarm, and count"
        );
        for _ in 0..100 {
            let blocked_since = Instant::now();
            tokio::time::advance(second * 10).await;
            sent.forgive(blocked_since, second * 60);
        }
        assert_eq!(sent.clock_from, begun + second * 60);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_confirm_longer_than_the_generation_lasts() {
        // The group is in the channel, and nobody takes it out any more.
        let (groups, _queue) = mpsc::channel(1);
        let generation = Generation::new(1);
        let confirms = Confirms { groups, generation: generation.clone(), over: CancellationToken::new() };
        let confirming = tokio::spawn(async move { confirms.confirm(vec![]).await.is_err() });
        tokio::task::yield_now().await;
        generation.end(Ended::Closed);
        let waited = tokio::time::timeout(Duration::from_secs(60), confirming).await;
        assert!(waited.expect("it ends").expect("no panic"), "it is interrupted");
    }

    #[tokio::test]
    async fn nothing_ready_is_pending() {
        let mut nothing = stream::poll_fn(|_| Poll::<Option<()>>::Pending);
        let woken = Arc::new(Woken::default());
        assert!(poll!(Collect(&mut nothing, &woken)).is_pending());
        let mut empty = FuturesUnordered::<std::future::Ready<()>>::new();
        assert!(poll!(Collect(&mut empty, &woken)).is_pending());
    }
}

//! RabbitMQ as it is: exact confirms, exact acks, the topology, and what happens when something breaks.

use crate::support::broker_test;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cancel_worker::amqp::browse::{Tail, queue_depths};
use cancel_worker::amqp::declare::delete_all;
use cancel_worker::amqp::preflight::{BrokerObject, Finding, Problem, Requirements, apply, inspect};
use cancel_worker::amqp::{
    Broker, ConsumeMode, Delivery, Ended, PublishError, PublishSession, Publisher, Session, Settings,
    Stopped, Timeouts, Topology, run_generations,
};
use cancel_worker::clock::JitterSource;
use cancel_worker::config::{Amqp, AmqpTls, Declare};
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::retry::{Tier, Tiers};
use cancel_worker::wire::envelope::{Address, HeaderValue, Headers, Message, Messages, Redelivered, Source};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

/// No test waits longer for one thing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Only one kind is served in these tests; the lanes of all are there.
pub(crate) const KIND: Kind = Kind::TransactionCancel;

pub(crate) fn tier() -> Tier {
    Tier { length: Duration::from_millis(100), name: "100ms".to_owned() }
}

pub(crate) fn amqp(urls: &[&str], prefix: &str) -> Amqp {
    Amqp {
        urls: urls.iter().map(|url| (*url).into()).collect(),
        management_url: None,
        prefix: prefix.to_owned(),
        declare: Declare::Missing,
        tls: AmqpTls::default(),
    }
}

pub(crate) fn broker(url: &str) -> Result<Broker> {
    Ok(Broker::new(&amqp(&[url], "any"), "test", Timeouts::default())?)
}

pub(crate) fn topology(prefix: &str) -> Topology {
    Topology::new(prefix, &[tier()])
}

/// What differs, as AMQP alone tells it.
async fn differences(broker: &Broker, topology: &Topology) -> Result<Vec<Finding>> {
    Ok(inspect(broker, topology, &Requirements::default()).await?.findings)
}

fn settings(urls: &[&str], prefix: &str, prefetch: u16) -> Result<Settings> {
    let tiers = Tiers::try_new(vec![tier()]).context("one tier")?;
    let lanes = BTreeMap::from([(KIND, prefetch)]);
    Ok(Settings::new(&amqp(urls, prefix), "test", &lanes, &tiers, Timeouts::default())?)
}

pub(crate) fn message(address: Address, routing_key: &str, body: impl Into<Bytes>) -> Message {
    Message {
        address,
        routing_key: routing_key.to_owned(),
        headers: Headers::new(),
        content_type: "application/json",
        message_id: None,
        occasion: None,
        body: body.into(),
    }
}

pub(crate) fn intent(body: impl Into<Bytes>) -> Messages {
    Messages::new(message(Address::Intents, KIND.as_str(), body), [])
}

pub(crate) fn outcome(body: impl Into<Bytes>) -> Messages {
    Messages::new(message(Address::Announce, "transaction_cancel.cancelled", body), [])
}

/// Publishes intents as an order system does.
pub(crate) async fn publish_intents(url: &str, prefix: &str, bodies: &[&str]) -> Result<()> {
    let session = PublishSession::open(&broker(url)?, &topology(prefix)).await?;
    for body in bodies {
        session.publisher().publish(intent((*body).to_owned())).await?;
    }
    session.close().await;
    Ok(())
}

/// The next delivery, soon.
pub(crate) async fn next(session: &mut Session) -> Result<Delivery> {
    soon(session.next()).await?.context("the generation has ended")
}

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.context("nothing came")
}

/// A channel of the client library itself, for what our own code does not offer.
pub(crate) async fn raw(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// An exchange without an alternate, and a queue that takes what has the routing key `yes`.
async fn exchange_with_one_route(channel: &Channel, exchange: &str, arguments: FieldTable) -> Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(exchange.into(), durable, arguments).await?;
    channel
        .queue_bind(
            exchange.into(),
            exchange.into(),
            "yes".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok(())
}

async fn remove(channel: &Channel, name: &str) -> Result<()> {
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    channel.exchange_delete(name.into(), Default::default()).await?;
    Ok(())
}

/// Takes everything out of a queue that nobody publishes to any more.
async fn empty(channel: &Channel, queue: &str) -> Result<BTreeSet<String>> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let count = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer =
        channel.basic_consume(queue.into(), "empty".into(), options, FieldTable::default()).await?;
    let mut bodies = BTreeSet::new();
    for _ in 0..count {
        let delivery = soon(consumer.next()).await?.context("the queue has gone")??;
        bodies.insert(String::from_utf8(delivery.data)?);
    }
    channel.basic_cancel("empty".into(), Default::default()).await?;
    Ok(bodies)
}

// --- Exact confirms ---------------------------------------------------------------------------------------------

broker_test!(a_shared_channel_gives_confirms_to_the_wrong_message, at_url);
/// What the client library does on a channel that tasks share: an unroutable message looks confirmed, a routable one
/// returned, or one message's return goes to another. It is why `amqp::confirms` exists; when this test fails, the
/// library has been fixed.
async fn a_shared_channel_gives_confirms_to_the_wrong_message(url: &str, prefix: &str) -> Result<()> {
    let exchange = format!("{prefix}.shared");
    let (connection, channel) = raw(url).await?;
    exchange_with_one_route(&channel, &exchange, FieldTable::default()).await?;
    let mut wrong = 0;
    for _round in 0..20 {
        wrong += round_on_a_shared_channel(&connection, &exchange).await?;
        if wrong > 0 {
            break;
        }
    }
    remove(&channel, &exchange).await?;
    connection.close(200, "done".into()).await?;
    ensure!(wrong > 0, "every confirm went to its own message in 20 rounds");
    Ok(())
}

async fn round_on_a_shared_channel(connection: &Connection, exchange: &str) -> Result<usize> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut tasks = JoinSet::new();
    for task in 0..64 {
        let (channel, exchange) = (channel.clone(), exchange.to_owned());
        tasks.spawn(async move {
            let mut wrong = 0;
            for turn in 0..50 {
                let routable = turn % 2 == 0;
                let body = format!("{task}/{turn}");
                let confirm = channel
                    .basic_publish(
                        exchange.as_str().into(),
                        if routable { "yes" } else { "no" }.into(),
                        BasicPublishOptions { mandatory: true, immediate: false },
                        body.as_bytes(),
                        BasicProperties::default(),
                    )
                    .await?;
                let right = match confirm.await? {
                    Confirmation::Ack(None) => routable,
                    Confirmation::Ack(Some(returned)) => {
                        !routable && returned.delivery.data == body.as_bytes()
                    }
                    Confirmation::Nack(_) | Confirmation::NotRequested => false,
                };
                wrong += usize::from(!right);
            }
            Ok::<usize, lapin::Error>(wrong)
        });
    }
    let mut wrong = 0;
    while let Some(task) = tasks.join_next().await {
        wrong += task??;
    }
    channel.close(200, "done".into()).await?;
    Ok(wrong)
}

/// What the load of a generation meets, and how the generation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Nobody is bound to every other message: ends in a return.
    Returns,
    /// Every other message goes to a queue that is full: ends with the first of them that is refused.
    Nacks,
    /// Both; ends in a return.
    Mixed,
}

/// How many generations each of these tests takes. `make confirms` says more.
fn generations() -> Result<usize> {
    match std::env::var("CONFIRMS_GENERATIONS") {
        Ok(count) => count.parse().context("CONFIRMS_GENERATIONS is no number"),
        Err(_) => Ok(8),
    }
}

broker_test!(our_publisher_never_calls_confirmed_what_was_returned, at_url);
/// The same load on our publisher: what it calls confirmed is in the queue, and nothing unroutable is ever called
/// confirmed.
async fn our_publisher_never_calls_confirmed_what_was_returned(url: &str, prefix: &str) -> Result<()> {
    confirms_are_exact(url, prefix, Weather::Returns).await
}

broker_test!(our_publisher_never_calls_confirmed_what_was_refused, at_url);
/// Nothing that was refused is called confirmed, and nothing that was confirmed is called refused.
async fn our_publisher_never_calls_confirmed_what_was_refused(url: &str, prefix: &str) -> Result<()> {
    confirms_are_exact(url, prefix, Weather::Nacks).await
}

broker_test!(our_publisher_tells_confirmed_refused_and_returned_apart, at_url);
/// The same where all three come at once.
async fn our_publisher_tells_confirmed_refused_and_returned_apart(url: &str, prefix: &str) -> Result<()> {
    confirms_are_exact(url, prefix, Weather::Mixed).await
}

async fn confirms_are_exact(url: &str, prefix: &str, weather: Weather) -> Result<()> {
    let (connection, channel) = raw(url).await?;
    let exchange = format!("{prefix}.intents");
    exchange_with_one_route(&channel, &exchange, FieldTable::default()).await?;
    let full = format!("{prefix}.full");
    full_queue(&channel, &full, &exchange).await?;
    let broker = broker(url)?;
    let topology = topology(prefix);
    let generations = generations()?;
    let (mut confirmed_in_all, mut refused_in_all) = (0, 0);
    for generation in 0..generations {
        let session = PublishSession::open(&broker, &topology).await?;
        let of = session.publisher().generation().clone();
        let told = until_interrupted(session, generation, weather).await?;
        let why = of.why();
        match weather {
            Weather::Returns | Weather::Mixed => {
                ensure!(matches!(why, Some(Ended::Returned { .. })), "generation {generation}: {why:?}");
            }
            Weather::Nacks => {
                ensure!(matches!(why, Some(Ended::Closed)), "generation {generation}: {why:?}");
                ensure!(!told.refused.is_empty(), "generation {generation}: nothing was refused");
            }
        }
        let there = &empty(&channel, &exchange).await? | &empty(&channel, &full).await?;
        let lost: Vec<&String> = told.confirmed.difference(&there).collect();
        ensure!(lost.is_empty(), "generation {generation}: confirmed, and not in a queue: {lost:?}");
        let kept: Vec<&String> = told.refused.intersection(&there).collect();
        ensure!(kept.is_empty(), "generation {generation}: refused, and in a queue: {kept:?}");
        confirmed_in_all += told.confirmed.len();
        refused_in_all += told.refused.len();
    }
    println!(
        "{weather:?}: {generations} generations, {confirmed_in_all} confirmed, {refused_in_all} refused, none wrong"
    );
    ensure!(confirmed_in_all > 100 * generations, "too few to prove anything: {confirmed_in_all}");
    channel.queue_delete(full.as_str().into(), QueueDeleteOptions::default()).await?;
    remove(&channel, &exchange).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// A queue that takes twenty messages with the routing key `full` and refuses the others.
async fn full_queue(channel: &Channel, queue: &str, exchange: &str) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(20));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.into(), exchange.into(), "full".into(), options, FieldTable::default()).await?;
    Ok(())
}

/// What was told of the bodies of one generation.
#[derive(Default)]
struct ToldOf {
    confirmed: BTreeSet<String>,
    refused: BTreeSet<String>,
}

/// 64 tasks publish in bursts; the first burst is good, the later ones meet the weather, so that what becomes of the
/// messages comes mixed.
async fn until_interrupted(session: PublishSession, generation: usize, weather: Weather) -> Result<ToldOf> {
    // The generation must end while others wait for their confirms, as it does when an announcement is refused.
    let refused = Arc::new(Notify::new());
    let tasks = (0..64).map(|task| {
        let (publisher, refused) = (session.publisher().clone(), Arc::clone(&refused));
        tokio::spawn(async move {
            let mut told = ToldOf::default();
            for turn in 0.. {
                let burst = (0..12).map(|at| {
                    let key = match (weather, turn, (task + at) % 4) {
                        (_, 0, _) | (_, _, 0 | 2) => "yes",
                        (Weather::Returns, ..) | (Weather::Mixed, 2.., 1) => "no",
                        (Weather::Nacks | Weather::Mixed, ..) => "full",
                    };
                    let body = format!("{generation}/{task}/{turn}/{at}");
                    let messages = Messages::new(message(Address::Intents, key, body.clone()), []);
                    let publisher = &publisher;
                    async move { (key, body, publisher.publish(messages).await) }
                });
                let mut over = false;
                for (key, body, result) in join_all(burst).await {
                    match result {
                        Ok(()) => {
                            ensure!(key != "no", "confirmed, though nobody is bound to it: {body}");
                            told.confirmed.insert(body);
                        }
                        Err(PublishError::Refused { .. }) => {
                            ensure!(key == "full", "refused, though its queue is not full: {body}");
                            told.refused.insert(body);
                            if weather == Weather::Nacks {
                                refused.notify_one();
                            }
                        }
                        Err(PublishError::Returned { .. } | PublishError::Interrupted(_)) => over = true,
                        Err(error) => bail!("{error}"),
                    }
                }
                if over {
                    break;
                }
            }
            Ok(told)
        })
    });
    let tasks = join_all(tasks.collect::<Vec<_>>());
    let mut tasks = std::pin::pin!(tasks);
    let ended = tokio::select! {
        ended = &mut tasks => {
            session.close().await;
            ended
        }
        () = refused.notified() => tokio::join!(session.close(), tasks).1,
    };
    let mut all = ToldOf::default();
    for task in ended {
        let told = task??;
        all.confirmed.extend(told.confirmed);
        all.refused.extend(told.refused);
    }
    Ok(all)
}

broker_test!(a_full_queue_refuses_exactly_what_it_did_not_take, at_url);
/// A queue that is full refuses; exactly what it refused is told as refused, and what it took as confirmed.
async fn a_full_queue_refuses_exactly_what_it_did_not_take(url: &str, prefix: &str) -> Result<()> {
    let (connection, channel) = raw(url).await?;
    let exchange = format!("{prefix}.intents");
    let mut full = FieldTable::default();
    full.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(20));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    exchange_with_one_route(&channel, &exchange, full).await?;
    let open = format!("{prefix}.open");
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(open.as_str().into(), durable, FieldTable::default()).await?;
    channel
        .queue_bind(
            open.as_str().into(),
            exchange.as_str().into(),
            "open".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;

    let session = PublishSession::open(&broker(url)?, &topology(prefix)).await?;
    let groups = (0..400).map(|group| {
        let publisher = session.publisher().clone();
        tokio::spawn(async move {
            let messages = Messages::new(
                message(Address::Intents, "open", format!("{group}")),
                [message(Address::Intents, "yes", format!("{group}"))],
            );
            (format!("{group}"), publisher.publish(messages).await)
        })
    });
    let (mut confirmed, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for group in join_all(groups).await {
        match group? {
            (body, Ok(())) => confirmed.insert(body),
            (body, Err(PublishError::Refused { refused: which })) => {
                ensure!(which == [1], "the open queue refused as well: {which:?}");
                refused.insert(body)
            }
            (_, Err(error)) => bail!("{error}"),
        };
    }
    ensure!(session.publisher().generation().why().is_none(), "a refusal has ended the generation");
    session.close().await;
    ensure!(!refused.is_empty() && !confirmed.is_empty());
    ensure!(empty(&channel, &exchange).await? == confirmed, "the full queue holds what was confirmed");
    ensure!(empty(&channel, &open).await?.len() == 400, "the open queue holds everything");
    remove(&channel, &exchange).await?;
    channel.queue_delete(open.as_str().into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

broker_test!(a_refused_announcement_interrupts_and_the_letter_comes_again, at_url);
/// A refused announcement that nobody can park ends the generation, its delivery is not acked, and comes again.
async fn a_refused_announcement_interrupts_and_the_letter_comes_again(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 10)?;
    let mut session = Session::open(&settings, 1, 0).await?;
    let (connection, channel) = raw(url).await?;
    let ledger = format!("{prefix}.ledger");
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(ledger.as_str().into(), exclusive, full).await?;
    channel
        .queue_bind(
            ledger.as_str().into(),
            format!("{prefix}.outcomes").into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    publish_intents(url, prefix, &["one"]).await?;

    let Delivery { unsettled, .. } = next(&mut session).await?;
    let interrupted = session
        .publisher()
        .announce(unsettled, outcome("told"), |_| None)
        .await
        .map(|_| ())
        .expect_err("refused");
    ensure!(matches!(interrupted.why, Ended::Refused { .. }), "{interrupted:?}");
    ensure!(session.next().await.is_none(), "an ended generation delivers nothing");
    session.close().await;

    let mut session = Session::open(&settings, 2, 0).await?;
    let delivery = next(&mut session).await?;
    ensure!(delivery.letter.redelivered == Redelivered::Yes && delivery.letter.body == "one");
    drop(delivery);
    session.close().await;
    connection.close(200, "done".into()).await?;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

// --- Exact acks -------------------------------------------------------------------------------------------------

broker_test!(an_ack_of_a_generation_that_is_gone_is_interrupted, at_url);
/// What was announced in a generation that is gone cannot be acked, nor announced again; the letter comes again.
async fn an_ack_of_a_generation_that_is_gone_is_interrupted(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 10)?;
    let mut first = Session::open(&settings, 1, 0).await?;
    publish_intents(url, prefix, &["one", "two"]).await?;
    let one = next(&mut first).await?;
    let two = next(&mut first).await?;
    let announced = first.publisher().announce(one.unsettled, outcome("told"), |_| None).await?;
    first.close().await;
    let unacked = announced.settle().await.expect_err("its channel is gone");
    ensure!(unacked.interrupted.generation == 1);

    let mut second = Session::open(&settings, 2, 0).await?;
    let stale = second.publisher().announce(two.unsettled, outcome("told"), |_| None).await.map(|_| ());
    ensure!(stale.is_err_and(|interrupted| interrupted.generation == 1), "it is not of this generation");
    ensure!(second.generation().why().is_none(), "a letter of an older generation ends no newer one");
    let mut again = BTreeSet::new();
    for _ in 0..2 {
        let Delivery { letter, unsettled, .. } = next(&mut second).await?;
        ensure!(letter.redelivered == Redelivered::Yes);
        again.insert(String::from_utf8(letter.body.to_vec())?);
        second.publisher().announce(unsettled, outcome("told"), |_| None).await?.settle().await?;
    }
    ensure!(again == BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    second.close().await;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

broker_test!(no_more_is_delivered_than_we_hold_permits_for, at_url);
/// Prefetch equals permits: with all of them held nothing more is delivered, and one ack lets one more in.
async fn no_more_is_delivered_than_we_hold_permits_for(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 3)?;
    let mut session = Session::open(&settings, 1, 0).await?;
    publish_intents(url, prefix, &["1", "2", "3", "4", "5"]).await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut session).await?);
    }
    ensure!(settings.held() == 3);
    let lane = settings.topology().queue_of(Source::Lane(KIND));
    // The answer of the broker comes after all that it has sent before, over the same connection.
    ensure!(session.queue_depth(&lane).await? == 2, "the broker keeps the other two");
    ensure!(futures_util::poll!(std::pin::pin!(session.next())).is_pending(), "a fourth was delivered");
    let Delivery { unsettled, .. } = held.pop().context("three")?;
    session.publisher().announce(unsettled, outcome("told"), |_| None).await?.settle().await?;
    held.push(next(&mut session).await?);
    ensure!(session.queue_depth(&lane).await? == 1);
    ensure!(futures_util::poll!(std::pin::pin!(session.next())).is_pending(), "a fifth was delivered");
    drop(held);
    session.close().await;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

// --- The topology -----------------------------------------------------------------------------------------------

broker_test!(the_topology_applies_twice_and_is_found_as_declared, at_url);
/// Applied twice, the second time changes nothing; verified, nothing is wrong.
async fn the_topology_applies_twice_and_is_found_as_declared(url: &str, prefix: &str) -> Result<()> {
    let (broker, topology) = (broker(url)?, topology(prefix));
    let missing = differences(&broker, &topology).await?;
    ensure!(missing.len() == topology.exchanges().len() + topology.queues().len());
    ensure!(missing.iter().all(|finding| finding.problem == Problem::Missing), "{missing:?}");
    apply(&broker, &topology).await?;
    ensure!(differences(&broker, &topology).await?.is_empty());
    apply(&broker, &topology).await?;
    ensure!(differences(&broker, &topology).await?.is_empty());
    delete_all(&broker, &topology).await?;
    ensure!(differences(&broker, &topology).await? == missing);
    Ok(())
}

broker_test!(a_differing_argument_is_refused_by_name, at_url);
/// A queue with another argument is refused, by `apply` and by a session, in words that name it and the argument.
async fn a_differing_argument_is_refused_by_name(url: &str, prefix: &str) -> Result<()> {
    let (broker, right) = (broker(url)?, topology(prefix));
    let longer = Tier { length: Duration::from_millis(200), ..tier() };
    let wrong = Topology::new(prefix, &[longer]);
    apply(&broker, &wrong).await?;
    let settings = settings(&[url], prefix, 1)?;
    let told = [
        apply(&broker, &right).await.expect_err("differs").to_string(),
        Session::open(&settings, 1, 0).await.map(|_| ()).expect_err("differs").to_string(),
    ];
    let queue = format!("{prefix}.delay.100ms");
    for text in told {
        ensure!(text.contains(&queue) && text.contains("x-message-ttl"), "{text}");
    }
    let findings = differences(&broker, &right).await?;
    let [finding] = findings.as_slice() else { bail!("{findings:?}") };
    ensure!(
        finding.object == BrokerObject::Queue(queue) && finding.argument() == "x-message-ttl",
        "{finding}"
    );
    ensure!((finding.found(), finding.expected()) == ("200", "100"), "{finding}");
    delete_all(&broker, &wrong).await?;
    Ok(())
}

broker_test!(a_delayed_letter_comes_back_with_its_routing_key, at_url);
/// A letter that waits comes back in the returns of its kind: same routing key, same bytes, same headers.
async fn a_delayed_letter_comes_back_with_its_routing_key(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 1)?;
    let mut session = Session::open(&settings, 1, 0).await?;
    let mut delayed = message(Address::Delay(tier()), KIND.as_str(), "waits");
    delayed.headers = Headers::from([
        ("cancel-attempt".to_owned(), HeaderValue::Int(3)),
        ("cancel-doubt".to_owned(), HeaderValue::Bool(true)),
        ("traceparent".to_owned(), HeaderValue::Text("00-ab".to_owned())),
    ]);
    session.publisher().publish(Messages::new(delayed.clone(), [])).await?;
    let Delivery { letter, unsettled, .. } = next(&mut session).await?;
    ensure!(letter.source == Source::Returns(KIND));
    ensure!(letter.routing_key == KIND.as_str() && letter.body == "waits");
    ensure!(letter.redelivered == Redelivered::No);
    for (name, value) in &delayed.headers {
        ensure!(letter.headers.get(name) == Some(value), "{name}: {:?}", letter.headers);
    }
    session.publisher().announce(unsettled, outcome("told"), |_| None).await?.settle().await?;
    session.close().await;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

broker_test!(what_nobody_is_bound_to_is_kept, at_url);
/// What nobody is bound to is kept: an intent of an unknown kind, and an outcome without a ledger even while a tail
/// listens.
async fn what_nobody_is_bound_to_is_kept(url: &str, prefix: &str) -> Result<()> {
    let (broker, topology) = (broker(url)?, topology(prefix));
    apply(&broker, &topology).await?;
    let mut tail = Tail::open(&broker, &topology, "*.cancelled").await?;
    let session = PublishSession::open(&broker, &topology).await?;
    let odd = Messages::new(message(Address::Intents, "no_such_kind", "odd"), []);
    session.publisher().publish(odd).await?;
    ensure!(queue_depths(&broker, &[&topology.unrouted()]).await? == [1]);
    let mut told = message(Address::Announce, "transaction_cancel.cancelled", "told");
    told.message_id = Some("an-id".to_owned());
    session.publisher().publish(Messages::new(told, [])).await?;
    ensure!(queue_depths(&broker, &[&topology.unrouted()]).await? == [2]);
    let passing = soon(tail.next()).await??.context("the tail has ended")?;
    ensure!(passing.routing_key == "transaction_cancel.cancelled" && passing.body == "told");
    ensure!(passing.message_id.as_deref() == Some("an-id"));
    tail.close().await;
    session.close().await;
    delete_all(&broker, &topology).await?;
    Ok(())
}

broker_test!(dead_letters_are_work_and_view_and_the_rescue_has_what_the_broker_took, at_url);
/// A dead letter is in the queue and in the stream; what the broker takes from a lane is in the rescue.
async fn dead_letters_are_work_and_view_and_the_rescue_has_what_the_broker_took(
    url: &str,
    prefix: &str,
) -> Result<()> {
    let settings = settings(&[url], prefix, 1)?;
    let mut session = Session::open(&settings, 1, 0).await?;
    let (connection, channel) = raw(url).await?;
    // Published by somebody who sets an expiration, which the contract forbids: to a lane that nobody serves.
    let properties = BasicProperties::default().with_delivery_mode(2).with_expiration("1".into());
    channel
        .basic_publish(
            format!("{prefix}.intents").into(),
            Kind::BatchCancel.as_str().into(),
            BasicPublishOptions::default(),
            b"expired",
            properties,
        )
        .await?;
    let Delivery { letter, unsettled, .. } = next(&mut session).await?;
    ensure!(letter.source == Source::Rescue && letter.body == "expired");
    ensure!(letter.routing_key == Kind::BatchCancel.as_str());
    let dead = Messages::new(message(Address::DeadLetters, "batch_cancel.expired", letter.body), []);
    session.publisher().announce(unsettled, dead, |_| None).await?.settle().await?;
    ensure!(session.queue_depth(&format!("{prefix}.dead-letters")).await? == 1);
    let mut from_the_first = FieldTable::default();
    from_the_first.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    channel.basic_qos(10, Default::default()).await?;
    let log = format!("{prefix}.dead-letters.log");
    let options = BasicConsumeOptions::default();
    let mut stream =
        channel.basic_consume(log.as_str().into(), "view".into(), options, from_the_first).await?;
    let seen = soon(stream.next()).await?.context("the stream has ended")??;
    ensure!(seen.data == b"expired");
    connection.close(200, "done".into()).await?;
    session.close().await;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

broker_test!(nobody_but_the_broker_publishes_to_the_returns, at_url);
/// Clients cannot put anything where waits end.
async fn nobody_but_the_broker_publishes_to_the_returns(url: &str, prefix: &str) -> Result<()> {
    let (broker, topology) = (broker(url)?, topology(prefix));
    apply(&broker, &topology).await?;
    let (connection, channel) = raw(url).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let forged = channel
        .basic_publish(
            format!("{prefix}.returns").into(),
            KIND.as_str().into(),
            BasicPublishOptions::default(),
            b"forged",
            BasicProperties::default(),
        )
        .await?
        .await;
    let error = forged.expect_err("not allowed").to_string();
    ensure!(error.contains("ACCESS_REFUSED") || error.contains("ACCESS-REFUSED"), "{error}");
    connection.close(200, "done".into()).await?;
    delete_all(&broker, &topology).await?;
    Ok(())
}

// --- What breaks ------------------------------------------------------------------------------------------------

/// A road to the broker that can be cut.
struct Road {
    url: String,
    traffic: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Road {
    async fn to(url: &str) -> Result<Road> {
        let mut through = Url::parse(url)?;
        let broker = format!("{}:{}", through.host_str().context("a host")?, through.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let _ = through.set_host(Some("127.0.0.1"));
        let _ = through.set_port(Some(listener.local_addr()?.port()));
        let traffic = Arc::new(Mutex::new(JoinSet::new()));
        let mut accepting = JoinSet::new();
        let carried = Arc::clone(&traffic);
        accepting.spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let broker = broker.clone();
                carried.lock().await.spawn(async move {
                    if let Ok(mut there) = TcpStream::connect(broker).await {
                        let _ = copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        });
        Ok(Road { url: through.to_string(), traffic, _accepting: accepting })
    }

    /// Cuts every connection that is open now. New ones are let through.
    async fn cut(&self) {
        self.traffic.lock().await.shutdown().await;
    }
}

/// A worker in the small: announces and settles every delivery, and tells its body and generation.
pub(crate) struct Worker {
    settled: mpsc::UnboundedReceiver<(String, u64)>,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<Stopped>,
}

impl Worker {
    pub(crate) fn start(settings: Settings) -> Worker {
        let (told, settled) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let run = tokio::spawn(async move {
            let mut stories = JoinSet::new();
            run_generations(
                &settings,
                &JitterSource::system(),
                &stopped,
                PATIENCE,
                |delivery: Delivery, publisher: &Publisher| {
                    let (publisher, told) = (publisher.clone(), told.clone());
                    stories.spawn(async move {
                        let Delivery { letter, unsettled, .. } = delivery;
                        let generation = unsettled.generation().number();
                        let body = String::from_utf8_lossy(&letter.body).into_owned();
                        if let Ok(announced) =
                            publisher.announce(unsettled, outcome(letter.body), |_| None).await
                            && announced.settle().await.is_ok()
                        {
                            let _ = told.send((body, generation));
                        }
                    });
                },
            )
            .await
        });
        Worker { settled, stop, run }
    }

    pub(crate) async fn settles(&mut self, body: &str) -> Result<u64> {
        loop {
            let (settled, generation) = soon(self.settled.recv()).await?.context("the worker has ended")?;
            if settled == body {
                return Ok(generation);
            }
        }
    }

    pub(crate) async fn stop(self) -> Result<Stopped> {
        self.stop.cancel();
        Ok(soon(self.run).await??)
    }
}

broker_test!(a_lost_connection_ends_the_generation_and_the_next_is_built, at_url);
/// Both connections are cut: the generation ends, the next one is built by itself, and work goes on.
async fn a_lost_connection_ends_the_generation_and_the_next_is_built(url: &str, prefix: &str) -> Result<()> {
    let road = Road::to(url).await?;
    let settings = settings(&[&road.url], prefix, 10)?;
    let mut worker = Worker::start(settings.clone());
    publish_to_lane(url, prefix, "before").await?;
    let before = worker.settles("before").await?;
    for cut in 0..3 {
        road.cut().await;
        let body = format!("after {cut}");
        publish_intents(url, prefix, &[&body]).await?;
        ensure!(worker.settles(&body).await? > before);
    }
    ensure!(worker.stop().await? == Stopped::Drained);
    delete_all(&broker(url)?, settings.topology()).await?;
    Ok(())
}

broker_test!(a_consumer_cancelled_by_the_broker_ends_the_generation, at_url);
/// Somebody deletes the lane: the broker cancels the consumer, the generation ends, and the next one declares it.
async fn a_consumer_cancelled_by_the_broker_ends_the_generation(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 10)?;
    let mut session = Session::open(&settings, 1, 0).await?;
    let (connection, channel) = raw(url).await?;
    let lane = settings.topology().queue_of(Source::Lane(KIND));
    channel.queue_delete(lane.as_str().into(), QueueDeleteOptions::default()).await?;
    let why = soon(session.ended()).await?;
    ensure!(matches!(&why, Ended::ConsumerCancelled { queue } if *queue == lane), "{why:?}");
    ensure!(session.next().await.is_none());
    session.close().await;

    let mut worker = Worker::start(settings.clone());
    publish_to_lane(url, prefix, "before").await?;
    let before = worker.settles("before").await?;
    channel.queue_delete(lane.as_str().into(), QueueDeleteOptions::default()).await?;
    publish_to_lane(url, prefix, "after").await?;
    ensure!(worker.settles("after").await? > before);
    ensure!(worker.stop().await? == Stopped::Drained);
    connection.close(200, "done".into()).await?;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

broker_test!(a_lane_is_taken_in_whole_by_one_letter_or_not_at_all, at_url);
/// Paused, a lane gives out one letter whenever it is asked for one, and all of them when the pause is over. Nothing that
/// was in hand is given back.
async fn a_lane_is_taken_in_whole_by_one_letter_or_not_at_all(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 5)?;
    apply(settings.broker(), settings.topology()).await?;
    let bodies: BTreeSet<String> = (0..100).map(|n| n.to_string()).collect();
    publish_intents(url, prefix, &bodies.iter().map(String::as_str).collect::<Vec<&str>>()).await?;
    let lane = settings.topology().queue_of(Source::Lane(KIND));
    let mut session = Session::open(&settings, 1, 0).await?;
    let publisher = session.publisher().clone();
    let mut told = Vec::new();
    let mut in_hand = Vec::new();
    for _ in 0..5 {
        in_hand.push(next(&mut session).await?);
    }

    settings.consume(KIND, ConsumeMode::Nothing);
    for delivery in in_hand {
        told.push(tell(delivery, &publisher).await?);
    }
    // What was on its way still comes; to the broker a consumer is gone when all that it had is settled.
    let gone = until_consumers(url, &lane, 0);
    let mut gone = std::pin::pin!(gone);
    loop {
        tokio::select! {
            gone = &mut gone => break gone?,
            delivery = next(&mut session) => told.push(tell(delivery?, &publisher).await?),
        }
    }
    ensure!(told.len() < bodies.len() - 10 && settings.held() == 0, "{} of them came", told.len());
    // One letter comes for one word.
    for _ in 0..2 {
        settings.consume(KIND, ConsumeMode::One);
        let delivery = next(&mut session).await?;
        ensure!(settings.held() == 1);
        told.push(tell(delivery, &publisher).await?);
    }
    settings.consume(KIND, ConsumeMode::All);
    let mut set_aside = 0;
    while told.len() < bodies.len() {
        let delivery = next(&mut session).await?;
        set_aside += usize::from(delivery.letter.redelivered == Redelivered::Yes);
        told.push(tell(delivery, &publisher).await?);
    }
    ensure!(told.iter().cloned().collect::<BTreeSet<String>>() == bodies, "one came twice");
    ensure!(set_aside <= 1, "{set_aside} letters were given back");
    session.close().await;

    // The next generation begins as it was said last.
    settings.consume(KIND, ConsumeMode::Nothing);
    let session = Session::open(&settings, 2, 0).await?;
    until_consumers(url, &lane, 0).await?;
    session.close().await;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

/// Settles a delivery, and says what was in it.
async fn tell(delivery: Delivery, publisher: &Publisher) -> Result<String> {
    let Delivery { letter, unsettled, .. } = delivery;
    publisher.announce(unsettled, outcome("told"), |_| None).await?.settle().await?;
    Ok(String::from_utf8(letter.body.to_vec())?)
}

/// Waits until a queue has so many consumers.
async fn until_consumers(url: &str, queue: &str, wanted: u32) -> Result<()> {
    let (connection, channel) = raw(url).await?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let look = async {
        while channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.consumer_count()
            != wanted
        {}
        Ok::<(), lapin::Error>(())
    };
    soon(look).await??;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Publishes to a lane that is there, whether the worker has declared it yet or not.
pub(crate) async fn publish_to_lane(url: &str, prefix: &str, body: &str) -> Result<()> {
    apply(&broker(url)?, &topology(prefix)).await?;
    publish_intents(url, prefix, &[body]).await
}

broker_test!(the_next_address_is_tried_when_one_does_not_answer, at_url);
/// The first address does not answer, the second does.
async fn the_next_address_is_tried_when_one_does_not_answer(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&["amqp://127.0.0.1:9/%2f", url], prefix, 1)?;
    let session = Session::open(&settings, 1, 0).await?;
    let port = Url::parse(url)?.port().unwrap_or(5672).to_string();
    ensure!(session.address().contains(&port), "{}", session.address());
    session.close().await;
    delete_all(&broker(url)?, settings.topology()).await?;
    Ok(())
}

broker_test!(tls_at_a_plain_port_is_told_as_such, at_url);
/// TLS spoken to a port that does not: an error that says so, soon, and without the password.
async fn tls_at_a_plain_port_is_told_as_such(url: &str, _prefix: &str) -> Result<()> {
    let mut tls = Url::parse(&url.replacen("amqp://", "amqps://", 1))?;
    let _ = tls.set_username("canary");
    let _ = tls.set_password(Some("secret"));
    let error = soon(queue_depths(&broker(tls.as_str())?, &["any"])).await?.expect_err("no TLS there");
    let text = format!("{error:?} {error:#}");
    ensure!(text.contains("this port speaks no TLS"), "{text}");
    ensure!(!text.contains("canary") && !text.contains("secret"), "{text}");
    Ok(())
}

broker_test!(a_worker_that_starts_without_a_broker_waits_for_it, at_url);
/// Started before its broker: waits, and works as soon as there is one. Stopped while it waits: drained.
async fn a_worker_that_starts_without_a_broker_waits_for_it(url: &str, prefix: &str) -> Result<()> {
    // A door that is closed at first.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    drop(listener);
    let mut through = Url::parse(url)?;
    let broker_at = format!("{}:{}", through.host_str().context("a host")?, through.port().unwrap_or(5672));
    let _ = through.set_host(Some("127.0.0.1"));
    let _ = through.set_port(Some(port));
    let settings = settings(&[through.as_str()], prefix, 1)?;

    let waiting = Worker::start(settings.clone());
    ensure!(waiting.stop().await? == Stopped::Drained);

    let mut worker = Worker::start(settings.clone());
    let mut door = JoinSet::new();
    door.spawn(async move {
        let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await else { return };
        let mut traffic = JoinSet::new();
        while let Ok((mut here, _)) = listener.accept().await {
            let broker_at = broker_at.clone();
            traffic.spawn(async move {
                if let Ok(mut there) = TcpStream::connect(broker_at).await {
                    let _ = copy_bidirectional(&mut here, &mut there).await;
                }
            });
        }
    });
    publish_to_lane(url, prefix, "one").await?;
    worker.settles("one").await?;
    ensure!(worker.stop().await? == Stopped::Drained);
    delete_all(&broker(url)?, settings.topology()).await?;
    Ok(())
}

broker_test!(a_drain_settles_what_was_delivered_and_leaves_the_rest, at_url);
/// Stopped under load: what was delivered is settled, the rest stays in the lane, and nothing is in both.
async fn a_drain_settles_what_was_delivered_and_leaves_the_rest(url: &str, prefix: &str) -> Result<()> {
    let settings = settings(&[url], prefix, 5)?;
    apply(settings.broker(), settings.topology()).await?;
    let bodies: BTreeSet<String> = (0..200).map(|n| n.to_string()).collect();
    publish_intents(url, prefix, &bodies.iter().map(String::as_str).collect::<Vec<&str>>()).await?;
    let stop = CancellationToken::new();
    let mut stories = JoinSet::new();
    let mut taken = 0;
    let stopped = soon(run_generations(
        &settings,
        &JitterSource::system(),
        &stop,
        PATIENCE,
        |delivery: Delivery, publisher: &Publisher| {
            let publisher = publisher.clone();
            taken += 1;
            if taken == 50 {
                stop.cancel();
            }
            stories.spawn(async move {
                let Delivery { letter, unsettled, .. } = delivery;
                publisher.announce(unsettled, outcome("told"), |_| None).await?.settle().await?;
                Ok::<String, anyhow::Error>(String::from_utf8(letter.body.to_vec())?)
            });
        },
    ))
    .await?;
    ensure!(stopped == Stopped::Drained);
    let mut settled = BTreeSet::new();
    while let Some(story) = stories.join_next().await {
        ensure!(settled.insert(story??), "one was delivered twice");
    }
    let (connection, channel) = raw(url).await?;
    let left = empty(&channel, &settings.topology().queue_of(Source::Lane(KIND))).await?;
    ensure!(settled.len() >= 50 && !left.is_empty());
    ensure!(settled.is_disjoint(&left), "settled, and still there");
    ensure!(&settled | &left == bodies);
    connection.close(200, "done".into()).await?;
    delete_all(settings.broker(), settings.topology()).await?;
    Ok(())
}

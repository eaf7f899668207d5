//! The supervisor of the connection: what it notices, what it waits for, and what it builds anew.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::declare::delete_all;
use cancel_worker::amqp::preflight::apply;
use cancel_worker::amqp::{Delivery, Ended, Session, Settings, Stopped, Timeouts};
use cancel_worker::domain::retry::Tiers;
use cancel_worker::wire::envelope::{Redelivered, Source};
use lapin::options::ExchangeDeleteOptions;

use crate::amqp::{
    KIND, Worker, amqp, broker, intent, next, outcome, publish_intents, publish_to_lane, raw, soon, tier,
    topology,
};
use crate::support::broker_test;
use crate::support::road::{Road, Way, Which};

/// Short, and long enough that the quarter of a heartbeat between our word and the broker's own is not used up by a
/// busy machine.
const HEARTBEAT_S: u16 = 3;

/// Long enough that every deadline of these tests has passed several times over.
const A_WHILE: Duration = Duration::from_millis(1_500);

fn settings(urls: &[&str], prefix: &str, prefetch: u16, timeouts: Timeouts) -> Result<Settings> {
    let tiers = Tiers::try_new(vec![tier()]).context("one tier")?;
    let lanes = BTreeMap::from([(KIND, prefetch)]);
    Ok(Settings::new(&amqp(urls, prefix), "test", &lanes, &tiers, timeouts)?)
}

/// A road with its topology behind it, so that a generation on it stands soon.
async fn road(url: &str, prefix: &str) -> Result<Road> {
    apply(&broker(url)?, &topology(prefix)).await?;
    Road::to(url).await
}

async fn done(url: &str, prefix: &str) -> Result<()> {
    Ok(delete_all(&broker(url)?, &topology(prefix)).await?)
}

fn is_pending<T>(work: impl Future<Output = T>) -> bool {
    futures_util::FutureExt::now_or_never(work).is_none()
}

// --- Silence ----------------------------------------------------------------------------------------------------

async fn silence_is_noticed(url: &str, prefix: &str, which: Which, way: Way) -> Result<()> {
    let road = road(url, prefix).await?;
    let settings = settings(&[&road.url_with_heartbeat(HEARTBEAT_S)], prefix, 1, Timeouts::default())?;
    let session = Session::open(&settings, 1, 0).await?;

    ensure!(road.silence(which, way) == 1);

    let why = soon(session.ended()).await?;
    let role = match &why {
        Ended::Silent { role } => role.to_string(),
        other => format!("{other:?}"),
    };
    ensure!(role == format!("{which:?}").to_lowercase(), "{why:?}");
    session.close().await;
    done(url, prefix).await
}

broker_test!(a_broker_that_hears_nothing_on_the_consume_connection_is_noticed, at_url);
async fn a_broker_that_hears_nothing_on_the_consume_connection_is_noticed(
    url: &str,
    prefix: &str,
) -> Result<()> {
    silence_is_noticed(url, prefix, Which::Consume, Way::ToBroker).await
}

broker_test!(a_broker_that_hears_nothing_on_the_publish_connection_is_noticed, at_url);
async fn a_broker_that_hears_nothing_on_the_publish_connection_is_noticed(
    url: &str,
    prefix: &str,
) -> Result<()> {
    silence_is_noticed(url, prefix, Which::Publish, Way::ToBroker).await
}

broker_test!(a_broker_that_says_nothing_on_the_consume_connection_is_noticed, at_url);
async fn a_broker_that_says_nothing_on_the_consume_connection_is_noticed(
    url: &str,
    prefix: &str,
) -> Result<()> {
    silence_is_noticed(url, prefix, Which::Consume, Way::ToClient).await
}

broker_test!(a_broker_that_says_nothing_on_the_publish_connection_is_noticed, at_url);
async fn a_broker_that_says_nothing_on_the_publish_connection_is_noticed(
    url: &str,
    prefix: &str,
) -> Result<()> {
    silence_is_noticed(url, prefix, Which::Publish, Way::ToClient).await
}

broker_test!(after_silence_work_goes_on_by_itself, at_url);
/// Both connections hang; the next generation is built beside them.
async fn after_silence_work_goes_on_by_itself(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let settings = settings(&[&road.url_with_heartbeat(HEARTBEAT_S)], prefix, 10, Timeouts::default())?;
    let mut worker = Worker::start(settings);
    publish_intents(url, prefix, &["before"]).await?;
    let before = worker.settles("before").await?;

    ensure!(road.silence(Which::All, Way::Both) == 2);
    publish_intents(url, prefix, &["after"]).await?;

    ensure!(worker.settles("after").await? > before);
    ensure!(worker.stop().await? == Stopped::Drained);
    done(url, prefix).await
}

// --- Alarms -----------------------------------------------------------------------------------------------------

/// Opens a session on a road, whose broker says that an alarm blocks it.
async fn blocked(road: &Road, settings: &Settings) -> Result<Session> {
    let session = Session::open(settings, 1, 0).await?;
    ensure!(road.block() == 1);
    soon(session.generation().blocked().wait_for(Option::is_some)).await??;
    Ok(session)
}

broker_test!(an_alarm_lets_nothing_begin_and_its_end_does, at_url);
/// Letters arrive, and wait; when the alarm is over, they are handed on.
async fn an_alarm_lets_nothing_begin_and_its_end_does(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let settings = settings(&[road.url()], prefix, 10, Timeouts::default())?;
    let mut session = blocked(&road, &settings).await?;
    publish_intents(url, prefix, &["one", "two"]).await?;
    road.delivered(2).await?;
    // Its answer comes after the deliveries, over the same connection.
    session.queue_depth(&settings.topology().unrouted()).await?;
    ensure!(is_pending(session.next()), "a letter was handed on");

    ensure!(road.unblock() == 1);

    for body in ["one", "two"] {
        let Delivery { letter, unsettled, .. } = next(&mut session).await?;
        ensure!(letter.body == body && letter.redelivered == Redelivered::No);
        session.publisher().announce(unsettled, outcome("told"), |_| None).await?.settle().await?;
    }
    session.close().await;
    done(url, prefix).await
}

broker_test!(a_confirm_that_an_alarm_holds_up_is_waited_for, at_url);
/// A message was on its way when the alarm came. Its deadline passes many times over, and it is confirmed.
async fn a_confirm_that_an_alarm_holds_up_is_waited_for(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let timeouts = Timeouts { confirm: A_WHILE / 5, ..Timeouts::default() };
    let settings = settings(&[road.url()], prefix, 10, timeouts)?;
    let session = blocked(&road, &settings).await?;
    let publisher = session.publisher().clone();
    let publishing = tokio::spawn(async move { publisher.publish(intent("waits")).await });
    tokio::time::sleep(A_WHILE).await;
    ensure!(session.generation().why().is_none(), "{:?}", session.generation().why());

    ensure!(road.unblock() == 1);

    soon(publishing).await???;
    session.close().await;
    done(url, prefix).await
}

broker_test!(an_alarm_is_not_taken_for_silence, at_url);
/// A broker with an alarm reads nothing on the publish connection, and so answers no watchdog there.
async fn an_alarm_is_not_taken_for_silence(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    // Only the broker's heartbeats pass, which it goes on sending.
    let url_of_road = road.url_with_heartbeat(HEARTBEAT_S);
    let settings = settings(&[&url_of_road], prefix, 10, Timeouts::default())?;
    let session = blocked(&road, &settings).await?;
    // So long that a broker which does not answer is noticed; two heartbeats, and this one, which has no alarm,
    // would miss ours.
    tokio::time::sleep(Duration::from_secs(u64::from(HEARTBEAT_S)) * 9 / 5).await;
    ensure!(session.generation().why().is_none(), "{:?}", session.generation().why());

    ensure!(road.unblock() == 1);

    soon(session.publisher().publish(intent("after"))).await??;
    session.close().await;
    done(url, prefix).await
}

broker_test!(an_alarm_that_lasts_too_long_ends_the_generation, at_url);
/// Nobody waits for ever.
async fn an_alarm_that_lasts_too_long_ends_the_generation(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let timeouts = Timeouts { blocked: A_WHILE / 5, ..Timeouts::default() };
    let settings = settings(&[road.url()], prefix, 10, timeouts)?;
    let session = Session::open(&settings, 1, 0).await?;

    ensure!(road.block() == 1);

    let why = soon(session.ended()).await?;
    ensure!(matches!(why, Ended::Blocked { .. }), "{why:?}");
    session.close().await;
    done(url, prefix).await
}

broker_test!(what_is_begun_before_an_alarm_is_settled_while_it_lasts, at_url);
/// What was announced can be acked: that goes over the other connection.
async fn what_is_begun_before_an_alarm_is_settled_while_it_lasts(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let settings = settings(&[road.url()], prefix, 10, Timeouts::default())?;
    let mut session = Session::open(&settings, 1, 0).await?;
    publish_intents(url, prefix, &["one"]).await?;
    let Delivery { unsettled, .. } = next(&mut session).await?;
    let announced = session.publisher().announce(unsettled, outcome("told"), |_| None).await?;
    ensure!(road.block() == 1);
    soon(session.generation().blocked().wait_for(Option::is_some)).await??;

    announced.settle().await?;

    session.close().await;
    let mut session = Session::open(&settings, 2, 0).await?;
    let lane = settings.topology().queue_of(Source::Lane(KIND));
    ensure!(session.queue_depth(&lane).await? == 0);
    ensure!(is_pending(session.next()), "it came again");
    session.close().await;
    done(url, prefix).await
}

// --- Delivered and not begun ------------------------------------------------------------------------------------

broker_test!(letters_beyond_our_permits_are_given_out_as_not_begun, at_url);
/// Stories of an older generation hold the permits while the broker hands the letters out again.
async fn letters_beyond_our_permits_are_given_out_as_not_begun(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let settings = settings(&[road.url()], prefix, 3, Timeouts::default())?;
    let mut first = Session::open(&settings, 1, 0).await?;
    publish_intents(url, prefix, &["1", "2", "3"]).await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut first).await?);
    }
    ensure!(first.give_back().await.letters.is_empty(), "these three were begun");
    first.close().await;
    let mut second = Session::open(&settings, 2, 0).await?;
    road.delivered(6).await?;
    second.queue_depth(&settings.topology().unrouted()).await?;
    ensure!(is_pending(second.next()), "there is no permit for it");

    let not_begun = second.give_back().await;

    let bodies: BTreeSet<&[u8]> = not_begun.letters.iter().map(|letter| letter.body.as_ref()).collect();
    ensure!(bodies == BTreeSet::from([b"1".as_slice(), b"2", b"3"]), "{bodies:?}");
    second.close().await;
    drop(held);
    done(url, prefix).await
}

broker_test!(letters_that_an_alarm_held_up_are_given_out_as_not_begun, at_url);
/// Some wait for the end of the alarm with a permit, one has been looked at already; all are given out.
async fn letters_that_an_alarm_held_up_are_given_out_as_not_begun(url: &str, prefix: &str) -> Result<()> {
    let road = road(url, prefix).await?;
    let settings = settings(&[road.url()], prefix, 10, Timeouts::default())?;
    let mut session = blocked(&road, &settings).await?;
    publish_intents(url, prefix, &["1", "2", "3"]).await?;
    road.delivered(3).await?;
    session.queue_depth(&settings.topology().unrouted()).await?;
    ensure!(is_pending(session.next()), "a letter was handed on");

    let not_begun = session.give_back().await;

    let bodies: BTreeSet<&[u8]> = not_begun.letters.iter().map(|letter| letter.body.as_ref()).collect();
    ensure!(bodies == BTreeSet::from([b"1".as_slice(), b"2", b"3"]), "{bodies:?}");
    ensure!(settings.held() == 0);
    session.close().await;
    done(url, prefix).await
}

// --- What is of no use ------------------------------------------------------------------------------------------

broker_test!(a_node_that_lets_us_in_and_is_of_no_use_is_passed_over, at_url);
/// The first address takes our connections and then does nothing for us, as the minority of a cluster does.
async fn a_node_that_lets_us_in_and_is_of_no_use_is_passed_over(url: &str, prefix: &str) -> Result<()> {
    apply(&broker(url)?, &topology(prefix)).await?;
    let useless = Road::to_useless(url).await?;
    let timeouts = Timeouts { step: A_WHILE / 5, close: A_WHILE / 5, ..Timeouts::default() };
    let settings = settings(&[useless.url(), url], prefix, 1, timeouts)?;

    let session = Session::open(&settings, 1, 0).await?;

    useless.connected(1).await?;
    ensure!(!useless.url().contains(session.address().split(' ').next().context("an address")?));
    session.close().await;
    done(url, prefix).await
}

broker_test!(a_channel_that_the_broker_closes_ends_the_generation_and_work_goes_on, at_url);
/// A consumer's channel, for a delivery that was held for too long; the publishing one, for a fault of ours.
async fn a_channel_that_the_broker_closes_ends_the_generation_and_work_goes_on(
    url: &str,
    prefix: &str,
) -> Result<()> {
    // Each has the channel of its watchdog before.
    const SECOND: u16 = 2;
    let road = road(url, prefix).await?;
    let settings = settings(&[road.url()], prefix, 1, Timeouts::default())?;
    let session = Session::open(&settings, 1, 0).await?;
    ensure!(road.close_channel(Which::Consume, SECOND) == 1);
    let why = soon(session.ended()).await?;
    // Whoever hears of it first says so.
    let is_of_it = matches!(
        why,
        Ended::ConsumerBroke { .. } | Ended::ConsumerCancelled { .. } | Ended::ConnectionLost { .. }
    );
    ensure!(is_of_it, "{why:?}");
    session.close().await;

    let mut worker = Worker::start(settings);
    publish_intents(url, prefix, &["before"]).await?;
    let mut before = worker.settles("before").await?;
    for which in [Which::Consume, Which::Publish] {
        // The connection of the generation before may still be saying goodbye.
        ensure!(road.close_channel(which, SECOND) >= 1);
        let body = format!("after {which:?}");
        publish_intents(url, prefix, &[&body]).await?;
        let after = worker.settles(&body).await?;
        ensure!(after > before, "{which:?}");
        before = after;
    }
    ensure!(worker.stop().await? == Stopped::Drained);
    done(url, prefix).await
}

broker_test!(an_exchange_that_is_deleted_is_declared_again_and_work_goes_on, at_url);
/// Somebody deletes what we publish to: announcing fails, the generation ends, and the next one declares it.
async fn an_exchange_that_is_deleted_is_declared_again_and_work_goes_on(
    url: &str,
    prefix: &str,
) -> Result<()> {
    let settings = settings(&[url], prefix, 10, Timeouts::default())?;
    let mut worker = Worker::start(settings);
    publish_to_lane(url, prefix, "before").await?;
    let before = worker.settles("before").await?;
    let (connection, channel) = raw(url).await?;

    channel
        .exchange_delete(format!("{prefix}.announce").as_str().into(), ExchangeDeleteOptions::default())
        .await?;
    publish_intents(url, prefix, &["after"]).await?;

    ensure!(worker.settles("after").await? > before);
    ensure!(worker.stop().await? == Stopped::Drained);
    connection.close(200, "done".into()).await?;
    done(url, prefix).await
}

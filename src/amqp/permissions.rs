//! May we do what a worker does? Asked of the broker without leaving a trace: what is published in a transaction and
//! rolled back goes nowhere, and from a queue that is empty nothing is taken.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::{BasicProperties, Connection};

use super::declare::{look_at_exchange, may_bind};
use super::depths::depth_of;
use super::error::Error;
use super::finding::{BrokerObject, Finding, Target};
use super::reply_code::{ACCESS_REFUSED, NOT_FOUND};
use super::step::{short, with_channel, within};
use super::topology::{Binding, Destination, Exchange, Topology};
use crate::config::Declare;

/// How many questions are asked at the same time.
const AT_ONCE: usize = 16;

/// What is asked: each on a channel of its own, since a refusal ends it.
enum Question {
    PublishTo(Exchange),
    ConsumeFrom(String),
}

/// Tells what a worker of this topology may not do. A queue that holds letters is not asked about: taking one out
/// and giving it back would make it a suspect. Of what a worker that declares finds missing, it is asked all the same.
/// What is wrong for another reason than a permission is not told here.
///
/// # Errors
/// When the broker cannot be asked.
pub(super) async fn ask(
    connection: &Connection,
    step: Duration,
    topology: &Topology,
    place: &Target,
    worker: Declare,
) -> Result<Vec<Finding>, Error> {
    let published_to = topology.published_to();
    let exchanges = topology.exchanges().iter().filter(|exchange| published_to.contains(&exchange.name));
    let publishing = exchanges.cloned().map(Question::PublishTo);
    let consuming = topology.consumed_from().into_iter().map(Question::ConsumeFrom);
    let asking = publishing.chain(consuming).map(|question| put(connection, step, question, worker).boxed());
    // A list first: nothing runs before it is polled, so it is only the order of the turns.
    let asking: Vec<_> = asking.collect();
    let mut answers = stream::iter(asking).buffered(AT_ONCE);
    let mut findings = Vec::new();
    while let Some((question, answer)) = answers.next().await {
        let Err(error) = answer else { continue };
        if !error.is_refusal() {
            return Err(error);
        }
        match (error.said(), question) {
            // The channel may be closed before we have asked for the answer; then nothing is left of what was said. The
            // exchange was there a moment ago, so it can only be the permission.
            (Some((ACCESS_REFUSED, _)) | None, Question::PublishTo(exchange)) => {
                findings.push(place.not_permitted(BrokerObject::Exchange(exchange.name), "publish to"));
            }
            (Some((ACCESS_REFUSED, _)), Question::ConsumeFrom(queue)) => {
                findings.push(place.not_permitted(BrokerObject::Queue(queue), "consume from"));
            }
            (_, Question::PublishTo(_) | Question::ConsumeFrom(_)) => {}
        }
    }
    Ok(findings)
}

async fn put(
    connection: &Connection,
    step: Duration,
    question: Question,
    worker: Declare,
) -> (Question, Result<(), Error>) {
    let answer = match &question {
        Question::PublishTo(exchange) => publish_nothing(connection, step, &exchange.name, "").await,
        Question::ConsumeFrom(queue) => get_nothing(connection, step, queue).await,
    };
    let missing = answer.as_ref().is_err_and(|error| error.said().is_some_and(|(it, _)| it == NOT_FOUND));
    let answer = match (missing, worker, &question) {
        (true, Declare::Missing, Question::PublishTo(exchange)) => {
            write_to_missing(connection, step, exchange).await
        }
        (true, Declare::Missing, Question::ConsumeFrom(queue)) => get(connection, step, queue).await,
        (true, Declare::Nothing, _) | (false, _, _) => answer,
    };
    (question, answer)
}

/// Why a broker takes nothing from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The exchange is not there.
    Missing,
    /// We may not publish there.
    NotPermitted,
}

/// Why the broker takes nothing with this key for this exchange; `None`: it would, or it does not say.
pub(super) async fn obstacle(
    connection: &Connection,
    step: Duration,
    exchange: &str,
    routing_key: &str,
) -> Option<Obstacle> {
    let error = publish_nothing(connection, step, exchange, routing_key).await.err()?;
    match error.said() {
        Some((NOT_FOUND, _)) => Some(Obstacle::Missing),
        Some((ACCESS_REFUSED, _)) => Some(Obstacle::NotPermitted),
        Some(_) => None,
        // As above: it was there a moment ago.
        None => error.is_refusal().then_some(Obstacle::NotPermitted),
    }
}

/// The broker looks at permissions before it looks for the exchange. A user that declares binds from this one, and so
/// may read from it.
async fn write_to_missing(connection: &Connection, step: Duration, exchange: &Exchange) -> Result<(), Error> {
    let name = exchange.name.clone();
    let itself =
        Binding { source: name.clone(), destination: Destination::Exchange(name), key: String::new() };
    with_channel(connection, step, async |channel| may_bind(&channel, &itself, step).await).await
}

async fn publish_nothing(
    connection: &Connection,
    step: Duration,
    exchange: &str,
    routing_key: &str,
) -> Result<(), Error> {
    with_channel(connection, step, async |channel| {
        look_at_exchange(&channel, exchange, step).await?;
        within("begin a transaction", step, channel.tx_select()).await?;
        let publishing = channel.basic_publish(
            short(exchange)?,
            short(routing_key)?,
            BasicPublishOptions::default(),
            b"",
            BasicProperties::default(),
        );
        within(format!("publish to exchange `{exchange}`"), step, publishing).await?;
        within(format!("publish to exchange `{exchange}`"), step, channel.tx_rollback()).await
    })
    .await
}

async fn get_nothing(connection: &Connection, step: Duration, queue: &str) -> Result<(), Error> {
    match depth_of(connection, queue, step).await? {
        0 => get(connection, step, queue).await,
        _ => Ok(()),
    }
}

async fn get(connection: &Connection, step: Duration, queue: &str) -> Result<(), Error> {
    with_channel(connection, step, async |channel| {
        let getting = channel.basic_get(short(queue)?, BasicGetOptions::default());
        if let Some(letter) = within(format!("look into queue `{queue}`"), step, getting).await? {
            // It came between the two questions.
            let back = letter.acker.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() });
            within("give a letter back", step, back).await?;
        }
        Ok(())
    })
    .await
}

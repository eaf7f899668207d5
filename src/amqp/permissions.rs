//! May we do what a worker does? Asked of the broker without leaving a trace: what is published in a transaction and
//! rolled back goes nowhere, and from a queue that is empty nothing is taken.

use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::{BasicProperties, Connection};

use super::connect::{Broker, Error, short, within};
use super::declare::{Finding, NOT_ALLOWED, depth};
use super::generation::Role;
use super::topology::Topology;

/// Tells what a worker of this topology may not do. A queue that holds letters is not asked about: taking one out
/// and giving it back would make it a suspect.
///
/// # Errors
/// When the broker cannot be asked.
pub async fn permissions(broker: &Broker, topology: &Topology) -> Result<Vec<Finding>, Error> {
    let (connection, _) = broker.connect(Role::Consume, 0).await?;
    let findings = ask(broker, &connection, topology).await;
    broker.close(&connection).await;
    findings
}

async fn ask(broker: &Broker, connection: &Connection, topology: &Topology) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for exchange in topology.published_to() {
        match publish_nothing(broker, connection, &exchange).await {
            Ok(()) => {}
            Err(error) => {
                findings.push(not_permitted("publish to exchange", exchange, error)?);
            }
        }
    }
    for queue in topology.consumed_from() {
        match get_nothing(broker, connection, &queue).await {
            Ok(()) => {}
            Err(error) => {
                findings.push(not_permitted("consume from queue", queue, error)?);
            }
        }
    }
    Ok(findings)
}

fn not_permitted(doing: &'static str, name: String, error: Error) -> Result<Finding, Error> {
    match error.said() {
        Some((NOT_ALLOWED, text)) => Ok(Finding::NotPermitted { doing, name, text }),
        Some(_) | None => Err(error),
    }
}

/// Each has a channel of its own, since a refusal ends it.
async fn publish_nothing(broker: &Broker, connection: &Connection, exchange: &str) -> Result<(), Error> {
    let step = broker.timeouts.step;
    let channel = within("open a channel", step, connection.create_channel()).await?;
    within("begin a transaction", step, channel.tx_select()).await?;
    let publishing = channel.basic_publish(
        short(exchange)?,
        short("")?,
        BasicPublishOptions::default(),
        b"",
        BasicProperties::default(),
    );
    within(format!("publish to exchange `{exchange}`"), step, publishing).await?;
    within(format!("publish to exchange `{exchange}`"), step, channel.tx_rollback()).await?;
    within("close a channel", step, channel.close(200, short("done")?)).await
}

async fn get_nothing(broker: &Broker, connection: &Connection, queue: &str) -> Result<(), Error> {
    let step = broker.timeouts.step;
    let channel = within("open a channel", step, connection.create_channel()).await?;
    if depth(&channel, queue, step).await? == 0 {
        let getting = channel.basic_get(short(queue)?, BasicGetOptions::default());
        if let Some(letter) = within(format!("look into queue `{queue}`"), step, getting).await? {
            // It came between the two questions.
            let back = letter.acker.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() });
            within("give a letter back", step, back).await?;
        }
    }
    within("close a channel", step, channel.close(200, short("done")?)).await
}

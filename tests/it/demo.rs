//! The demo is the first thing that anybody runs.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::Topology;
use cancel_worker::domain::retry::Tier;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ErrorKind, ExchangeKind};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::Context;
use crate::support::broker_test;

/// Under a minute, once it is built and a broker is there.
const DEMO_MAX: Duration = Duration::from_secs(60);

broker_test!(the_demo_exits_with_0_and_leaves_nothing_at_the_broker);
async fn the_demo_exits_with_0_and_leaves_nothing_at_the_broker(t: Context) -> Result<()> {
    let demo = Command::new(env!("CARGO_BIN_EXE_cancel-worker"))
        .arg("demo")
        .env("AMQP_URL", t.amqp_url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = timeout(DEMO_MAX, demo).await.context("the demo takes more than a minute")??;
    let told = String::from_utf8_lossy(&ended.stdout);
    let complaints = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}\n{told}\n{complaints}", ended.status);

    let prefix = prefix_in(&told).with_context(|| format!("no prefix was told:\n{told}"))?;
    let connection = t.connect().await?;
    for name in names_with(&prefix) {
        ensure!(!is_queue(&connection, &name).await?, "queue {name} remains");
        ensure!(!is_exchange(&connection, &name).await?, "exchange {name} remains");
    }
    if let Some(queues) = t.broker().ctl(&["--silent", "list_queues", "name"]).await {
        assert!(!queues?.contains(&prefix), "a queue with the prefix {prefix} remains");
    }
    Ok(())
}

fn prefix_in(told: &str) -> Option<String> {
    let from = told.find("cancel-demo-")?;
    let prefix: String =
        told[from..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    Some(prefix)
}

/// The names of everything that the demo may have declared.
fn names_with(prefix: &str) -> Vec<String> {
    let tiers: Vec<Tier> = [("200ms", 200), ("500ms", 500), ("1s", 1_000), ("2s", 2_000)]
        .map(|(name, ms)| Tier { length: Duration::from_millis(ms), name: name.to_owned() })
        .to_vec();
    let topology = Topology::new(prefix, &tiers);
    let queues = topology.queues().iter().map(|queue| queue.name.clone());
    let exchanges = topology.exchanges().iter().map(|exchange| exchange.name.clone());
    queues.chain(exchanges).chain([format!("{prefix}.ledger")]).collect()
}

async fn is_queue(connection: &Connection, name: &str) -> Result<bool> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    exists(channel.queue_declare(name.into(), passive, FieldTable::default()).await.map(|_| ()))
}

async fn is_exchange(connection: &Connection, name: &str) -> Result<bool> {
    let channel = connection.create_channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let topic = ExchangeKind::Topic;
    exists(channel.exchange_declare(name.into(), topic, passive, FieldTable::default()).await)
}

fn exists(answer: lapin::Result<()>) -> Result<bool> {
    const NOT_FOUND: u16 = 404;
    match answer {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(said) if said.get_id() == NOT_FOUND => Ok(false),
            _ => Err(error.into()),
        },
    }
}

//! The commands that speak to a broker.

use anyhow::{Context as _, Result};
use cancel_worker::domain::intent::Kind;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::wishes::{Course, Wish};
use crate::support::Context;
use crate::support::process::{Ended, Process};
use crate::support::stage::Stage;

const DONE: i32 = 0;
const UNAVAILABLE: i32 = 69;

fn file(text: &str) -> Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

/// Runs a command of this stage to its end.
async fn run(stage: &Stage, arguments: &[&str], input: &str) -> Result<Ended> {
    let config = file(stage.toml())?;
    let path = config.path().to_str().context("a path of ours is text")?;
    let mut process = Process::start(arguments, &[("CANCEL_WORKER_CONFIG", path)])?;
    process.say(input).await?;
    process.ended().await
}

fn lines(wishes: &[Wish]) -> String {
    wishes.iter().map(|wish| format!("{}\n", wish.intent)).collect()
}

pub(crate) async fn publish_takes_lines_from_standard_input_or_a_file_and_has_them_confirmed(
    t: Context,
) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let wishes = [
        Wish::new(&stage, Kind::AsyncCancel, Course::AtOnce)?,
        Wish::new(&stage, Kind::TransactionCancel, Course::AtOnce)?,
    ];
    let intents = file(&lines(&wishes))?;
    let path = intents.path().to_str().context("a path of ours is text")?;

    let from_stdin = run(&stage, &["publish"], &lines(&wishes)).await?;
    let from_file = run(&stage, &["publish", path], "").await?;

    for ended in [from_stdin, from_file] {
        assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
        assert_eq!(ended.stdout, "2 intents published and confirmed.");
    }
    for kind in ["async_cancel", "transaction_cancel"] {
        let lane = format!("{}.intents.{kind}", stage.topology().prefix());
        assert_eq!(stage.take_all(&lane).await?.len(), 2, "{kind}");
    }
    Ok(())
}

pub(crate) async fn publish_says_that_nobody_has_declared_the_topology(t: Context) -> Result<()> {
    let mut process = Process::start(&["publish", "--url", t.amqp_url(), "--prefix", t.prefix()], &[])?;
    let intent = crate::support::stage::intent(
        Kind::AsyncCancel,
        serde_json::json!({ "paymentRequestId": "7cc7c8e8-9d92-41b6-9378-e9ecef5a7812" }),
    );
    process.say(&intent.to_string()).await?;

    let ended = process.ended().await?;

    assert_eq!(ended.code, Some(UNAVAILABLE));
    let exchange = format!("{}.intents", t.prefix());
    assert!(ended.stderr.text().contains(&exchange), "{}", ended.stderr.text());
    Ok(())
}

pub(crate) async fn outcomes_ends_after_as_many_events_as_were_wanted(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let config = file(stage.toml())?;
    let path = config.path().to_str().context("a path of ours is text")?;
    let arguments = ["outcomes", "--config", path, "--count", "2"];
    let text = Process::start(&arguments, &[])?;
    let json = Process::start(&[&arguments[..], &["--format", "json"]].concat(), &[])?;
    let only = Process::start(
        &["outcomes", "--config", path, "--count", "1", "--only", "transaction_cancel.#"],
        &[],
    )?;
    for tail in [&text, &json, &only] {
        tail.stderr.wait_for("listener", |line| line.starts_with("listening")).await?;
    }
    let working = stage.work()?;
    for kind in [Kind::AsyncCancel, Kind::TransactionCancel] {
        let wish = Wish::new(&stage, kind, Course::AtOnce)?;
        stage.publish(&wish.intent).await?;
        wish.ended(&stage, 1).await?;
    }

    let (text, json, only) = (text.ended().await?, json.ended().await?, only.ended().await?);

    assert_eq!((text.code, json.code, only.code), (Some(DONE), Some(DONE), Some(DONE)));
    for (line, kind) in text.stdout.lines().zip(["async_cancel", "transaction_cancel"]) {
        assert!(line.contains(&format!(" {kind} cancelled ")), "{line}");
    }
    let told: Vec<Value> = json.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(told, stage.ledger.events(), "byte for byte what ledgers hear");
    assert_eq!(only.stdout.lines().count(), 1);
    assert!(only.stdout.contains("transaction_cancel cancelled"), "{}", only.stdout);
    working.stop().await?;
    Ok(())
}

pub(crate) async fn outcomes_ends_with_0_on_a_signal(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let config = file(stage.toml())?;
    let path = config.path().to_str().context("a path of ours is text")?;
    let tail = Process::start(&["outcomes", "--config", path], &[])?;
    tail.stderr.wait_for("listener", |line| line.starts_with("listening")).await?;
    assert_eq!(tail.stop_by("INT").await?.code, Some(DONE));
    Ok(())
}

const VERIFY: &[&str] = &["topology", "verify"];
const APPLY: &[&str] = &["topology", "apply"];
const CHECK: &[&str] = &["check", "--broker"];

pub(crate) async fn what_is_missing_is_found_and_applied(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    for command in [VERIFY, CHECK] {
        let ended = run(&stage, command, "").await?;
        assert_eq!(ended.code, Some(DONE), "{command:?}: {}", ended.stdout);
    }
    let gone = format!("{}.returns.batch_cancel", stage.topology().prefix());
    let channel = stage.connection().create_channel().await?;
    channel.queue_delete(gone.as_str().into(), QueueDeleteOptions::default()).await?;

    for command in [VERIFY, CHECK] {
        let ended = run(&stage, command, "").await?;
        assert_eq!(ended.code, Some(UNAVAILABLE), "{command:?}");
        let finding = format!("queue `{gone}` is missing. To mend it: `cancel-worker topology apply`");
        assert!(ended.stdout.lines().any(|line| line.starts_with(&finding)), "{command:?}: {}", ended.stdout);
    }
    assert_eq!(run(&stage, APPLY, "").await?.code, Some(DONE));
    assert_eq!(run(&stage, VERIFY, "").await?.code, Some(DONE));
    Ok(())
}

pub(crate) async fn what_is_different_is_found_and_left_alone(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let name = format!("{}.taps", stage.topology().prefix());
    let channel = stage.connection().create_channel().await?;
    channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
    channel
        .exchange_declare(
            name.as_str().into(),
            ExchangeKind::Direct,
            ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() },
            FieldTable::default(),
        )
        .await?;

    // What apply has refused to change is still found afterwards.
    for command in [VERIFY, CHECK, APPLY, VERIFY] {
        let ended = run(&stage, command, "").await?;
        assert_eq!(ended.code, Some(UNAVAILABLE), "{command:?}");
        let all = format!("{}\n{}", ended.stdout, ended.stderr.text());
        let finding = format!("exchange `{name}`: `type` is direct, and must be topic");
        assert!(all.contains(&finding), "{command:?}: {all}");
    }
    Ok(())
}

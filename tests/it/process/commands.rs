//! The commands that speak to a broker.

use anyhow::{Context as _, Result};
use cancel_worker::domain::intent::Kind;
use lapin::options::{
    BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::cancellations::{Cancellation, Course};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::{Ended, Process};
use crate::support::proxy::{Frame, Proxy};
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

fn lines(cancellations: &[Cancellation]) -> String {
    cancellations.iter().map(|cancellation| format!("{}\n", cancellation.intent)).collect()
}

broker_test!(publish_takes_lines_from_standard_input_or_a_file_and_has_them_confirmed);
async fn publish_takes_lines_from_standard_input_or_a_file_and_has_them_confirmed(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let cancellations = [
        Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?,
        Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?,
    ];
    let intents = file(&lines(&cancellations))?;
    let path = intents.path().to_str().context("a path of ours is text")?;

    let from_stdin = run(&stage, &["publish"], &lines(&cancellations)).await?;
    let from_file = run(&stage, &["publish", path], "").await?;

    for ended in [from_stdin, from_file] {
        assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
        assert_eq!(
            ended.stdout.lines().collect::<Vec<_>>(),
            [cancellations[0].subject(), cancellations[1].subject()]
        );
        assert_eq!(ended.stderr.text(), "2 intents published and confirmed.");
    }
    for kind in ["async_cancel", "transaction_cancel"] {
        let lane = format!("{}.intents.{kind}", stage.topology().prefix());
        assert_eq!(stage.take_all(&lane).await?.len(), 2, "{kind}");
    }
    Ok(())
}

broker_test!(publish_says_that_nobody_has_declared_the_topology);
async fn publish_says_that_nobody_has_declared_the_topology(t: Context) -> Result<()> {
    let mut process = Process::start(&["publish", "--url", t.amqp_url(), "--prefix", t.prefix()], &[])?;
    let intent = crate::support::stage::intent(
        Kind::AsyncCancel,
        serde_json::json!({ "paymentRequestId": "7cc7c8e8-9d92-41b6-9378-e9ecef5a7812" }),
    );
    process.say(&intent.to_string()).await?;

    let ended = process.ended().await?;

    assert_eq!(ended.code, Some(UNAVAILABLE));
    let told =
        format!("exchange `{}.intents` is missing at the broker, and nothing was published", t.prefix());
    assert!(ended.stderr.text().contains(&told), "{}", ended.stderr.text());
    assert!(ended.stderr.text().contains("topology apply"), "{}", ended.stderr.text());
    Ok(())
}

broker_test!(publish_that_only_checks_sends_nothing_and_needs_no_broker);
async fn publish_that_only_checks_sends_nothing_and_needs_no_broker(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let cancellation = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    let mut alone = Process::start(&["publish", "--dry-run"], &[])?;
    alone.say(&lines(std::slice::from_ref(&cancellation))).await?;
    let alone = alone.ended().await?;
    let beside = run(&stage, &["publish", "--dry-run"], &lines(&[cancellation])).await?;
    for ended in [alone, beside] {
        assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
        assert_eq!(ended.stdout, "1 intents are right. Nothing was published.");
    }
    let lane = format!("{}.intents.async_cancel", stage.topology().prefix());
    assert_eq!(stage.take_all(&lane).await?.len(), 0);
    Ok(())
}

broker_test!(publish_that_waits_shows_the_ends_and_says_whose_it_has_not_heard);
async fn publish_that_waits_shows_the_ends_and_says_whose_it_has_not_heard(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let cancellations = [
        Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?,
        Cancellation::new(&stage, Kind::BatchCancel, Course::AtOnce)?,
    ];
    let unheard = run(&stage, &["publish", "--wait", "300ms"], &lines(&cancellations[..1])).await?;
    assert_eq!(unheard.code, Some(UNAVAILABLE));
    assert!(unheard.stderr.text().contains("of 1 intents no end was heard"), "{}", unheard.stderr.text());
    assert!(unheard.stderr.text().ends_with(cancellations[0].subject()), "{}", unheard.stderr.text());

    let working = stage.work()?;
    let ended = run(&stage, &["publish", "--wait", "40s"], &lines(&cancellations)).await?;
    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    let last = |cancellation: &Cancellation| {
        let mut told = ended.stdout.lines().filter(|line| line.contains(cancellation.subject()));
        told.next_back().map(str::to_owned)
    };
    assert!(
        last(&cancellations[0]).is_some_and(|line| line.contains(" async_cancel cancelled ")),
        "{}",
        ended.stdout
    );
    assert!(
        last(&cancellations[1]).is_some_and(|line| line.contains(" batch_cancel closed ")),
        "{}",
        ended.stdout
    );
    working.stop().await?;
    Ok(())
}

broker_test!(the_broker_alone_is_enough_for_what_speaks_to_it_alone);
async fn the_broker_alone_is_enough_for_what_speaks_to_it_alone(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let cancellation = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    let config = file(&format!(
        "[amqp]\nurl = {:?}\nprefix = {:?}\n[gateway]\ncall_timeout = 'never'\n[merchants.a]\nprivate_key = ''\n",
        stage.url(),
        stage.topology().prefix()
    ))?;
    let path = config.path().to_str().context("a path of ours is text")?;
    let delays = ("CANCEL_WORKER__RETRY__DELAYS", "[\"1s\"]");
    for command in [&["publish"][..], &["topology", "print"], &["topology", "permissions"], APPLY] {
        let mut process = Process::start(command, &[("CANCEL_WORKER_CONFIG", path), delays])?;
        process.say(&lines(std::slice::from_ref(&cancellation))).await.ok();
        let ended = process.ended().await?;
        assert_eq!(ended.code, Some(DONE), "{command:?}: {}", ended.stderr.text());
    }
    t.on_cleanup([format!("{}.delay.1s", t.prefix())], [format!("{}.delay.1s", t.prefix())]);
    let ended = Process::start(&["check"], &[("CANCEL_WORKER_CONFIG", path)])?.ended().await?;
    assert_eq!(ended.code, Some(64), "{}", ended.stdout);
    Ok(())
}

/// Publishes an event where tails listen.
async fn tap(stage: &Stage, event: &Value) -> Result<()> {
    let channel = stage.connection().create_channel().await?;
    let taps = format!("{}.taps", stage.topology().prefix());
    let options = BasicPublishOptions::default();
    let body = serde_json::to_vec(event)?;
    channel
        .basic_publish(taps.as_str().into(), "x.y".into(), options, &body, BasicProperties::default())
        .await?
        .await?;
    Ok(())
}

fn event(subject: &str, reference: &Value) -> Value {
    json!({ "time": "2026-10-14T12:00:00.000Z", "subject": subject, "data": {
        "kind": "async_cancel", "status": "cancelled", "attempts": 1, "reference": reference } })
}

broker_test!(outcomes_survives_its_broker_and_says_what_it_may_have_missed);
async fn outcomes_survives_its_broker_and_says_what_it_may_have_missed(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let proxy = Proxy::start(stage.url()).await?;
    let hold = proxy.hold(Frame::ack());
    let arguments = ["outcomes", "--url", proxy.url(), "--prefix", t.prefix(), "--count", "2"];
    let tail = Process::start(&arguments, &[])?;
    tail.stderr.wait_for("listener", |line| line.starts_with("listening to")).await?;
    tap(&stage, &event("first", &json!(null))).await?;
    hold.held().await?;
    hold.cut();
    tail.stderr.wait_for("listener", |line| line.starts_with("listening again to")).await?;
    tap(&stage, &event("second", &json!(null))).await?;
    let ended = tail.ended().await?;
    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
    let told: Vec<bool> = ended.stdout.lines().map(|line| line.contains(" second ")).collect();
    assert_eq!(told, [false, true], "{}", ended.stdout);
    assert!(ended.stderr.text().contains("may have been missed"), "{}", ended.stderr.text());
    Ok(())
}

broker_test!(outcomes_shows_the_reference_and_nothing_that_a_terminal_obeys);
async fn outcomes_shows_the_reference_and_nothing_that_a_terminal_obeys(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let arguments = ["outcomes", "--url", stage.url(), "--prefix", t.prefix(), "--count", "2"];
    let text = Process::start(&arguments, &[])?;
    let json = Process::start(&[&arguments[..], &["--format", "json"]].concat(), &[])?;
    for tail in [&text, &json] {
        tail.stderr.wait_for("listener", |line| line.starts_with("listening to")).await?;
    }
    let evil = event("a\u{1b}[2Jb\u{9b}1m\u{202e}", &json!({ "order": "4711\u{9b}2J\u{7f}" }));
    tap(&stage, &evil).await?;
    tap(&stage, &json!("no event \u{9b}2J")).await?;
    let (text, json) = (text.ended().await?, json.ended().await?);
    assert!(text.stdout.contains(r#" {"order":"4711\u009b2J\u007f"}"#), "{}", text.stdout);
    let first = json.stdout.lines().next().context("a line")?;
    assert_eq!(serde_json::from_str::<Value>(first)?, evil);
    for ended in [text, json] {
        assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
        assert!(
            !ended.stdout.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{:?}",
            ended.stdout
        );
    }
    Ok(())
}

broker_test!(outcomes_ends_after_as_many_events_as_were_wanted);
async fn outcomes_ends_after_as_many_events_as_were_wanted(t: Context) -> Result<()> {
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
        let cancellation = Cancellation::new(&stage, kind, Course::AtOnce)?;
        stage.publish(&cancellation.intent).await?;
        cancellation.ended(&stage, 1).await?;
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

broker_test!(outcomes_ends_with_0_on_a_signal);
async fn outcomes_ends_with_0_on_a_signal(t: Context) -> Result<()> {
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

broker_test!(what_is_missing_is_found_and_applied);
async fn what_is_missing_is_found_and_applied(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    for command in [VERIFY, CHECK] {
        let ended = run(&stage, command, "").await?;
        assert_eq!(ended.code, Some(DONE), "{command:?}: {}", ended.stdout);
    }
    let gone = format!("{}.returns.batch_cancel", stage.topology().prefix());
    let channel = stage.connection().create_channel().await?;
    channel.queue_delete(gone.as_str().into(), QueueDeleteOptions::default()).await?;

    let (verified, checked) = (run(&stage, VERIFY, "").await?, run(&stage, CHECK, "").await?);
    assert_eq!((verified.code, checked.code), (Some(UNAVAILABLE), Some(DONE)), "{}", checked.stdout);
    let finding = format!("queue `{gone}` is missing. To fix it: `cancel-worker topology apply`");
    assert!(verified.stdout.lines().any(|line| line.starts_with(&finding)), "{}", verified.stdout);
    let note = "0 exchanges and 1 queues are missing; `run` declares them";
    assert!(checked.stdout.lines().any(|line| line.starts_with(note)), "{}", checked.stdout);
    assert_eq!(run(&stage, APPLY, "").await?.code, Some(DONE));
    assert_eq!(run(&stage, VERIFY, "").await?.code, Some(DONE));
    Ok(())
}

broker_test!(a_lane_that_nobody_consumes_though_letters_wait_is_noted);
async fn a_lane_that_nobody_consumes_though_letters_wait_is_noted(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let cancellation = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    assert_eq!(run(&stage, &["publish"], &lines(&[cancellation])).await?.code, Some(DONE));
    let lane = format!("{}.intents.async_cancel", stage.topology().prefix());
    for command in [VERIFY, CHECK] {
        let ended = run(&stage, command, "").await?;
        assert_eq!(ended.code, Some(DONE), "{command:?}: {}", ended.stderr.text());
        let note = format!("queue `{lane}`: letters wait (1), and nobody consumes them");
        assert!(ended.stdout.lines().any(|line| line == note), "{command:?}: {}", ended.stdout);
    }
    Ok(())
}

broker_test!(what_is_different_is_found_and_left_alone);
async fn what_is_different_is_found_and_left_alone(t: Context) -> Result<()> {
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

//! What a person at the log, or at the traces, is promised to see.

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{Fault, FaultKind};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::cancellations::{Cancellation, Course, audit};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::{Lines, Process};
use crate::support::stage::{Stage, UNHURRIED};

/// Waits for a log line of this event that also fits.
async fn line(lines: &Lines, event: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let is = |line: &str| {
        serde_json::from_str::<Value>(line).is_ok_and(|line| line["event"] == event && fits(&line))
    };
    Ok(serde_json::from_str(&lines.wait_for(&format!("fitting event `{event}`"), is).await?)?)
}

broker_test!(a_dead_lettered_letter_emits_its_event);
async fn a_dead_lettered_letter_emits_its_event(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = Process::work(&stage, &[])?;
    let mut malformed = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    malformed.intent["payment"]["paymentRequestId"] = "nonsense".into();
    let mut unknown = Cancellation::new(&stage, Kind::BatchCancel, Course::AtOnce)?;
    unknown.intent["merchant"] = "nobody".into();

    for (cancellation, reason, names) in [
        (&malformed, "invalid_intent", "payment.paymentRequestId"),
        (&unknown, "unknown_merchant", "merchant"),
    ] {
        stage.publish_bytes(cancellation.kind.as_str(), serde_json::to_vec(&cancellation.intent)?).await?;
        let told =
            line(&worker.stderr, "dead_lettered", |line| line["cancel.intent_id"] == cancellation.subject())
                .await?;
        assert_eq!(told["level"], "error");
        assert_eq!(told["cancel.reason"], reason);
        assert_eq!(told["cancel.kind"], cancellation.kind.as_str());
        let detail = told["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains(names) && !detail.contains("nonsense"), "{detail}");
        ensure!(told["trace_id"].is_string(), "{told}");
    }
    assert_eq!(worker.stop_by("TERM").await?.code, Some(0));
    Ok(())
}

broker_test!(what_nobody_is_bound_to_is_alarmed_and_kept);
async fn what_nobody_is_bound_to_is_alarmed_and_kept(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    stage.ledger.leave(stage.connection()).await?;
    let unrouted = format!("{}.unrouted", stage.topology().prefix());
    let lost = b"an intent of a kind that nobody serves".to_vec();
    stage.publish_bytes("teleport", lost.clone()).await?;

    // The first look comes with the connection, the next ten seconds later.
    let worker = Process::work(&stage, &[])?;
    let alarm = line(&worker.stderr, "unrouted", |line| line["depth"] == 1).await?;
    assert_eq!(
        (&alarm["level"], &alarm["messaging.destination.name"]),
        (&"error".into(), &unrouted.as_str().into())
    );
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    line(&worker.stderr, "unrouted", |line| line["depth"] == 2).await?;

    let kept = stage.take_all(&unrouted).await?;
    let keys: Vec<&str> = kept.iter().map(|message| message.routing_key.as_str()).collect();
    assert_eq!(keys, ["teleport", "transaction_cancel.cancelled"]);
    assert_eq!(kept[0].body, lost);
    let outcome: Value = serde_json::from_slice(&kept[1].body)?;
    assert_eq!(outcome["subject"], cancellation.subject());
    worker.stderr.event("unrouted_cleared").await?;
    assert_eq!(worker.stop_by("TERM").await?.code, Some(0));
    Ok(())
}

broker_test!(a_gateway_that_cannot_be_reached_is_one_line_for_each_host_and_cause);
async fn a_gateway_that_cannot_be_reached_is_one_line_for_each_host_and_cause(t: Context) -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0").await?;
    let refusing = free.local_addr()?.port();
    drop(free);
    let hangs_up = TcpListener::bind("127.0.0.1:0").await?;
    let no_tls = hangs_up.local_addr()?.port();
    let hanging_up = tokio::spawn(async move {
        while let Ok((stream, _)) = hangs_up.accept().await {
            drop(stream);
        }
    });
    let tuning = format!(
        "retry.age_max = '3s'\ngateway.connect_timeout = '5s'\n{UNHURRIED}gateway.allow_http = true\ngateway.physical_url = 'http://nonexistent.invalid'\n\
         gateway.private_url = 'http://127.0.0.1:{refusing}'\ngateway.payment_url = 'https://localhost:{no_tls}'"
    );
    let stage = Stage::new(&t, &tuning).await?;
    let worker = Process::work(&stage, &[])?;
    for kind in [Kind::AsyncCancel, Kind::TransactionCancel, Kind::ApmProvisionCancel] {
        // Several letters, and each of them tries several times.
        let cancellations = [(); 4].map(|()| Cancellation::new(&stage, kind, Course::AtOnce));
        for cancellation in cancellations {
            stage.publish(&cancellation?.intent).await?;
        }
    }
    let all =
        |events: &[Value]| events.iter().filter(|event| event["data"]["status"] == "given_up").count() == 12;
    stage.ledger.wait_for("end of all", all).await?;
    let ended = worker.stop_by("TERM").await?;
    hanging_up.abort();

    let mut told = ended.stderr.events("gateway_unreachable");
    told.sort_by_key(|line| line["api"].to_string());
    let told: Vec<Value> = told
        .iter()
        .map(|line| {
            assert!(line["detail"].is_string() && line["requests"].is_u64(), "{line}");
            json!([
                line["level"],
                line["api"],
                line["server.address"],
                line["server.port"],
                line["cancel.fault"]
            ])
        })
        .collect();
    let expected = [
        json!(["warn", "payment", "localhost", no_tls, "tls"]),
        json!(["warn", "physical", "nonexistent.invalid", 80, "dns"]),
        json!(["warn", "private", "127.0.0.1", refusing, "connect_refused"]),
    ];
    assert_eq!(told, expected, "one line each, however many letters");
    Ok(())
}

broker_test!(an_endpoint_that_fails_is_told_when_it_begins_and_when_it_answers_again);
async fn an_endpoint_that_fails_is_told_when_it_begins_and_when_it_answers_again(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let worker = Process::work(&stage, &[])?;
    let first = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let reset = Fault::new(FaultKind::Reset).on(first.endpoint).times(2);
    stage.simulator.plan(reset).await?;
    stage.publish(&first.intent).await?;
    let told = worker.stderr.event("endpoint_failing").await?;
    assert_eq!(told["level"], "warn");
    assert_eq!(told["url.template"], "/api/paywall/private/cancel/by/uniqueCode");
    assert_eq!(told["cancel.fault"], "reset");
    ensure!(told["server.address"].is_string() && told["server.port"].is_u64(), "{told}");
    first.ended(&stage, 1).await?;
    let again = worker.stderr.event("endpoint_answering").await?;
    assert_eq!((&again["level"], &again["url.template"]), (&json!("info"), &told["url.template"]));
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.stderr.events("endpoint_failing").len(), 1, "{}", ended.stderr.text());
    Ok(())
}

broker_test!(a_log_that_nobody_reads_holds_up_neither_work_nor_end);
async fn a_log_that_nobody_reads_holds_up_neither_work_nor_end(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    // The pipe is full from the first line on.
    let (worker, _unread) = Process::work_unread(&stage, &[("CANCEL_WORKER_LOG", "trace")])?;
    let cancellations = (0..40).map(|_| Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce));
    let cancellations = cancellations.collect::<Result<Vec<Cancellation>>>()?;
    for cancellation in &cancellations {
        stage.publish(&cancellation.intent).await?;
    }
    for cancellation in &cancellations {
        cancellation.ended(&stage, 1).await?;
    }
    assert_eq!(worker.stop_by("TERM").await?.code, Some(0), "it ends within its grace period");
    Ok(())
}

/// The trace of a `traceparent`, or of the header of a message.
fn trace_of(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

/// Publishes a letter in a trace.
async fn publish_in_trace(stage: &Stage, key: &str, body: &[u8], traceparent: AMQPValue) -> Result<()> {
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), traceparent);
    headers.insert("tracestate".into(), AMQPValue::LongString("shop=a1".into()));
    let exchange = format!("{}.intents", stage.topology().prefix());
    let channel = stage.connection().create_channel().await?;
    let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    channel
        .basic_publish(exchange.as_str().into(), key.into(), BasicPublishOptions::default(), body, properties)
        .await?;
    Ok(())
}

async fn a_trace_goes_on(t: Context, written: impl Fn(&str) -> AMQPValue) -> Result<()> {
    const OF_CANCELLATION: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OF_MALFORMED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let stage = Stage::new(&t, "").await?;
    let audit = audit(&t, &stage).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    // So it goes through a delay queue.
    let busy = Fault::new(FaultKind::http_retry_after(503, "0")).on(cancellation.endpoint);
    stage.simulator.plan(busy).await?;
    let mut malformed = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    malformed.intent["payment"]["paymentRequestId"] = "nonsense".into();
    let worker = Process::work(&stage, &[("CANCEL_WORKER_LOG", "debug")])?;

    for (cancellation, traceparent) in [(&cancellation, OF_CANCELLATION), (&malformed, OF_MALFORMED)] {
        let body = cancellation.intent.to_string();
        publish_in_trace(&stage, cancellation.kind.as_str(), body.as_bytes(), written(traceparent)).await?;
        cancellation.ended(&stage, 1).await?;
    }
    let ended = worker.stop_by("TERM").await?;

    let trace = trace_of(OF_CANCELLATION);
    for event in ["waiting", "decided"] {
        let told = ended.stderr.events(event);
        let told = told
            .iter()
            .find(|line| line["cancel.intent_id"] == cancellation.subject())
            .context(event.to_owned())?;
        assert_eq!(told["trace_id"], trace, "{event}");
    }
    let calls = ended.stderr.events("called");
    assert_eq!(calls.len(), 2, "before the delay queue and after it");
    ensure!(calls.iter().all(|line| line["trace_id"] == trace), "{calls:#?}");
    let told = ended.stderr.events("dead_lettered");
    assert_eq!(told[0]["trace_id"], trace_of(OF_MALFORMED));

    let outcomes = stage.take_all(&audit).await?;
    for (key, traceparent) in
        [("transaction_cancel.cancelled", OF_CANCELLATION), ("async_cancel.rejected", OF_MALFORMED)]
    {
        let outcome = outcomes.iter().find(|outcome| outcome.routing_key == key).context(key)?;
        let header = outcome.headers.get("traceparent").context("it has one")?;
        assert_eq!(trace_of(header), trace_of(traceparent), "{key}");
        ensure!(header != traceparent, "it names our own span as its parent");
        assert_eq!(header[53..], traceparent[53..], "sampling is the publisher's decision");
        assert_eq!(outcome.headers.get("tracestate").map(String::as_str), Some("shop=a1"), "{key}");
    }
    let dead = stage.dead_letters().await?;
    let header = dead[0].headers.get("traceparent").context("it has one")?;
    assert_eq!(trace_of(header), trace_of(OF_MALFORMED));
    Ok(())
}

broker_test!(a_publishers_trace_in_a_long_string_goes_on);
async fn a_publishers_trace_in_a_long_string_goes_on(t: Context) -> Result<()> {
    a_trace_goes_on(t, |traceparent| AMQPValue::LongString(traceparent.into())).await
}

// In the third form, a short string, RabbitMQ carries no header at all: its dialect has no letter for that type. How we
// would read one is held where headers are read.
broker_test!(a_publishers_trace_in_bytes_goes_on);
async fn a_publishers_trace_in_bytes_goes_on(t: Context) -> Result<()> {
    a_trace_goes_on(t, |traceparent| AMQPValue::ByteArray(traceparent.as_bytes().to_vec().into())).await
}

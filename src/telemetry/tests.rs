use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::{fs, io};

use jiff::Timestamp;
use opentelemetry::trace::{SpanId, TraceContextExt as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span as SdkSpan, SpanData, SpanProcessor};
use proptest::prelude::*;
use serde_json::Value;
use tracing::{Level, Span};

use super::events::{self, Endpoint, IntentRef};
use super::{carrier, drops, setup, spans};
use crate::clock::Clock;
use crate::config::{LogFormat, LogLevel, Telemetry};
use crate::domain::fault::Fault;
use crate::domain::history::LastReply;
use crate::domain::intent::Kind;
use crate::wire::envelope::{HeaderValue, Headers, Redelivered, Source};

const CANARY: &str = "canary-5d1f";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Where the lines of one test go.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps the spans that have ended.
#[derive(Clone, Default, Debug)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut SdkSpan, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().expect("not poisoned").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What came out of one run.
struct Seen {
    text: String,
    spans: Vec<SpanData>,
}

impl Seen {
    fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    fn span(&self, name: &str) -> &SpanData {
        self.spans.iter().find(|span| span.name == name).expect("the span")
    }
}

fn telemetry(log: LogFormat, sample_ratio: f64) -> Telemetry {
    Telemetry { otlp_endpoint: None, sample_ratio, log, level: LogLevel::Info }
}

fn seen_with(telemetry: &Telemetry, filter: Option<&str>, run: impl FnOnce()) -> Seen {
    let (buffer, ended) = (Buffer::default(), Ended::default());
    let provider = setup::provider(telemetry).with_span_processor(ended.clone()).build();
    let clock = Clock::from_fn(|| Timestamp::from_millisecond(1_792_000_000_123).expect("a time"));
    let writer = buffer.clone();
    let subscriber =
        setup::subscriber(telemetry, filter, clock, &provider, move || writer.clone()).expect("a filter");
    tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(buffer.0.lock().expect("not poisoned").clone()).expect("text");
    let spans = ended.0.lock().expect("not poisoned").clone();
    Seen { text, spans }
}

fn seen(filter: &str, run: impl FnOnce()) -> Seen {
    seen_with(&telemetry(LogFormat::Json, 1.0), Some(filter), run)
}

fn headers(traceparent: &str) -> Headers {
    Headers::from([("traceparent".to_owned(), HeaderValue::Text(traceparent.to_owned()))])
}

fn delivery() -> Span {
    spans::delivery(Source::Lane(Kind::AsyncCancel), "cancel.intents:async_cancel:q", Redelivered::No, 7)
}

const OF: IntentRef<'_> =
    IntentRef { intent_id: Some("i-1"), kind: Some("async_cancel"), merchant: Some("default") };
const WHY: std::fmt::Error = std::fmt::Error;

#[test]
fn a_dead_letter_is_told_with_its_ids_as_an_error() {
    let seen = seen("info", || events::dead_lettered(OF, "no_evidence", "Nothing tells."));
    let [line] = &seen.lines()[..] else { panic!("one line: {}", seen.text) };
    assert_eq!(
        *line,
        serde_json::json!({
            "timestamp": "2026-10-14T17:46:40.123Z",
            "level": "error",
            "event": "dead_lettered",
            "message": "Intent dead-lettered; a person must look at it.",
            "cancel.intent_id": "i-1",
            "cancel.kind": "async_cancel",
            "cancel.merchant": "default",
            "cancel.reason": "no_evidence",
            "detail": "Nothing tells.",
        })
    );
}

#[test]
fn a_gateway_that_fails_is_told_with_its_host_or_endpoint_and_the_cause() {
    let host = Endpoint { api: "physical", host: "gateway.example", port: Some(443), path: None };
    let endpoint = Endpoint { path: Some("/api/payment/inquiry/{paymentRequestId}"), ..host };
    let seen = seen("info", || {
        let lasts = Duration::from_secs(60);
        events::gateway_failing(&host, Fault::Dns, "the name of the host cannot be resolved", 7, lasts);
        events::gateway_failing(&endpoint, Fault::Reset, "the connection was reset before a reply", 1, lasts);
        events::gateway_answering(&host, lasts);
        events::gateway_answering(&endpoint, lasts);
        events::clock_set_back(lasts, 3);
        events::clock_agrees(lasts);
    });
    let lines = seen.lines();
    let told: Vec<(&str, &str)> = lines
        .iter()
        .map(|line| (line["level"].as_str().unwrap_or_default(), line["event"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ("warn", "gateway_unreachable"),
            ("warn", "endpoint_failing"),
            ("info", "gateway_reachable"),
            ("info", "endpoint_answering"),
            ("warn", "clock_set_back"),
            ("info", "clock_agrees"),
        ]
    );
    assert_eq!(
        lines[0],
        serde_json::json!({
            "timestamp": "2026-10-14T17:46:40.123Z",
            "level": "warn",
            "event": "gateway_unreachable",
            "message": "Gateway cannot be reached.",
            "server.address": "gateway.example",
            "server.port": 443,
            "api": "physical",
            "cancel.fault": "dns",
            "detail": "the name of the host cannot be resolved",
            "requests": 7,
            "lasts_ms": 60_000,
        })
    );
    assert_eq!(lines[1]["url.template"], "/api/payment/inquiry/{paymentRequestId}");
    assert_eq!((&lines[4]["set_back_ms"], &lines[4]["letters"]), (&60_000.into(), &3.into()));
}

/// One event of each kind.
fn tell_everything() {
    events::received(Source::Rescue, Redelivered::Yes, 9);
    events::already_announced(Source::Rescue);
    events::malformed(IntentRef::default(), "payment.date");
    events::waiting(OF, "rollback", Duration::from_secs(1));
    events::called(OF, "/x", 1, &LastReply::default(), "in_doubt", Duration::from_millis(5));
    events::inquired(OF, 1, "unanswered", Some(Fault::Dns), Duration::from_millis(5));
    events::decided(OF, None, "cancelled", None, 1);
    events::dead_lettered(OF, "no_evidence", "Nothing tells.");
    events::announcement_parked("an-event-id", 1, Duration::ZERO);
    events::interrupted(OF, &WHY);
    events::isolated("async_cancel", 1);
    events::panicked("src/x.rs:1");
    events::unrouted("cancel.unrouted", 3);
    events::unrouted_cleared("cancel.unrouted");
    events::depth_unknown("cancel.unrouted", &WHY);
    events::delay_late("5s", Duration::from_secs(9), 3);
    events::delay_stuck("5s", Duration::from_secs(300), 3);
    events::delay_on_time_again("5s", Duration::from_secs(300));
    events::locked_out("physical", "default", Some(401));
    events::lock_out_ended("physical", "default", Duration::ZERO);
    events::lane_paused("async_cancel", None, "endpoint_down");
    events::lane_probing(OF, Duration::ZERO);
    events::lane_resumed("async_cancel", None, Duration::ZERO);
    events::slowed_down("physical", "default", Duration::ZERO);
    events::started("0.1.0", "one", "/cancel-worker");
    events::waiting_for_broker("localhost:5672", &WHY, 1);
    events::generation_started(1, "localhost:5672", 11);
    events::generation_ended(1, &WHY, 2);
    events::broker_blocked("publish", "low on memory");
    events::broker_unblocked("publish");
    events::log_lines_dropped(3, "until now");
    events::stopping("SIGTERM");
    events::drain_started(2, Duration::ZERO);
    events::drain_finished(Duration::ZERO);
    events::gave_back(1, Duration::ZERO);
}

#[test]
fn levels_say_who_must_act() {
    let seen = seen("trace", tell_everything);
    let told = |level: &str| -> Vec<String> {
        let lines = seen.lines().into_iter().filter(|line| line["level"] == level);
        lines.map(|line| line["event"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(
        told("error"),
        ["dead_lettered", "announcement_parked", "panicked", "unrouted", "delay_stuck", "locked_out"]
    );
    assert_eq!(
        told("warn"),
        [
            "interrupted",
            "isolated",
            "depth_unknown",
            "delay_late",
            "lane_paused",
            "slowed_down",
            "waiting_for_broker",
            "generation_ended",
            "broker_blocked",
            "log_lines_dropped",
            "gave_back"
        ]
    );
    assert_eq!(
        told("info"),
        [
            "decided",
            "unrouted_cleared",
            "delay_on_time_again",
            "lock_out_ended",
            "lane_resumed",
            "started",
            "generation_started",
            "broker_unblocked",
            "stopping",
            "drain_started",
            "drain_finished"
        ]
    );
    assert_eq!(
        told("debug"),
        ["received", "already_announced", "malformed", "waiting", "called", "inquired", "lane_probing"]
    );
}

#[test]
fn an_error_is_told_with_everything_behind_it() {
    #[derive(Debug, thiserror::Error)]
    #[error("failed to connect")]
    struct Outer(#[source] std::fmt::Error);
    let lines = seen("info", || events::waiting_for_broker("localhost:5672", &Outer(WHY), 1)).lines();
    assert_eq!(lines[0]["why"], format!("failed to connect: {WHY}"));
}

#[test]
fn what_is_not_known_is_left_out() {
    let lines = seen("debug", || events::malformed(IntentRef::default(), "payment.date")).lines();
    assert!(
        lines[0].get("cancel.intent_id").is_none() && lines[0].get("cancel.merchant").is_none(),
        "{lines:?}"
    );
}

#[test]
fn third_parties_are_capped_whatever_the_filter_wants() {
    let filter = "trace,lapin=trace,hyper=trace,reqwest=trace,amq_protocol_tcp=trace";
    let seen = seen(filter, || {
        tracing::warn!(target: "lapin::returned_messages", message = CANARY, "Server returned us a message");
        tracing::error!(target: "lapin::io_loop", error = CANARY, "parse error");
        tracing::error!(target: "amq_protocol_tcp", error = CANARY, "x");
        tracing::trace!(target: "hyper::proto", CANARY);
        tracing::info!(target: "reqwest::connect", CANARY);
        tracing::debug!(target: "rustls", CANARY);
        let _entered = tracing::span!(target: "h2::client", Level::ERROR, "x", key = CANARY).entered();
        tracing::warn!(target: "hyper_util::client", "Something is slow.");
    });
    assert!(!seen.text.contains(CANARY), "{}", seen.text);
    assert!(seen.spans.is_empty());
    assert_eq!(seen.lines().len(), 1);
    let line = &seen.lines()[0];
    assert_eq!((&line["event"], &line["target"]), (&"library_warned".into(), &"hyper_util::client".into()));
}

#[test]
fn a_crate_whose_name_begins_like_ours_is_a_third_party() {
    let seen = seen("trace", || tracing::info!(target: "cancel_workers", CANARY));
    assert_eq!(seen.text, "");
}

#[test]
fn a_filter_that_is_none_is_a_mistake() {
    let (telemetry, clock) = (telemetry(LogFormat::Json, 1.0), Clock::system());
    let provider = setup::provider(&telemetry).build();
    let result = setup::subscriber(&telemetry, Some("a=b=c"), clock, &provider, io::sink);
    assert!(matches!(result.err(), Some(setup::Error::Filter(_))));
}

#[test]
fn the_publishers_trace_goes_on_through_us() {
    let mut outgoing = Headers::new();
    let seen = seen("info", || {
        let mut incoming = headers(PARENT);
        incoming.insert("tracestate".to_owned(), HeaderValue::Text("shop=a1,other=b2".to_owned()));
        let delivery = delivery();
        carrier::continue_trace(&delivery, &incoming);
        delivery.in_scope(|| {
            let announce = spans::announce(1);
            outgoing = carrier::inject(&announce);
        });
    });
    let HeaderValue::Text(traceparent) = &outgoing["traceparent"] else { panic!("text") };
    let announce = seen.span("announce");
    assert_eq!(*traceparent, format!("00-{TRACE}-{}-01", announce.span_context.span_id()));
    assert_eq!(outgoing["tracestate"], HeaderValue::Text("shop=a1,other=b2".to_owned()));
    let process = seen.span("process cancel.intents:async_cancel:q");
    assert_eq!(process.parent_span_id, SpanId::from_hex("00f067aa0ba902b7").expect("an id"));
    assert_eq!(announce.parent_span_id, process.span_context.span_id());
}

#[test]
fn a_trace_that_nobody_began_begins_with_us() {
    let mut outgoing = Headers::new();
    let seen = seen("info", || {
        let delivery = delivery();
        carrier::continue_trace(&delivery, &Headers::new());
        outgoing = carrier::inject(&delivery);
    });
    assert_eq!(outgoing.keys().collect::<Vec<_>>(), ["traceparent"]);
    assert_eq!(seen.spans[0].parent_span_id, SpanId::INVALID);
}

#[test]
fn sampling_is_the_publishers_decision_where_there_is_one() {
    let sampled = |telemetry: &Telemetry, traceparent: &str| {
        let seen = seen_with(telemetry, None, || {
            let delivery = delivery();
            carrier::continue_trace(&delivery, &headers(traceparent));
        });
        seen.spans.iter().any(|span| span.span_context.is_sampled())
    };
    let (all, none) = (telemetry(LogFormat::Json, 1.0), telemetry(LogFormat::Json, 0.0));
    assert!(sampled(&none, PARENT) && !sampled(&all, &PARENT.replace("-01", "-00")));
    assert!(sampled(&all, "") && !sampled(&none, ""));
}

#[test]
fn an_unsampled_trace_still_has_an_id_and_is_carried_on() {
    let mut outgoing = Headers::new();
    let seen = seen_with(&telemetry(LogFormat::Json, 0.0), None, || {
        delivery().in_scope(|| {
            outgoing = carrier::inject(&Span::current());
            events::started("0.1.0", "one", "/cancel-worker");
        });
    });
    let HeaderValue::Text(traceparent) = &outgoing["traceparent"] else { panic!("text") };
    assert!(traceparent.ends_with("-00"));
    assert_eq!(seen.lines()[0]["trace_id"], traceparent[3..35]);
}

#[test]
fn traces_go_on_though_spans_are_sent_nowhere() {
    let telemetry = telemetry(LogFormat::Json, 1.0);
    let provider = setup::provider(&telemetry).build();
    let subscriber =
        setup::subscriber(&telemetry, None, Clock::system(), &provider, io::sink).expect("a filter");
    tracing::subscriber::with_default(subscriber, || {
        let delivery = delivery();
        carrier::continue_trace(&delivery, &headers(PARENT));
        let HeaderValue::Text(traceparent) = &carrier::inject(&delivery)["traceparent"] else {
            panic!("text")
        };
        assert!(traceparent.contains(TRACE) && traceparent != PARENT, "{traceparent}");
    });
}

#[test]
fn where_no_trace_is_kept_none_is_carried_on() {
    assert_eq!(carrier::inject(&Span::none()), Headers::new());
}

#[test]
fn malformed_trace_context_is_as_good_as_none() {
    let is_taken = |text: &str| carrier::extract(&headers(text)).span().span_context().is_valid();
    let later = PARENT.replacen("00", "cc", 1);
    assert!(is_taken(PARENT) && is_taken(&later) && is_taken(&format!("{later}-what-comes-later")));
    for malformed in [
        "",
        "00",
        &PARENT.to_uppercase(),
        &PARENT.replacen("00", "ff", 1),
        &format!("{PARENT}-x"),
        &format!("{later}x"),
        &format!(" {PARENT}"),
        &PARENT[..54],
        &PARENT.replacen('-', "_", 1),
        &PARENT.replace(TRACE, "00000000000000000000000000000000"),
        &PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
        &PARENT.replace("-01", "-0g"),
    ] {
        assert!(!is_taken(malformed), "{malformed:?}");
    }
    let number = Headers::from([("traceparent".to_owned(), HeaderValue::Int(7))]);
    assert!(!carrier::extract(&number).span().span_context().is_valid());
}

#[test]
fn a_malformed_or_endless_tracestate_is_dropped_alone() {
    for tracestate in ["no equals sign", &format!("a={}", "x".repeat(600)), "a=ü"] {
        let mut incoming = headers(PARENT);
        incoming.insert("tracestate".to_owned(), HeaderValue::Text(tracestate.to_owned()));
        let context = carrier::extract(&incoming);
        let span = context.span();
        assert!(span.span_context().is_valid());
        assert_eq!(span.span_context().trace_state().header(), "", "{tracestate}");
    }
}

proptest! {
    #[test]
    fn any_trace_context_is_read_without_a_panic(traceparent in ".{0,80}", tracestate in ".{0,80}") {
        let mut incoming = headers(&traceparent);
        incoming.insert("tracestate".to_owned(), HeaderValue::Text(tracestate));
        carrier::extract(&incoming);
    }
}

#[test]
fn a_line_names_the_trace_that_it_belongs_to_at_every_level_of_lines() {
    for filter in ["error", "trace", "off,cancel_worker=error"] {
        let seen = seen(filter, || {
            let delivery = delivery();
            carrier::continue_trace(&delivery, &headers(PARENT));
            delivery.in_scope(|| spans::announce(1).in_scope(|| events::dead_lettered(OF, "x", "y")));
        });
        let lines = seen.lines();
        assert_eq!(lines[0]["trace_id"], TRACE, "{filter}");
        let announce = seen.span("announce").span_context.span_id();
        assert_eq!(lines[0]["span_id"], announce.to_string());
    }
}

#[test]
fn text_lines_are_for_people() {
    let telemetry = telemetry(LogFormat::Text, 1.0);
    let seen = seen_with(&telemetry, Some("info"), || {
        let delivery = delivery();
        carrier::continue_trace(&delivery, &headers(PARENT));
        delivery.in_scope(|| events::dead_lettered(OF, "no_evidence", "Nothing tells."));
    });
    let span = seen.spans[0].span_context.span_id();
    assert_eq!(
        seen.text,
        format!(
            "2026-10-14T17:46:40.123Z ERROR dead_lettered: Intent dead-lettered; a person must look at it. trace_id={TRACE} \
             span_id={span} cancel.intent_id=i-1 cancel.kind=async_cancel cancel.merchant=default \
             cancel.reason=no_evidence detail=\"Nothing tells.\"\n"
        )
    );
}

#[test]
fn an_event_is_one_line_whatever_is_in_it() {
    for log in [LogFormat::Json, LogFormat::Text] {
        let seen = seen_with(&telemetry(log, 1.0), Some("info"), || {
            events::dead_lettered(OF, "a\nb\u{1b}[31m", &"x".repeat(100_000));
            tracing::warn!(target: "hyper_util", level = "x", timestamp = 1, "a\nb\u{1b}[31m");
        });
        assert_eq!(seen.text.lines().count(), 2);
        assert!(!seen.text.contains('\u{1b}') && seen.text.len() < 4_000);
    }
}

#[test]
fn a_terminal_gets_no_orders_from_what_others_wrote() {
    // Escape, the C1 form of it, delete, a bell, an end of a line, and what turns the direction of writing around.
    let orders =
        ["\u{1b}[2J", "\u{9b}2J", "\u{7f}", "\u{7}", "\r\n", "\u{85}", "\u{2028}", "\u{202e}", "\u{2066}"];
    for log in [LogFormat::Json, LogFormat::Text] {
        let seen = seen_with(&telemetry(log, 1.0), Some("info"), || {
            for order in orders {
                events::dead_lettered(OF, order, &format!("a {order} b"));
                tracing::warn!(target: "hyper_util", "a {order} b");
            }
        });
        assert_eq!(seen.text.lines().count(), 2 * orders.len(), "{}", seen.text);
        let order =
            seen.text.chars().find(|c| *c != '\n' && orders.iter().any(|order| order.starts_with(*c)));
        assert_eq!(order, None, "{}", seen.text);
        if log == LogFormat::Json {
            for (line, order) in seen.lines().iter().step_by(2).zip(orders) {
                assert_eq!(line["cancel.reason"], order, "the value is still the value");
            }
        }
    }
}

#[test]
fn what_is_decided_about_an_item_names_it() {
    let seen = seen("info", || {
        events::decided(OF, Some("order-7"), "rejected", Some("already_refunded"), 2);
        events::decided(OF, None, "closed", None, 2);
    });
    let [item, whole] = &seen.lines()[..] else { panic!("two lines: {}", seen.text) };
    assert_eq!((&item["cancel.item"], &item["cancel.status"]), (&"order-7".into(), &"rejected".into()));
    assert_eq!((&item["cancel.reason"], &item["cancel.attempts"]), (&"already_refunded".into(), &2.into()));
    assert!(whole.get("cancel.item").is_none() && whole.get("cancel.reason").is_none(), "{whole}");
}

#[test]
fn the_configuration_says_from_which_level_on_lines_are_written() {
    let told = |level, filter: Option<&str>| {
        let telemetry = Telemetry { level, ..telemetry(LogFormat::Json, 1.0) };
        let seen = seen_with(&telemetry, filter, || {
            events::decided(OF, None, "cancelled", None, 1);
            events::already_announced(Source::Rescue);
            events::interrupted(OF, &WHY);
        });
        seen.lines().len()
    };
    assert_eq!(
        (told(LogLevel::Warn, None), told(LogLevel::Info, None), told(LogLevel::Debug, None)),
        (1, 2, 3)
    );
    assert_eq!(told(LogLevel::Warn, Some("debug")), 3, "the environment goes before it");
}

#[test]
fn calls_carry_the_attributes_of_the_conventions() {
    let seen = seen("info", || {
        let delivery = delivery();
        spans::identify(&delivery, &IntentRef::intent("i-1", "async_cancel", "default"));
        delivery.in_scope(|| {
            spans::answered(&spans::call("async_cancel", "host", "/api/x", 2), 503);
            spans::unanswered(&spans::call("async_cancel", "host", "/api/y", 1), "timeout");
            drop(spans::settle("cancel.intents:async_cancel:q"));
        });
    });
    let attribute = |span: &str, key: &str| {
        let attributes = &seen.span(span).attributes;
        attributes.iter().find(|kv| kv.key.as_str() == key).map(|kv| kv.value.to_string())
    };
    for (span, key, value) in [
        ("process cancel.intents:async_cancel:q", "messaging.system", "rabbitmq"),
        ("process cancel.intents:async_cancel:q", "messaging.operation.type", "process"),
        ("process cancel.intents:async_cancel:q", "cancel.intent_id", "i-1"),
        ("process cancel.intents:async_cancel:q", "cancel.redelivered", "false"),
        ("POST /api/x", "http.request.method", "POST"),
        ("POST /api/x", "url.template", "/api/x"),
        ("POST /api/x", "server.address", "host"),
        ("POST /api/x", "http.response.status_code", "503"),
        ("POST /api/x", "error.type", "503"),
        ("POST /api/x", "cancel.attempts", "2"),
        ("POST /api/y", "error.type", "timeout"),
        ("ack cancel.intents:async_cancel:q", "messaging.operation.type", "settle"),
    ] {
        assert_eq!(attribute(span, key).as_deref(), Some(value), "{span} {key}");
    }
}

/// A reader that reads nothing until it is told to.
#[derive(Clone, Default)]
struct SlowReader(Arc<(Mutex<Read>, Condvar)>);

#[derive(Default)]
struct Read {
    reads: bool,
    text: String,
}

impl SlowReader {
    fn begins_to_read(&self) {
        self.0.0.lock().expect("not poisoned").reads = true;
        self.0.1.notify_all();
    }

    /// Waits for this many lines of this event, and gives the last of them.
    fn line(&self, event: &str, count: usize) -> Value {
        let mut read = self.0.0.lock().expect("not poisoned");
        loop {
            let lines = read.text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.filter(|line| line["event"] == event).nth(count - 1) {
                return line;
            }
            read = self.0.1.wait(read).expect("not poisoned");
        }
    }
}

impl io::Write for SlowReader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let read = self.0.0.lock().expect("not poisoned");
        let mut read = self.0.1.wait_while(read, |read| !read.reads).expect("not poisoned");
        read.text.push_str(&String::from_utf8_lossy(bytes));
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn lines_that_nobody_reads_are_dropped_and_counted_when_lines_flow_again() {
    let reader = SlowReader::default();
    let (lines, _guard) = drops::lossy_beyond(4, reader.clone());
    let dropped = lines.error_counter();
    let telemetry = telemetry(LogFormat::Json, 1.0);
    let provider = setup::provider(&telemetry).build();
    let subscriber =
        setup::subscriber(&telemetry, None, Clock::system(), &provider, lines).expect("a filter");
    let _subscriber = tracing::subscriber::set_default(subscriber);
    for _ in 0..100 {
        events::stopping("SIGTERM");
    }
    let lost = dropped.dropped_lines();
    assert!((95..=96).contains(&lost), "four wait, and the writer may hold one: {lost}");

    reader.begins_to_read();
    reader.line("stopping", 100 - lost);
    let looking = tokio::spawn(drops::look(dropped.clone()));
    // Time stands still but for this: two looks, and the second finds that no more is lost.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let told = reader.line("log_lines_dropped", 1);
    assert_eq!((&told["level"], &told["lines"]), (&"warn".into(), &lost.into()));
    looking.abort();
}

#[tokio::test]
async fn a_reader_who_never_reads_holds_up_no_end() {
    let reader = SlowReader::default();
    let (lines, guard) = drops::lossy_beyond(4, reader.clone());
    let writing = drops::Writing::begin(lines.error_counter(), guard);
    let mut lines = lines;
    for _ in 0..100 {
        io::Write::write_all(&mut lines, b"x\n").expect("it takes all");
    }
    // It would never come back.
    drop(writing);
    reader.begins_to_read();
}

/// Every event that is told anywhere, with its level, as the source has it.
fn events_of_the_source() -> BTreeMap<String, String> {
    let source = include_str!("events.rs").split_whitespace().collect::<String>();
    let mut events = BTreeMap::from([("library_warned".to_owned(), "warn".to_owned())]);
    for level in ["debug", "info", "warn", "error"] {
        for begin in [format!("tell!({level},\""), format!("{level}!(name:\"")] {
            for found in source.split(&begin).skip(1) {
                let name = found.split('"').next().unwrap_or_default();
                events.insert(name.to_owned(), level.to_owned());
            }
        }
    }
    events
}

#[test]
fn the_page_about_the_log_names_every_event_with_its_level_and_no_other() {
    let page = include_str!("../../docs/logs.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let told: BTreeMap<String, String> = rows
        .map(|(event, rest)| (event.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(told, events_of_the_source());
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, told.len(), "each of them once");
}

#[test]
fn nothing_is_told_but_by_the_functions_for_it() {
    fn walk(at: &Path, told: &mut Vec<String>) {
        for entry in fs::read_dir(at).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !path.ends_with("telemetry") && !path.ends_with("tests") {
                    walk(&path, told);
                }
                continue;
            }
            let source = fs::read_to_string(&path).expect("text");
            let is_telling = |line: &&str| {
                let macros = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
                macros.iter().any(|name| line.trim_start().trim_start_matches("tracing::").starts_with(name))
            };
            told.extend(source.lines().filter(is_telling).map(|line| format!("{}: {line}", path.display())));
        }
    }
    let mut told = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut told);
    assert_eq!(told, [""; 0], "events are told in telemetry/events.rs, and named in docs/logs.md");
}

//! What a delivery is made of, as spans: `receive` around `decode`, `plan`, `call` or `inquire`, `classify`,
//! `decide`, `announce` and `settle`. Attributes are named as OpenTelemetry's semantic conventions name them
//! where they have a name; ours are `cancel.intent_id`, `cancel.kind`, `cancel.merchant`.

use tracing::field::Empty;
use tracing::{Span, info_span};

use super::events::IntentRef;
use crate::wire::envelope::{Redelivered, Source};

/// One delivery, from the broker's hand back into it. `destination` is what the semantic conventions want:
/// exchange, routing key and queue with colons between them. Give it its trace with
/// [`super::carrier::continue_trace`] before entering it.
pub fn delivery(source: Source, destination: &str, redelivered: Redelivered, body_bytes: usize) -> Span {
    let kind = match source {
        Source::Lane(kind) | Source::Returns(kind) => Some(kind.as_str()),
        Source::Rescue | Source::Announcements | Source::Isolation => None,
    };
    info_span!(
        "receive",
        otel.name = format!("process {destination}"),
        otel.kind = "consumer",
        messaging.system = "rabbitmq",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = destination,
        messaging.message.body.size = body_bytes,
        cancel.source = source.as_str(),
        cancel.redelivered = redelivered == Redelivered::Yes,
        cancel.kind = kind,
        cancel.intent_id = Empty,
        cancel.merchant = Empty,
    )
}

/// Says whose delivery it is, once it is known.
pub fn identify(delivery: &Span, intent: &IntentRef<'_>) {
    delivery.record("cancel.intent_id", intent.intent_id);
    delivery.record("cancel.kind", intent.kind);
    delivery.record("cancel.merchant", intent.merchant);
}

/// The letter becomes an intent and its history.
pub fn decode() -> Span {
    info_span!("decode")
}

/// Intent and history become the next step.
pub fn plan() -> Span {
    info_span!("plan")
}

/// One call: one HTTP exchange. `attempt` counts from 1; `server_address` is the host alone.
pub fn call(kind: &str, server_address: &str, path: &str, attempt: u32) -> Span {
    info_span!(
        "call",
        otel.name = format!("POST {path}"),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = "POST",
        url.template = path,
        server.address = server_address,
        http.response.status_code = Empty,
        error.type = Empty,
        cancel.kind = kind,
        cancel.attempts = attempt,
    )
}

/// One look: all that its kind has to ask, one HTTP exchange or several. `asked` counts from 1.
pub fn inquire(kind: &str, asked: u32) -> Span {
    info_span!("inquire", cancel.kind = kind, asked)
}

/// The exchange of this span ([`call`]) was answered.
pub fn answered(exchange: &Span, http_status: u16) {
    exchange.record("http.response.status_code", http_status);
    if http_status >= 400 {
        exchange.record("error.type", http_status.to_string());
        exchange.record("otel.status_code", "ERROR");
    }
}

/// The exchange of this span ([`call`]) was not answered; `why` is one word, such as `timeout`.
pub fn unanswered(exchange: &Span, why: &str) {
    exchange.record("error.type", why);
    exchange.record("otel.status_code", "ERROR");
}

/// The reply becomes a verdict, or evidence.
pub fn classify() -> Span {
    info_span!("classify")
}

/// Verdict or evidence, and history, become a decision.
pub fn decide() -> Span {
    info_span!("decide")
}

/// All messages of one decision are published and confirmed.
pub fn announce(messages_len: usize) -> Span {
    info_span!("announce", messages_len)
}

/// The delivery is given back, done.
pub fn settle(destination: &str) -> Span {
    info_span!(
        "settle",
        otel.name = format!("ack {destination}"),
        otel.kind = "client",
        messaging.system = "rabbitmq",
        messaging.operation.name = "ack",
        messaging.operation.type = "settle",
        messaging.destination.name = destination,
    )
}

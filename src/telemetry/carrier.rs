//! Trace context in and out of plain headers, by the rules of W3C Trace Context.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::wire::envelope::{HeaderValue, Headers};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The length of a `traceparent` of version 00; later versions may have more behind it.
const TRACEPARENT_LEN: usize = 55;

/// A longer `tracestate` is not carried on: the standard asks for no more.
const TRACESTATE_BYTES_MAX: usize = 512;

/// The trace that these headers belong to. What is malformed is as good as absent: a new trace begins.
pub fn extract(headers: &Headers) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Incoming(headers))
}

/// Makes `span` go on with the trace of these headers, if they have one. Before the span is entered, or
/// never.
pub fn continue_trace(span: &Span, headers: &Headers) {
    // It fails where no trace is kept at all, or too late; the span then has a trace of its own.
    let _ = span.set_parent(extract(headers));
}

/// The headers that let others go on with the trace of `span`; none if it has no trace.
pub fn inject(span: &Span) -> Headers {
    let mut outgoing = Outgoing(Headers::new());
    TraceContextPropagator::new().inject_context(&span.context(), &mut outgoing);
    outgoing.0
}

struct Incoming<'a>(&'a Headers);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let HeaderValue::Text(text) = self.0.get(key)? else { return None };
        let fits = match key {
            TRACEPARENT => is_traceparent(text),
            TRACESTATE => text.len() <= TRACESTATE_BYTES_MAX && text.is_ascii(),
            _ => false,
        };
        fits.then_some(text)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// Stricter than the propagator, which takes short ids and signs.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some(head) = bytes.get(..TRACEPARENT_LEN) else { return false };
    let shape = head.iter().enumerate().all(|(at, b)| match at {
        2 | 35 | 52 => *b == b'-',
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(b),
    });
    let version = &head[..2];
    let tail_fits = match bytes.get(TRACEPARENT_LEN) {
        None => true,
        Some(next) => version != b"00" && *next == b'-',
    };
    shape && tail_fits && version != b"ff"
}

struct Outgoing(Headers);

impl Injector for Outgoing {
    fn set(&mut self, key: &str, value: String) {
        // The propagator sets an empty `tracestate` where there is none.
        if !value.is_empty() {
            self.0.insert(key.to_owned(), HeaderValue::Text(value));
        }
    }
}

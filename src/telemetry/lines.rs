//! Log lines: one event is one line, one write, with the trace that it belongs to.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;

use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use serde_json::Value;
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;
use crate::config::LogFormat;

/// No text of a line is longer; what is beyond is cut off.
const TEXT_CHARS_MAX: usize = 2_000;

/// The event of a line that a library of ours wrote: `target` says which.
const OF_A_LIBRARY: &str = "library_warned";

/// The names that a line has of its own; a field of the same name steps aside.
const OWN_NAMES: [&str; 7] = ["timestamp", "level", "event", "target", "message", "trace_id", "span_id"];

/// The layer that writes lines.
pub(super) struct Lines<W> {
    format: LogFormat,
    clock: Clock,
    writer: W,
    /// The subscriber that this layer is a part of: it knows which trace a span belongs to. A layer must not
    /// ask for the current one, because there is none while an event is being handled.
    dispatch: OnceLock<WeakDispatch>,
}

impl<W> Lines<W> {
    pub(super) fn new(format: LogFormat, clock: Clock, writer: W) -> Lines<W> {
        Lines { format, clock, writer, dispatch: OnceLock::new() }
    }

    fn trace_of<S>(&self, event: &Event<'_>, ctx: &Context<'_, S>) -> Option<SpanContext>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let span = ctx.event_span(event)?;
        let dispatch = self.dispatch.get()?.upgrade()?;
        let trace = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)?;
        Some(trace.span().span_context().clone()).filter(SpanContext::is_valid)
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        // A second subscriber around the same layer cannot be: the layer was moved into the first.
        let _ = self.dispatch.set(subscriber.downgrade());
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        // Ours have names; a name that tracing makes up is the place in the source.
        let name = Some(metadata.name()).filter(|name| !name.starts_with("event "));
        let line = Line {
            timestamp: format!("{:.3}", self.clock.now()),
            level: *metadata.level(),
            name,
            target: metadata.target(),
            fields,
            trace: self.trace_of(event, &ctx),
        };
        let text = match self.format {
            LogFormat::Json => line.json(),
            LogFormat::Text => line.text(),
        };
        // Nobody can be told that nobody can be told.
        let _ = self.writer.make_writer_for(metadata).write_all(text.as_bytes());
    }
}

struct Line<'a> {
    timestamp: String,
    level: Level,
    name: Option<&'a str>,
    target: &'a str,
    fields: Fields,
    trace: Option<SpanContext>,
}

impl Line<'_> {
    /// Everything but time, level, event and message, in the order in which it is written.
    fn pairs(&self) -> Vec<(String, Value)> {
        let mut pairs = Vec::new();
        if let Some(trace) = &self.trace {
            pairs.push(("trace_id".to_owned(), trace.trace_id().to_string().into()));
            pairs.push(("span_id".to_owned(), trace.span_id().to_string().into()));
        }
        if self.name.is_none() {
            pairs.push(("target".to_owned(), self.target.into()));
        }
        for (name, value) in &self.fields.others {
            let name = if OWN_NAMES.contains(name) { format!("field.{name}") } else { (*name).to_owned() };
            pairs.push((name, value.clone()));
        }
        pairs
    }

    fn event(&self) -> &str {
        self.name.unwrap_or(OF_A_LIBRARY)
    }

    fn json(self) -> String {
        let first: [(&str, Value); 4] = [
            ("timestamp", self.timestamp.as_str().into()),
            ("level", self.level.as_str().to_ascii_lowercase().into()),
            ("event", self.event().into()),
            ("message", self.fields.message.as_str().into()),
        ];
        let first = first.map(|(name, value)| (name.to_owned(), value));
        let pairs: Vec<String> = first
            .into_iter()
            .chain(self.pairs())
            .map(|(name, value)| format!("{}:{}", Value::from(name), harmless(&value.to_string())))
            .collect();
        format!("{{{}}}\n", pairs.join(","))
    }

    fn text(self) -> String {
        let (event, message) = (self.event(), harmless(&self.fields.message));
        let mut line = format!("{} {:>5} {event}: {message}", self.timestamp, self.level);
        // Writing to a `String` cannot fail.
        for (name, value) in self.pairs() {
            let _ = match &value {
                Value::String(text) if is_plain(text) => write!(line, " {name}={text}"),
                other => write!(line, " {name}={}", harmless(&other.to_string())),
            };
        }
        line.push('\n');
        line
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || is_order(c) || c == '"' || c == '=')
}

/// A line stays one line, and a terminal gets no orders from it: each character that could be one is written as JSON
/// escapes it.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        if is_order(c) {
            // Writing to a `String` cannot fail; and all of them have four digits.
            let _ = write!(harmless, "\\u{:04x}", u32::from(c));
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// Whether a terminal, or a reader that breaks a text into lines, may take this for more than a sign: C0 and C1, what turns the
/// direction of writing around, what cannot be seen, and Unicode's ends of lines.
fn is_order(c: char) -> bool {
    let is_unseen = matches!(c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}');
    c.is_control() || is_unseen
}

/// An event's fields.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add_text(&mut self, field: &Field, text: &str) {
        let cut = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text, |(at, _)| &text[..at]);
        if field.name() == "message" {
            cut.clone_into(&mut self.message);
        } else {
            self.others.push((field.name(), cut.into()));
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, &format!("{value:?}"));
    }
}

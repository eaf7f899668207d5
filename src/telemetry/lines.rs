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
    fn json(self) -> String {
        let mut pairs: Vec<(String, Value)> = Vec::new();
        let mut push = |name: &str, value: Value| pairs.push((name.to_owned(), value));
        push("timestamp", self.timestamp.into());
        push("level", self.level.as_str().to_ascii_lowercase().into());
        match self.name {
            Some(name) => push("event", name.into()),
            None => push("target", self.target.into()),
        }
        push("message", self.fields.message.into());
        if let Some(trace) = self.trace {
            push("trace_id", trace.trace_id().to_string().into());
            push("span_id", trace.span_id().to_string().into());
        }
        for (name, value) in self.fields.others {
            if OWN_NAMES.contains(&name) {
                push(&format!("field.{name}"), value);
            } else {
                push(name, value);
            }
        }
        let pairs: Vec<String> =
            pairs.into_iter().map(|(name, value)| format!("{}:{value}", Value::from(name))).collect();
        format!("{{{}}}\n", pairs.join(","))
    }

    fn text(self) -> String {
        let mut line = format!("{} {:>5} {}", self.timestamp, self.level, escaped(&self.fields.message));
        // Writing to a `String` cannot fail.
        for (name, value) in &self.fields.others {
            let _ = match value {
                Value::String(text) if is_plain(text) => write!(line, " {name}={text}"),
                other => write!(line, " {name}={other}"),
            };
        }
        if self.name.is_none() {
            let _ = write!(line, " target={}", self.target);
        }
        if let Some(trace) = self.trace {
            let id = trace.trace_id().to_string();
            let _ = write!(line, " trace={}", id.get(..8).unwrap_or(&id));
        }
        line.push('\n');
        line
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=')
}

/// A line stays one line, and a terminal gets no orders from it.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
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

//! The subscriber: log lines on standard error, spans with real trace ids, and what third parties may say.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, TracerProviderBuilder};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry};

use super::drops::{self, Writing};
use super::events;
use super::lines::Lines;
use crate::clock::Clock;
use crate::config::Telemetry;

/// The variables that may say which lines are written, the first one that is set, before `telemetry.level`; in the
/// syntax of `tracing_subscriber::EnvFilter`: `debug`, `cancel_worker::amqp=trace`.
pub const FILTER_VARIABLES: [&str; 2] = ["CANCEL_WORKER_LOG", "RUST_LOG"];

/// How targets of our own begin.
const OURS: &str = "cancel_worker";

/// Third parties that say nothing at all. lapin prints returned messages with body and headers, and whole
/// frames; what goes wrong with it comes to us as errors, which we tell ourselves.
const SILENT: [&str; 2] = ["lapin", "amq_protocol"];

/// What other third parties may say at most, whatever the filter wants: below it some print requests with
/// their headers, which hold keys.
const OTHERS_LEVEL_MAX: Level = Level::WARN;

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not in the syntax of filters.
    #[error("the filter of log lines ({}) is not valid", FILTER_VARIABLES.join(" or "))]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// A subscriber is there already.
    #[error("telemetry was set up before")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Keeps telemetry going; what has not been sent yet is sent when it is dropped. That blocks the thread, for
/// five seconds at most: drop it when the runtime is gone.
#[must_use = "telemetry ends when this is dropped"]
#[derive(Debug)]
pub struct Guard {
    provider: SdkTracerProvider,
    /// Dropped last, after `provider` was shut down.
    _writing: Writing,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // There is nobody left to tell that telemetry could not be flushed.
        let _ = self.provider.shutdown();
    }
}

/// Sets telemetry up for the whole process: lines go to standard error, so that standard output is for
/// results. Nobody waits for their reader: beyond a bound they are dropped, and counted. `filter` is the value of one of
/// [`FILTER_VARIABLES`].
///
/// # Panics
///
/// Where there is no runtime.
///
/// # Errors
///
/// See [`Error`].
pub fn init(telemetry: &Telemetry, filter: Option<&str>, clock: Clock) -> Result<Guard, Error> {
    // Here an exporter is added, where `telemetry.otlp_endpoint` wants one.
    let provider = provider(telemetry).build();
    let (lines, guard) = drops::lossy(std::io::stderr());
    let dropped = lines.error_counter();
    let subscriber = subscriber(telemetry, filter, clock, &provider, lines)?;
    tracing::subscriber::set_global_default(subscriber).map_err(Error::Twice)?;
    // The standard hook prints the panic's text, which may quote anything.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        events::panicked(&place);
    }));
    Ok(Guard { provider, _writing: Writing::begin(dropped, guard) })
}

/// What makes spans, before it is told where to send them.
pub(super) fn provider(telemetry: &Telemetry) -> TracerProviderBuilder {
    // A publisher's trace keeps the decision that came with it.
    let sampler = Sampler::parent_based(Sampler::TraceIdRatioBased(telemetry.sample_ratio));
    SdkTracerProvider::builder()
        .with_resource(Resource::builder_empty().with_service_name("cancel-worker").build())
        .with_sampler(sampler)
}

/// Lines to `writer`, and spans.
pub(super) fn subscriber<W>(
    telemetry: &Telemetry,
    filter: Option<&str>,
    clock: Clock,
    provider: &SdkTracerProvider,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static + use<W>, Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = filter.filter(|filter| !filter.trim().is_empty()).unwrap_or(telemetry.level.as_str());
    let wanted = EnvFilter::builder().parse(filter).map_err(Error::Filter)?;
    // Our spans are always there, whichever lines are wanted: without them a line would not know its trace.
    let spoken = wanted.or(filter_fn(|metadata| metadata.is_span())).and(filter_fn(may_speak));
    let lines = Lines::new(telemetry.log, clock, writer).with_filter(spoken);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(OURS))
        .with_context_activation(false)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| is_ours(metadata) && *metadata.level() <= Level::INFO));
    Ok(Registry::default().with(spans).with(lines))
}

fn is_of(target: &str, name: &str) -> bool {
    target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    is_of(metadata.target(), OURS)
}

/// Whether anything of this target and level may be written at all.
fn may_speak(metadata: &Metadata<'_>) -> bool {
    if is_ours(metadata) {
        return true;
    }
    let is_silent = SILENT.iter().any(|name| metadata.target().starts_with(name));
    !is_silent && metadata.is_event() && *metadata.level() <= OTHERS_LEVEL_MAX
}

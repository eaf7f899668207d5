//! One function per thing that happens. The event's name is the function's, its message reads well alone, and
//! its fields are ids, names, counts and durations: no bodies, no keys, no personal data.
//!
//! Levels: *error*, a person must act; *warn*, worse than it should be, and heals by itself; *info*, the life
//! of the process, and one line for each intent that is done with; *debug*, steps.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::spans::source_name;
use crate::wire::envelope::{Redelivered, Source};

/// Whose event it is, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Of<'a> {
    /// `intent.id`.
    pub intent_id: Option<&'a str>,
    /// `cancel.kind`.
    pub kind: Option<&'a str>,
    /// `merchant`.
    pub merchant: Option<&'a str>,
}

impl<'a> Of<'a> {
    /// An intent that could be read.
    pub fn intent(intent_id: &'a str, kind: &'a str, merchant: &'a str) -> Of<'a> {
        Of { intent_id: Some(intent_id), kind: Some(kind), merchant: Some(merchant) }
    }
}

/// Milliseconds, whole; the far end of the number if there are more.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One event: its level, its name, the fields that say whose it is, its own fields, its message.
macro_rules! tell {
    ($level:ident, $name:literal, $of:expr, { $($fields:tt)* }, $message:literal) => {{
        let Of { intent_id, kind, merchant } = $of;
        $level!(name: $name, { intent.id = intent_id, cancel.kind = kind, merchant, $($fields)* }, $message)
    }};
}

// One intent.

/// A delivery came in.
pub fn received(source: Source, redelivered: Redelivered, body_bytes: usize) {
    let kind = match source {
        Source::Lane(kind) | Source::Returns(kind) => Some(kind.as_str()),
        Source::Rescue | Source::Announcements => None,
    };
    let (source, redelivered) = (source_name(source), redelivered == Redelivered::Yes);
    debug!(name: "received", { cancel.kind = kind, source, redelivered, body_bytes }, "Letter received.");
}

/// A letter cannot be read. Its dead letter is told by [`dead_lettered`]. `field` is the field's path.
pub fn malformed(of: Of<'_>, field: &str) {
    tell!(debug, "malformed", of, { field }, "Letter is malformed.");
}

/// What the next step of a letter is: `call`, `inquire`, `wait`, `refuse`.
pub fn planned(of: Of<'_>, step: &str) {
    tell!(debug, "planned", of, { step }, "Next step planned.");
}

/// A letter waits before its next step, which is no attempt; `why` is one word.
pub fn waiting(of: Of<'_>, why: &str, delay: Duration) {
    tell!(debug, "waiting", of, { why, delay_ms = ms(delay) }, "Letter waits.");
}

/// A call was made, or was to be made. `attempt` counts from 1; `http_status` is `None` if no answer came.
pub fn called(
    of: Of<'_>,
    endpoint: &str,
    attempt: u32,
    http_status: Option<u16>,
    verdict: &str,
    duration: Duration,
) {
    let duration_ms = ms(duration);
    tell!(debug, "called", of, { endpoint, attempt, http_status, verdict, duration_ms }, "Gateway called.");
}

/// A look was made. `asked` counts from 1; `evidence` is what it showed, in one word.
pub fn inquired(of: Of<'_>, asked: u32, evidence: &str, duration: Duration) {
    tell!(debug, "inquired", of, { asked, evidence, duration_ms = ms(duration) }, "Gateway asked.");
}

/// What was decided. With a `delay` the letter goes on, which is a step; without one this is the line of an
/// intent that is done with.
pub fn decided(
    of: Of<'_>,
    decision: &str,
    status: Option<&str>,
    reason: Option<&str>,
    attempts: u32,
    delay: Option<Duration>,
) {
    match delay.map(ms) {
        Some(delay_ms) => {
            tell!(debug, "decided", of, { decision, status, reason, attempts, delay_ms }, "Intent goes on.");
        }
        None => tell!(info, "decided", of, { decision, status, reason, attempts }, "Intent decided."),
    }
}

/// All messages of a decision were confirmed.
pub fn announced(of: Of<'_>, messages_len: usize, duration: Duration) {
    tell!(debug, "announced", of, { messages_len, duration_ms = ms(duration) }, "Decision announced.");
}

/// The broker refused an announcement, which waits and is announced again.
pub fn announcement_parked(event: &str, tries: u32, delay: Duration) {
    let delay_ms = ms(delay);
    error!(
        name: "announcement_parked",
        { event, tries, delay_ms },
        "Broker refused an outcome event: a ledger's queue is full. It waits and is announced again."
    );
}

/// A delivery was given back, done. `duration` is that of the whole step.
pub fn settled(of: Of<'_>, duration: Duration) {
    tell!(debug, "settled", of, { duration_ms = ms(duration) }, "Delivery settled.");
}

/// An intent lies in the dead letters. `detail` is one sentence of ours, which names fields and no values.
pub fn dead_lettered(of: Of<'_>, reason: &str, detail: &str) {
    tell!(error, "dead_lettered", of, { reason, detail }, "Intent dead-lettered; a person must look at it.");
}

/// A step could not be finished; the broker takes the letter back.
pub fn interrupted(of: Of<'_>, why: &str) {
    tell!(warn, "interrupted", of, { why }, "Step interrupted; the broker hands the letter out again.");
}

/// A letter may have taken a process down, and is handled alone from now on.
pub fn isolated(of: Of<'_>, strikes: u32) {
    tell!(warn, "isolated", of, { strikes }, "Letter is a suspect; it is handled alone.");
}

/// Handling a letter ended in a panic: a bug of ours. The panic's own text is not told, it may quote
/// anything.
pub fn panicked(of: Of<'_>, place: &str) {
    tell!(error, "panicked", of, { place }, "Handling a letter panicked; this is a bug of cancel-worker.");
}

// What a person must look at.

/// So many messages lie where nobody listens.
pub fn unrouted_depth(queue: &str, depth: u64) {
    error!(name: "unrouted_depth", { queue, depth }, "Messages that nobody is bound to are piling up.");
}

/// The gateway does not accept our keys or our address: this API and merchant pause.
pub fn locked_out(api: &str, merchant: &str, http_status: Option<u16>) {
    error!(name: "locked_out", { api, merchant, http_status }, "Gateway does not accept our keys or our address.");
}

/// The gateway accepts us again.
pub fn let_in(api: &str, merchant: &str, duration: Duration) {
    info!(name: "let_in", { api, merchant, duration_ms = ms(duration) }, "Gateway accepts us again.");
}

/// An endpoint is paused: it is down, slow, or not there.
pub fn paused(api: &str, merchant: &str, why: &str, delay: Duration) {
    warn!(name: "paused", { api, merchant, why, delay_ms = ms(delay) }, "Calls to the gateway pause.");
}

/// A paused endpoint is called again.
pub fn resumed(api: &str, merchant: &str, duration: Duration) {
    info!(name: "resumed", { api, merchant, duration_ms = ms(duration) }, "Calls to the gateway go on.");
}

// The life of the process.

/// A signal asks us to stop.
pub fn stopping(signal: &str) {
    info!(name: "stopping", { signal }, "Asked to stop.");
}

/// The process begins to work.
pub fn started(version: &str, worker: &str, source: &str) {
    info!(name: "started", { version, worker, source }, "cancel-worker started.");
}

/// A connection to the broker is being made; `broker` is host and port.
pub fn connecting(broker: &str, attempt: u32) {
    info!(name: "connecting", { broker, attempt }, "Connecting to the broker.");
}

/// The broker is not to be had now; it is tried again.
pub fn waiting_for_broker(attempt: u32, why: &str, delay: Duration) {
    let delay_ms = ms(delay);
    warn!(name: "waiting_for_broker", { attempt, why, delay_ms }, "Broker is not to be had; trying again.");
}

/// Connected, and consuming. Generations count from 1.
pub fn generation_started(generation: u64, lanes_len: usize) {
    info!(name: "generation_started", { generation, lanes_len }, "Connected to the broker; taking letters.");
}

/// The connection is gone, or was given up.
pub fn generation_ended(generation: u64, why: &str, duration: Duration) {
    let duration_ms = ms(duration);
    warn!(name: "generation_ended", { generation, why, duration_ms }, "Connection to the broker ended.");
}

/// A signal came: no more letters are taken.
pub fn drain_started(signal: &str, in_flight: usize, grace: Duration) {
    let grace_ms = ms(grace);
    info!(name: "drain_started", { signal, in_flight, grace_ms }, "Stopping: finishing what is in flight.");
}

/// All that was in flight is finished.
pub fn drain_finished(duration: Duration) {
    info!(name: "drain_finished", { duration_ms = ms(duration) }, "Stopped: everything in flight was finished.");
}

/// Not all of it was finished in time; the rest goes back to the broker.
pub fn grace_over(given_back: usize, grace: Duration) {
    let grace_ms = ms(grace);
    warn!(name: "grace_over", { given_back, grace_ms }, "Stopped: unfinished letters go back to the broker.");
}

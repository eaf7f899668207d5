//! One function per thing that happens. The event's name is the function's, its message reads well alone, and
//! its fields are ids, names, counts and durations: no bodies, no keys, no personal data.
//!
//! Levels: *error*, a person must act; *warn*, worse than it should be, and heals by itself; *info*, the life
//! of the process, and one line for each intent that is done with; *debug*, steps.

use std::error::Error;
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
        Source::Rescue | Source::Announcements | Source::Isolation => None,
    };
    let (source, redelivered) = (source_name(source), redelivered == Redelivered::Yes);
    debug!(name: "received", { cancel.kind = kind, source, redelivered, body_bytes }, "Letter received.");
}

/// A letter came again though all about it is told: its ack was lost on its way, and is sent again.
pub fn told_before(source: Source) {
    debug!(name: "told_before", { source = source_name(source) }, "Letter is told already; acked again.");
}

/// A letter cannot be read. Its dead letter is told by [`dead_lettered`]. `field` is the field's path.
pub fn malformed(of: Of<'_>, field: &str) {
    tell!(debug, "malformed", of, { field }, "Letter is malformed.");
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

/// An intent, or one payment of a batch (`what`: `intent`, `item`), is decided; or, of an order that was accepted,
/// its beginning.
pub fn decided(of: Of<'_>, what: &str, status: &str, reason: Option<&str>, attempts: u32) {
    tell!(info, "decided", of, { what, status, reason, attempts }, "Intent decided.");
}

/// The broker refused an outcome event (`event` is its id): it waits, and is announced again.
pub fn announcement_parked(event: &str, tries: u32, delay: Duration) {
    error!(
        name: "announcement_parked",
        { event, tries, delay_ms = ms(delay) },
        "Broker refused an outcome event: a ledger's queue is full. It waits and is announced again."
    );
}

/// An intent lies in the dead letters. `detail` is one sentence of ours, which names fields and no values.
pub fn dead_lettered(of: Of<'_>, reason: &str, detail: &str) {
    tell!(error, "dead_lettered", of, { reason, detail }, "Intent dead-lettered; a person must look at it.");
}

/// A step could not be finished; the broker takes the letter back.
pub fn interrupted(of: Of<'_>, why: &dyn Error) {
    let why = chain(why);
    tell!(warn, "interrupted", of, { why }, "Step interrupted; the broker hands the letter out again.");
}

/// The gateway accepts us again.
pub fn let_in(api: &str, merchant: &str, after: Duration) {
    info!(name: "let_in", { api, merchant, duration_ms = ms(after) }, "Gateway accepts us again.");
}

/// An endpoint is not called any more, or not for one merchant (`merchant`). `why` is one word.
pub fn lane_paused(kind: &str, merchant: Option<&str>, why: &str) {
    warn!(
        name: "lane_paused",
        { cancel.kind = kind, merchant, why },
        "Lane is paused: its endpoint is not called, and one letter at a time finds out whether it is back."
    );
}

/// One letter finds out whether the endpoint is back, which has been paused for so long.
pub fn lane_probing(of: Of<'_>, paused: Duration) {
    tell!(
        debug,
        "lane_probing",
        of,
        { paused_ms = ms(paused) },
        "One letter finds out whether the endpoint is back."
    );
}

/// The endpoint is called again.
pub fn lane_resumed(kind: &str, merchant: Option<&str>, after: Duration) {
    info!(name: "lane_resumed", { cancel.kind = kind, merchant, duration_ms = ms(after) }, "Lane goes on.");
}

/// The gateway wished to be asked later: all letters of this merchant wait.
pub fn slowed_down(api: &str, merchant: &str, delay: Duration) {
    warn!(name: "slowed_down", { api, merchant, delay_ms = ms(delay) }, "Gateway wishes to be asked later.");
}

/// A letter may have taken a process down: it is handled alone.
pub fn isolated(kind: &str, strikes: u32) {
    warn!(name: "isolated", { cancel.kind = kind, strikes }, "Letter is a suspect; it is handled alone.");
}

// What a person must look at.

/// Something panicked: a bug of ours. `place` is file and line; the panic's own text is not told, it may quote
/// anything.
pub fn panicked(place: &str) {
    error!(name: "panicked", { place }, "Something panicked; this is a bug of cancel-worker.");
}

/// So many messages lie where nobody listens.
pub fn unrouted(queue: &str, depth: u32) {
    error!(name: "unrouted", { queue, depth }, "Messages that no queue is bound to are kept; a person must move them.");
}

/// None of them is left.
pub fn unrouted_cleared(queue: &str) {
    info!(name: "unrouted_cleared", { queue }, "Nothing is left of what no queue was bound to.");
}

/// Nobody knows how many messages lie there.
pub fn depth_unknown(queue: &str, why: &dyn Error) {
    warn!(name: "depth_unknown", { queue, why = chain(why) }, "Depth of a queue could not be read.");
}

/// Letters come back late from a delay queue: `lateness` is the greatest of so many `letters`.
pub fn delay_late(tier: &str, lateness: Duration, letters: u64) {
    let lateness_ms = ms(lateness);
    warn!(name: "delay_late", { tier, lateness_ms, letters }, "Letters come back late from a delay queue, or clocks differ.");
}

/// Letters of ours do not come back from a delay queue: the first of them is `overdue` for so long.
pub fn delay_stuck(tier: &str, overdue: Duration, letters: u64) {
    let overdue_ms = ms(overdue);
    error!(
        name: "delay_stuck",
        { tier, overdue_ms, letters },
        "Letters do not come back from a delay queue: a binding of the returns may be missing, or somebody holds them, or the broker does not hand them on."
    );
}

/// The letters of a delay queue come back on time again.
pub fn delay_on_time_again(tier: &str, after: Duration) {
    info!(name: "delay_on_time_again", { tier, duration_ms = ms(after) }, "Letters come back from a delay queue on time again.");
}

/// The gateway does not accept our keys or our address: this API and merchant pause.
pub fn locked_out(api: &str, merchant: &str, http_status: Option<u16>) {
    error!(name: "locked_out", { api, merchant, http_status }, "Gateway does not accept our keys or our address.");
}

/// The broker is not as it must be: no letters are taken until somebody has mended it. Told for each thing that is
/// wrong: `object` is what it is about, `argument` what of it is `found` so and not as `expected`, `mend` the remedy.
pub fn broker_does_not_fit(
    broker: &str,
    object: &str,
    argument: &str,
    found: &str,
    expected: &str,
    mend: &str,
) {
    error!(
        name: "broker_does_not_fit",
        { broker, object, argument, found, expected, mend },
        "Broker does not fit; no letters are taken until this is mended."
    );
}

// The life of the process.

/// Something about the broker could not be looked at; letters are taken all the same.
pub fn not_checked(what: &str, why: &str) {
    warn!(name: "not_checked", { what, why }, "This could not be checked; letters are taken all the same.");
}

/// A key of the configuration is set that this version takes no notice of.
pub fn without_effect(key: &str) {
    warn!(name: "without_effect", { key }, "This key has no effect yet.");
}

/// A signal asks us to stop.
pub fn stopping(signal: &str) {
    info!(name: "stopping", { signal }, "Asked to stop.");
}

/// The process begins to work.
pub fn started(version: &str, worker: &str, source: &str) {
    info!(name: "started", { version, worker, source }, "cancel-worker started.");
}

/// The broker is not to be had now; it is tried again. `broker` is host, port and virtual host of every address;
/// `tries` counts from 1.
pub fn waiting_for_broker(broker: &str, why: &dyn Error, tries: u64) {
    let why = chain(why);
    warn!(name: "waiting_for_broker", { broker, why, tries }, "Broker is not to be had; trying again.");
}

/// Connected, and consuming. Generations count from 1.
pub fn generation_started(generation: u64, broker: &str, consumers_len: usize) {
    info!(
        name: "generation_started",
        { generation, broker, consumers_len },
        "Connected to the broker; taking letters."
    );
}

/// The connection is gone, or was given up. `held` letters go back to the broker.
pub fn generation_ended(generation: u64, why: &dyn Error, held: usize) {
    let why = chain(why);
    warn!(name: "generation_ended", { generation, why, held }, "Connection to the broker ended; connecting again.");
}

/// The broker is short of memory or disk, and reads nothing more from a connection.
pub fn broker_blocked(connection: &str, why: &str) {
    warn!(name: "broker_blocked", { connection, why }, "Broker has an alarm and takes nothing from this connection.");
}

/// Its alarm is over.
pub fn broker_unblocked(connection: &str) {
    info!(name: "broker_unblocked", { connection }, "Broker takes from this connection again.");
}

/// No more letters are taken; the ones that are `held` are being finished.
pub fn drain_started(held: usize, grace: Duration) {
    info!(name: "drain_started", { held, grace_ms = ms(grace) }, "No more letters are taken; finishing those in hand.");
}

/// All that was held is finished.
pub fn drain_finished(duration: Duration) {
    info!(name: "drain_finished", { duration_ms = ms(duration) }, "Stopped: every letter in hand was finished.");
}

/// Not all of it was finished: the grace period, or the connection, ended first.
pub fn gave_back(letters_len: usize, duration: Duration) {
    let duration_ms = ms(duration);
    warn!(name: "gave_back", { letters_len, duration_ms }, "Stopped: unfinished letters went back to the broker.");
}

/// An error with everything behind it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        // A transparent layer says the same again.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}

//! One function per thing that happens. The event's name is the function's, its message reads well alone, and
//! its fields are ids, names, counts and durations: no bodies, no keys, no personal data. They have the names of
//! OpenTelemetry's semantic conventions where those have one; what is about an intent begins with `cancel.`.
//! `docs/logs.md` says of every event what it means, and what to do.
//!
//! Levels: *error*, a person must act; *warn*, worse than it should be, and heals by itself; *info*, the life
//! of the process, and one line for each intent that is done with; *debug*, steps.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::error_chain::chain;
use crate::domain::fault::Fault;
use crate::domain::history::LastReply;
use crate::wire::envelope::{Redelivered, Source};

/// Whose event it is, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct IntentRef<'a> {
    /// `cancel.intent_id`.
    pub intent_id: Option<&'a str>,
    /// `cancel.kind`.
    pub kind: Option<&'a str>,
    /// `cancel.merchant`.
    pub merchant: Option<&'a str>,
}

impl<'a> IntentRef<'a> {
    /// An intent that could be read.
    pub fn intent(intent_id: &'a str, kind: &'a str, merchant: &'a str) -> IntentRef<'a> {
        IntentRef { intent_id: Some(intent_id), kind: Some(kind), merchant: Some(merchant) }
    }
}

/// A host of the gateway, or one of its endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// The API that it belongs to.
    pub api: &'a str,
    /// `server.address`.
    pub host: &'a str,
    /// `server.port`.
    pub port: Option<u16>,
    /// `url.template`; `None`: the host as a whole.
    pub path: Option<&'a str>,
}

/// Milliseconds, whole; the far end of the number if there are more.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One event: its level, its name, the fields that say whose it is, its own fields, its message.
macro_rules! tell {
    ($level:ident, $name:literal, $of:expr, { $($fields:tt)* }, $message:literal) => {{
        let IntentRef { intent_id, kind, merchant } = $of;
        $level!(
            name: $name,
            { cancel.intent_id = intent_id, cancel.kind = kind, cancel.merchant = merchant, $($fields)* },
            $message
        )
    }};
}

// One intent.

/// A delivery came in.
pub fn received(source: Source, redelivered: Redelivered, body_bytes: usize) {
    let kind = match source {
        Source::Lane(kind) | Source::Returns(kind) => Some(kind.as_str()),
        Source::Rescue | Source::Announcements | Source::Isolation => None,
    };
    let (source, redelivered) = (source.as_str(), redelivered == Redelivered::Yes);
    debug!(name: "received", { cancel.kind = kind, cancel.source = source, cancel.redelivered = redelivered, messaging.message.body.size = body_bytes }, "Letter received.");
}

/// A letter was redelivered whose decision is published: its ack was lost, and is sent again.
pub fn already_announced(source: Source) {
    debug!(name: "already_announced", { cancel.source = source.as_str() }, "Decision already published; acking the redelivery.");
}

/// A copy of a letter in hand goes to a delay queue, until that is decided.
pub fn copy_waits(kind: &str, delay: Duration) {
    debug!(name: "copy_waits", { cancel.kind = kind, delay_ms = ms(delay) }, "Copy of a letter in flight; delayed until that letter is decided.");
}

/// A copy of a letter that was in hand gets the outcomes that the letter got.
pub fn copy_answered(kind: &str) {
    debug!(name: "copy_answered", { cancel.kind = kind }, "Copy of a letter that is decided; publishing the same outcome.");
}

/// A letter cannot be read. Its dead letter is told by [`dead_lettered`]. `field` is the field's path.
pub fn malformed(of: IntentRef<'_>, field: &str) {
    tell!(debug, "malformed", of, { field }, "Letter cannot be read.");
}

/// A letter waits before its next step, which is no attempt; `why` is one word.
pub fn waiting(of: IntentRef<'_>, why: &str, delay: Duration) {
    tell!(debug, "waiting", of, { why, delay_ms = ms(delay) }, "Letter delayed.");
}

/// A call was made, or was to be made. `attempt` counts from 1; `last` is what came back, in codes, or how it failed.
pub fn called(
    of: IntentRef<'_>,
    endpoint: &str,
    attempt: u32,
    last: &LastReply,
    verdict: &str,
    duration: Duration,
) {
    let (http_status, fault) = (last.http_status, last.fault.map(Fault::as_str));
    let duration_ms = ms(duration);
    tell!(
        debug,
        "called",
        of,
        {
            url.template = endpoint,
            cancel.attempts = attempt,
            http.response.status_code = http_status,
            cancel.fault = fault,
            verdict,
            duration_ms
        },
        "Gateway called."
    );
}

/// A look was made. `asked` counts from 1; `evidence` is what it showed, in one word; `fault` is how the last of its
/// requests failed that did.
pub fn inquired(of: IntentRef<'_>, asked: u32, evidence: &str, fault: Option<Fault>, duration: Duration) {
    let fault = fault.map(Fault::as_str);
    tell!(
        debug,
        "inquired",
        of,
        { asked, evidence, cancel.fault = fault, duration_ms = ms(duration) },
        "Inquiry made."
    );
}

/// An intent, or one payment of a batch (`item`: its merchantUniqueCode), is decided; or, of an order that was accepted,
/// its beginning.
pub fn decided(of: IntentRef<'_>, item: Option<&str>, status: &str, reason: Option<&str>, attempts: u32) {
    tell!(
        info,
        "decided",
        of,
        { cancel.item = item, cancel.status = status, cancel.reason = reason, cancel.attempts = attempts },
        "Intent decided."
    );
}

/// The broker refused an outcome event (`event` is its id): it waits, and is announced again.
pub fn announcement_parked(event: &str, tries: u32, delay: Duration) {
    error!(
        name: "announcement_parked",
        { cloudevents.event_id = event, tries, delay_ms = ms(delay) },
        "Broker refused an outcome event: a ledger's queue is full. The event is delayed and published again."
    );
}

/// An intent lies in the dead letters. `detail` is one sentence of ours, which names fields and no values.
pub fn dead_lettered(of: IntentRef<'_>, reason: &str, detail: &str) {
    tell!(error, "dead_lettered", of, { cancel.reason = reason, detail }, "Intent dead-lettered; a person must look at it.");
}

/// A step could not be finished; the broker takes the letter back.
pub fn interrupted(of: IntentRef<'_>, why: &dyn Error) {
    let why = chain(why);
    tell!(warn, "interrupted", of, { why }, "Step interrupted; the broker will redeliver the letter.");
}

/// A host of the gateway cannot be reached, or an endpoint does not answer as it must: told when it begins, for each
/// `fault` by itself, and once a minute while it lasts, with how many requests it was meanwhile. `detail` is one sentence
/// of ours. What is done about the letters is told by others.
pub fn gateway_failing(of: &Endpoint<'_>, fault: Fault, detail: &str, requests: u64, lasts: Duration) {
    let Endpoint { api, host, port, path } = *of;
    let (fault, lasts_ms) = (fault.as_str(), ms(lasts));
    match path {
        None => warn!(
            name: "gateway_unreachable",
            { server.address = host, server.port = port, api, cancel.fault = fault, detail, requests, lasts_ms },
            "Gateway cannot be reached."
        ),
        Some(path) => warn!(
            name: "endpoint_failing",
            {
                server.address = host,
                server.port = port,
                api,
                url.template = path,
                cancel.fault = fault,
                detail,
                requests,
                lasts_ms
            },
            "Gateway endpoint gives no readable reply."
        ),
    }
}

/// The host, or the endpoint, answers again.
pub fn gateway_answering(of: &Endpoint<'_>, lasted: Duration) {
    let Endpoint { api, host, port, path } = *of;
    let duration_ms = ms(lasted);
    match path {
        None => info!(
            name: "gateway_reachable",
            { server.address = host, server.port = port, api, duration_ms },
            "Gateway can be reached again."
        ),
        Some(path) => info!(
            name: "endpoint_answering",
            { server.address = host, server.port = port, api, url.template = path, duration_ms },
            "Gateway endpoint answers again."
        ),
    }
}

/// The gateway accepts us again.
pub fn lock_out_ended(api: &str, merchant: &str, after: Duration) {
    info!(name: "lock_out_ended", { api, cancel.merchant = merchant, duration_ms = ms(after) }, "Lock-out over: the gateway accepts the merchant's keys and our address again.");
}

/// A queue is not consumed any more: the broker closes every connection that it is consumed by. Told again at each try that ends
/// so; the next one is after `next_try`.
pub fn lane_stopped(queue: &str, why: &dyn Error, next_try: Duration) {
    error!(
        name: "lane_stopped",
        { messaging.destination.name = queue, why = chain(why), next_try_ms = ms(next_try) },
        "Queue is not consumed: the broker closes each connection that one of its messages is delivered by. Take that \
         message out of the queue, by AMQP 1.0 if it was published so; all other queues are consumed."
    );
}

/// A queue that was stopped is consumed with the others again.
pub fn lane_consumed_again(queue: &str) {
    info!(name: "lane_consumed_again", { messaging.destination.name = queue }, "Queue is consumed again.");
}

/// An endpoint is not called any more, or not for one merchant (`merchant`). `why` is one word.
pub fn lane_paused(kind: &str, merchant: Option<&str>, why: &str) {
    warn!(
        name: "lane_paused",
        { cancel.kind = kind, cancel.merchant = merchant, why },
        "Lane paused: its endpoint fails. One letter at a time probes it."
    );
}

/// One letter finds out whether the endpoint is back, which has been paused for so long.
pub fn lane_probing(of: IntentRef<'_>, paused: Duration) {
    tell!(debug, "lane_probing", of, { paused_ms = ms(paused) }, "One letter probes the endpoint.");
}

/// The endpoint is called again.
pub fn lane_resumed(kind: &str, merchant: Option<&str>, after: Duration) {
    info!(name: "lane_resumed", { cancel.kind = kind, cancel.merchant = merchant, duration_ms = ms(after) }, "Lane resumed.");
}

/// The gateway asked for later calls: all letters of this merchant wait.
pub fn slowed_down(api: &str, merchant: &str, delay: Duration) {
    warn!(name: "slowed_down", { api, cancel.merchant = merchant, delay_ms = ms(delay) }, "Gateway asked for fewer requests; this merchant's letters are delayed.");
}

/// A letter may have taken a process down: it is handled alone.
pub fn isolated(kind: &str, strikes: u32) {
    warn!(name: "isolated", { cancel.kind = kind, strikes }, "Letter may have crashed a process; it is handled alone.");
}

// What a person must look at.

/// Something panicked: a bug of ours. `place` is file and line; the panic's own text is not told, it may quote
/// anything.
pub fn panicked(place: &str) {
    error!(name: "panicked", { place }, "Panic; this is a bug in cancel-worker.");
}

/// `depth` messages are in this queue, which nothing consumes.
pub fn unrouted(queue: &str, depth: u32) {
    error!(name: "unrouted", { messaging.destination.name = queue, depth }, "Unrouted messages are kept in this queue; a person must move them.");
}

/// None of them is left.
pub fn unrouted_cleared(queue: &str) {
    info!(name: "unrouted_cleared", { messaging.destination.name = queue }, "No unrouted messages are left.");
}

/// Nobody knows how many messages lie there.
pub fn depth_unknown(queue: &str, why: &dyn Error) {
    warn!(name: "depth_unknown", { messaging.destination.name = queue, why = chain(why) }, "Queue depth could not be read.");
}

/// Letters come back late from a delay queue: `lateness` is the greatest among the `letters`.
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
        "Letters do not come back from a delay queue: a binding of the returns is missing, another consumer holds them, or the broker does not dead-letter them."
    );
}

/// The letters of a delay queue come back on time again.
pub fn delay_on_time_again(tier: &str, after: Duration) {
    info!(name: "delay_on_time_again", { tier, duration_ms = ms(after) }, "Letters come back from a delay queue on time again.");
}

/// Letters came back before they were due: this machine's clock was set `back` since they went, or is behind the one that
/// sent them. Told when it begins and once a minute while it lasts.
pub fn clock_set_back(by: Duration, letters: u64) {
    let set_back_ms = ms(by);
    warn!(
        name: "clock_set_back",
        { set_back_ms, letters },
        "Letters come back before they are due: this machine's clock was set back, or is behind another worker's. Their waits are shortened by the difference."
    );
}

/// Letters come back when they are due again.
pub fn clock_agrees(lasted: Duration) {
    info!(name: "clock_agrees", { duration_ms = ms(lasted) }, "Letters come back when they are due again.");
}

/// The gateway does not accept our keys or our address: this API and merchant pause.
pub fn locked_out(api: &str, merchant: &str, http_status: Option<u16>) {
    error!(name: "locked_out", { api, cancel.merchant = merchant, http.response.status_code = http_status }, "Locked out: the gateway does not accept the merchant's keys, or our address.");
}

/// The broker is not as it must be: no letters are taken until somebody has fixed it. Told for each thing that is
/// wrong: `object` is what it is about, `argument` what of it is `found` so and not as `expected`, `fix` the remedy.
pub fn topology_incompatible(
    broker: &str,
    object: &str,
    argument: &str,
    found: &str,
    expected: &str,
    fix: &str,
) {
    error!(
        name: "topology_incompatible",
        { broker, object, argument, found, expected, fix },
        "Broker topology incompatible; consumption paused until it is fixed."
    );
}

// The life of the process.

/// Something about the broker could not be looked at; letters are taken all the same.
pub fn not_checked(what: &str, why: &str) {
    warn!(name: "not_checked", { what, why }, "Not checked; consumption goes on without it.");
}

/// A key of the configuration is set that this version takes no notice of.
pub fn without_effect(key: &str) {
    warn!(name: "without_effect", { key }, "This key has no effect in this version.");
}

/// Everybody on this machine may read a file that holds a secret.
pub fn secret_file_readable(key: &str, file: &Path) {
    let file = file.display().to_string();
    warn!(
        name: "secret_file_readable",
        { key, file.path = file },
        "This file holds a secret and is world-readable; chmod o-r it."
    );
}

/// SIGHUP: the merchants' key files were read again. `pairs` came from files, `changed` of them hold something new.
pub fn secrets_reloaded(pairs: usize, changed: usize) {
    info!(name: "secrets_reloaded", { pairs, changed }, "Key files reloaded; calls carry the new keys from now on.");
}

/// SIGHUP: a key file cannot be used. `why` names the key, and no value.
pub fn secrets_reload_failed(key: &str, why: &str) {
    error!(
        name: "secrets_reload_failed",
        { key, why },
        "Key file cannot be used; calls carry the previous pair. Fix the file and send SIGHUP again."
    );
}

/// A signal asks us to stop.
pub fn stopping(signal: &str) {
    info!(name: "stopping", { signal }, "Stop requested.");
}

/// The process begins to work.
pub fn started(version: &str, worker: &str, source: &str) {
    info!(name: "started", { service.version = version, service.instance.id = worker, source }, "cancel-worker started.");
}

/// The reader of the log did not keep up: `lines` are missing, `when` says since when.
pub fn log_lines_dropped(lines: usize, when: &str) {
    warn!(name: "log_lines_dropped", { lines, when }, "Log lines were dropped: the reader of this log is too slow.");
}

/// The broker cannot be reached or used now; it is tried again. `broker` is host, port and virtual host of every address;
/// `tries` counts from 1.
pub fn waiting_for_broker(broker: &str, why: &dyn Error, tries: u64) {
    let why = chain(why);
    warn!(name: "waiting_for_broker", { broker, why, tries }, "Broker cannot be reached or used; trying again.");
}

/// The broker does not let us in with the user and the password of the address. Told at the beginning and once a minute;
/// `tries` counts from 1.
pub fn login_refused(broker: &str, user: &str, why: &dyn Error, tries: u32) {
    error!(
        name: "login_refused",
        { broker, user.name = user, why = chain(why), tries },
        "Broker refuses our login. Correct user and password in amqp.url, or at the broker: rabbitmqctl \
         authenticate_user, change_password."
    );
}

/// An address of `amqp.url` (`number`, from 1) ends with a slash and nothing after it.
pub fn virtual_host_empty(number: usize) {
    warn!(
        name: "virtual_host_empty",
        { key = "amqp.url", number },
        "This address ends with a slash, which names the virtual host without a name. For the virtual host / leave the \
         slash out, or write /%2f."
    );
}

/// An address of `amqp.url` asks for larger frames than we agree to.
pub fn frame_max_not_used(number: usize, wished: u32, used: u32) {
    warn!(
        name: "frame_max_not_used",
        { key = "amqp.url", number, wished, used },
        "The frame_max of this address is larger than ours and is ignored."
    );
}

/// A password goes to another machine without TLS.
pub fn password_in_the_clear(key: &str, number: usize) {
    warn!(
        name: "password_in_the_clear",
        { key, number },
        "This address sends its password to another machine in the clear; use amqps:// (https:// for the management API)."
    );
}

/// Connected, and consuming. Generations count from 1.
pub fn generation_started(generation: u64, broker: &str, consumers_len: usize) {
    info!(
        name: "generation_started",
        { generation, broker, consumers_len },
        "Connected to the broker; consuming."
    );
}

/// The connection is gone, or was given up. `held` letters go back to the broker.
pub fn generation_ended(generation: u64, why: &dyn Error, held: usize) {
    let why = chain(why);
    warn!(name: "generation_ended", { generation, why, held }, "Generation ended; connecting to the broker again.");
}

/// The broker is short of memory or disk, and reads nothing more from a connection.
pub fn broker_blocked(connection: &str, why: &str) {
    warn!(name: "broker_blocked", { connection, why }, "Broker has a resource alarm and blocks this connection.");
}

/// Its alarm is over.
pub fn broker_unblocked(connection: &str) {
    info!(name: "broker_unblocked", { connection }, "Broker has unblocked this connection.");
}

/// No more letters are taken; the ones that are `held` are being finished.
pub fn drain_started(held: usize, grace: Duration) {
    info!(name: "drain_started", { held, grace_ms = ms(grace) }, "Consumption stopped; finishing letters in flight.");
}

/// All that was held is finished.
pub fn drain_finished(duration: Duration) {
    info!(name: "drain_finished", { duration_ms = ms(duration) }, "Stopped: every letter in flight was finished.");
}

/// Not all of it was finished: the grace period, or the connection, ended first.
pub fn gave_back(letters_len: usize, duration: Duration) {
    let duration_ms = ms(duration);
    warn!(name: "gave_back", { letters_len, duration_ms }, "Stopped: unfinished letters were returned to the broker.");
}

//! A configuration in words, for people: everything that decides what would run, and no secret.

use std::fmt::Write as _;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use url::Url;

use super::values::duration_name;
use super::{Config, Declare, Gateway, KeyPair, LogFormat, PlainHttp, TraceHeaders};
use crate::domain::intent::Kind;
use crate::domain::policy::Policy;

/// What would run, line by line, without secrets.
pub fn describe(config: &Config) -> String {
    let mut out = String::new();
    for (key, value) in lines(config) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{key:<18} {value}");
    }
    out
}

type Line = (&'static str, String);

fn lines(config: &Config) -> Vec<Line> {
    let Config {
        worker,
        amqp,
        lanes,
        gateway,
        merchants,
        policy,
        admin_listen,
        telemetry,
        grace,
        secret_files: _,
    } = config;
    let brokers: Vec<String> = amqp.urls.iter().map(|url| without_user(url.expose_secret())).collect();
    let declared = match amqp.declare {
        Declare::Missing => "what is missing is declared",
        Declare::Nothing => "nothing is declared",
    };
    let mut lines = vec![
        ("worker", format!("{}, source {}", worker.name, worker.source)),
        ("broker", brokers.join(", ")),
        ("management", optional(amqp.management_url.as_ref().map(|url| without_user(url.expose_secret())))),
        ("topology", format!("prefix {}, {declared}", amqp.prefix)),
    ];
    lines.extend(lanes.iter().map(|(kind, prefetch)| ("lane", format!("{kind}, {prefetch} at once"))));
    lines.extend(gateway_lines(gateway));
    lines.extend(merchants.iter().map(|(name, merchant)| {
        let pair = |pair: &Option<KeyPair>| if pair.is_some() { "given" } else { "none" };
        let (private, public) = (pair(&merchant.private), pair(&merchant.public));
        ("merchant", format!("{name}, private pair {private}, public pair {public}"))
    }));
    lines.extend(policy_lines(policy));
    let format = match telemetry.log {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    };
    let level = telemetry.level.as_str();
    let spans = telemetry.otlp_endpoint.as_ref().map_or("nowhere", Url::as_str);
    let ratio = telemetry.sample_ratio;
    lines.extend([
        ("admin", admin_listen.map_or_else(|| "off".to_owned(), |listen| listen.to_string())),
        ("telemetry", format!("{format} logs from {level} on, spans to {spans}, sampled {ratio}")),
        ("shutdown", format!("grace {}", duration_name(*grace))),
    ]);
    lines
}

fn gateway_lines(gateway: &Gateway) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    lines.extend(gateway.urls.iter().map(|(api, url)| {
        let limits = gateway.limits.get(api).copied().unwrap_or_default();
        let concurrency = limits.concurrency.map(|n| format!(", {n} calls at once")).unwrap_or_default();
        let rate = limits.rate.map(|n| format!(", {n} calls a second")).unwrap_or_default();
        ("gateway", format!("{api} at {url}{concurrency}{rate}"))
    }));
    let connect = duration_name(gateway.connect_timeout);
    let call = duration_name(gateway.call_timeout);
    let plain_http = match gateway.plain_http {
        PlainHttp::Loopback => "to this machine only",
        PlainHttp::Anywhere => "anywhere",
    };
    let trace_headers = match gateway.trace_headers {
        TraceHeaders::Sent => "sent",
        TraceHeaders::Kept => "not sent",
    };
    lines.push((
        "gateway",
        format!("connect {connect}, call {call}, plain http {plain_http}, trace headers {trace_headers}"),
    ));
    let trusted = |file: &PathBuf| format!("authorities of {} trusted beside the machine's", file.display());
    lines.extend(gateway.ca_file.iter().map(|file| ("gateway", trusted(file))));
    // The path of a callback address often holds a token.
    let callback = gateway.batch_callback_url.iter();
    lines.extend(callback.map(|url| ("batch callback", format!("to {}", origin(url)))));
    lines
}

fn policy_lines(policy: &Policy) -> [Line; 5] {
    let delays: Vec<&str> = policy.tiers.as_slice().iter().map(|tier| tier.name.as_str()).collect();
    let calls = format!(
        "at most {}, for at most {}, Retry-After up to {}",
        policy.attempts_max,
        duration_name(policy.age_max),
        duration_name(policy.retry_after_max)
    );
    let inquiries = format!(
        "{} looks, for at most {}, not done counts after {}, after success: {}",
        policy.asks_max.map_or_else(|| "any number of".to_owned(), |n| format!("at most {n}")),
        duration_name(policy.inquiry_age_max),
        duration_name(policy.quiet),
        kinds(policy.after_success.iter())
    );
    let zone = policy.zone.iana_name().unwrap_or("an unnamed zone");
    [
        ("delays", delays.join(", ")),
        ("calls", calls),
        ("inquiries", inquiries),
        ("rollback", format!("not within {} of its cancel order", duration_name(policy.rollback_wait))),
        ("same day", format!("{}, in {zone}", kinds(policy.same_day.iter()))),
    ]
}

fn optional(text: Option<String>) -> String {
    text.unwrap_or_else(|| "none".to_owned())
}

fn kinds<'a>(kinds: impl Iterator<Item = &'a Kind>) -> String {
    let names: Vec<&str> = kinds.map(|kind| kind.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Scheme, host, port and virtual host: an address without user, password and parameters.
fn without_user(address: &str) -> String {
    Url::parse(address).map_or_else(|_| "?".to_owned(), |url| format!("{}{}", origin(&url), url.path()))
}

fn origin(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

//! A configuration in words, for people: everything that decides what would run, and no secret.

use std::fmt::Write as _;

use secrecy::ExposeSecret as _;
use url::Url;

use super::values::duration_name;
use super::{Config, Declare, KeyPair, LogFormat, PlainHttp, TraceHeaders};
use crate::domain::intent::Kind;

/// What would run, line by line, without secrets.
pub fn describe(config: &Config) -> String {
    let mut out = String::new();
    for (key, value) in lines(config) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{key:<18} {value}");
    }
    out
}

fn lines(config: &Config) -> Vec<(&'static str, String)> {
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
    let mut lines = vec![
        ("worker", format!("{}, source {}", worker.name, worker.source)),
        (
            "broker",
            amqp.urls.iter().map(|url| without_user(url.expose_secret())).collect::<Vec<_>>().join(", "),
        ),
        ("management", optional(amqp.management_url.as_ref().map(|url| without_user(url.expose_secret())))),
        (
            "topology",
            format!(
                "prefix {}, {}",
                amqp.prefix,
                match amqp.declare {
                    Declare::Missing => "what is missing is declared",
                    Declare::Nothing => "nothing is declared",
                }
            ),
        ),
    ];
    lines.extend(lanes.iter().map(|(kind, prefetch)| ("lane", format!("{kind}, {prefetch} at once"))));
    lines.extend(gateway.urls.iter().map(|(api, url)| {
        let limits = gateway.limits.get(api).copied().unwrap_or_default();
        let concurrency = limits.concurrency.map(|n| format!(", {n} calls at once")).unwrap_or_default();
        let rate = limits.rate.map(|n| format!(", {n} calls a second")).unwrap_or_default();
        ("gateway", format!("{api} at {url}{concurrency}{rate}"))
    }));
    lines.push((
        "gateway",
        format!(
            "connect {}, call {}, plain http {}, trace headers {}",
            duration_name(gateway.connect_timeout),
            duration_name(gateway.call_timeout),
            match gateway.plain_http {
                PlainHttp::Loopback => "to this machine only",
                PlainHttp::Anywhere => "anywhere",
            },
            match gateway.trace_headers {
                TraceHeaders::Sent => "sent",
                TraceHeaders::Kept => "not sent",
            },
        ),
    ));
    lines.extend(
        gateway.ca_file.iter().map(|file| {
            ("gateway", format!("authorities of {} trusted beside the machine's", file.display()))
        }),
    );
    // The path of a callback address often holds a token.
    lines.extend(
        gateway.batch_callback_url.iter().map(|url| ("batch callback", format!("to {}", origin(url)))),
    );
    lines.extend(merchants.iter().map(|(name, merchant)| {
        let pair = |pair: &Option<KeyPair>| if pair.is_some() { "given" } else { "none" };
        (
            "merchant",
            format!(
                "{name}, private pair {}, public pair {}",
                pair(&merchant.private),
                pair(&merchant.public)
            ),
        )
    }));
    let delays: Vec<&str> = policy.tiers.as_slice().iter().map(|tier| tier.name.as_str()).collect();
    let after_success = kinds(policy.after_success.iter());
    lines.extend([
        ("delays", delays.join(", ")),
        (
            "calls",
            format!(
                "at most {}, for at most {}, Retry-After up to {}",
                policy.attempts_max,
                duration_name(policy.age_max),
                duration_name(policy.retry_after_max)
            ),
        ),
        (
            "inquiries",
            format!(
                "{} looks, for at most {}, not done counts after {}, after success: {after_success}",
                policy.asks_max.map_or_else(|| "any number of".to_owned(), |n| format!("at most {n}")),
                duration_name(policy.inquiry_age_max),
                duration_name(policy.quiet),
            ),
        ),
        ("rollback", format!("not within {} of its cancel order", duration_name(policy.rollback_wait))),
        (
            "same day",
            format!(
                "{}, in {}",
                kinds(policy.same_day.iter()),
                policy.zone.iana_name().unwrap_or("an unnamed zone")
            ),
        ),
        ("admin", admin_listen.map_or_else(|| "off".to_owned(), |listen| listen.to_string())),
        (
            "telemetry",
            format!(
                "{} logs from {} on, spans to {}, sampled {}",
                match telemetry.log {
                    LogFormat::Json => "json",
                    LogFormat::Text => "text",
                },
                telemetry.level.as_str(),
                telemetry.otlp_endpoint.as_ref().map_or("nowhere", Url::as_str),
                telemetry.sample_ratio
            ),
        ),
        ("shutdown", format!("grace {}", duration_name(*grace))),
    ]);
    lines
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

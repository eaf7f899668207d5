//! The keys that there are, and the names of their variables.

use crate::domain::intent::{Api, Kind, MerchantName};

/// Every key that there is. `<kind>`, `<api>` and `<name>` (of a merchant) stand for any of theirs.
pub(super) const KEYS: &[&str] = &[
    "worker.source",
    "worker.name",
    "amqp.url",
    "amqp.url_file",
    "amqp.management_url",
    "amqp.management_url_file",
    "amqp.prefix",
    "amqp.declare",
    "amqp.tls.ca_file",
    "amqp.tls.client_cert_file",
    "amqp.tls.client_key_file",
    "lanes.kinds",
    "lanes.prefetch",
    "lanes.<kind>.prefetch",
    "gateway.physical_url",
    "gateway.private_url",
    "gateway.payment_url",
    "gateway.connect_timeout",
    "gateway.call_timeout",
    "gateway.allow_http",
    "gateway.trace_headers",
    "gateway.tls.ca_file",
    "gateway.<api>.concurrency",
    "gateway.<api>.rate",
    "merchants.<name>.private_key",
    "merchants.<name>.private_key_file",
    "merchants.<name>.private_client",
    "merchants.<name>.private_client_file",
    "merchants.<name>.public_key",
    "merchants.<name>.public_key_file",
    "merchants.<name>.public_client",
    "merchants.<name>.public_client_file",
    "retry.delays",
    "retry.attempts_max",
    "retry.age_max",
    "retry.retry_after_max",
    "inquiry.quiet",
    "inquiry.asks_max",
    "inquiry.age_max",
    "inquiry.after_success",
    "rollback.wait",
    "same_day.zone",
    "same_day.enforce",
    "batch.callback_url",
    "classification.rules",
    "admin.listen",
    "telemetry.otlp_endpoint",
    "telemetry.sample_ratio",
    "telemetry.log",
    "telemetry.level",
    "shutdown.grace",
];

/// What the names of our variables begin with.
const VARIABLE_PREFIX: &str = "CANCEL_WORKER__";

/// A key's parts: `gateway.tls.ca_file` has three.
pub(super) type KeyPath = Vec<String>;

pub(super) fn path_of(key: &str) -> KeyPath {
    key.split('.').map(str::to_owned).collect()
}

/// The variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The key of a variable; `None` if it is not one of ours.
pub(super) fn path_of_variable(name: &str) -> Option<KeyPath> {
    Some(name.strip_prefix(VARIABLE_PREFIX)?.split("__").map(str::to_ascii_lowercase).collect())
}

/// Whether a file may hold the value of this key.
pub(super) fn is_secret(key: &str) -> bool {
    is_known(&path_of(&format!("{key}_file")))
}

/// Whether one of [`KEYS`] is this path.
pub(super) fn is_known(path: &[String]) -> bool {
    KEYS.iter().any(|key| key.split('.').count() == path.len() && key_begins_with(key, path))
}

/// Whether keys begin with this path.
pub(super) fn is_known_table(path: &[String]) -> bool {
    KEYS.iter().any(|key| key.split('.').count() > path.len() && key_begins_with(key, path))
}

fn key_begins_with(key: &str, path: &[String]) -> bool {
    key.split('.').zip(path).all(|(pattern, part)| fits(pattern, part))
}

fn fits(pattern: &str, part: &str) -> bool {
    match pattern {
        "<kind>" => Kind::parse(part).is_some(),
        "<api>" => Api::parse(part).is_some(),
        "<name>" => MerchantName::parse(part).is_some(),
        literal => literal == part,
    }
}

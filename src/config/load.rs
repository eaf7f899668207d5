//! The configuration's sections, one function each: keys, defaults, and what must hold between keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use url::Url;

use super::addresses;
use super::files;
use super::mistakes::{Invalid, Mistakes};
use super::reader::{Reader, TableReader};
use super::values::{self, Value};
use super::{
    Amqp, AmqpTls, Config, Declare, Gateway, KeyPair, Limits, LogFormat, LogLevel, Merchant, PlainHttp,
    SecretFile, Telemetry, TraceHeaders, Worker,
};
use crate::domain::codes::{Class, Codes, Matcher, Rule};
use crate::domain::intent::{Api, Kind, MerchantName};
use crate::domain::outcome::RejectedReason;
use crate::domain::policy::Policy;
use crate::domain::retry::{Tier, Tiers};

/// Reads the configuration: `file` (or the one that `CANCEL_WORKER_CONFIG` names, or none) and over it the
/// variables that begin with `CANCEL_WORKER__`. `host_name` is the default of `worker.name`.
///
/// The environment is handed in ([`std::env::vars_os`]), and nothing but the files that are named is read.
///
/// # Errors
///
/// All mistakes at once, wherever they are; see [`Mistakes`].
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    host_name: Option<&str>,
) -> Result<Config, Mistakes> {
    let mut reader = Reader::open(file, env)?;
    let worker = worker(&mut reader, host_name);
    let amqp = amqp(&mut reader);
    let lanes = lanes(&mut reader);
    let needs = Needs::of(lanes.keys().copied());
    let gateway = gateway(&mut reader, &lanes, &needs);
    let merchants = merchants(&mut reader, &needs);
    let policy = policy(&mut reader, gateway.call_timeout, merchants.keys().cloned().collect());
    let admin_listen = reader.optional("admin.listen", values::listen);
    let telemetry = telemetry(&mut reader);
    let grace = reader.or("shutdown.grace", seconds(30), values::duration);
    let mut secret_files = reader.secret_files();
    secret_files.extend(amqp.tls.client_key_file.clone().map(|file| {
        let key = "amqp.tls.client_key_file".to_owned();
        SecretFile { key, file }
    }));
    reader.finish(Config {
        worker,
        amqp,
        lanes,
        gateway,
        merchants,
        policy,
        admin_listen,
        telemetry,
        grace,
        secret_files,
    })
}

/// The settings of the commands that use the broker only, as [`load`] reads them: `[amqp]`, and `retry.delays`, which name
/// the delay queues. All other tables may be missing or have mistakes.
///
/// # Errors
///
/// All mistakes in these keys, and what keeps the file as a whole from being read.
pub fn load_amqp(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
) -> Result<(Amqp, Tiers), Mistakes> {
    let mut reader = Reader::open(file, env)?;
    let amqp = amqp(&mut reader);
    let tiers = tiers(&mut reader);
    reader.finish_part(&["amqp.", "retry.delays"], (amqp, tiers))
}

/// The machine's name, as Linux has it; in a container the container's.
pub fn host_name() -> Option<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let names = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    names.map(|name| name.trim().to_owned()).find(|name| !name.is_empty())
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn worker(reader: &mut Reader, host_name: Option<&str>) -> Worker {
    let source = reader.or("worker.source", "/cancel-worker".to_owned(), values::uri_reference);
    let name = reader.optional("worker.name", values::instance_name);
    if name.is_none() && host_name.is_none() {
        reader.report_missing("worker.name", "this machine has no host name that could stand in for it");
    }
    let name = name.unwrap_or_else(|| host_name.unwrap_or_default().to_owned());
    Worker { source, name }
}

fn amqp(reader: &mut Reader) -> Amqp {
    let urls = reader.addresses("amqp.url", addresses::amqp_url);
    if urls.is_none() {
        reader.report_missing("amqp.url", "it is where the intents come from");
    }
    let tls = AmqpTls {
        ca_file: reader.optional("amqp.tls.ca_file", files::readable),
        client_cert_file: reader.optional("amqp.tls.client_cert_file", files::readable),
        client_key_file: reader.optional("amqp.tls.client_key_file", files::readable),
    };
    let (cert, key) = ("amqp.tls.client_cert_file", "amqp.tls.client_key_file");
    if tls.client_cert_file.is_some() && tls.client_key_file.is_none() {
        reader.report_missing(key, "a certificate is of no use without its key");
    }
    if tls.client_key_file.is_some() && tls.client_cert_file.is_none() {
        reader.report_missing(cert, "a key is of no use without its certificate");
    }
    Amqp {
        urls: urls.unwrap_or_default(),
        management_url: reader.secret("amqp.management_url", addresses::management_url),
        prefix: reader.or("amqp.prefix", "cancel".to_owned(), values::prefix),
        declare: reader.or("amqp.declare", Declare::Missing, values::declare),
        tls,
    }
}

fn lanes(reader: &mut Reader) -> BTreeMap<Kind, u16> {
    let kinds = reader.items("lanes.kinds", values::kind);
    if kinds.as_ref().is_some_and(Vec::is_empty) && reader.is_sound("lanes.kinds") {
        let fault = Invalid::new("is empty", "write at least one kind, or leave it out to serve all of them");
        reader.report("lanes.kinds", None, fault);
    }
    let kinds = kinds.unwrap_or_else(|| Kind::ALL.to_vec());
    let kinds = distinct(reader, "lanes.kinds", kinds);
    let prefetch = reader.or("lanes.prefetch", 100, values::prefetch);
    let mut lanes = BTreeMap::new();
    for kind in Kind::ALL {
        let prefetch = reader.or(&format!("lanes.{kind}.prefetch"), prefetch, values::prefetch);
        if kinds.contains(&kind) {
            lanes.insert(kind, prefetch);
        }
    }
    lanes
}

/// The kinds of a list as a set; that one comes twice is a mistake.
fn distinct(reader: &mut Reader, key: &str, kinds: Vec<Kind>) -> BTreeSet<Kind> {
    let len = kinds.len();
    let set: BTreeSet<Kind> = kinds.into_iter().collect();
    if set.len() < len {
        let fault = Invalid::new("names a kind twice", "write each kind once");
        reader.report(key, None, fault);
    }
    set
}

/// What the served kinds need of the gateway, and the kinds that need it.
struct Needs {
    apis: BTreeMap<Api, Vec<Kind>>,
}

impl Needs {
    fn of(kinds: impl Iterator<Item = Kind>) -> Needs {
        let mut apis: BTreeMap<Api, Vec<Kind>> = BTreeMap::new();
        for kind in kinds {
            for api in BTreeSet::from([kind.api(), kind.inquiry_api()]) {
                apis.entry(api).or_default().push(kind);
            }
        }
        Needs { apis }
    }

    /// Why one of these APIs is needed; `None`: none of them is.
    fn why(&self, apis: &[Api]) -> Option<String> {
        let kinds: BTreeSet<Kind> =
            apis.iter().filter_map(|api| self.apis.get(api)).flatten().copied().collect();
        (!kinds.is_empty())
            .then(|| format!("needed by {}", values::names(kinds.into_iter().map(Kind::as_str))))
    }
}

fn gateway(reader: &mut Reader, lanes: &BTreeMap<Kind, u16>, needs: &Needs) -> Gateway {
    let plain_http = reader.or("gateway.allow_http", PlainHttp::Loopback, values::plain_http);
    let mut urls = BTreeMap::new();
    let mut limits = BTreeMap::new();
    for api in Api::ALL {
        let key = format!("gateway.{api}_url");
        let url = reader.optional(&key, |value| addresses::gateway_url(value, plain_http));
        match (url, needs.why(&[api])) {
            (Some(url), Some(_)) => {
                urls.insert(api, url);
            }
            (None, Some(why)) => reader.report_missing(&key, &why),
            (_, None) => {}
        }
        let of_api = Limits {
            concurrency: reader.optional(&format!("gateway.{api}.concurrency"), values::count),
            rate: reader.optional(&format!("gateway.{api}.rate"), values::rate),
        };
        if of_api != Limits::default() {
            limits.insert(api, of_api);
        }
    }
    let connect_timeout = reader.or("gateway.connect_timeout", seconds(5), values::positive_duration);
    let call_timeout = reader.or("gateway.call_timeout", seconds(30), values::positive_duration);
    let sound = reader.is_sound("gateway.connect_timeout") && reader.is_sound("gateway.call_timeout");
    if sound && connect_timeout > call_timeout {
        let remedy = "make it shorter; the connection is a part of the call";
        let fault = Invalid::new("is longer than gateway.call_timeout", remedy);
        reader.report("gateway.connect_timeout", None, fault);
    }
    Gateway {
        urls,
        connect_timeout,
        call_timeout,
        plain_http,
        trace_headers: reader.or("gateway.trace_headers", TraceHeaders::Kept, values::trace_headers),
        limits,
        ca_file: reader.optional("gateway.tls.ca_file", files::readable),
        batch_callback_url: batch_callback_url(reader, lanes),
    }
}

fn batch_callback_url(reader: &mut Reader, lanes: &BTreeMap<Kind, u16>) -> Option<Url> {
    let key = "batch.callback_url";
    let url = reader.optional(key, addresses::callback_url);
    if url.is_none() && lanes.contains_key(&Kind::BatchCancel) {
        reader.report_missing(key, &format!("needed by {}", Kind::BatchCancel));
    }
    url
}

fn merchants(reader: &mut Reader, needs: &Needs) -> BTreeMap<MerchantName, Merchant> {
    let private = needs.why(&[Api::Physical, Api::Private]);
    let public = needs.why(&[Api::Payment]);
    let mut merchants = BTreeMap::new();
    for name in reader.merchants() {
        let merchant = Merchant {
            private: key_pair(reader, &format!("merchants.{name}.private"), private.as_deref()),
            public: key_pair(reader, &format!("merchants.{name}.public"), public.as_deref()),
        };
        merchants.insert(name, merchant);
    }
    if merchants.is_empty() && !reader.has_mistakes_in("merchants.") {
        let remedy = format!("add [merchants.{}] with its keys", MerchantName::DEFAULT);
        reader.report("merchants", None, Invalid::new("is missing; no call can be made", remedy));
    }
    merchants
}

/// `<prefix>_key` and `<prefix>_client`: both or, if no served kind needs them, none.
fn key_pair(reader: &mut Reader, prefix: &str, why: Option<&str>) -> Option<KeyPair> {
    let (key_key, client_key) = (format!("{prefix}_key"), format!("{prefix}_client"));
    let key = reader.secret(&key_key, values::header_value);
    let client = reader.secret(&client_key, values::header_value);
    let half = format!("{key_key} and {client_key} go together");
    for (name, part, other) in [(&key_key, &key, &client), (&client_key, &client, &key)] {
        let half = other.is_some().then_some(half.as_str());
        if part.is_none()
            && let Some(why) = why.or(half)
        {
            reader.report_missing(name, why);
        }
    }
    Some(KeyPair { key: key?, client: client? })
}

fn policy(reader: &mut Reader, call_timeout: Duration, merchants: BTreeSet<MerchantName>) -> Policy {
    Policy {
        tiers: tiers(reader),
        attempts_max: reader.or("retry.attempts_max", 12, values::count),
        age_max: reader.or("retry.age_max", seconds(6 * 3600), values::positive_duration),
        retry_after_max: reader.or("retry.retry_after_max", seconds(15 * 60), values::duration),
        call_timeout,
        quiet: quiet(reader, call_timeout),
        asks_max: reader.optional("inquiry.asks_max", values::count),
        inquiry_age_max: reader.or("inquiry.age_max", seconds(24 * 3600), values::positive_duration),
        after_success: kinds(reader, "inquiry.after_success", BTreeSet::new(), &Kind::ALL),
        rollback_wait: reader.or("rollback.wait", seconds(6), values::duration),
        zone: zone(reader),
        same_day: kinds(
            reader,
            "same_day.enforce",
            BTreeSet::from([Kind::BatchCancel]),
            &[Kind::TransactionCancel, Kind::BatchCancel],
        ),
        merchants,
        codes: Codes::new(reader.tables("classification.rules", rule)),
    }
}

const DEFAULT_DELAYS_S: [u64; 11] = [1, 2, 5, 10, 30, 60, 120, 300, 900, 1800, 3600];

/// Enough delay queues for any schedule; each costs the broker a process.
const DELAYS_LEN_MAX: usize = 32;

fn tiers(reader: &mut Reader) -> Tiers {
    let key = "retry.delays";
    let Some(tiers) = reader.items(key, values::tier) else { return default_tiers() };
    if !reader.is_sound(key) {
        return default_tiers();
    }
    let fault = if tiers.is_empty() {
        Invalid::new("is empty", "write at least one delay, or leave it out")
    } else if tiers.len() > DELAYS_LEN_MAX {
        Invalid::new(format!("has more than {DELAYS_LEN_MAX} delays"), "leave some out")
    } else if let Some(tiers) = Tiers::try_new(tiers) {
        return tiers;
    } else {
        Invalid::new("has one length twice", "write each length once; 60s and 1m are one length")
    };
    reader.report(key, None, fault);
    default_tiers()
}

/// The delays of a configuration that names none.
pub fn default_tiers() -> Tiers {
    let tier = |length| Tier { length, name: values::duration_name(length) };
    Tiers::try_new(DEFAULT_DELAYS_S.map(seconds).map(tier).to_vec()).expect("they ascend from one second")
}

/// `inquiry.quiet`. If it were shorter than a call, a look could find *not done* while the call is in flight.
fn quiet(reader: &mut Reader, call_timeout: Duration) -> Duration {
    let quiet = reader.or("inquiry.quiet", seconds(30), values::positive_duration);
    let sound = reader.is_sound("inquiry.quiet") && reader.is_sound("gateway.call_timeout");
    if sound && quiet < call_timeout {
        let remedy = "make it at least as long (its default is 30s)";
        let fault = Invalid::new("is shorter than gateway.call_timeout", remedy);
        reader.report("inquiry.quiet", None, fault);
    }
    quiet
}

fn zone(reader: &mut Reader) -> TimeZone {
    let default = values::zone(Value::Text("Europe/Istanbul".to_owned()));
    let zone = reader.optional("same_day.zone", values::zone);
    zone.unwrap_or_else(|| default.expect("the time zone database is a part of this program"))
}

fn kinds(reader: &mut Reader, key: &str, default: BTreeSet<Kind>, allowed: &[Kind]) -> BTreeSet<Kind> {
    let read = |value| {
        let remedy = || format!("write {}", values::names(allowed.iter().map(|kind| kind.as_str())));
        let kind = values::kind(value)?;
        if allowed.contains(&kind) {
            Ok(kind)
        } else {
            Err(Invalid::new("is a kind whose intents carry no date", remedy()))
        }
    };
    let kinds = reader.items(key, read);
    kinds.map_or(default, |kinds| distinct(reader, key, kinds))
}

const RULE_FIELDS: [&str; 7] = ["api", "code", "client_message", "http_status", "kind", "class", "reason"];

/// One rule of `classification.rules`; `None` if a mistake was noted about it.
pub(super) fn rule(table: &mut TableReader<'_>) -> Option<Rule> {
    let given = ["code", "client_message", "http_status"].iter().filter(|field| table.has(field)).count();
    if given != 1 {
        let wrong =
            if given == 0 { "says nothing to look at" } else { "says more than one thing to look at" };
        table.report("", Invalid::new(wrong, "give it one of code, client_message and http_status"));
    }
    let api = table.required("api", values::api);
    let code =
        table.optional("code", |value| values::int_within(&value, i64::MIN, i64::MAX)).map(Matcher::Code);
    let message = table.optional("client_message", client_message).map(Matcher::ClientMessage);
    let status =
        table.optional("http_status", |value| values::int_within(&value, 100, 599)).map(Matcher::HttpStatus);
    let kind = table.optional("kind", values::kind);
    if let (Some(api), Some(kind)) = (api, kind)
        && kind.api() != api
    {
        let remedy = format!("leave it out, or write api = \"{}\"", kind.api());
        table.report("kind", Invalid::new("is a kind of another API", remedy));
    }
    let class = class(table);
    table.deny_others(&RULE_FIELDS);
    Some(Rule { api: api?, matcher: code.or(message).or(status)?, kind, class: class? })
}

fn client_message(value: Value) -> Result<String, Invalid> {
    let message = values::text(value)?;
    let fits = (1..=200).contains(&message.len());
    if fits {
        Ok(message)
    } else {
        Err(Invalid::new("is no code", "write 1 to 200 bytes, as the gateway does"))
    }
}

/// What a class is called, before its reason is known.
enum ClassName {
    WithReason(fn(RejectedReason) -> Class),
    Alone(Class),
}

fn class_name(value: Value) -> Result<ClassName, Invalid> {
    match values::text(value)?.as_str() {
        "refused" => Ok(ClassName::WithReason(Class::Refused)),
        "refused_by_state" => Ok(ClassName::WithReason(Class::RefusedByState)),
        "busy" => Ok(ClassName::Alone(Class::Busy)),
        "in_doubt" => Ok(ClassName::Alone(Class::InDoubt)),
        "locked_out" => Ok(ClassName::Alone(Class::LockedOut)),
        "not_configured" => Ok(ClassName::Alone(Class::NotConfigured)),
        _ => Err(Invalid::new(
            "is no class (nothing can be declared a success)",
            "write one of refused, refused_by_state, busy, in_doubt, locked_out, not_configured",
        )),
    }
}

fn class(table: &mut TableReader<'_>) -> Option<Class> {
    match table.required("class", class_name) {
        Some(ClassName::WithReason(class)) => table.required("reason", values::rejected_reason).map(class),
        Some(ClassName::Alone(class)) => {
            if table.has("reason") {
                let remedy = "leave it out; only refused and refused_by_state have one";
                table.report("reason", Invalid::new("is given for a class that has none", remedy));
            }
            let _ = table.optional("reason", Ok);
            Some(class)
        }
        None => {
            let _ = table.optional("reason", values::rejected_reason);
            None
        }
    }
}

fn telemetry(reader: &mut Reader) -> Telemetry {
    Telemetry {
        otlp_endpoint: reader.optional("telemetry.otlp_endpoint", addresses::otlp_endpoint),
        sample_ratio: reader.or("telemetry.sample_ratio", 1.0, values::ratio),
        log: reader.or("telemetry.log", LogFormat::Json, values::log_format),
        level: reader.or("telemetry.level", LogLevel::Info, values::log_level),
    }
}

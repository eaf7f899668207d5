use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::keys::{KEYS, is_known, path_of, variable};
use super::load::rule;
use super::reader::Reader;
use super::*;
use crate::domain::codes::{Class, Matcher, Rule};
use crate::domain::outcome::RejectedReason;

/// A secret that must never be told.
const CANARY: &str = "CaNaRy-4f1d5e77+secret";

/// What all five kinds need.
const BASE: &[&str] = &[
    r#"amqp.url = "amqp://localhost""#,
    r#"gateway.physical_url = "http://127.0.0.1:1""#,
    r#"gateway.private_url = "http://127.0.0.1:2""#,
    r#"gateway.payment_url = "http://127.0.0.1:3""#,
    r#"merchants.default.private_key = "pk""#,
    r#"merchants.default.private_client = "pc""#,
    r#"merchants.default.public_key = "uk""#,
    r#"merchants.default.public_client = "uc""#,
    r#"batch.callback_url = "https://callbacks.example/batch""#,
];

fn key_of(line: &str) -> &str {
    line.trim_start_matches('-').split('=').next().unwrap_or_default().trim()
}

/// The base with these lines instead of its own of the same keys; `-key` only takes a line away.
fn file_with(lines: &[&str]) -> String {
    let base = BASE.iter().filter(|base| lines.iter().all(|line| key_of(line) != key_of(base)));
    let added = lines.iter().filter(|line| !line.starts_with('-'));
    base.chain(added).fold(String::new(), |text, line| text + line + "\n")
}

const NO_ENV: [(&str, &str); 0] = [];

/// A file in a directory that goes with what is returned.
fn file_of(content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("worker.toml");
    fs::write(&file, content).expect("a file");
    (dir, file)
}

/// A key whose value is this file.
fn names(key: &str, file: &Path) -> String {
    format!("{key} = {:?}", file.to_str().expect("text"))
}

/// The base as variables.
fn base_env() -> impl Iterator<Item = (String, String)> {
    BASE.iter().map(|line| {
        let (key, value) = line.split_once(" = ").expect("a line");
        (variable(key), value.trim_matches('"').to_owned())
    })
}

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let (_dir, file) = file_of(text);
    load(Some(&file), env.iter().copied(), Some("host-1"))
}

fn loaded(lines: &[&str]) -> Config {
    load_text(&file_with(lines), &[]).expect("no mistakes")
}

fn keys(mistakes: &Mistakes) -> Vec<&str> {
    mistakes.as_slice().iter().map(|mistake| mistake.key.as_str()).collect()
}

/// These lines over the base are exactly these mistakes, by key.
#[track_caller]
fn check(lines: &[&str], expected: &[&str]) {
    check_with_env(lines, &[], expected);
}

#[track_caller]
fn check_with_env(lines: &[&str], env: &[(&str, &str)], expected: &[&str]) {
    match load_text(&file_with(lines), env) {
        Ok(_) => assert!(expected.is_empty(), "{lines:?} {env:?} was taken"),
        Err(mistakes) => assert_eq!(keys(&mistakes), expected, "{lines:?} {env:?}\n{mistakes}"),
    }
}

/// What is said about the one mistake in these lines.
fn told(lines: &[&str]) -> String {
    load_text(&file_with(lines), &[]).expect_err("a mistake").to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = loaded(&[]);
    assert_eq!((config.worker.source.as_str(), config.worker.name.as_str()), ("/cancel-worker", "host-1"));
    assert_eq!((config.amqp.prefix.as_str(), config.amqp.declare), ("cancel", Declare::Missing));
    assert!(config.amqp.management_url.is_none());
    assert_eq!(config.lanes, Kind::ALL.into_iter().map(|kind| (kind, 100)).collect());
    assert_eq!(config.gateway.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.gateway.call_timeout, Duration::from_secs(30));
    assert_eq!(config.gateway.plain_http, PlainHttp::Loopback);
    assert_eq!(config.gateway.trace_headers, TraceHeaders::Kept);
    assert!(config.gateway.limits.is_empty());
    let policy = &config.policy;
    let tiers: Vec<&str> = policy.tiers.as_slice().iter().map(|tier| tier.name.as_str()).collect();
    assert_eq!(tiers, ["1s", "2s", "5s", "10s", "30s", "1m", "2m", "5m", "15m", "30m", "1h"]);
    assert_eq!(policy.attempts_max, 12);
    assert_eq!(policy.age_max, Duration::from_secs(6 * 3600));
    assert_eq!(policy.retry_after_max, Duration::from_secs(15 * 60));
    assert_eq!(policy.call_timeout, Duration::from_secs(30));
    assert_eq!(policy.quiet, Duration::from_secs(30));
    assert_eq!(policy.asks_max, None);
    assert_eq!(policy.inquiry_age_max, Duration::from_secs(24 * 3600));
    assert!(policy.after_success.is_empty());
    assert_eq!(policy.rollback_wait, Duration::from_secs(6));
    assert_eq!(policy.zone.iana_name(), Some("Europe/Istanbul"));
    assert_eq!(policy.same_day, BTreeSet::from([Kind::BatchCancel]));
    assert_eq!(policy.merchants, BTreeSet::from([MerchantName::default()]));
    assert_eq!(config.admin_listen, None);
    assert!(config.telemetry.otlp_endpoint.is_none());
    assert_eq!((config.telemetry.sample_ratio, config.telemetry.log), (1.0, LogFormat::Json));
    assert_eq!(config.grace, Duration::from_secs(30));
}

#[test]
fn the_environment_alone_is_enough() {
    let config = load(None, base_env(), Some("host-1")).expect("no mistakes");
    assert_eq!(config.amqp.urls[0].expose_secret(), "amqp://localhost");
    let merchant = &config.merchants[&MerchantName::default()];
    assert_eq!(merchant.private.as_ref().expect("a pair").key.expose_secret(), "pk");
    assert_eq!(merchant.public.as_ref().expect("a pair").client.expose_secret(), "uc");
}

#[test]
fn the_environment_wins_over_the_file_in_any_case_of_letters() {
    let env = [("CANCEL_WORKER__Amqp__prefix", "other"), ("CANCEL_WORKER__RETRY__ATTEMPTS_MAX", "3")];
    let config = load_text(&file_with(&[r#"amqp.prefix = "cancel""#]), &env).expect("no mistakes");
    assert_eq!((config.amqp.prefix.as_str(), config.policy.attempts_max), ("other", 3));
}

#[test]
fn a_value_of_the_environment_hides_a_mistake_of_the_file() {
    check_with_env(&["amqp.prefix = 9"], &[("CANCEL_WORKER__AMQP__PREFIX", "other")], &[]);
}

#[test]
fn text_of_the_environment_becomes_what_its_key_holds() {
    let env = [
        ("CANCEL_WORKER__AMQP__DECLARE", "false"),
        ("CANCEL_WORKER__LANES__PREFETCH", "7"),
        ("CANCEL_WORKER__LANES__KINDS", "async_cancel, batch_cancel"),
        ("CANCEL_WORKER__RETRY__DELAYS", r#"["200ms", "3s"]"#),
        ("CANCEL_WORKER__GATEWAY__PHYSICAL__RATE", "2.5"),
        ("CANCEL_WORKER__SAME_DAY__ENFORCE", ""),
        ("CANCEL_WORKER__AMQP__URL", "amqp://u:a,b@one, amqps://two"),
        ("CANCEL_WORKER__ADMIN__LISTEN", "[::1]:80"),
    ];
    let config = load_text(&file_with(&[]), &env).expect("no mistakes");
    assert_eq!(config.amqp.declare, Declare::Nothing);
    assert_eq!(config.lanes, BTreeMap::from([(Kind::AsyncCancel, 7), (Kind::BatchCancel, 7)]));
    assert_eq!(config.policy.tiers.shortest().name, "200ms");
    assert_eq!(config.gateway.limits[&Api::Physical].rate, Some(2.5));
    assert!(config.policy.same_day.is_empty());
    let urls: Vec<&str> = config.amqp.urls.iter().map(|url| url.expose_secret()).collect();
    assert_eq!(urls, ["amqp://u:a,b@one", "amqps://two"]);
    assert_eq!(config.admin_listen.map(|listen| listen.port()), Some(80));
}

#[test]
fn rules_come_as_a_list_of_tables_from_file_and_environment() {
    let rules = r#"[{ api = "payment", code = 9, class = "refused", reason = "unsupported" },
                   { api = "physical", client_message = "X", kind = "async_cancel", class = "busy" },
                   { api = "private", http_status = 418, class = "locked_out" }]"#;
    let expected = [
        Rule {
            api: Api::Payment,
            matcher: Matcher::Code(9),
            kind: None,
            class: Class::Refused(RejectedReason::Unsupported),
        },
        Rule {
            api: Api::Physical,
            matcher: Matcher::ClientMessage("X".to_owned()),
            kind: Some(Kind::AsyncCancel),
            class: Class::Busy,
        },
        Rule { api: Api::Private, matcher: Matcher::HttpStatus(418), kind: None, class: Class::LockedOut },
    ];
    let (_dir, file) = file_of(format!("classification.rules = {rules}"));
    let mut from_file = Reader::open(Some(&file), NO_ENV).expect("no mistakes");
    assert_eq!(from_file.tables("classification.rules", rule), expected);
    let mut from_env =
        Reader::open(None, [("CANCEL_WORKER__CLASSIFICATION__RULES", rules)]).expect("no mistakes");
    assert_eq!(from_env.tables("classification.rules", rule), expected);
}

#[test]
fn a_rule_must_say_what_it_looks_at_and_what_that_means() {
    let bad = |rule: &str, field: &str| {
        check(
            &[&format!("classification.rules = [{{ {rule} }}]")],
            &[&format!("classification.rules[0]{field}")],
        );
    };
    bad(r#"api = "payment", class = "busy""#, "");
    bad(r#"api = "payment", code = 1, http_status = 500, class = "busy""#, "");
    bad(r#"code = 1, class = "busy""#, ".api");
    bad(r#"api = "other", code = 1, class = "busy""#, ".api");
    bad(r#"api = "payment", code = 1"#, ".class");
    bad(r#"api = "payment", code = 1, class = "done""#, ".class");
    bad(r#"api = "payment", code = 1, class = "refused""#, ".reason");
    bad(r#"api = "payment", code = 1, class = "refused", reason = "poison""#, ".reason");
    bad(r#"api = "payment", code = 1, class = "busy", reason = "not_found""#, ".reason");
    bad(r#"api = "payment", code = "1", class = "busy""#, ".code");
    bad(r#"api = "payment", http_status = 99, class = "busy""#, ".http_status");
    bad(r#"api = "payment", client_message = "", class = "busy""#, ".client_message");
    bad(r#"api = "payment", code = 1, kind = "async_cancel", class = "busy""#, ".kind");
    bad(r#"api = "payment", code = 1, class = "busy", clas = "busy""#, ".clas");
    let not_a_table = r#"classification.rules = [{ api = "payment", code = 1, class = "busy" }, 7]"#;
    check(&[not_a_table], &["classification.rules[1]"]);
    check(&["classification.rules = 7"], &["classification.rules"]);
}

#[test]
fn durations_are_whole_numbers_with_units_the_larger_first() {
    let quiet = |text: &str| loaded(&[&format!("inquiry.quiet = \"{text}\"")]).policy.quiet;
    assert_eq!(quiet("45000ms"), Duration::from_secs(45));
    assert_eq!(quiet("1m30s"), Duration::from_secs(90));
    assert_eq!(quiet("1h1ms"), Duration::from_millis(3_600_001));
    assert_eq!(quiet("2d"), Duration::from_secs(2 * 86_400));
    for bad in ["", "5", "5 s", "-5s", "1.5m", "5x", "s", "30s1m", "1m1m", "99999999999999999999s", "400d"] {
        check(&[&format!("inquiry.quiet = \"{bad}\"")], &["inquiry.quiet"]);
    }
    check(&["inquiry.quiet = 30"], &["inquiry.quiet"]);
    assert!(told(&["inquiry.quiet = 30"]).contains("has no unit"));
}

#[test]
fn a_delay_is_named_by_its_length_whatever_its_spelling() {
    let config = loaded(&[r#"retry.delays = ["60s", "1500ms", "1m30s", "1h", "1d", "7200000ms"]"#]);
    let names: Vec<&str> = config.policy.tiers.as_slice().iter().map(|tier| tier.name.as_str()).collect();
    assert_eq!(names, ["1500ms", "1m", "90s", "1h", "2h", "24h"]);
}

#[test]
fn delays_are_at_least_one_none_of_them_twice_or_zero_or_too_long() {
    check(&["retry.delays = []"], &["retry.delays"]);
    check(&[r#"retry.delays = ["60s", "1m"]"#], &["retry.delays"]);
    check(&[r#"retry.delays = ["0s", "1s"]"#], &["retry.delays[0]"]);
    check(&[r#"retry.delays = ["1s", "24h1ms", 5]"#], &["retry.delays[1]", "retry.delays[2]"]);
    check(&[r#"retry.delays = "1s""#], &["retry.delays"]);
    let many = |len: usize| {
        let delays: Vec<String> = (1..=len).map(|s| format!("\"{s}s\"")).collect();
        format!("retry.delays = [{}]", delays.join(", "))
    };
    check(&[&many(32)], &[]);
    check(&[&many(33)], &["retry.delays"]);
}

#[test]
fn numbers_have_their_bounds() {
    for (key, good, bad) in [
        ("retry.attempts_max", &["1"][..], &["0", "-1", "1.5", "\"3\"", "4294967296"][..]),
        ("inquiry.asks_max", &["1"], &["0"]),
        ("lanes.prefetch", &["1", "65535"], &["0", "65536", "true"]),
        ("lanes.batch_cancel.prefetch", &["1"], &["0", "65536"]),
        ("gateway.payment.concurrency", &["1"], &["0"]),
        ("gateway.payment.rate", &["0.1", "5"], &["0", "-1.0", "inf", "nan", "\"5\""]),
        ("telemetry.sample_ratio", &["0", "0.25", "1"], &["-0.1", "1.1", "nan", "[]"]),
        ("amqp.declare", &["true", "false"], &["1", "\"true\""]),
    ] {
        for value in good {
            check(&[&format!("{key} = {value}")], &[]);
        }
        for value in bad {
            check(&[&format!("{key} = {value}")], &[key]);
        }
    }
}

#[test]
fn zero_is_a_mistake_where_nothing_could_work_with_it() {
    let [connect, call] = ["gateway.connect_timeout", "gateway.call_timeout"];
    for key in [connect, call, "retry.age_max", "inquiry.age_max", "inquiry.quiet"] {
        check(&[&format!("{key} = \"0s\"")], &[key]);
    }
    for key in ["retry.retry_after_max", "rollback.wait", "shutdown.grace"] {
        check(&[&format!("{key} = \"0s\"")], &[]);
    }
}

#[test]
fn a_quiet_time_shorter_than_a_call_is_a_mistake() {
    check(&[r#"inquiry.quiet = "29999ms""#], &["inquiry.quiet"]);
    check(&[r#"gateway.call_timeout = "31s""#], &["inquiry.quiet"]);
    check(&[r#"gateway.call_timeout = "31s""#, r#"inquiry.quiet = "31s""#], &[]);
}

#[test]
fn a_connection_may_not_take_longer_than_the_call() {
    check(&[r#"gateway.call_timeout = "4s""#], &["gateway.connect_timeout"]);
    check(&[r#"gateway.call_timeout = "4s""#, r#"gateway.connect_timeout = "4s""#], &[]);
}

#[test]
fn a_mistake_is_not_followed_by_one_that_it_causes() {
    check(&[r#"gateway.call_timeout = "soon""#, r#"inquiry.quiet = "1s""#], &["gateway.call_timeout"]);
    check(&["amqp.url = 7"], &["amqp.url"]);
    check(&["batch.callback_url = 7"], &["batch.callback_url"]);
    check(&["merchants.default.private_key = 7"], &["merchants.default.private_key"]);
}

#[test]
fn addresses_of_the_gateway_are_https_alone_or_loopback() {
    let url = |url: &str| format!("gateway.private_url = \"{url}\"");
    for good in [
        "https://gateway.example",
        "https://gateway.example/base/",
        "https://gateway.example:8443",
        "http://127.0.0.1:8080",
        "http://127.9.9.9",
        "http://[::1]:8080/private",
        "http://localhost:8080",
        "http://LOCALHOST",
    ] {
        check(&[&url(good)], &[]);
    }
    for bad in [
        "",
        "gateway.example",
        "/base",
        "//gateway.example",
        "ftp://gateway.example",
        "https://",
        "https://user@gateway.example",
        "https://user:password@gateway.example",
        "https://gateway.example?a=b",
        "https://gateway.example#a",
        "https://gateway.example /",
        "http://gateway.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://128.0.0.1",
        "http://[::2]",
    ] {
        check(&[&url(bad)], &["gateway.private_url"]);
    }
    check(&[&url("http://gateway.example"), "gateway.allow_http = true"], &[]);
}

#[test]
fn addresses_of_the_broker_are_amqp_or_amqps() {
    for good in [
        r#""amqp://u:p@host:5672/%2f""#,
        r#""amqps://host""#,
        r#"["amqp://a", "amqp://b"]"#,
        r#""amqp://[::1]:5672/vhost?heartbeat=5""#,
    ] {
        check(&[&format!("amqp.url = {good}")], &[]);
    }
    for bad in [
        r#""""#,
        r#""host""#,
        r#""http://host""#,
        r#""amqp://""#,
        r#""amqp:///vhost""#,
        r#""amqp://a b""#,
        "[]",
    ] {
        check(&[&format!("amqp.url = {bad}")], &["amqp.url"]);
    }
    check(&[r#"amqp.url = ["amqp://a", "b", 7]"#], &["amqp.url[1]", "amqp.url[2]"]);
    check(&[r#"amqp.management_url = "amqp://a""#], &["amqp.management_url"]);
    check(&[r#"amqp.management_url = "http://u:p@a:15672""#], &[]);
}

#[test]
fn the_callback_address_is_https() {
    check(&[r#"batch.callback_url = "https://host/path?token=x""#], &[]);
    for bad in ["http://localhost/x", "https://u:p@host", "https://host/#x", "x"] {
        check(&[&format!("batch.callback_url = \"{bad}\"")], &["batch.callback_url"]);
    }
}

#[test]
fn a_prefix_begins_queues_names() {
    let longest = "a".repeat(64);
    for good in ["c", "a.b_c-9", longest.as_str(), "amqp"] {
        check(&[&format!("amqp.prefix = \"{good}\"")], &[]);
    }
    let too_long = "a".repeat(65);
    for bad in ["", "9a", "-a", "A", "a b", "ä", "amq", "amq.cancel", too_long.as_str()] {
        check(&[&format!("amqp.prefix = \"{bad}\"")], &["amqp.prefix"]);
    }
}

#[test]
fn the_source_is_a_uri_reference() {
    for good in ["/cancel-worker", "urn:x:y", "https://host/a%20b", "worker", "//host/a?b#c"] {
        check(&[&format!("worker.source = \"{good}\"")], &[]);
    }
    for bad in ["", "a b", "ü", "/%zz", "/%2", "a#b#c", "http://[x"] {
        check(&[&format!("worker.source = \"{bad}\"")], &["worker.source"]);
    }
}

#[test]
fn kinds_are_known_served_at_least_once_and_named_once() {
    check(&["lanes.kinds = []"], &["lanes.kinds"]);
    check(&[r#"lanes.kinds = ["async_cancel", "async"]"#], &["lanes.kinds[1]"]);
    check(&[r#"lanes.kinds = ["async_cancel", "async_cancel"]"#], &["lanes.kinds"]);
    check_with_env(&[], &[("CANCEL_WORKER__LANES__KINDS", "")], &["lanes.kinds"]);
    check(&[r#"inquiry.after_success = ["sync_cancel_rollback", "apm"]"#], &["inquiry.after_success[1]"]);
    check(&[r#"same_day.enforce = ["transaction_cancel", "batch_cancel"]"#], &[]);
    check(&[r#"same_day.enforce = ["async_cancel"]"#], &["same_day.enforce"]);
}

#[test]
fn a_prefetch_of_one_kind_wins_over_that_of_all() {
    let config = loaded(&["lanes.prefetch = 9", "lanes.batch_cancel.prefetch = 2"]);
    assert_eq!((config.lanes[&Kind::AsyncCancel], config.lanes[&Kind::BatchCancel]), (9, 2));
}

/// With only these kinds served, each of these keys is required, and no other.
#[track_caller]
fn check_needs(kinds: &str, needed: &[&str]) {
    let mut lines: Vec<String> = BASE.iter().map(|line| format!("-{}", key_of(line))).collect();
    lines.push(format!("lanes.kinds = [{kinds}]"));
    lines.push("merchants.default = {}".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    check(&lines, &[&["amqp.url"], needed].concat());
}

#[test]
fn only_what_a_served_kind_needs_is_required() {
    let private = ["merchants.default.private_key", "merchants.default.private_client"];
    let public = ["merchants.default.public_key", "merchants.default.public_client"];
    let physical = [&["gateway.physical_url"][..], &private[..]].concat();
    check_needs(r#""async_cancel""#, &physical);
    check_needs(r#""sync_cancel_rollback""#, &physical);
    check_needs(r#""transaction_cancel""#, &[&["gateway.private_url"][..], &private[..]].concat());
    check_needs(r#""apm_provision_cancel""#, &[&["gateway.payment_url"][..], &public[..]].concat());
    let batch = [
        &["gateway.private_url", "gateway.payment_url", "batch.callback_url"][..],
        &private[..],
        &public[..],
    ]
    .concat();
    check_needs(r#""batch_cancel""#, &batch);
}

#[test]
fn every_merchant_has_the_pairs_that_served_kinds_need() {
    check(
        &[r#"merchants.shop-2.public_key = "k""#],
        &[
            "merchants.shop-2.private_key",
            "merchants.shop-2.private_client",
            "merchants.shop-2.public_client",
        ],
    );
}

#[test]
fn a_pair_that_nobody_needs_is_whole_or_absent() {
    let kinds = r#"lanes.kinds = ["async_cancel"]"#;
    check(&[kinds, "-merchants.default.public_key", "-merchants.default.public_client"], &[]);
    check(&[kinds, "-merchants.default.public_key"], &["merchants.default.public_key"]);
}

#[test]
fn there_is_at_least_one_merchant() {
    let lines: Vec<String> = BASE
        .iter()
        .map(|line| key_of(line))
        .filter(|key| key.starts_with("merchants"))
        .map(|key| format!("-{key}"))
        .collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    check(&lines, &["merchants"]);
    lines.push(r#"merchants."Shop 1".private_key = "k""#);
    check(&lines, &["merchants.?.private_key"]);
}

#[test]
fn keys_of_the_gateway_fit_into_an_http_header() {
    let longest = "k".repeat(1024);
    check(&[&format!("merchants.default.public_key = \"{longest}\"")], &[]);
    let too_long = "k".repeat(1025);
    for bad in ["", "a b", "ü", "a\\n", "a\\u0000", too_long.as_str()] {
        check(&[&format!("merchants.default.public_key = \"{bad}\"")], &["merchants.default.public_key"]);
    }
}

#[test]
fn zones_names_and_listeners_are_what_they_say() {
    check(&[r#"same_day.zone = "Europe/Nowhere""#], &["same_day.zone"]);
    check(&[r#"same_day.zone = "UTC""#], &[]);
    check(&[r#"admin.listen = "localhost:80""#], &["admin.listen"]);
    check(&[r#"telemetry.log = "xml""#], &["telemetry.log"]);
    check(&[r#"amqp.url = "amqp://host/vh?hearbeat=5""#], &["amqp.url"]);
    check(&[r#"telemetry.level = "loud""#], &["telemetry.level"]);
    check(&[r#"telemetry.otlp_endpoint = "localhost:4318""#], &["telemetry.otlp_endpoint"]);
    check(&[r#"worker.name = """#], &["worker.name"]);
    check(&[r#"worker.name = "a\tb""#], &["worker.name"]);
}

#[test]
fn the_instance_needs_a_name_from_somewhere() {
    let (_dir, file) = file_of(file_with(&[]));
    assert_eq!(keys(&load(Some(&file), NO_ENV, None).expect_err("a mistake")), ["worker.name"]);
    fs::write(&file, file_with(&[r#"worker.name = "one""#])).expect("a file");
    assert_eq!(load(Some(&file), NO_ENV, None).expect("no mistakes").worker.name, "one");
}

#[test]
fn an_unknown_key_is_a_mistake_with_a_hint() {
    for (line, hint) in [
        ("retry.atempts_max = 3", "did you mean retry.attempts_max?"),
        ("retry.call_timeout = 3", "did you mean gateway.call_timeout?"),
        ("amqp.URL = 3", "did you mean amqp.url?"),
        ("lanes.async_cancle.prefetch = 3", "did you mean lanes.async_cancel.prefetch?"),
        ("merchants.shop.private_kee = 3", "did you mean merchants.shop.private_key?"),
        ("colour = 3", "remove it"),
        ("telemetry = 3", "is a table"),
        ("amqp.prefix.x = 3", "is not known"),
        ("typo = {}", "is not known"),
    ] {
        let mistakes = load_text(&file_with(&[line]), &[]).expect_err("a mistake");
        assert!(keys(&mistakes).contains(&key_of(line)), "{line}: {mistakes}");
        assert!(mistakes.to_string().contains(hint), "{line}: {mistakes}");
    }
}

#[test]
fn very_many_mistakes_are_all_told() {
    let text: String = (0..3_000).map(|i| format!("k{i} = 1\n")).collect();
    assert!(load_text(&text, &[]).expect_err("mistakes").as_slice().len() > 3_000);
}

#[test]
fn an_unknown_variable_is_a_mistake_too() {
    check_with_env(&[], &[("CANCEL_WORKER__AMQP__PREFFIX", "x")], &["amqp.preffix"]);
    check_with_env(&[], &[("CANCEL_WORKER__", "x")], &["?"]);
    check_with_env(
        &[],
        &[("CANCEL_WORKER__AMQP__PREFIX", "a"), ("CANCEL_WORKER__amqp__prefix", "b")],
        &["amqp.prefix"],
    );
}

#[test]
fn a_variable_with_single_underscores_is_a_mistake_and_variables_of_others_are_not() {
    check_with_env(&[], &[("CANCEL_WORKER_AMQP_PREFIX", "x")], &["amqp.prefix"]);
    check_with_env(
        &[],
        &[("CANCEL_WORKER_SERVICE_HOST", "x"), ("CANCEL_WORKER_LOG", "x"), ("PATH", "x")],
        &[],
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_a_mistake() {
    use std::os::unix::ffi::OsStringExt as _;
    let (_dir, file) = file_of(file_with(&[]));
    let value = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    let mistakes =
        load(Some(&file), [("CANCEL_WORKER__AMQP__PREFIX", value)], Some("h")).expect_err("a mistake");
    assert_eq!(keys(&mistakes), ["amqp.prefix"]);
}

#[test]
fn several_mistakes_are_told_together_each_on_a_line_that_says_where() {
    let text = "\n[retry]\nattempts_max = 0\n[amqp]\nprefix = \"9\"\nsurprise = 1\n";
    let env = [("CANCEL_WORKER__TELEMETRY__LOG", "xml")];
    let mistakes = load_text(text, &env).expect_err("mistakes").to_string();
    let lines: Vec<&str> = mistakes.lines().collect();
    for expected in [
        "amqp.surprise (line 6) is not known",
        "amqp.prefix (line 5) is no prefix",
        "retry.attempts_max (line 3) is below 1",
        "telemetry.log (environment) is no format",
        "amqp.url is missing",
        "gateway.physical_url is missing; needed by async_cancel, sync_cancel_rollback",
        "batch.callback_url is missing",
        "merchants is missing",
    ] {
        let found = lines.iter().filter(|line| line.starts_with(expected)).count();
        assert_eq!(found, 1, "{expected}\nin\n{mistakes}");
    }
}

#[test]
fn a_missing_key_says_how_to_give_it() {
    let mistakes = told(&["-merchants.default.private_key"]);
    assert!(mistakes.contains("merchants.default.private_key_file"), "{mistakes}");
    assert!(mistakes.contains("CANCEL_WORKER__MERCHANTS__DEFAULT__PRIVATE_KEY"), "{mistakes}");
}

#[test]
fn broken_syntax_is_told_by_line_and_column_and_nothing_else() {
    let text = format!("[amqp]\nprefix = \"a\"\nurl = \"{CANARY}\n");
    let mistakes = load_text(&text, &[("CANCEL_WORKER__TYPO", "1")]).expect_err("mistakes");
    assert!(keys(&mistakes).contains(&"the file") && keys(&mistakes).contains(&"typo"), "{mistakes}");
    assert!(mistakes.to_string().contains("(line 3, column "), "{mistakes}");
    assert!(!mistakes.to_string().contains(CANARY) && !format!("{mistakes:?}").contains(CANARY));
}

#[test]
fn a_file_that_cannot_be_read_is_named_by_what_named_it() {
    let mistakes = load(Some(Path::new("/nowhere/x")), NO_ENV, Some("h")).expect_err("a mistake");
    assert_eq!(keys(&mistakes), ["--config"]);
    assert!(mistakes.to_string().contains("not found"), "{mistakes}");
    let mistakes = load(None, [("CANCEL_WORKER_CONFIG", "/nowhere/x")], Some("h")).expect_err("a mistake");
    assert_eq!(keys(&mistakes), ["CANCEL_WORKER_CONFIG"]);
    let dir = TempDir::new().expect("a directory");
    assert_eq!(keys(&load(Some(dir.path()), NO_ENV, Some("h")).expect_err("a mistake")), ["--config"]);
    let file = dir.path().join("worker.toml");
    fs::write(&file, [b'a', 0xff]).expect("a file");
    assert_eq!(keys(&load(Some(&file), NO_ENV, Some("h")).expect_err("a mistake")), ["--config"]);
    fs::write(&file, "#".repeat(256 * 1024 + 1)).expect("a file");
    assert_eq!(keys(&load(Some(&file), NO_ENV, Some("h")).expect_err("a mistake")), ["--config"]);
}

#[test]
fn a_secret_may_come_from_a_file_without_its_last_line_break() {
    for (content, secret) in [("k", "k"), ("k\n", "k"), ("k\r\n", "k")] {
        let (_dir, file) = file_of(content);
        let line = names("merchants.default.private_key_file", &file);
        let config = loaded(&["-merchants.default.private_key", &line]);
        let pair = config.merchants[&MerchantName::default()].private.as_ref().expect("a pair");
        assert_eq!(pair.key.expose_secret(), secret, "{content:?}");
    }
}

#[test]
fn every_secret_has_a_file_key() {
    let dir = TempDir::new().expect("a directory");
    let secret = |name: &str, content: &str| {
        let file = dir.path().join(name);
        fs::write(&file, content).expect("a file");
        format!("{:?}", file.to_str().expect("text"))
    };
    let config = loaded(&[
        "-amqp.url",
        &format!("amqp.url_file = {}", secret("url", "amqp://a,amqp://b\n")),
        &format!("amqp.management_url_file = {}", secret("management", "http://u:p@m\n")),
        "-merchants.default.private_client",
        &format!("merchants.default.private_client_file = {}", secret("pc", "1")),
        "-merchants.default.public_key",
        &format!("merchants.default.public_key_file = {}", secret("uk", "2")),
        "-merchants.default.public_client",
        &format!("merchants.default.public_client_file = {}", secret("uc", "3")),
    ]);
    assert_eq!(config.amqp.urls.len(), 2);
    assert_eq!(config.amqp.management_url.expect("an address").expose_secret(), "http://u:p@m");
    let merchant = &config.merchants[&MerchantName::default()];
    assert_eq!(merchant.private.as_ref().expect("a pair").client.expose_secret(), "1");
    let public = merchant.public.as_ref().expect("a pair");
    assert_eq!((public.key.expose_secret(), public.client.expose_secret()), ("2", "3"));
}

#[test]
fn a_secrets_file_is_readable_the_only_source_and_holds_a_secret() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("secret");
    let line = names("merchants.default.private_key_file", &file);
    let gone = "-merchants.default.private_key";
    check(&[gone, &line], &["merchants.default.private_key_file"]);
    assert!(told(&[gone, &line]).contains("not found"));
    fs::write(&file, "a\n\n").expect("a file");
    check(&[gone, &line], &["merchants.default.private_key_file"]);
    fs::write(&file, "").expect("a file");
    check(&[gone, &line], &["merchants.default.private_key_file"]);
    fs::write(&file, "k").expect("a file");
    check(&[gone, &line], &[]);
    check(&[&line], &["merchants.default.private_key_file"]);
    check(&[gone, "merchants.default.private_key_file = 7"], &["merchants.default.private_key_file"]);
    check(&["-amqp.url", r#"amqp.url_file = "/nowhere/x""#], &["amqp.url_file"]);
}

#[test]
fn files_for_tls_can_be_read_and_certificate_and_key_go_together() {
    let (_dir, file) = file_of("pem");
    let line = |key: &str| names(&format!("amqp.tls.{key}"), &file);
    check(&[&line("ca_file"), &line("client_cert_file"), &line("client_key_file")], &[]);
    check(&[&line("client_cert_file")], &["amqp.tls.client_key_file"]);
    check(&[&line("client_key_file")], &["amqp.tls.client_cert_file"]);
    check(&[r#"amqp.tls.ca_file = "/nowhere/x""#], &["amqp.tls.ca_file"]);
    check(&[&names("gateway.tls.ca_file", &file)], &[]);
    check(&[r#"gateway.tls.ca_file = "/nowhere/x""#], &["gateway.tls.ca_file"]);
    check(&["gateway.tls.ca_file = 7"], &["gateway.tls.ca_file"]);
}

#[test]
fn no_mistake_tells_the_value_that_it_is_about() {
    let keys_with_values = KEYS.iter().filter(|key| **key != "amqp.tls.ca_file").map(|key| {
        key.replace("<kind>", "async_cancel").replace("<api>", "physical").replace("<name>", "shop")
    });
    for key in keys_with_values {
        for value in [
            format!("\"{CANARY} \""),
            format!("[\"{CANARY} \"]"),
            format!("{{ \"{CANARY}\" = \"{CANARY}\" }}"),
        ] {
            let line = format!("{key} = {value}");
            // A key and its file are one mistake together, so the other sources of the same key are left out.
            let mistakes = match load_text(&file_with(&[&line]), &[]) {
                // A name may be any text.
                Ok(_) => continue,
                Err(mistakes) => mistakes,
            };
            assert!(
                !format!("{mistakes} {mistakes:?} {mistakes:#?}").contains("CaNaRy"),
                "{line}\n{mistakes}"
            );
        }
    }
}

#[test]
fn neither_the_description_nor_debug_of_a_configuration_tells_a_secret() {
    let config = loaded(&[
        &format!("amqp.url = \"amqp://user:{CANARY}@broker:5671/payments\""),
        &format!("amqp.management_url = \"https://user:{CANARY}@broker:15671\""),
        &format!("merchants.default.private_key = \"{CANARY}\""),
        &format!("merchants.default.private_client = \"{CANARY}\""),
        &format!("merchants.default.public_key = \"{CANARY}\""),
        &format!("merchants.default.public_client = \"{CANARY}\""),
    ]);
    let description = describe(&config);
    assert!(!description.contains(CANARY), "{description}");
    assert!(!format!("{config:?}").contains(CANARY));
    for expected in
        ["amqp://broker:5671/payments", "https://broker:15671", "async_cancel, 100 at once", "at most 12"]
    {
        assert!(description.contains(expected), "{expected} in\n{description}");
    }
}

const EXAMPLE: &str = include_str!("../../deploy/cancel-worker.example.toml");

/// The keys of the example, commented out or not, each with the text of its line without the comment sign.
fn example_lines() -> Vec<(String, String, bool)> {
    let mut table = String::new();
    let mut lines = Vec::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.to_owned();
            continue;
        }
        let (active, text) = match line.strip_prefix("# ") {
            Some(text) => (false, text),
            None => (true, line),
        };
        let Some((key, _)) = text.split_once(" = ") else { continue };
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if is_key {
            lines.push((format!("{table}.{key}"), text.to_owned(), active));
        }
    }
    lines
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let keys: BTreeSet<String> = example_lines().into_iter().map(|(key, _, _)| key).collect();
    for key in &keys {
        assert!(is_known(&path_of(key)), "{key} is in the example and is no key");
    }
    for key in KEYS {
        let kinds = Kind::ALL.map(|kind| key.replace("<kind>", kind.as_str()));
        for key in kinds.into_iter().flat_map(|key| Api::ALL.map(|api| key.replace("<api>", api.as_str()))) {
            let key = key.replace("<name>", "default");
            assert!(keys.contains(&key), "{key} is not in the example");
        }
    }
}

#[test]
fn the_example_shows_the_defaults() {
    // As it is, with what is required from the environment.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/cancel-worker.example.toml");
    let example = load(Some(&file), base_env(), Some("host-1")).expect("no mistakes");
    assert_eq!(format!("{example:?}"), format!("{:?}", loaded(&[])));
}

#[test]
fn every_line_that_the_example_comments_out_can_be_used() {
    let lines: Vec<String> = example_lines()
        .into_iter()
        // Files that are not there.
        .filter(|(key, _, active)| !active && !key.ends_with("_file"))
        .map(|(key, text, _)| text.replacen(key.rsplit('.').next().unwrap_or_default(), &key, 1))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    check(&lines, &[]);
    // The rules that the comment shows.
    let rules: String = EXAMPLE
        .lines()
        .skip_while(|line| *line != "#   rules = [")
        .take_while(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#'))
        .collect();
    check(&[rules.trim().replacen("rules", "classification.rules", 1).as_str()], &[]);
}

/// A valid file full of secrets, to be damaged.
fn file_of_secrets() -> String {
    file_with(&[
        &format!("amqp.url = \"amqp://user:{CANARY}@broker\""),
        &format!("merchants.default.private_key = \"{CANARY}\""),
        &format!("merchants.default.public_key = '{CANARY}'"),
        &format!("merchants.default.public_client = \"\"\"{CANARY}\"\"\""),
        r#"classification.rules = [{ api = "payment", code = 1, class = "busy" }]"#,
    ])
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_telling_what_is_in_it(before in ".{0,200}", after in ".{0,200}") {
        if let Err(mistakes) = load_text(&format!("{before}{CANARY}{after}"), &[]) {
            let told = format!("{mistakes} {mistakes:?}");
            prop_assert!(!told.contains(CANARY));
        }
    }

    #[test]
    fn a_damaged_file_is_read_or_refused_without_telling_a_secret(
        at in 0usize..800, cut in 0usize..40, added in "[\\[\\]{}=\"'\n,.a-z0-9 ]{0,6}",
    ) {
        let mut text = file_of_secrets();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &added);
        if let Err(mistakes) = load_text(&text, &[]) {
            let told = format!("{mistakes} {mistakes:?}");
            prop_assert!(!told.contains("secret"));
        }
    }

    #[test]
    fn any_value_of_the_environment_is_read_or_refused_without_telling_it(
        key in 0..KEYS.len(), before in ".{0,20}", after in ".{0,20}",
    ) {
        let key = KEYS[key].replace("<kind>", "async_cancel").replace("<api>", "physical");
        let key = key.replace("<name>", "default");
        let name = variable(&key);
        let value = format!("{before}{CANARY}{after}").replace('\0', "");
        if let Err(mistakes) = load_text(&file_with(&[&format!("-{key}")]), &[(&name, &value)]) {
            let told = format!("{mistakes} {mistakes:?}");
            prop_assert!(!told.contains(CANARY));
        }
    }
}

//! What the management API shows beside what must be: tables of cases, without a broker.

use std::time::Duration;

use super::compare::{Expected, Policies};
use super::*;
use crate::amqp::finding::Target;
use crate::domain::retry::Tier;
use crate::management::{BindingRow, ExchangeRow, FlagRow, PolicyRow, QueuePolicies, QueueRow};

const HANDLING_MAX: Duration = Duration::from_secs(190);

fn topology() -> Topology {
    Topology::new("cancel", &[Tier { length: Duration::from_secs(5), name: "5s".to_owned() }])
}

/// What is found by `look`, each finding as one sentence.
fn found(look: impl Fn(&Expected<'_>) -> Vec<Finding>) -> Vec<String> {
    let topology = topology();
    let place = Target::new("/", None, topology.permissions(Who::Worker(Declare::Missing)));
    let expected = Expected { topology: &topology, place: &place, handling_max: Some(HANDLING_MAX) };
    look(&expected).iter().map(Finding::to_string).collect()
}

fn rows<T: serde::de::DeserializeOwned>(json: &str) -> Vec<T> {
    serde_json::from_str(json).expect("rows")
}

/// What policies make of a queue: `now` and `counted` are rows, the policies definitions; none where nobody may see
/// them.
fn by_policies(
    now: &str,
    counted: &str,
    policies: Option<&str>,
    operator_policies: Option<&str>,
) -> Vec<String> {
    let (now, counted): (Vec<QueueRow>, Vec<QueuePolicies>) = (rows(now), rows(counted));
    let policies: Option<Vec<PolicyRow>> = policies.map(rows);
    let operator_policies: Option<Vec<PolicyRow>> = operator_policies.map(rows);
    let applied = Policies {
        now: &now,
        counted: &counted,
        policies: policies.as_deref(),
        operator_policies: operator_policies.as_deref(),
    };
    found(|expected| expected.queue_policies(&applied))
}

#[test]
fn a_queue_as_it_must_be_is_not_told() {
    let json = r#"[{ "name": "cancel.delay.5s", "type": "quorum", "durable": true, "auto_delete": false,
        "arguments": { "x-queue-type": "quorum", "x-message-ttl": 5000, "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "cancel.returns", "x-dead-letter-strategy": "at-least-once",
        "x-delivery-limit": 1000000, "x-quorum-initial-group-size": 3 } }]"#;
    assert_eq!(found(|expected| expected.queues(&rows(json))), [""; 0]);
}

#[test]
fn every_argument_that_differs_is_told_not_only_the_first() {
    let json = r#"[{ "name": "cancel.rescue", "type": "quorum", "durable": true,
        "arguments": { "x-overflow": "drop-head", "x-delivery-limit": 3, "x-max-length": 10 } }]"#;
    let found = found(|expected| expected.queues(&rows(json)));
    let begin = [
        "queue `cancel.rescue`: `x-overflow` is drop-head, and must be reject-publish.",
        "queue `cancel.rescue`: `x-delivery-limit` is 3, and must be 1000000.",
        "queue `cancel.rescue`: `x-max-length` is 10, and must be not set.",
    ];
    assert_eq!(found.len(), begin.len(), "{found:?}");
    for (found, begin) in found.iter().zip(begin) {
        assert!(found.starts_with(begin), "{found}");
    }
}

#[test]
fn what_others_have_declared_is_no_business_of_ours() {
    let json = r#"[{ "name": "ledger.a", "type": "classic", "durable": false, "arguments": [] }]"#;
    assert_eq!(found(|expected| expected.queues(&rows(json))), [""; 0]);
}

#[test]
fn a_policy_counts_as_it_is_now_and_not_as_it_was_counted() {
    let now = r#"[{ "name": "cancel.rescue", "policy": "new" }]"#;
    let counted = r#"[{ "name": "cancel.rescue", "policy": "old",
        "effective_policy_definition": { "max-length": 1 } }]"#;
    let policies = r#"[{ "name": "old", "definition": { "max-length": 1 } },
        { "name": "new", "definition": { "expires": 2 } }]"#;
    let found = by_policies(now, counted, Some(policies), Some("[]"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("policy `new` sets `expires` to 2"), "{found:?}");
}

#[test]
fn what_no_policy_that_can_be_seen_has_set_is_told_of_the_one_that_cannot() {
    let now = r#"[{ "name": "cancel.rescue", "policy": "seen" }]"#;
    let counted = r#"[{ "name": "cancel.rescue", "policy": "seen", "operator_policy": "hidden",
        "effective_policy_definition": { "queue-leader-locator": "balanced", "message-ttl": 3 } }]"#;
    let policies = r#"[{ "name": "seen", "definition": { "queue-leader-locator": "balanced" } }]"#;
    let found = by_policies(now, counted, Some(policies), None);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("operator policy `hidden` sets `message-ttl` to 3"), "{found:?}");
    let found = by_policies(now, counted, None, None);
    assert!(found[0].contains("policy `seen` or operator policy `hidden` sets `message-ttl`"), "{found:?}");
}

#[test]
fn what_changes_nothing_of_ours_may_be_set() {
    let now = r#"[{ "name": "cancel.delay.5s", "policy": "p" }]"#;
    for definition in [
        r#"{ "queue-leader-locator": "balanced", "ha-mode": "all" }"#,
        r#"{ "message-ttl": 5000, "delivery-limit": 1000000 }"#,
        r#"{ "message-ttl": 9000, "overflow": "reject-publish", "dead-letter-exchange": "cancel.returns" }"#,
        // Nobody consumes from a delay queue.
        r#"{ "consumer-timeout": 1000 }"#,
    ] {
        let policies = format!(r#"[{{ "name": "p", "definition": {definition} }}]"#);
        assert_eq!(by_policies(now, "[]", Some(&policies), Some("[]")), [""; 0], "{definition}");
    }
}

#[test]
fn what_changes_something_of_ours_may_not_be_set_and_what_nobody_knows_either() {
    let now = r#"[{ "name": "cancel.returns.async_cancel", "policy": "p" }]"#;
    for definition in [
        r#"{ "message-ttl": 5000 }"#,
        r#"{ "delivery-limit": 999999 }"#,
        r#"{ "delivery-limit": -1 }"#,
        r#"{ "dead-letter-exchange": "x" }"#,
        r#"{ "dead-letter-routing-key": "x" }"#,
        r#"{ "consumer-timeout": 189999 }"#,
        r#"{ "queue-version": 2 }"#,
        r#"{ "something-new": true }"#,
    ] {
        let policies = format!(r#"[{{ "name": "p", "definition": {definition} }}]"#);
        assert_eq!(by_policies(now, "[]", Some(&policies), Some("[]")).len(), 1, "{definition}");
    }
}

#[test]
fn a_binding_is_missing_unless_source_end_and_key_are_ours() {
    let all: Vec<BindingRow> = topology()
        .bindings()
        .iter()
        .map(|binding| {
            let (destination, kind) = match &binding.destination {
                crate::amqp::topology::Destination::Queue(name) => (name, "queue"),
                crate::amqp::topology::Destination::Exchange(name) => (name, "exchange"),
            };
            BindingRow {
                source: binding.source.clone(),
                destination: destination.clone(),
                destination_type: kind.to_owned(),
                routing_key: binding.key.clone(),
            }
        })
        .collect();
    assert_eq!(found(|expected| expected.bindings(&all)), [""; 0]);
    for index in 0..all.len() {
        let mut rows = all.clone();
        rows[index].routing_key = "other".to_owned();
        assert_eq!(found(|expected| expected.bindings(&rows)).len(), 1, "{:?}", all[index]);
    }
}

#[test]
fn an_exchange_is_told_with_all_that_differs() {
    let json = r#"[{ "name": "cancel.returns", "type": "direct", "durable": true, "internal": false,
        "arguments": { "alternate-exchange": "x" } }]"#;
    let found = found(|expected| expected.exchanges(&rows::<ExchangeRow>(json)));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_feature_that_is_off_is_told_with_the_command_that_switches_it_on() {
    let json = r#"[{ "name": "stream_queue", "state": "disabled" }, { "name": "quorum_queue", "state": "enabled" },
        { "name": "something_else", "state": "disabled" }]"#;
    let found = found(|expected| expected.flags(&rows::<FlagRow>(json)));
    assert_eq!(
        found,
        ["feature flag `stream_queue`: `state` is disabled, and must be enabled. To fix it: `rabbitmqctl \
             enable_feature_flag stream_queue`"]
    );
}

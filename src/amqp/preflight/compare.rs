//! The topology beside what the management API shows: plain functions over plain data.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::amqp::finding::{BrokerObject, Finding, PolicyName, QueueKindFound, Target};
use crate::amqp::topology::{Argument, Binding, Exchange, Publishers, Queue, QueueKind, Topology};
use crate::management::{
    Arguments, BindingRow, ExchangeRow, FlagRow, PolicyRow, QueuePolicies, QueueRow, Scalar,
};

/// What an argument is that is not there.
pub(super) const NOT_SET: &str = "not set";

/// How long the broker waits for an ack, as a queue's argument and as a policy says it.
const CONSUMER_TIMEOUT: &str = "x-consumer-timeout";

/// What a policy may set on our queues, and a person may have declared them with: it changes where and how letters are
/// kept, not which, nor for how long. Without the `x-` of arguments.
const HARMLESS: [&str; 15] = [
    "ha-mode",
    "ha-params",
    "ha-promote-on-failure",
    "ha-promote-on-shutdown",
    "ha-sync-batch-size",
    "ha-sync-mode",
    "initial-cluster-size",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "queue-leader-locator",
    "queue-master-locator",
    "quorum-initial-group-size",
    "stream-filter-size-bytes",
    "stream-max-segment-size-bytes",
    "target-group-size",
];

/// The features that quorum queues, streams and dead-lettering at least once are built on.
const FLAGS: [&str; 2] = ["quorum_queue", "stream_queue"];

/// What is compared with, and where a command that fixes has to do it.
pub(super) struct Expected<'a> {
    pub(super) topology: &'a Topology,
    pub(super) place: &'a Target,
    /// The longest that a letter is in hand; `None`: it is not known.
    pub(super) handling_max: Option<Duration>,
}

impl Expected<'_> {
    /// What differs between the queues as they were declared and as they must be. One that is not listed is not told:
    /// that it is missing, AMQP tells better.
    pub(super) fn queues(&self, rows: &[QueueRow]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for queue in self.topology.queues() {
            if let Some(row) = rows.iter().find(|row| row.name == queue.name) {
                findings.extend(self.queue(queue, row));
            }
        }
        findings
    }

    fn queue(&self, queue: &Queue, row: &QueueRow) -> Vec<Finding> {
        let mut differences: Vec<(String, String, String)> = Vec::new();
        let mut differs = |argument: &str, found: String, expected: String| {
            differences.push((argument.to_owned(), found, expected));
        };
        let kind = row.kind.as_deref().unwrap_or(queue.kind.as_str());
        if kind != queue.kind.as_str() {
            differs("x-queue-type", kind.to_owned(), queue.kind.as_str().to_owned());
        }
        if row.durable == Some(false) {
            differs("durable", "false".to_owned(), "true".to_owned());
        }
        if row.auto_delete == Some(true) {
            differs("auto_delete", "true".to_owned(), "false".to_owned());
        }
        for (name, expected) in &queue.arguments {
            let found = row.arguments.0.get(*name);
            if !found.is_some_and(|found| is(found, expected)) {
                differs(name, shown(found), expected.to_string());
            }
        }
        for (name, found) in &row.arguments.0 {
            let declared = queue.arguments.iter().any(|(ours, _)| ours == name) || name == "x-queue-type";
            let key = name.strip_prefix("x-").unwrap_or(name);
            if declared || HARMLESS.contains(&key) {
                continue;
            }
            if let Err(expected) = self.may_be_added(queue, name, found) {
                differs(name, found.to_string(), expected);
            }
        }
        let is = QueueKindFound::of(kind);
        differences
            .into_iter()
            .map(|(argument, found, expected)| {
                self.place.queue_differs(&queue.name, is, &argument, found, expected)
            })
            .collect()
    }

    /// What differs between the exchanges as they were declared and as they must be.
    pub(super) fn exchanges(&self, rows: &[ExchangeRow]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for exchange in self.topology.exchanges() {
            if let Some(row) = rows.iter().find(|row| row.name == exchange.name) {
                findings.extend(self.exchange(exchange, row));
            }
        }
        findings
    }

    fn exchange(&self, exchange: &Exchange, row: &ExchangeRow) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut differs = |argument: &str, found: String, expected: String| {
            findings.push(self.place.exchange_differs(&exchange.name, argument, found, expected));
        };
        if let Some(kind) = row.kind.as_deref().filter(|kind| *kind != exchange.kind.as_str()) {
            differs("type", kind.to_owned(), exchange.kind.as_str().to_owned());
        }
        if row.durable == Some(false) {
            differs("durable", "false".to_owned(), "true".to_owned());
        }
        if row.auto_delete == Some(true) {
            differs("auto_delete", "true".to_owned(), "false".to_owned());
        }
        let internal = exchange.publishers == Publishers::Broker;
        if row.internal.is_some_and(|found| found != internal) {
            differs("internal", (!internal).to_string(), internal.to_string());
        }
        let found = row.arguments.0.get("alternate-exchange").map(Scalar::to_string);
        if found != exchange.alternate {
            let named = |name: Option<String>| name.unwrap_or_else(|| NOT_SET.to_owned());
            differs("alternate-exchange", named(found), named(exchange.alternate.clone()));
        }
        findings
    }

    /// The bindings that are missing.
    pub(super) fn bindings(&self, rows: &[BindingRow]) -> Vec<Finding> {
        let rows: BTreeSet<&BindingRow> = rows.iter().collect();
        let missing = self.topology.bindings().iter().filter(|binding| !rows.contains(&row_of(binding)));
        missing.map(|binding| self.place.missing(object_of(binding))).collect()
    }

    /// The policies that change our exchanges.
    pub(super) fn exchange_policies(&self, rows: &[ExchangeRow], policies: &[PolicyRow]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for exchange in self.topology.exchanges() {
            let Some(row) = rows.iter().find(|row| row.name == exchange.name) else { continue };
            let policy = row.policy.as_ref().and_then(|name| policies.iter().find(|it| it.name == *name));
            let Some(policy) = policy else { continue };
            let Some(found) = policy.definition.0.get("alternate-exchange") else { continue };
            if exchange.alternate.as_deref() != Some(found.to_string().as_str()) {
                let expected = or_not_set(exchange.alternate.as_deref());
                let object = BrokerObject::Exchange(exchange.name.clone());
                let by = vec![PolicyName::Policy(policy.name.clone())];
                findings.push(self.place.policy(object, by, "alternate-exchange", found, expected));
            }
        }
        findings
    }

    /// The policies that change our queues.
    pub(super) fn queue_policies(&self, policies: &Policies<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for queue in self.topology.queues() {
            for (by, key, value) in policies.of(&queue.name) {
                if let Err(expected) = self.may_be_set(queue, key, value) {
                    let object = BrokerObject::Queue(queue.name.clone());
                    findings.push(self.place.policy(object, by, key, value, expected));
                }
            }
        }
        findings
    }

    /// Features that are switched off.
    pub(super) fn flags(&self, rows: &[FlagRow]) -> Vec<Finding> {
        let off = rows.iter().filter(|row| FLAGS.contains(&row.name.as_str()) && row.state != "enabled");
        off.map(|row| self.place.flag_off(&row.name, &row.state)).collect()
    }

    /// May a policy say this about a queue of ours? If not, what it must be. What is not known to be harmless changes
    /// what becomes of letters.
    fn may_be_set(&self, queue: &Queue, key: &str, value: &Scalar) -> Result<(), String> {
        if HARMLESS.contains(&key) {
            return Ok(());
        }
        let name = format!("x-{key}");
        let declared = queue.arguments.iter().find(|(ours, _)| *ours == name).map(|(_, declared)| declared);
        match (declared, value) {
            (None, _) => self.may_be_added(queue, &name, value),
            // Of two numbers the broker takes the smaller one.
            (Some(Argument::Int(declared)), Scalar::Int(value)) if value >= declared => Ok(()),
            (Some(Argument::Int(declared)), _) => Err(format!("{NOT_SET}, or {declared} or more")),
            (Some(declared), value) if is(value, declared) => Ok(()),
            (Some(declared), _) => Err(or_not_set(Some(&declared.to_string()))),
        }
    }

    /// May a queue of ours have this, which we did not declare?
    fn may_be_added(&self, queue: &Queue, name: &str, value: &Scalar) -> Result<(), String> {
        if name != CONSUMER_TIMEOUT {
            return Err(NOT_SET.to_owned());
        }
        let consumed = self.topology.consumed_from().contains(&queue.name);
        match (self.handling_max, value) {
            (Some(handling_max), value) if consumed => {
                let least = handling_max.as_millis();
                match value {
                    Scalar::Int(ms) if i128::from(*ms) >= i128::try_from(least).unwrap_or(i128::MAX) => {
                        Ok(())
                    }
                    Scalar::Int(_) | Scalar::Bool(_) | Scalar::Text(_) | Scalar::Other => {
                        Err(format!("{NOT_SET}, or {least} or more: that long a letter may be in hand"))
                    }
                }
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Whether every queue that we consume from says by itself how long the broker waits for an ack, so that the
    /// broker's own number does not matter.
    pub(super) fn all_have_their_consumer_timeout(&self, rows: &[QueueRow], policies: &Policies<'_>) -> bool {
        let consumed = self.topology.consumed_from();
        self.topology.queues().iter().filter(|queue| consumed.contains(&queue.name)).all(|queue| {
            let by_argument = rows
                .iter()
                .any(|row| row.name == queue.name && row.arguments.0.contains_key(CONSUMER_TIMEOUT));
            by_argument || policies.of(&queue.name).iter().any(|(_, key, _)| *key == "consumer-timeout")
        })
    }

    /// Our queues of whose operator policies the broker's statistics say nothing yet.
    pub(super) fn without_statistics(&self, rows: &[QueuePolicies]) -> Vec<String> {
        let has =
            |name: &str| rows.iter().any(|row| row.name == name && row.effective_policy_definition.is_some());
        let without = self.topology.queues().iter().filter(|queue| !has(&queue.name));
        without.map(|queue| queue.name.clone()).collect()
    }
}

/// All that is known of the policies of queues.
#[derive(Default)]
pub(super) struct Policies<'a> {
    /// What applies now, by name.
    pub(super) now: &'a [QueueRow],
    /// What applied when the broker counted last.
    pub(super) counted: &'a [QueuePolicies],
    /// What each policy sets; `None`: it could not be seen.
    pub(super) policies: Option<&'a [PolicyRow]>,
    /// What each operator policy sets; `None`: it could not be seen.
    pub(super) operator_policies: Option<&'a [PolicyRow]>,
}

impl Policies<'_> {
    /// What policies set on a queue: by whom, what, to what.
    fn of(&self, queue: &str) -> Vec<(Vec<PolicyName>, &str, &Scalar)> {
        let counted = self.counted.iter().find(|row| row.name == queue);
        let now = self.now.iter().find(|row| row.name == queue);
        let policy = match now {
            Some(row) => row.policy.as_ref(),
            None => counted.and_then(|row| row.policy.as_ref()),
        };
        let operator = counted.and_then(|row| row.operator_policy.as_ref());
        let named = [
            (policy.map(|name| PolicyName::Policy(name.clone())), definition(policy, self.policies)),
            (
                operator.map(|name| PolicyName::Operator(name.clone())),
                definition(operator, self.operator_policies),
            ),
        ];
        let mut set = Vec::new();
        let mut unknown = Vec::new();
        for (name, definition) in named {
            match (name, definition) {
                (Some(name), Some(definition)) => {
                    let keys = definition.0.iter();
                    set.extend(keys.map(|(key, value)| (vec![name.clone()], key.as_str(), value)));
                }
                (Some(name), None) => unknown.push(name),
                (None, _) => {}
            }
        }
        // What no known policy sets, one of the unknown ones must set.
        if let (Some(effective), false) =
            (counted.and_then(|row| row.effective_policy_definition.as_ref()), unknown.is_empty())
        {
            let said: BTreeSet<String> = set.iter().map(|(_, key, _)| (*key).to_owned()).collect();
            let rest = effective.0.iter().filter(|(key, _)| !said.contains(*key));
            set.extend(rest.map(|(key, value)| (unknown.clone(), key.as_str(), value)));
        }
        set
    }
}

fn definition<'a>(name: Option<&String>, policies: Option<&'a [PolicyRow]>) -> Option<&'a Arguments> {
    let name = name?;
    policies?.iter().find(|policy| policy.name == *name).map(|policy| &policy.definition)
}

fn is(found: &Scalar, expected: &Argument) -> bool {
    match (found, expected) {
        (Scalar::Int(found), Argument::Int(expected)) => found == expected,
        (Scalar::Text(found), Argument::Text(expected)) => found == expected,
        (Scalar::Int(_) | Scalar::Bool(_) | Scalar::Text(_) | Scalar::Other, _) => false,
    }
}

fn shown(found: Option<&Scalar>) -> String {
    found.map_or_else(|| NOT_SET.to_owned(), Scalar::to_string)
}

fn or_not_set(declared: Option<&str>) -> String {
    match declared {
        Some(declared) => format!("{NOT_SET}, or {declared}"),
        None => NOT_SET.to_owned(),
    }
}

fn row_of(binding: &Binding) -> BindingRow {
    let (destination_type, destination) = binding.destination.named();
    BindingRow {
        source: binding.source.clone(),
        destination: destination.to_owned(),
        destination_type: destination_type.to_owned(),
        routing_key: binding.key.clone(),
    }
}

pub(super) fn object_of(binding: &Binding) -> BrokerObject {
    BrokerObject::Binding {
        source: binding.source.clone(),
        destination: binding.destination.named().1.to_owned(),
        key: binding.key.clone(),
    }
}

/// The kind of a queue that AMQP says differs: where its kind is not what differs, it is the right one.
pub(super) fn kind_found(queue: &Queue, argument: &str, found: &str) -> QueueKindFound {
    match (argument, queue.kind) {
        ("x-queue-type", _) => QueueKindFound::of(found),
        (_, QueueKind::Quorum) => QueueKindFound::Quorum,
        (_, QueueKind::Stream) => QueueKindFound::Other,
    }
}

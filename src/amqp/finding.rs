//! What a look at the broker finds: each thing with what it is, what it must be, and the command that fixes it.

use std::fmt;

use super::shell::{quoted, word};
use super::topology::{Permissions, QueueKind};
use crate::management::Management;

/// Something at the broker that is not as it must be. While there is one, no letter is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub object: BrokerObject,
    /// What is wrong with it.
    pub problem: Problem,
    /// What fixes it: a command, or what to do in words.
    pub fix: String,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokerObject {
    /// An exchange, by its name.
    Exchange(String),
    /// A queue, by its name.
    Queue(String),
    /// A binding.
    Binding {
        /// The exchange that the messages come from.
        source: String,
        /// The queue or exchange that they go to.
        destination: String,
        /// Its key or pattern; empty where the source is a fanout.
        key: String,
    },
    /// A feature flag of the broker, by its name.
    FeatureFlag(String),
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It is there, and it is different.
    Differs {
        /// The argument, as the broker calls it.
        argument: String,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// It is there, and a policy makes it different.
    Policy {
        /// The policy; more than one where the broker does not say which of them it is.
        by: Vec<PolicyName>,
        /// What the policy sets.
        key: String,
        /// What it sets it to.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A worker must be able to do this, and we may not.
    NotPermitted {
        /// What may not be done: `publish to`.
        doing: &'static str,
    },
}

/// A policy's name, and which kind of policy it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyName {
    /// One that users set.
    Policy(String),
    /// One that operators set.
    Operator(String),
}

impl PolicyName {
    fn clearing(&self, vhost: &str) -> String {
        let (clear, name) = match self {
            PolicyName::Policy(name) => ("clear_policy", name),
            PolicyName::Operator(name) => ("clear_operator_policy", name),
        };
        format!("`rabbitmqctl {clear} -p {} {}`", word(vhost), word(name))
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyName::Policy(name) => write!(f, "policy `{name}`"),
            PolicyName::Operator(name) => write!(f, "operator policy `{name}`"),
        }
    }
}

impl fmt::Display for BrokerObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kinds().0, self.name())
    }
}

impl BrokerObject {
    /// What such a thing is called; and more of them.
    pub(super) fn kinds(&self) -> (&'static str, &'static str) {
        match self {
            BrokerObject::Exchange(_) => ("exchange", "exchanges"),
            BrokerObject::Queue(_) => ("queue", "queues"),
            BrokerObject::Binding { .. } => ("binding", "bindings"),
            BrokerObject::FeatureFlag(_) => ("feature flag", "feature flags"),
        }
    }

    /// What it is called itself.
    pub(super) fn name(&self) -> String {
        match self {
            BrokerObject::Exchange(name) | BrokerObject::Queue(name) | BrokerObject::FeatureFlag(name) => {
                format!("`{name}`")
            }
            BrokerObject::Binding { source, destination, key } if key.is_empty() => {
                format!("`{source}` -> `{destination}`")
            }
            BrokerObject::Binding { source, destination, key } => {
                format!("`{source}` -> `{destination}` with key `{key}`")
            }
        }
    }

    /// Whether it is a binding with this exchange or queue at one of its ends.
    pub(super) fn ends_at(&self, end: &BrokerObject) -> bool {
        match (self, end) {
            (BrokerObject::Binding { source, destination, .. }, BrokerObject::Exchange(name)) => {
                source == name || destination == name
            }
            (BrokerObject::Binding { destination, .. }, BrokerObject::Queue(name)) => destination == name,
            (BrokerObject::Binding { .. }, BrokerObject::Binding { .. } | BrokerObject::FeatureFlag(_))
            | (BrokerObject::Exchange(_) | BrokerObject::Queue(_) | BrokerObject::FeatureFlag(_), _) => false,
        }
    }
}

impl Finding {
    /// The argument, or what else it is that differs.
    pub fn argument(&self) -> String {
        match &self.problem {
            Problem::Missing => "presence".to_owned(),
            Problem::Differs { argument, .. } => argument.clone(),
            Problem::Policy { by, key, .. } => format!("{key} ({})", either(by)),
            Problem::NotPermitted { doing } => format!("permission to {doing} it"),
        }
    }

    /// What it must be.
    pub fn expected(&self) -> &str {
        match &self.problem {
            Problem::Missing => "there",
            Problem::Differs { expected, .. } | Problem::Policy { expected, .. } => expected,
            Problem::NotPermitted { .. } => "granted",
        }
    }

    /// What it is.
    pub fn found(&self) -> &str {
        match &self.problem {
            Problem::Missing => "missing",
            Problem::Differs { found, .. } | Problem::Policy { found, .. } => found,
            Problem::NotPermitted { .. } => "refused",
        }
    }

    /// What is wrong, without what it is about.
    pub(super) fn said(&self) -> String {
        match &self.problem {
            Problem::Missing => "missing".to_owned(),
            Problem::Differs { argument, found, expected } => {
                format!("`{argument}` is {found}, and must be {expected}")
            }
            Problem::Policy { by, key, found, expected } => {
                format!("{} sets `{key}` to {found}, and it must be {expected}", either(by))
            }
            Problem::NotPermitted { doing } => format!("we have no permission to {doing} it"),
        }
    }

    /// Whether both say the same thing is wrong, however it was found out.
    pub(super) fn is_same(&self, other: &Finding) -> bool {
        self.object == other.object && self.argument() == other.argument()
    }
}

/// One sentence that names the thing, what it is and what it must be; and one that fixes it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { object, problem, fix } = self;
        match problem {
            Problem::Missing => write!(f, "{object} is missing")?,
            Problem::Differs { .. } | Problem::Policy { .. } | Problem::NotPermitted { .. } => {
                write!(f, "{object}: {}", self.said())?;
            }
        }
        write!(f, ". To fix it: {fix}")
    }
}

fn either(by: &[PolicyName]) -> String {
    by.iter().map(PolicyName::to_string).collect::<Vec<_>>().join(" or ")
}

/// Something that could not be looked at. It is said, and keeps no worker from its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// What was not seen.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be checked: {}", self.what, self.why)
    }
}

/// All that one look has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong. Empty: the broker fits, as far as could be seen.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub unseen: Vec<Unseen>,
    /// What is worth knowing, and keeps no worker from its work.
    pub notes: Vec<Note>,
}

/// Something that is worth knowing, and keeps no worker from its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A worker finds these missing, and declares them.
    ToDeclare {
        /// How many exchanges.
        exchanges: usize,
        /// How many queues.
        queues: usize,
    },
    /// Letters wait in a queue without a consumer.
    Unconsumed {
        /// The lane's queue.
        queue: String,
        /// How many letters wait.
        ready: u32,
    },
}

impl Note {
    /// What a worker will declare; `None`: nothing is missing.
    pub(super) fn to_declare(missing: &[BrokerObject]) -> Option<Note> {
        let exchanges = missing.iter().filter(|object| matches!(object, BrokerObject::Exchange(_))).count();
        let queues = missing.len() - exchanges;
        (!missing.is_empty()).then_some(Note::ToDeclare { exchanges, queues })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::ToDeclare { exchanges, queues } => write!(
                f,
                "{exchanges} exchanges and {queues} queues are missing; `run` declares them (amqp.declare = true)"
            ),
            Note::Unconsumed { queue, ready } => {
                write!(f, "queue `{queue}`: letters wait ({ready}), and nobody consumes them")
            }
        }
    }
}

impl Report {
    /// Takes in what another look has found; what both have found is told once, as it was told here.
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            if !self.findings.iter().any(|known| known.is_same(&finding)) {
                self.findings.push(finding);
            }
        }
    }

    pub(super) fn add_unseen(&mut self, what: impl Into<String>, why: impl fmt::Display) {
        let unseen = Unseen { what: what.into(), why: why.to_string() };
        if !self.unseen.contains(&unseen) {
            self.unseen.push(unseen);
        }
    }
}

/// Declares what is missing, and changes nothing.
const APPLY: &str = "`cancel-worker topology apply`";

/// Where a command that fixes has to do it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The virtual host.
    pub(super) vhost: String,
    /// The management API, as people may see it.
    pub(super) management: String,
    /// The least that this worker needs.
    pub(super) permissions: Permissions,
}

impl Target {
    pub(super) fn new(vhost: &str, management: Option<&Management>, permissions: Permissions) -> Target {
        let management = management.map_or_else(|| "http://BROKER:15672".to_owned(), Management::to_string);
        Target { vhost: vhost.to_owned(), management, permissions }
    }

    /// It is not there.
    pub(super) fn missing(&self, object: BrokerObject) -> Finding {
        Finding { object, problem: Problem::Missing, fix: format!("{APPLY} declares it") }
    }

    /// A queue is different. Deleting one asks for care: no command deletes a quorum queue only if it is empty.
    pub(super) fn queue_differs(
        &self,
        name: &str,
        is: QueueKindFound,
        argument: &str,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Finding {
        let (vhost, queue) = (word(&self.vhost), word(name));
        let fix = match is {
            QueueKindFound::Quorum => format!(
                "delete the queue when it is empty (`rabbitmqctl list_queues -p {vhost} name messages` tells): \
                 `rabbitmqctl delete_queue {queue} -p {vhost}`, then {APPLY}"
            ),
            QueueKindFound::Other => format!(
                "delete the queue when it is empty: `rabbitmqctl delete_queue {queue} --if-empty -p {vhost}`, then \
                 {APPLY}"
            ),
        };
        differs(BrokerObject::Queue(name.to_owned()), argument, found, expected, fix)
    }

    /// An exchange is different.
    pub(super) fn exchange_differs(
        &self,
        name: &str,
        argument: &str,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Finding {
        // Of what a path has to have escaped, the names have only what a virtual host may have.
        let fix = format!(
            "delete the exchange, with its bindings: `curl -u USER -X DELETE {}/api/exchanges/{}/{name}`, then {APPLY} \
             (bindings of others must be made again by them)",
            self.management,
            segment(&self.vhost)
        );
        differs(BrokerObject::Exchange(name.to_owned()), argument, found, expected, fix)
    }

    /// A policy makes a queue or exchange different.
    pub(super) fn policy(
        &self,
        object: BrokerObject,
        by: Vec<PolicyName>,
        key: &str,
        found: impl fmt::Display,
        expected: String,
    ) -> Finding {
        let clearing: Vec<String> = by.iter().map(|name| name.clearing(&self.vhost)).collect();
        let fix =
            format!("make its pattern match nothing of ours, or take it away: {}", clearing.join(" or "));
        let problem = Problem::Policy { by, key: key.to_owned(), found: found.to_string(), expected };
        Finding { object, problem, fix }
    }

    /// We may not do what a worker does. The broker's own words would name our user, so they are not kept.
    pub(super) fn not_permitted(&self, object: BrokerObject, doing: &'static str) -> Finding {
        let Permissions { configure, write, read } = &self.permissions;
        let fix = format!(
            "`rabbitmqctl set_permissions -p {} USER {} {} {}`, which is the least that `cancel-worker topology print` \
             shows",
            word(&self.vhost),
            quoted(configure),
            quoted(write),
            quoted(read)
        );
        Finding { object, problem: Problem::NotPermitted { doing }, fix }
    }

    /// A feature that our queues are built on is switched off.
    pub(super) fn flag_off(&self, name: &str, state: &str) -> Finding {
        let fix = format!("`rabbitmqctl enable_feature_flag {}`", word(name));
        differs(BrokerObject::FeatureFlag(name.to_owned()), "state", state, "enabled", fix)
    }
}

/// Of what a queue that differs is made, as far as it matters for deleting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueKindFound {
    Quorum,
    Other,
}

impl QueueKindFound {
    pub(super) fn of(kind: &str) -> QueueKindFound {
        if kind == QueueKind::Quorum.as_str() { QueueKindFound::Quorum } else { QueueKindFound::Other }
    }
}

fn differs(
    object: BrokerObject,
    argument: &str,
    found: impl fmt::Display,
    expected: impl fmt::Display,
    fix: String,
) -> Finding {
    let problem = Problem::Differs {
        argument: argument.to_owned(),
        found: found.to_string(),
        expected: expected.to_string(),
    };
    Finding { object, problem, fix }
}

/// A name as a segment of a path.
fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(vhost: &str) -> Target {
        let permissions = Permissions {
            configure: "^$".to_owned(),
            write: r"^cancel\.(a|b)$".to_owned(),
            read: r"^cancel\.".to_owned(),
        };
        Target::new(vhost, None, permissions)
    }

    #[test]
    fn a_queue_that_differs_is_told_with_the_command_that_deletes_such_a_queue() {
        let quorum = place("/").queue_differs("q", QueueKindFound::Quorum, "x-message-ttl", 9, 5);
        assert_eq!(
            quorum.to_string(),
            "queue `q`: `x-message-ttl` is 9, and must be 5. To fix it: delete the queue when it is empty \
             (`rabbitmqctl list_queues -p / name messages` tells): `rabbitmqctl delete_queue q -p /`, then \
             `cancel-worker topology apply`"
        );
        let classic = place("/").queue_differs("q", QueueKindFound::of("classic"), "x", "classic", "quorum");
        assert!(classic.fix.contains("`rabbitmqctl delete_queue q --if-empty -p /`"), "{}", classic.fix);
    }

    #[test]
    fn a_policy_is_told_by_its_name_with_the_command_that_takes_it_away() {
        let by = vec![PolicyName::Policy("two words".to_owned())];
        let queue = BrokerObject::Queue("q".to_owned());
        let finding = place("pay ments").policy(queue, by, "max-length", 10, "not set".to_owned());
        assert_eq!(
            finding.to_string(),
            "queue `q`: policy `two words` sets `max-length` to 10, and it must be not set. To fix it: make its \
             pattern match nothing of ours, or take it away: `rabbitmqctl clear_policy -p 'pay ments' 'two words'`"
        );
    }

    #[test]
    fn a_missing_permission_is_told_with_the_least_that_is_needed() {
        let exchange = BrokerObject::Exchange("cancel.announce".to_owned());
        let finding = place("/").not_permitted(exchange, "publish to");
        let command = r"`rabbitmqctl set_permissions -p / USER '^$' '^cancel\.(a|b)$' '^cancel\.'`";
        assert!(finding.fix.starts_with(command), "{}", finding.fix);
    }

    #[test]
    fn an_exchange_is_deleted_where_no_rabbitmqctl_command_deletes_it() {
        let finding = place("/a").exchange_differs("cancel.taps", "type", "direct", "topic");
        let command = "`curl -u USER -X DELETE http://BROKER:15672/api/exchanges/%2Fa/cancel.taps`";
        assert!(finding.fix.contains(command), "{}", finding.fix);
    }

    #[test]
    fn what_two_looks_have_found_is_told_once() {
        let place = place("/");
        let mut report = Report::default();
        report.add([place.queue_differs("q", QueueKindFound::Quorum, "x-message-ttl", 9, 5)]);
        report.add([
            place.queue_differs("q", QueueKindFound::Quorum, "x-message-ttl", "nine", 5),
            place.queue_differs("q", QueueKindFound::Quorum, "x-overflow", "drop-head", "reject-publish"),
        ]);
        assert_eq!(report.findings.len(), 2, "{:?}", report.findings);
    }
}

//! The topology as data: every exchange, queue and binding that the contract names, in this one file.
//!
//! All five lanes are there whatever this worker serves: an intent of a kind that no worker serves yet waits in its
//! lane, where a second worker finds it, and not among the unrouted.

use std::fmt;

use super::shell::{quoted, word};
use crate::config::Declare;
use crate::domain::intent::Kind;
use crate::domain::retry::Tier;
use crate::wire::envelope::{Address, Source};

/// How often a quorum queue may hand a letter out. RabbitMQ 4 sets 20 if nothing is said, and counts every
/// way back; -1 means *unlimited* to 4.0 and *dead-letter at the first return* to 3.10. Both take this number.
const DELIVERIES_MAX: i64 = 1_000_000;

/// How much the stream of dead letters keeps. It is the view; the work is in the queue beside it.
const LOG_BYTES_MAX: i64 = 10_000_000_000;

/// Everything that has to be there at the broker. All of it is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    prefix: String,
    exchanges: Vec<Exchange>,
    queues: Vec<Queue>,
    bindings: Vec<Binding>,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it chooses among its bindings.
    pub kind: ExchangeKind,
    /// Whether clients may publish there.
    pub publishers: Publishers,
    /// Where it sends what none of its bindings takes. With one, `mandatory` never returns anything.
    pub alternate: Option<String>,
}

/// How an exchange chooses among its bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By the pattern of the binding.
    Topic,
    /// All of them.
    Fanout,
}

impl ExchangeKind {
    /// The name that the broker uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Topic => "topic",
            ExchangeKind::Fanout => "fanout",
        }
    }
}

/// The publishers of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishers {
    /// Any client with the permission.
    Clients,
    /// Only the broker, by dead-lettering or from another exchange: AMQP's *internal*.
    Broker,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: QueueKind,
    /// Its `x-` arguments, without `x-queue-type`.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// What a queue is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Replicated; a letter is gone once it is acked.
    Quorum,
    /// Replicated; reading leaves no trace.
    Stream,
}

impl QueueKind {
    /// The name that the broker uses.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueKind::Quorum => "quorum",
            QueueKind::Stream => "stream",
        }
    }
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Int(value) => value.fmt(f),
            Argument::Text(value) => value.fmt(f),
        }
    }
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange that the messages come from.
    pub source: String,
    /// Where they go.
    pub destination: Destination,
    /// Its routing key or pattern; empty where the source is a fanout.
    pub key: String,
}

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into a queue.
    Queue(String),
    /// To another exchange.
    Exchange(String),
}

/// The roles that need permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// A worker, by what it does about a topology that is not there.
    Worker(Declare),
    /// A program that publishes intents.
    OrderSystem,
    /// A program that listens to outcomes with queues of its own: `ledger.` and this name, and whatever begins with that
    /// and a dot.
    Ledger(&'a str),
    /// A person who replays and discards dead letters.
    Operator,
    /// A person with a right to look: at outcomes as they pass, and at what is kept.
    Onlooker,
    /// A program that asks the management API.
    Monitor,
}

/// The three regular expressions of a user's permissions, as `rabbitmqctl set_permissions` takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published to, and bound as a destination.
    pub write: String,
    /// What may be consumed from, and bound as a source.
    pub read: String,
}

impl Destination {
    /// What it is, as the broker calls it, and its name.
    pub fn named(&self) -> (&'static str, &str) {
        match self {
            Destination::Queue(name) => ("queue", name),
            Destination::Exchange(name) => ("exchange", name),
        }
    }
}

impl Topology {
    /// The topology with this prefix and these delay queues.
    pub fn new(prefix: &str, tiers: &[Tier]) -> Topology {
        let mut topology =
            Topology { prefix: prefix.to_owned(), exchanges: vec![], queues: vec![], bindings: vec![] };
        topology.lay(tiers);
        topology
    }

    fn lay(&mut self, tiers: &[Tier]) {
        let unrouted = self.name("unrouted");
        let returns = self.name("returns");
        let rescue = self.name("rescue");

        // Where order systems write.
        let intents = self.exchange("intents", ExchangeKind::Topic);
        intents.alternate = Some(unrouted.clone());
        for kind in Kind::ALL {
            // What the broker itself takes out of a lane (an expiration, a policy) must not vanish.
            let lane = self.quorum(&format!("intents.{kind}"), dead_lettering(&rescue));
            self.bind("intents", Destination::Queue(lane), kind.as_str());
        }

        // The waits. No dead-letter routing key: the letter keeps its own, which is its way home.
        for tier in tiers {
            let delay = format!("delay.{}", tier.name);
            let length_ms = i64::try_from(tier.length.as_millis()).unwrap_or(i64::MAX);
            let mut arguments = dead_lettering(&returns);
            arguments.push(("x-message-ttl", Argument::Int(length_ms)));
            self.fanout_into_queue(&delay, arguments);
        }
        self.exchange("returns", ExchangeKind::Topic).publishers = Publishers::Broker;
        for kind in Kind::ALL {
            let home = self.quorum(&format!("returns.{kind}"), vec![]);
            self.bind("returns", Destination::Queue(home), kind.as_str());
        }
        let announcements = self.quorum("announcements", vec![]);
        self.bind("returns", Destination::Queue(announcements), "announce.#");

        // What the world hears. The taps are an exchange of their own: one that is bound to the outcomes would
        // hide that no ledger listens.
        self.exchange("announce", ExchangeKind::Fanout);
        self.exchange("outcomes", ExchangeKind::Topic).alternate = Some(unrouted);
        self.exchange("taps", ExchangeKind::Topic);
        for listeners in ["outcomes", "taps"] {
            let destination = Destination::Exchange(self.name(listeners));
            self.bind("announce", destination, "");
        }

        // What a person must look at: the work, and the view.
        self.exchange("dead-letters", ExchangeKind::Topic);
        let work = self.quorum("dead-letters", vec![]);
        self.bind("dead-letters", Destination::Queue(work), "#");
        let view = self.name("dead-letters.log");
        self.queues.push(Queue {
            name: view.clone(),
            kind: QueueKind::Stream,
            arguments: vec![("x-max-length-bytes", Argument::Int(LOG_BYTES_MAX))],
        });
        self.bind("dead-letters", Destination::Queue(view), "#");

        for last_resort in ["isolation", "rescue", "unrouted"] {
            self.fanout_into_queue(last_resort, vec![]);
        }
    }

    /// What the name of every exchange and queue begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All exchanges.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// All queues.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// All bindings.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The exchange that a message to this address is published to.
    pub fn exchange_of(&self, address: &Address) -> String {
        match address {
            Address::Announce => self.name("announce"),
            Address::Delay(tier) => self.name(&format!("delay.{}", tier.name)),
            Address::DeadLetters => self.name("dead-letters"),
            Address::Isolation => self.name("isolation"),
            Address::Intents => self.name("intents"),
        }
    }

    /// The exchanges that a worker publishes to.
    pub fn published_to(&self) -> Vec<String> {
        let delays = self.name("delay.");
        let named = ["announce", "dead-letters", "isolation"].map(|rest| self.name(rest));
        let is_ours = |name: &String| named.contains(name) || name.starts_with(&delays);
        self.exchanges.iter().map(|exchange| exchange.name.clone()).filter(is_ours).collect()
    }

    /// The queues that a worker consumes from.
    pub fn consumed_from(&self) -> Vec<String> {
        let each = |kind| [self.queue_of(Source::Lane(kind)), self.queue_of(Source::Returns(kind))];
        let shared = [Source::Rescue, Source::Announcements, Source::Isolation].map(|s| self.queue_of(s));
        Kind::ALL.into_iter().flat_map(each).chain(shared).collect()
    }

    /// The queue that deliveries of this source are taken from.
    pub fn queue_of(&self, source: Source) -> String {
        match source {
            Source::Lane(kind) => self.name(&format!("intents.{kind}")),
            Source::Returns(kind) => self.name(&format!("returns.{kind}")),
            Source::Rescue => self.name("rescue"),
            Source::Announcements => self.name("announcements"),
            Source::Isolation => self.name("isolation"),
        }
    }

    /// Where messages without a binding are kept. A worker watches its depth: with an alternate exchange in place, the
    /// publisher is told nothing.
    pub fn unrouted(&self) -> String {
        self.name("unrouted")
    }

    /// The exchange that ledgers bind to.
    pub fn outcomes(&self) -> String {
        self.name("outcomes")
    }

    /// The queue of the dead letters: the work, not the view.
    pub fn dead_letters(&self) -> String {
        self.name("dead-letters")
    }

    /// The exchange that tails of the outcomes bind to.
    pub fn taps(&self) -> String {
        self.name("taps")
    }

    /// The least permissions of a role, to this topology and no other.
    pub fn permissions(&self, who: Who<'_>) -> Permissions {
        let prefix = escaped(&self.prefix);
        let nothing = "^$".to_owned();
        match who {
            // Declaring a binding or an argument that names an exchange needs to write to and to read from both
            // ends.
            Who::Worker(Declare::Missing) => Permissions {
                configure: format!("^{prefix}\\."),
                write: format!("^{prefix}\\."),
                read: format!("^{prefix}\\."),
            },
            Who::Worker(Declare::Nothing) => Permissions {
                configure: nothing,
                write: format!("^{prefix}\\.(announce|delay\\..+|dead-letters|isolation)$"),
                read: format!("^{prefix}\\.(intents\\..+|returns\\..+|announcements|isolation|rescue)$"),
            },
            Who::OrderSystem => Permissions {
                configure: nothing.clone(),
                write: format!("^{prefix}\\.intents$"),
                read: nothing,
            },
            Who::Ledger(name) => {
                let own = format!("ledger\\.{}(\\..+)?$", escaped(name));
                Permissions {
                    configure: format!("^{own}"),
                    write: format!("^{own}"),
                    read: format!("^({prefix}\\.outcomes$|{own})"),
                }
            }
            // One taker at a time, by its exclusive queue; what is replayed enters through the shortest delay.
            Who::Operator => {
                let delay = self.exchanges.iter().find(|it| it.name.starts_with(&self.name("delay.")));
                let delay = delay.map(|it| format!("{}|", escaped(&it.name[self.prefix.len() + 1..])));
                let delay = delay.unwrap_or_default();
                Permissions {
                    configure: format!("^{prefix}\\.lease\\.dead-letters$"),
                    write: format!("^{prefix}\\.({delay}announce|audit|intents|lease\\.dead-letters)$"),
                    read: format!(
                        "^{prefix}\\.(dead-letters|dead-letters\\.log|unrouted|unrouted\\.log|story|lease\\.dead-letters)$"
                    ),
                }
            }
            Who::Onlooker => Permissions {
                configure: format!("^{prefix}\\.tail\\..+$"),
                write: format!("^{prefix}\\.tail\\..+$"),
                read: format!("^{prefix}\\.(taps|tail\\..+|dead-letters\\.log|unrouted\\.log|story)$"),
            },
            Who::Monitor => Permissions { configure: nothing.clone(), write: nothing.clone(), read: nothing },
        }
    }

    /// The commands that give a user the least permissions, as a shell takes them.
    pub fn grants(&self, who: Who<'_>, vhost: &str, user: &str) -> Vec<String> {
        let Permissions { configure, write, read } = self.permissions(who);
        let (vhost, user) = (word(vhost), word(user));
        let set = format!(
            "rabbitmqctl set_permissions -p {vhost} {user} {} {} {}",
            quoted(&configure),
            quoted(&write),
            quoted(&read)
        );
        let more = match who {
            // A key that is no kind would lie among the unrouted, for a person to find.
            Who::OrderSystem => {
                let kinds = Kind::ALL.map(Kind::as_str).join("|");
                Some(format!(
                    "rabbitmqctl set_topic_permissions -p {vhost} {user} {} {} '^$'",
                    word(&self.name("intents")),
                    quoted(&format!("^({kinds})$"))
                ))
            }
            Who::Monitor => Some(format!("rabbitmqctl set_user_tags {user} monitoring")),
            Who::Worker(_) | Who::Ledger(_) | Who::Operator | Who::Onlooker => None,
        };
        std::iter::once(set).chain(more).collect()
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    fn exchange(&mut self, rest: &str, kind: ExchangeKind) -> &mut Exchange {
        let at = self.exchanges.len();
        self.exchanges.push(Exchange {
            name: self.name(rest),
            kind,
            publishers: Publishers::Clients,
            alternate: None,
        });
        &mut self.exchanges[at]
    }

    fn quorum(&mut self, rest: &str, mut arguments: Vec<(&'static str, Argument)>) -> String {
        let name = self.name(rest);
        // A queue that is full says no to the publisher, instead of throwing away its oldest letter; and without
        // it at-least-once dead-lettering silently falls back to at-most-once.
        arguments.push(("x-overflow", Argument::Text("reject-publish".to_owned())));
        arguments.push(("x-delivery-limit", Argument::Int(DELIVERIES_MAX)));
        self.queues.push(Queue { name: name.clone(), kind: QueueKind::Quorum, arguments });
        name
    }

    fn fanout_into_queue(&mut self, rest: &str, arguments: Vec<(&'static str, Argument)>) {
        self.exchange(rest, ExchangeKind::Fanout);
        let queue = self.quorum(rest, arguments);
        self.bind(rest, Destination::Queue(queue), "");
    }

    fn bind(&mut self, source: &str, destination: Destination, key: &str) {
        let source = self.name(source);
        self.bindings.push(Binding { source, destination, key: key.to_owned() });
    }
}

/// Dead-lettering that keeps the letter until its target has it.
fn dead_lettering(exchange: &str) -> Vec<(&'static str, Argument)> {
    vec![
        ("x-dead-letter-exchange", Argument::Text(exchange.to_owned())),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
    ]
}

/// The prefix as a regular expression that means just it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn topology() -> Topology {
        let tier = |s: u64| Tier { length: Duration::from_secs(s), name: format!("{s}s") };
        Topology::new("cancel", &[tier(1), tier(5)])
    }

    fn queue<'a>(topology: &'a Topology, name: &str) -> &'a Queue {
        topology.queues().iter().find(|queue| queue.name == name).expect("there")
    }

    fn argument<'a>(queue: &'a Queue, name: &str) -> Option<&'a Argument> {
        queue.arguments.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    #[test]
    fn every_name_of_the_contract_is_there_and_no_other() {
        let topology = topology();
        let mut exchanges: Vec<&str> = topology.exchanges().iter().map(|e| e.name.as_str()).collect();
        exchanges.sort_unstable();
        assert_eq!(
            exchanges,
            [
                "cancel.announce",
                "cancel.dead-letters",
                "cancel.delay.1s",
                "cancel.delay.5s",
                "cancel.intents",
                "cancel.isolation",
                "cancel.outcomes",
                "cancel.rescue",
                "cancel.returns",
                "cancel.taps",
                "cancel.unrouted",
            ]
        );
        let mut queues: Vec<&str> = topology.queues().iter().map(|q| q.name.as_str()).collect();
        queues.sort_unstable();
        let lanes = [
            "apm_provision_cancel",
            "async_cancel",
            "batch_cancel",
            "sync_cancel_rollback",
            "transaction_cancel",
        ];
        let mut expected: Vec<String> = lanes
            .iter()
            .flat_map(|kind| [format!("cancel.intents.{kind}"), format!("cancel.returns.{kind}")])
            .collect();
        expected.extend(
            [
                "announcements",
                "dead-letters",
                "dead-letters.log",
                "delay.1s",
                "delay.5s",
                "isolation",
                "rescue",
                "unrouted",
            ]
            .map(|rest| format!("cancel.{rest}")),
        );
        expected.sort_unstable();
        assert_eq!(queues, expected);
    }

    #[test]
    fn a_delay_queue_holds_for_its_length_and_leads_back_at_least_once_with_the_key_kept() {
        let topology = topology();
        let delay = queue(&topology, "cancel.delay.5s");
        assert_eq!(argument(delay, "x-message-ttl"), Some(&Argument::Int(5_000)));
        assert_eq!(
            argument(delay, "x-dead-letter-exchange"),
            Some(&Argument::Text("cancel.returns".to_owned()))
        );
        assert_eq!(
            argument(delay, "x-dead-letter-strategy"),
            Some(&Argument::Text("at-least-once".to_owned()))
        );
        assert_eq!(argument(delay, "x-dead-letter-routing-key"), None);
    }

    #[test]
    fn every_quorum_queue_refuses_when_full_and_never_gives_up_on_a_letter_by_itself() {
        for queue in topology().queues().iter().filter(|queue| queue.kind == QueueKind::Quorum) {
            assert_eq!(argument(queue, "x-overflow"), Some(&Argument::Text("reject-publish".to_owned())));
            assert_eq!(argument(queue, "x-delivery-limit"), Some(&Argument::Int(1_000_000)));
        }
    }

    #[test]
    fn clients_cannot_publish_where_waits_end() {
        let topology = topology();
        let internal: Vec<&str> = topology
            .exchanges()
            .iter()
            .filter(|exchange| exchange.publishers == Publishers::Broker)
            .map(|exchange| exchange.name.as_str())
            .collect();
        assert_eq!(internal, ["cancel.returns"]);
    }

    #[test]
    fn an_order_system_may_only_write_intents_and_a_ledger_may_only_listen() {
        let topology = Topology::new("a.b", &[]);
        assert_eq!(
            topology.permissions(Who::OrderSystem),
            Permissions {
                configure: "^$".to_owned(),
                write: r"^a\.b\.intents$".to_owned(),
                read: "^$".to_owned()
            }
        );
        assert_eq!(
            topology.permissions(Who::Ledger("books")).read,
            r"^(a\.b\.outcomes$|ledger\.books(\..+)?$)"
        );
    }
}

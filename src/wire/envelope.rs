//! Letter in, Message out, Address: plain data between `wire` and `amqp`. No broker's types, no payments.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use crate::domain::intent::Kind;
use crate::domain::retry::Tier;

/// A header's value, as far as we read and write them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderValue {
    /// Long string, short string or bytes that are UTF-8.
    Text(String),
    /// Any integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
}

/// The headers of a letter or a message: those that we know how to read. Others are left out, never copied.
pub type Headers = BTreeMap<String, HeaderValue>;

/// Where a delivery came from. Decides whether its `cancel-` headers are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The lane of a kind: where order systems write. Its `cancel-` headers are ignored.
    Lane(Kind),
    /// Where the waits of a kind end.
    Returns(Kind),
    /// What the broker itself took from a lane.
    Rescue,
    /// Outcome events that the broker refused, on their way to be announced again.
    Announcements,
    /// Letters that may have taken a process down.
    Isolation,
}

impl Source {
    /// The word for logs and spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Lane(_) => "lane",
            Source::Returns(_) => "returns",
            Source::Rescue => "rescue",
            Source::Announcements => "announcements",
            Source::Isolation => "isolation",
        }
    }
}

/// Whether the broker says that it has handed this delivery out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redelivered {
    /// The first time.
    No,
    /// It was handed out before, to us or to somebody else, and was not settled.
    Yes,
}

/// What arrives in a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Letter {
    /// Which queue it was taken from.
    pub source: Source,
    /// The routing key it was published with.
    pub routing_key: String,
    /// The broker's `redelivered` flag.
    pub redelivered: Redelivered,
    /// The headers that we know how to read.
    pub headers: Headers,
    /// The intent's bytes.
    pub body: Bytes,
}

/// Where a message goes. `amqp::topology` knows which exchange that is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Outcome events: `cancel.announce`.
    Announce,
    /// The delay queue of this length.
    Delay(Tier),
    /// `cancel.dead-letters`.
    DeadLetters,
    /// Letters that may have taken a process down: `cancel.isolation`.
    Isolation,
    /// Intents, as an order system publishes them: `cancel.intents`.
    Intents,
}

/// A message to be published: persistent, mandatory, confirmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it goes.
    pub address: Address,
    /// Its routing key.
    pub routing_key: String,
    /// Its headers, all of them.
    pub headers: Headers,
    /// Its `content-type`.
    pub content_type: &'static str,
    /// Its `message-id`, for outcome events.
    pub message_id: Option<String>,
    /// What an outcome event was told on.
    pub occasion: Option<Occasion>,
    /// Its bytes.
    pub body: Bytes,
}

/// What an outcome event was told on, for programs that do not read its body (contract §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occasion {
    /// The intent's id.
    pub correlation_id: String,
    /// The event's time.
    pub at: Timestamp,
}

/// The messages of one decision: at least one, so that no delivery is settled without having been announced.
#[derive(Debug, Clone, PartialEq)]
pub struct Messages(Vec<Message>);

impl Messages {
    /// These messages, in this order.
    pub fn new(first: Message, rest: impl IntoIterator<Item = Message>) -> Messages {
        let mut messages = vec![first];
        messages.extend(rest);
        Messages(messages)
    }

    /// Adds one more.
    pub fn push(&mut self, message: Message) {
        self.0.push(message);
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Message] {
        &self.0
    }

    /// All of them, to be written on.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        self.0.iter_mut()
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Message> {
        self.0
    }
}

//! The rows of the management API's lists, of each what is of use to us. What a version leaves out is `None`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// A queue.
#[derive(Debug, Clone, Deserialize)]
pub struct QueueRow {
    /// Its name.
    pub name: String,
    /// What it is made of: `classic`, `quorum`, `stream`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Whether it outlives a restart of the broker.
    pub durable: Option<bool>,
    /// Whether it goes away with its last consumer.
    pub auto_delete: Option<bool>,
    /// The arguments that it was declared with.
    #[serde(default)]
    pub arguments: Arguments,
    /// The policy that applies to it.
    #[serde(default, deserialize_with = "name_or_none")]
    pub policy: Option<String>,
}

/// The policies of a queue, as of the broker's last statistics.
#[derive(Debug, Clone, Deserialize)]
pub struct QueuePolicies {
    /// The queue's name.
    pub name: String,
    /// The policy that applies to it.
    #[serde(default, deserialize_with = "name_or_none")]
    pub policy: Option<String>,
    /// The operator policy that applies to it.
    #[serde(default, deserialize_with = "name_or_none")]
    pub operator_policy: Option<String>,
    /// What both say together; `None`: there are no statistics of this queue yet.
    pub effective_policy_definition: Option<Arguments>,
}

/// An exchange.
#[derive(Debug, Clone, Deserialize)]
pub struct ExchangeRow {
    /// Its name.
    pub name: String,
    /// How it chooses among its bindings.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Whether it outlives a restart of the broker.
    pub durable: Option<bool>,
    /// Whether it goes away with its last binding.
    pub auto_delete: Option<bool>,
    /// Whether only the broker may publish to it.
    pub internal: Option<bool>,
    /// The arguments that it was declared with.
    #[serde(default)]
    pub arguments: Arguments,
    /// The policy that applies to it.
    #[serde(default, deserialize_with = "name_or_none")]
    pub policy: Option<String>,
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct BindingRow {
    /// The exchange that the messages come from.
    pub source: String,
    /// The queue or exchange that they go to.
    pub destination: String,
    /// `queue` or `exchange`.
    pub destination_type: String,
    /// Its key or pattern.
    pub routing_key: String,
}

/// A policy, or an operator policy.
#[derive(Debug, Clone, Deserialize)]
pub struct PolicyRow {
    /// Its name.
    pub name: String,
    /// What it sets.
    pub definition: Arguments,
}

/// A feature flag.
#[derive(Debug, Clone, Deserialize)]
pub struct FlagRow {
    /// Its name.
    pub name: String,
    /// `enabled`, `disabled` or `unavailable`.
    pub state: String,
}

/// Names with values: the arguments of a queue or exchange, or what a policy sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments(pub BTreeMap<String, Scalar>);

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Arguments, D::Error> {
        // An empty table is written as an empty list by some versions.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Table(BTreeMap<String, Scalar>),
            #[serde(deserialize_with = "anything")]
            List,
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Table(table) => Arguments(table),
            Written::List => Arguments::default(),
        })
    }
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A number.
    Int(i64),
    /// A flag.
    Bool(bool),
    /// A text.
    Text(String),
    /// Something that none of our arguments is.
    #[serde(deserialize_with = "anything")]
    Other,
}

fn anything<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| ())
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Int(value) => value.fmt(f),
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Text(value) => value.fmt(f),
            Scalar::Other => f.write_str("something else"),
        }
    }
}

/// None is written as null, as nothing, or as an empty text.
fn name_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.filter(|name| !name.is_empty()))
}

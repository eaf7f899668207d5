//! The gateway's codes and what they mean, as a table.

use super::intent::{Api, Kind};
use super::outcome::RejectedReason;

/// What a code says about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A refusal that no earlier copy's call can have caused.
    Refused(RejectedReason),
    /// A refusal because of the payment's state, which an earlier copy's call can have caused.
    RefusedByState(RejectedReason),
    /// Surely not done.
    Busy,
    /// It may have happened.
    InDoubt,
    /// Our keys or our address are not accepted.
    LockedOut,
    /// The gateway is not set up for this payment.
    NotConfigured,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// `ErrorCode`.
    Code(i64),
    /// `ClientMessage`.
    ClientMessage(String),
    /// The HTTP status code, whatever the envelope.
    HttpStatus(u16),
}

/// An operator's rule: it goes before the table; the first that matches wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The API whose replies it judges.
    pub api: Api,
    /// What it looks at.
    pub matcher: Matcher,
    /// The kind whose calls it judges; `None`: every kind of the API.
    pub kind: Option<Kind>,
    /// What a match means.
    pub class: Class,
}

/// The operator's rules before the gateway's table.
#[derive(Debug, Clone, Default)]
pub struct Codes {
    rules: Vec<Rule>,
}

impl Codes {
    /// The table with these rules before it.
    pub fn new(rules: Vec<Rule>) -> Codes {
        Codes { rules }
    }
}

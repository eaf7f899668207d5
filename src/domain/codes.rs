//! The gateway's codes and what each means, as a table.
//!
//! The data lies in `codes/integers.tsv` and `codes/messages.tsv`, the readings of each code side by side; their
//! headers say how a default class follows from the readings, and the tests hold every row to it. What an
//! operator declares in the configuration is a [`Rule`] and goes before the table.
//!
//! No code means success, and no rule can declare one to: success is read from the whole reply, not from its code.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use crate::domain::intent::{Api, Kind};
use crate::domain::outcome::RejectedReason;

/// All that we know about codes: the operator's rules, and behind them the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Codes {
    rules: Vec<Rule>,
}

/// What an operator declares about one code. Nothing can be declared a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The API whose replies it is about.
    pub api: Api,
    /// The one thing in a reply that it looks at.
    pub matcher: Matcher,
    /// The kind it is about; all kinds of the API if absent.
    pub kind: Option<Kind>,
    /// What such a reply means.
    pub class: Class,
}

/// The one thing in a reply that a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// The integer `ErrorCode`.
    Code(i64),
    /// The fixed word `ClientMessage`, compared to the letter.
    ClientMessage(String),
    /// The HTTP status, whatever the reply holds besides.
    HttpStatus(u16),
}

/// What a code tells us about the call it answers (design.md §3, the verdicts that a code can give).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// A refusal that no earlier call of ours can have caused: final.
    Refused(RejectedReason),
    /// A refusal that an earlier call of ours can have caused: ask before telling.
    RefusedByState(RejectedReason),
    /// Surely not done: call again. Only rules say so; no code of the table proves it.
    Busy,
    /// May have happened: ask.
    InDoubt,
    /// Our keys or our address: this API pauses for this merchant.
    LockedOut,
    /// Something is not set up for one terminal, provider or connection: wait long, pause nothing.
    NotConfigured,
}

/// The codes of one reply, as far as it has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyCodes<'a> {
    /// The HTTP status. The table does not look at it, rules can.
    pub http_status: u16,
    /// The integer `ErrorCode`.
    pub error_code: Option<i64>,
    /// The fixed word `ClientMessage`.
    pub client_message: Option<&'a str>,
}

/// A class, and where it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classified {
    /// What the reply means.
    pub class: Class,
    /// Where it is said.
    pub source: CodeSource,
}

/// Where it is said what a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeSource {
    /// The operator, by the rule of the configuration that stands there, counted from 1.
    Rule(usize),
    /// The row of our table for this integer.
    Integer(i64),
    /// The row of our table for this fixed word, or for what it begins with and `*`.
    Message(&'static str),
}

/// The word of the header `cancel-rule`.
impl fmt::Display for CodeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeSource::Rule(number) => write!(f, "config:{number}"),
            CodeSource::Integer(code) => write!(f, "code:{code}"),
            CodeSource::Message(text) => write!(f, "client_message:{text}"),
        }
    }
}

/// Why a word and a reason do not make a [`Class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClassError {
    /// The word names no class.
    #[error(
        "this is no class; classes are refused, refused_by_state, busy, in_doubt, locked_out, not_configured"
    )]
    UnknownClass,
    /// A refusal must say why.
    #[error("a class `refused` or `refused_by_state` needs a reason")]
    ReasonMissing,
    /// Only a refusal has a reason; elsewhere it would never be told.
    #[error("only the classes `refused` and `refused_by_state` take a reason")]
    ReasonUnused,
}

impl Codes {
    /// Puts an operator's rules before the table; the first that matches wins.
    pub fn new(rules: Vec<Rule>) -> Codes {
        Codes { rules }
    }

    /// The class that a reply's codes have; `None` when no rule matches and the table knows none of them, which
    /// is no better than doubt.
    ///
    /// Whether the reply is a success at all, and what its HTTP status decides by itself, is the caller's to
    /// know first.
    pub fn class(&self, api: Api, kind: Kind, codes: &ReplyCodes) -> Option<Classified> {
        let declared = (1..).zip(&self.rules).find(|(_, rule)| rule.matches(api, kind, codes));
        match declared {
            Some((number, rule)) => Some(Classified { class: rule.class, source: CodeSource::Rule(number) }),
            None => known_by_table(api, codes),
        }
    }
}

impl Rule {
    fn matches(&self, api: Api, kind: Kind, codes: &ReplyCodes) -> bool {
        self.api == api
            && self.kind.is_none_or(|only| only == kind)
            && match &self.matcher {
                Matcher::Code(code) => codes.error_code == Some(*code),
                Matcher::ClientMessage(text) => codes.client_message == Some(text.as_str()),
                Matcher::HttpStatus(status) => codes.http_status == *status,
            }
    }
}

impl Class {
    /// The class of that name, as the configuration and the table spell it, with the reason that a refusal
    /// needs.
    ///
    /// # Errors
    ///
    /// When the word names no class, a refusal has no reason, or another class has one.
    pub fn parse(word: &str, reason: Option<RejectedReason>) -> Result<Class, ClassError> {
        let class = match (word, reason) {
            ("refused", Some(reason)) => return Ok(Class::Refused(reason)),
            ("refused_by_state", Some(reason)) => return Ok(Class::RefusedByState(reason)),
            ("refused" | "refused_by_state", None) => return Err(ClassError::ReasonMissing),
            ("busy", _) => Class::Busy,
            ("in_doubt", _) => Class::InDoubt,
            ("locked_out", _) => Class::LockedOut,
            ("not_configured", _) => Class::NotConfigured,
            _ => return Err(ClassError::UnknownClass),
        };
        if reason.is_some() { Err(ClassError::ReasonUnused) } else { Ok(class) }
    }

    /// The class's name, as the configuration and the table spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Refused(_) => "refused",
            Class::RefusedByState(_) => "refused_by_state",
            Class::Busy => "busy",
            Class::InDoubt => "in_doubt",
            Class::LockedOut => "locked_out",
            Class::NotConfigured => "not_configured",
        }
    }

    /// The reason that a refusal carries.
    pub fn reason(self) -> Option<RejectedReason> {
        match self {
            Class::Refused(reason) | Class::RefusedByState(reason) => Some(reason),
            Class::Busy | Class::InDoubt | Class::LockedOut | Class::NotConfigured => None,
        }
    }
}

/// Fixed words are the Physical API's alone, and say more than its integer: the word decides where the table
/// knows it.
fn known_by_table(api: Api, codes: &ReplyCodes) -> Option<Classified> {
    let of_message = match api {
        Api::Physical => codes.client_message.and_then(row_of_message),
        Api::Private | Api::Payment => None,
    };
    let of_integer = || {
        let code = codes.error_code?;
        Some(Classified { class: default_class_of_integer(code)?, source: CodeSource::Integer(code) })
    };
    of_message
        .map(|(text, class)| Classified { class, source: CodeSource::Message(text) })
        .or_else(of_integer)
}

/// The class of an integer `ErrorCode` by the table, for every API alike; `None` for a number that it lacks, and
/// for 0, which is no refusal and is judged with the rest of its reply.
pub fn default_class_of_integer(code: i64) -> Option<Class> {
    INTEGERS.get(&code).copied()
}

/// The class of a fixed word `ClientMessage` by the table: a word's own row, else the pattern that speaks for it.
pub fn default_class_of_message(text: &str) -> Option<Class> {
    row_of_message(text).map(|(_, class)| class)
}

fn row_of_message(text: &str) -> Option<(&'static str, Class)> {
    let own = MESSAGES.own.get_key_value(text).map(|(row, class)| (*row, *class));
    let by_pattern = || {
        let begins = |row: &&(&'static str, Class)| {
            row.0.strip_suffix('*').is_some_and(|prefix| text.starts_with(prefix))
        };
        MESSAGES.patterns.iter().find(begins).copied()
    };
    own.or_else(by_pattern)
}

struct Messages {
    own: BTreeMap<&'static str, Class>,
    /// What a word begins with, its dot included, and `*`. No pattern begins like another, so their order means nothing.
    patterns: Vec<(&'static str, Class)>,
}

const INTEGERS_TSV: &str = include_str!("codes/integers.tsv");
const MESSAGES_TSV: &str = include_str!("codes/messages.tsv");

/// Says why reading a file that is part of the program cannot fail.
const PROVEN: &str = "the table is compiled in, and the tests read every row of it";

static INTEGERS: LazyLock<BTreeMap<i64, Class>> = LazyLock::new(|| {
    rows(INTEGERS_TSV)
        .filter(|row| cell(row, "class") != "success")
        .map(|row| (cell(&row, "code").parse().expect(PROVEN), class_of(&row)))
        .collect()
});

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    let mut messages = Messages { own: BTreeMap::new(), patterns: Vec::new() };
    for row in rows(MESSAGES_TSV) {
        let text = cell(&row, "text");
        match text.strip_suffix('*') {
            Some(_prefix) => messages.patterns.push((text, class_of(&row))),
            None => {
                messages.own.insert(text, class_of(&row));
            }
        }
    }
    messages
});

/// One row: its cells under the names of their columns.
type Row = BTreeMap<&'static str, &'static str>;

fn rows(table: &'static str) -> impl Iterator<Item = Row> {
    let mut lines = table.lines().filter(|line| !line.starts_with('#'));
    let columns: Vec<&str> = lines.next().expect(PROVEN).split('\t').collect();
    lines.map(move |line| columns.iter().copied().zip(line.split('\t')).collect())
}

fn cell(row: &Row, column: &str) -> &'static str {
    row.get(column).expect(PROVEN)
}

fn class_of(row: &Row) -> Class {
    let reason = match cell(row, "reason") {
        "-" => None,
        text => Some(RejectedReason::parse(text).expect(PROVEN)),
    };
    Class::parse(cell(row, "class"), reason).expect(PROVEN)
}

#[cfg(test)]
mod tests;

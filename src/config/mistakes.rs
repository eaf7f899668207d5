//! What is wrong with a configuration: by key, never by value.

use std::fmt;

/// All that is wrong with a configuration: at least one thing. One line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes; `None` if there is none.
    pub(super) fn try_new(mistakes: Vec<Mistake>) -> Option<Mistakes> {
        (!mistakes.is_empty()).then_some(Mistakes(mistakes))
    }

    /// All of them, at least one.
    pub fn as_slice(&self) -> &[Mistake] {
        &self.0
    }
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

/// One thing that is wrong. No part of it was taken from a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, with dots: `gateway.call_timeout`. What cannot be told from a value is shown as `?`.
    pub key: String,
    /// Where the value was given; `None`: nowhere, or the mistake is that it was not given.
    pub place: Option<Location>,
    /// What is wrong: the sentence that begins with the key.
    pub wrong: String,
    /// What to do: an order to a person.
    pub remedy: String,
}

impl Mistake {
    pub(super) fn new(key: impl Into<String>, place: Option<Location>, fault: Invalid) -> Mistake {
        let Invalid { wrong, remedy } = fault;
        Mistake { key: key.into(), place, wrong, remedy }
    }
}

/// Where a value was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// In this line of the file, from 1.
    Line(usize),
    /// At this line and column of the file, both from 1.
    LineAndColumn(usize, usize),
    /// In the environment.
    Environment,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { key, place, wrong, remedy } = self;
        match place {
            None => write!(f, "{key} {wrong}: {remedy}"),
            Some(Location::Line(line)) => write!(f, "{key} (line {line}) {wrong}: {remedy}"),
            Some(Location::LineAndColumn(line, column)) => {
                write!(f, "{key} (line {line}, column {column}) {wrong}: {remedy}")
            }
            Some(Location::Environment) => write!(f, "{key} (environment) {wrong}: {remedy}"),
        }
    }
}

/// What is wrong with one value, without its key. No part of it was taken from the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wrong}: {remedy}")]
pub struct Invalid {
    /// The sentence that begins with the key.
    pub wrong: String,
    /// What to do: an order to a person.
    pub remedy: String,
}

impl Invalid {
    /// Both sentences.
    pub fn new(wrong: impl Into<String>, remedy: impl Into<String>) -> Invalid {
        Invalid { wrong: wrong.into(), remedy: remedy.into() }
    }
}

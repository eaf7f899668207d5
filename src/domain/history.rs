//! What was done to a letter before: all that must be remembered between two steps, since the worker has no
//! database. It travels in the letter's `cancel-` headers (`wire` reads and writes them).

use jiff::Timestamp;

use super::evidence::{Findings, Shown};
use super::fault::Fault;
use super::outcome::{RejectedReason, StatusName};
use super::step::Question;

/// What a letter may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It may call.
    Call,
    /// It only asks; it calls again on evidence of *not done*.
    Settle,
}

impl Phase {
    /// The phase's name in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Call => "call",
            Phase::Settle => "settle",
        }
    }

    /// The phase of this name.
    pub fn parse(text: &str) -> Option<Phase> {
        [Phase::Call, Phase::Settle].into_iter().find(|phase| phase.as_str() == text)
    }
}

/// Whether a call may have had an effect that we do not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// No call of ours is without an answer.
    None,
    /// A call may have had an effect.
    MayHaveHappened,
}

/// What the last answered call said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was refused because of the payment's state, for this reason.
    RefusedByState(RejectedReason),
    /// The gateway is not set up for this payment.
    NotConfigured,
}

impl Why {
    /// The text in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::RefusedByState(reason) => reason.as_str(),
            Why::NotConfigured => "not_configured",
        }
    }

    /// What the header's text means.
    pub fn parse(text: &str) -> Option<Why> {
        match text {
            "not_configured" => Some(Why::NotConfigured),
            reason => RejectedReason::parse(reason).map(Why::RefusedByState),
        }
    }
}

/// One payment of a batch, on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// To be called.
    ToCall,
    /// Called, and the answer did not tell what became of it.
    Doubt,
    /// Ordered: the reply named it with status 1.
    Ordered,
    /// The reply named it with another status than 1.
    Named,
    /// Announced: cancelled.
    Cancelled,
    /// Announced: rejected.
    Rejected,
    /// Announced: given up.
    GivenUp,
    /// Announced: unresolved.
    Unresolved,
}

impl Item {
    const ALL: [Item; 8] = [
        Item::ToCall,
        Item::Doubt,
        Item::Ordered,
        Item::Named,
        Item::Cancelled,
        Item::Rejected,
        Item::GivenUp,
        Item::Unresolved,
    ];

    /// The item's character in the header `cancel-items`.
    pub fn as_char(self) -> char {
        match self {
            Item::ToCall => 'n',
            Item::Doubt => 'd',
            Item::Ordered => 'a',
            Item::Named => 'b',
            Item::Cancelled => 'C',
            Item::Rejected => 'J',
            Item::GivenUp => 'G',
            Item::Unresolved => 'U',
        }
    }

    /// The item that this character stands for.
    pub fn from_char(c: char) -> Option<Item> {
        Item::ALL.into_iter().find(|item| item.as_char() == c)
    }

    /// Whether an event of this item has been announced that ends our work on it.
    pub fn is_decided(self) -> bool {
        match self {
            Item::ToCall | Item::Doubt | Item::Ordered | Item::Named => false,
            Item::Cancelled | Item::Rejected | Item::GivenUp | Item::Unresolved => true,
        }
    }
}

/// The codes of the last reply to a call, or how the last try failed. Codes only: never the gateway's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastReply {
    /// The HTTP status code; `None` when the last call was not answered, or none was made yet.
    pub http_status: Option<u16>,
    /// `ErrorCode`.
    pub error_code: Option<i64>,
    /// `ErrorCodeType`; known in the step of the call only.
    pub error_code_type: Option<i64>,
    /// `ClientMessage`, a fixed code.
    pub client_message: Option<String>,
    /// How the last try to reach the gateway failed, a call or a look; `None` where it was answered.
    pub fault: Option<Fault>,
    /// Which rule read the last reply, to a call or to a look.
    pub rule: Option<String>,
}

/// What was done to a letter before.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// What it may do next.
    pub phase: Phase,
    /// Calls that may have reached the gateway, lock-outs left out.
    pub attempts: u32,
    /// When the last call ended, ours or a copy's.
    pub called_at: Option<Timestamp>,
    /// Looks made since the letter last entered phase settle.
    pub asked: u32,
    /// When the letter entered phase settle.
    pub settling_since: Option<Timestamp>,
    /// When the intent was first seen (or replayed).
    pub first_seen: Timestamp,
    /// Not to be handled before.
    pub due: Option<Timestamp>,
    /// Whether a call may have had an effect. For a batch: whether any item is in doubt.
    pub doubt: Doubt,
    /// What the last answered call said; `None`: not called, or not answered.
    pub why: Option<Why>,
    /// The codes of the last reply to a call.
    pub last: LastReply,
    /// What the last look showed.
    pub shown: Option<Shown>,
    /// The statuses announced so far for the intent as a whole.
    pub announced: Vec<StatusName>,
    /// How often a person replayed the dead letter.
    pub replays: u32,
    /// Processes that died with this letter in hand, in a row.
    pub strikes: u32,
    /// A batch: one per payment, in the order of the intent. Empty for every other kind.
    pub items: Vec<Item>,
}

impl History {
    /// The history of a letter that nothing was done to, first seen at `now`.
    pub fn fresh(now: Timestamp, items_len: usize) -> History {
        History {
            phase: Phase::Call,
            attempts: 0,
            called_at: None,
            asked: 0,
            settling_since: None,
            first_seen: now,
            due: None,
            doubt: Doubt::None,
            why: None,
            last: LastReply::default(),
            shown: None,
            announced: Vec::new(),
            replays: 0,
            strikes: 0,
            items: vec![Item::ToCall; items_len],
        }
    }

    /// The payments of a batch that are to be called.
    pub fn to_call(&self) -> impl Iterator<Item = usize> {
        (0..self.items.len()).filter(|index| self.items[*index] == Item::ToCall)
    }

    /// The history after a look. One that was not answered remembers how the last of its requests failed, if no reply came
    /// that could be read, and leaves the codes of the last reply to a call; one that was answered takes back what a failed
    /// look before it remembered.
    pub fn looked(&self, findings: &Findings, fault: Option<Fault>) -> History {
        let mut history = self.clone();
        if findings.is_unanswered() {
            history.last.fault = fault.or(history.last.fault);
        } else if history.shown == Some(Shown::Unanswered) {
            history.last.fault = None;
        }
        history
    }

    /// How many looks make a round, in which every payment is asked for once: one, or as many as a batch takes.
    pub fn looks_per_round(&self) -> u32 {
        u32::try_from(self.items.len().div_ceil(Question::BATCH_LEN_MAX)).unwrap_or(u32::MAX).max(1)
    }

    /// How many whole rounds of looks were made: what `inquiry.asks_max` and the schedule count.
    pub fn rounds(&self) -> u32 {
        self.asked / self.looks_per_round()
    }

    /// Whether an event of this status has been announced for the intent as a whole.
    pub fn has_announced(&self, status: StatusName) -> bool {
        self.announced.contains(&status)
    }
}

//! A letter's history in its `cancel-` headers: what is remembered between two steps.

use jiff::Timestamp;

use super::envelope::{HeaderValue, Headers};
use crate::domain::evidence::Shown;
use crate::domain::fault::Fault;
use crate::domain::history::{Doubt, History, Item, LastReply, Phase, Why};
use crate::domain::outcome::StatusName;

/// Header names.
pub mod name {
    /// `call` or `settle`.
    pub const PHASE: &str = "cancel-phase";
    /// Calls that may have reached the gateway, lock-outs left out.
    pub const ATTEMPT: &str = "cancel-attempt";
    /// End of the last call.
    pub const CALLED_AT: &str = "cancel-called-at";
    /// Looks made.
    pub const ASKED: &str = "cancel-asked";
    /// When phase settle was entered.
    pub const SETTLING_SINCE: &str = "cancel-settling-since";
    /// When the letter was first seen, or replayed.
    pub const FIRST_SEEN: &str = "cancel-first-seen";
    /// Not to be handled before.
    pub const DUE: &str = "cancel-due";
    /// Whether a call may have had an effect.
    pub const DOUBT: &str = "cancel-doubt";
    /// Reason of the last refusal by state, or `not_configured`.
    pub const WHY: &str = "cancel-why";
    /// HTTP status of the last reply to a call.
    pub const HTTP_STATUS: &str = "cancel-http-status";
    /// `ErrorCode` of the last reply to a call.
    pub const ERROR_CODE: &str = "cancel-error-code";
    /// `ClientMessage` of the last reply to a call.
    pub const CLIENT_MESSAGE: &str = "cancel-client-message";
    /// How the last try to reach the gateway failed.
    pub const FAULT: &str = "cancel-fault";
    /// Which rule read the last reply.
    pub const RULE: &str = "cancel-rule";
    /// What the last look showed.
    pub const EVIDENCE: &str = "cancel-evidence";
    /// Statuses announced for the intent as a whole.
    pub const ANNOUNCED: &str = "cancel-announced";
    /// How often the letter was replayed.
    pub const REPLAYS: &str = "cancel-replays";
    /// Deaths in a row with this letter in hand.
    pub const STRIKES: &str = "cancel-strikes";
    /// A batch: one character a payment.
    pub const ITEMS: &str = "cancel-items";
}

/// The headers that carry this history.
pub fn encode(history: &History) -> Headers {
    let mut headers = Headers::new();
    let mut put = |name: &str, value: HeaderValue| {
        headers.insert(name.to_owned(), value);
    };
    let text = |text: &str| HeaderValue::Text(text.to_owned());
    let time = |at: Timestamp| HeaderValue::Text(at.to_string());
    put(name::PHASE, text(history.phase.as_str()));
    put(name::ATTEMPT, HeaderValue::Int(history.attempts.into()));
    put(name::ASKED, HeaderValue::Int(history.asked.into()));
    put(name::FIRST_SEEN, time(history.first_seen));
    put(name::DOUBT, HeaderValue::Bool(history.doubt == Doubt::MayHaveHappened));
    put(name::REPLAYS, HeaderValue::Int(history.replays.into()));
    put(name::STRIKES, HeaderValue::Int(history.strikes.into()));
    if let Some(at) = history.called_at {
        put(name::CALLED_AT, time(at));
    }
    if let Some(at) = history.settling_since {
        put(name::SETTLING_SINCE, time(at));
    }
    if let Some(at) = history.due {
        put(name::DUE, time(at));
    }
    if let Some(why) = history.why {
        put(name::WHY, text(why.as_str()));
    }
    if let Some(status) = history.last.http_status {
        put(name::HTTP_STATUS, HeaderValue::Int(status.into()));
    }
    if let Some(code) = history.last.error_code {
        put(name::ERROR_CODE, HeaderValue::Int(code));
    }
    if let Some(message) = &history.last.client_message {
        put(name::CLIENT_MESSAGE, text(message));
    }
    if let Some(fault) = history.last.fault {
        put(name::FAULT, text(fault.as_str()));
    }
    if let Some(rule) = &history.last.rule {
        put(name::RULE, text(rule));
    }
    if let Some(shown) = history.shown {
        put(name::EVIDENCE, text(shown.as_str()));
    }
    if !history.announced.is_empty() {
        let names: Vec<&str> = history.announced.iter().map(|status| status.as_str()).collect();
        put(name::ANNOUNCED, HeaderValue::Text(names.join(",")));
    }
    if !history.items.is_empty() {
        put(name::ITEMS, HeaderValue::Text(history.items.iter().map(|item| item.as_char()).collect()));
    }
    headers
}

/// How many payments the items of these headers speak of.
pub fn items_len(headers: &Headers) -> usize {
    match headers.get(name::ITEMS) {
        Some(HeaderValue::Text(items)) => items.chars().count(),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => 0,
    }
}

/// The history that these headers carry; `None` if they carry none that could be ours. They are believed only
/// where no order system can write.
pub fn decode(headers: &Headers, items_len: usize) -> Option<History> {
    let text = |name: &str| match headers.get(name) {
        Some(HeaderValue::Text(text)) => Some(text.as_str()),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    };
    let int = |name: &str| match headers.get(name) {
        Some(HeaderValue::Int(value)) => Some(*value),
        Some(HeaderValue::Text(_) | HeaderValue::Bool(_)) | None => None,
    };
    let count = |name: &str| int(name).map_or(Some(0), |value| u32::try_from(value).ok());
    let time = |name: &str| match text(name) {
        None => Some(None),
        Some(text) => text.parse::<Timestamp>().ok().map(Some),
    };
    let doubt = match headers.get(name::DOUBT) {
        Some(HeaderValue::Bool(false)) => Doubt::None,
        // What is not clearly no doubt is doubt.
        Some(HeaderValue::Bool(true) | HeaderValue::Text(_) | HeaderValue::Int(_)) | None => {
            Doubt::MayHaveHappened
        }
    };
    let items: Vec<Item> = match text(name::ITEMS) {
        Some(items) => items.chars().map(Item::from_char).collect::<Option<_>>()?,
        // A suspect is isolated before its body is read: then nobody knows yet how many payments it has.
        None if doubt == Doubt::MayHaveHappened => vec![Item::Doubt; items_len],
        None => Vec::new(),
    };
    if items.len() != items_len {
        return None;
    }
    let announced = match text(name::ANNOUNCED) {
        None => Vec::new(),
        Some(names) => names.split(',').map(StatusName::parse).collect::<Option<_>>()?,
    };
    let why = match text(name::WHY) {
        None => None,
        Some(why) => Some(Why::parse(why)?),
    };
    Some(History {
        phase: Phase::parse(text(name::PHASE)?)?,
        attempts: count(name::ATTEMPT)?,
        called_at: time(name::CALLED_AT)?,
        asked: count(name::ASKED)?,
        settling_since: time(name::SETTLING_SINCE)?,
        first_seen: time(name::FIRST_SEEN)??,
        due: time(name::DUE)?,
        doubt,
        why,
        last: LastReply {
            http_status: int(name::HTTP_STATUS).and_then(|status| u16::try_from(status).ok()),
            error_code: int(name::ERROR_CODE),
            error_code_type: None,
            client_message: text(name::CLIENT_MESSAGE).map(str::to_owned),
            fault: text(name::FAULT).and_then(Fault::parse),
            rule: text(name::RULE).map(str::to_owned),
        },
        shown: text(name::EVIDENCE).and_then(Shown::parse),
        announced,
        replays: count(name::REPLAYS)?,
        strikes: count(name::STRIKES)?,
        items,
    })
}

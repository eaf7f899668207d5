//! Outcome events that the broker refused, while they wait to be announced again.

use serde::Deserialize;

use super::OUTCOME_CONTENT_TYPE;
use crate::domain::retry::Tier;
use crate::wire::envelope::{Address, HeaderValue, Headers, Letter, Message, Messages, Occasion};
use crate::wire::history;

/// Headers of an event that the broker refused, while it waits to be announced again.
mod name {
    /// Its `message-id`.
    pub(super) const EVENT_ID: &str = "cancel-event-id";
    /// How often it was refused.
    pub(super) const TRIES: &str = "cancel-announce-tries";
}

/// What the routing key of a refused event begins with while it waits.
pub(in crate::wire) const PARKED_KEY: &str = "announce.";

/// How often the event in this letter has been refused; 0 for what is no parked event.
pub fn refusals(headers: &Headers) -> u32 {
    match headers.get(name::TRIES) {
        Some(HeaderValue::Int(tries)) => u32::try_from(*tries).unwrap_or(u32::MAX),
        Some(HeaderValue::Text(_) | HeaderValue::Bool(_)) | None => 0,
    }
}

/// A refused event as it waits in a delay queue: the same bytes, by itself. `None` for what is no event.
pub fn park(refused: &Message, tries: u32, tier: &Tier) -> Option<Message> {
    let event_id = match refused.address {
        Address::Announce => refused.message_id.clone()?,
        Address::Delay(_) | Address::DeadLetters | Address::Isolation | Address::Intents => return None,
    };
    let mut headers = refused.headers.clone();
    headers.insert(name::EVENT_ID.to_owned(), HeaderValue::Text(event_id));
    headers.insert(name::TRIES.to_owned(), HeaderValue::Int(tries.into()));
    Some(Message {
        address: Address::Delay(tier.clone()),
        routing_key: format!("{}{}", PARKED_KEY, refused.routing_key),
        headers,
        content_type: refused.content_type,
        message_id: None,
        occasion: None,
        body: refused.body.clone(),
    })
}

/// A refused event whose wait is over, as it is announced again.
pub fn announce_again(letter: &Letter) -> Messages {
    let text = |name: &str| match letter.headers.get(name) {
        Some(HeaderValue::Text(text)) => Some(text.clone()),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    };
    let routing_key = letter.routing_key.strip_prefix(PARKED_KEY).unwrap_or(&letter.routing_key);
    let event = Message {
        address: Address::Announce,
        routing_key: routing_key.to_owned(),
        headers: letter
            .headers
            .iter()
            .filter(|(name, _)| matches!(name.as_str(), "traceparent" | "tracestate" | history::name::RULE))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        content_type: OUTCOME_CONTENT_TYPE,
        message_id: text(name::EVENT_ID),
        occasion: occasion_of(&letter.body),
        body: letter.body.clone(),
    };
    Messages::new(event, [])
}

/// What an event says of its occasion.
fn occasion_of(event: &[u8]) -> Option<Occasion> {
    #[derive(Deserialize)]
    struct Event {
        time: String,
        data: Data,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        intent_id: String,
    }
    let Event { time, data } = serde_json::from_slice(event).ok()?;
    Some(Occasion { correlation_id: data.intent_id, at: time.parse().ok()? })
}

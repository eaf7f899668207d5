//! Letters and messages for this room's tests.

use bytes::Bytes;
use jiff::Timestamp;

use crate::domain::intent::Kind;
use crate::wire::envelope::{Address, Headers, Letter, Message, Messages, Redelivered, Source};

pub(super) const NOW: Timestamp = Timestamp::UNIX_EPOCH;

pub(super) fn letter(body: &'static str) -> Letter {
    Letter {
        source: Source::Lane(Kind::AsyncCancel),
        routing_key: "async_cancel".to_owned(),
        redelivered: Redelivered::No,
        headers: Headers::new(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

pub(super) fn message(address: Address) -> Message {
    Message {
        address,
        routing_key: "async_cancel.cancelled".to_owned(),
        headers: Headers::new(),
        content_type: "application/json",
        message_id: None,
        occasion: None,
        body: Bytes::from_static(b"said"),
    }
}

pub(super) fn outcome() -> Messages {
    Messages::new(message(Address::Announce), [])
}

//! The way through one delay queue in two headers of our own: when it is due to end, and which tier it is. They are
//! written when the letter is about to go, read where it comes back, and never carried on from there.

use jiff::Timestamp;

use super::envelope::{Address, HeaderValue, Letter, Message, Source};
use super::outcome::PARKED_KEY;
use crate::domain::intent::Kind;
use crate::domain::lateness::{Hop, WayBack};
use crate::domain::retry::later;

/// When the hop is due to end.
const DUE: &str = "cancel-hop-due";
/// The name of the tier.
const TIER: &str = "cancel-hop";

/// Writes the hop on a message that is about to go to a delay queue, and says which it is. `None` for every other.
pub fn stamp(message: &mut Message, now: Timestamp) -> Option<Hop> {
    let tier = match &message.address {
        Address::Delay(tier) => tier,
        Address::Announce | Address::DeadLetters | Address::Isolation | Address::Intents => return None,
    };
    let way_back = if message.routing_key.starts_with(PARKED_KEY) {
        WayBack::Announcements
    } else {
        WayBack::Returns(Kind::parse(&message.routing_key)?)
    };
    let hop = Hop { tier: tier.name.clone(), way_back, due: later(now, tier.length) };
    message.headers.insert(DUE.to_owned(), HeaderValue::Text(hop.due.to_string()));
    message.headers.insert(TIER.to_owned(), HeaderValue::Text(hop.tier.clone()));
    Some(hop)
}

/// Whether a header tells of the hop, and not of the letter.
pub fn tells(header: &str) -> bool {
    header == DUE || header == TIER
}

/// The hop that ends with this delivery. Believed only where nobody but the broker can write.
pub fn read(letter: &Letter) -> Option<Hop> {
    let way_back = match letter.source {
        Source::Returns(kind) => WayBack::Returns(kind),
        Source::Announcements => WayBack::Announcements,
        Source::Lane(_) | Source::Rescue | Source::Isolation => return None,
    };
    let text = |name: &str| match letter.headers.get(name) {
        Some(HeaderValue::Text(text)) => Some(text.as_str()),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    };
    Some(Hop { tier: text(TIER)?.to_owned(), way_back, due: text(DUE)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::domain::retry::Tier;
    use crate::wire::envelope::{Headers, Redelivered};

    fn message(address: Address, routing_key: &str) -> Message {
        Message {
            address,
            routing_key: routing_key.to_owned(),
            headers: Headers::new(),
            content_type: "application/json",
            message_id: None,
            occasion: None,
            body: Bytes::new(),
        }
    }

    fn delay() -> Address {
        Address::Delay(Tier { length: Duration::from_secs(5), name: "5s".to_owned() })
    }

    fn arrives(source: Source, message: Message) -> Letter {
        let Message { routing_key, headers, body, .. } = message;
        Letter { source, routing_key, redelivered: Redelivered::No, headers, body }
    }

    #[test]
    fn what_was_written_when_it_went_is_read_when_it_comes_back() {
        for (routing_key, source) in [
            ("batch_cancel", Source::Returns(Kind::BatchCancel)),
            ("announce.batch_cancel.cancelled", Source::Announcements),
        ] {
            let mut message = message(delay(), routing_key);
            let hop = stamp(&mut message, Timestamp::UNIX_EPOCH).expect("it goes to a delay queue");
            assert_eq!(hop.due.as_second(), 5);
            assert_eq!(read(&arrives(source, message)), Some(hop), "{routing_key}");
        }
    }

    #[test]
    fn a_lane_is_not_believed() {
        let mut message = message(delay(), "batch_cancel");
        stamp(&mut message, Timestamp::UNIX_EPOCH);
        assert_eq!(read(&arrives(Source::Lane(Kind::BatchCancel), message)), None);
    }

    #[test]
    fn what_goes_nowhere_to_wait_is_not_stamped() {
        for address in [Address::Announce, Address::DeadLetters, Address::Isolation, Address::Intents] {
            let mut message = message(address, "batch_cancel");
            assert_eq!(stamp(&mut message, Timestamp::UNIX_EPOCH), None);
            assert_eq!(message.headers, Headers::new());
        }
    }

    #[test]
    fn a_hop_that_goes_again_is_due_anew() {
        let mut message = message(delay(), "batch_cancel");
        stamp(&mut message, Timestamp::UNIX_EPOCH);
        let later = later(Timestamp::UNIX_EPOCH, Duration::from_secs(60));
        let again = stamp(&mut message, later).expect("it goes to a delay queue");
        assert_eq!(again.due.as_second(), 65);
    }

    #[test]
    fn headers_that_are_not_ours_are_no_hop() {
        let mut message = message(delay(), "batch_cancel");
        message.headers.insert(DUE.to_owned(), HeaderValue::Text("soon".to_owned()));
        message.headers.insert(TIER.to_owned(), HeaderValue::Int(5));
        assert_eq!(read(&arrives(Source::Returns(Kind::BatchCancel), message)), None);
    }
}

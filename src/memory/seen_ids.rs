//! The ids that this process has seen and their contents, so that an id that is used for two intents is noticed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use bytes::Bytes;

use super::bounded::Bounded;
use super::lock;
use crate::domain::intent::{CancelIntent, IntentId};

/// What a letter holds under its id. White space and `reference` do not count in a valid letter.
#[derive(Debug, Hash)]
pub enum IdContent<'a> {
    /// A valid intent.
    Intent(&'a CancelIntent),
    /// Bytes that are no valid intent.
    Malformed(&'a Bytes),
}

/// A bounded memory of ids, with a hash of what each was first seen with. Two contents with one hash, a chance of 1 in 2^64,
/// are handled as without this memory.
#[derive(Debug)]
pub struct SeenIds {
    hasher: RandomState,
    hashes: Mutex<Bounded<IntentId, u64>>,
}

impl SeenIds {
    /// A memory of this many ids at most.
    pub fn new(len_max: usize) -> SeenIds {
        SeenIds { hasher: RandomState::new(), hashes: Mutex::new(Bounded::new(len_max)) }
    }

    /// Whether the id was seen with other content. An id that is new is remembered with this one.
    pub fn is_other(&self, id: IntentId, content: &IdContent<'_>) -> bool {
        let hash = self.hasher.hash_one(content);
        let mut hashes = lock(&self.hashes);
        if let Some(known) = hashes.get(&id) {
            return *known != hash;
        }
        hashes.keep(id, hash, 1);
        false
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::fixtures::intent;
    use crate::domain::intent::{Kind, MerchantName};

    const BODY: Bytes = Bytes::from_static(b"{}");

    #[test]
    fn an_id_may_come_again_with_the_same_content_only() {
        let seen_ids = SeenIds::new(10);
        let first = intent(Kind::AsyncCancel);
        for _ in 0..2 {
            assert!(!seen_ids.is_other(first.id, &IdContent::Intent(&first)));
        }
        let merchant = MerchantName::parse("other").expect("it is a name");
        let later = first.requested_at + SignedDuration::from_secs(1);
        for other in [
            CancelIntent { merchant, ..first.clone() },
            CancelIntent { requested_at: later, ..first.clone() },
            CancelIntent { target: intent(Kind::TransactionCancel).target, ..first.clone() },
        ] {
            assert!(seen_ids.is_other(first.id, &IdContent::Intent(&other)), "{other:?}");
        }
        assert!(!seen_ids.is_other(first.id, &IdContent::Intent(&first)));
    }

    #[test]
    fn a_malformed_letter_and_a_valid_one_differ() {
        let seen_ids = SeenIds::new(10);
        let valid = intent(Kind::AsyncCancel);
        assert!(!seen_ids.is_other(valid.id, &IdContent::Malformed(&BODY)));
        assert!(!seen_ids.is_other(valid.id, &IdContent::Malformed(&BODY)));
        assert!(seen_ids.is_other(valid.id, &IdContent::Intent(&valid)));
    }

    #[test]
    fn the_oldest_id_is_forgotten_when_the_memory_is_full() {
        let seen_ids = SeenIds::new(1);
        let (first, second) = (intent(Kind::AsyncCancel), intent(Kind::TransactionCancel));
        let second =
            CancelIntent { id: IntentId::try_new(uuid::Uuid::from_u128(7)).expect("not nil"), ..second };
        assert!(!seen_ids.is_other(first.id, &IdContent::Intent(&first)));
        assert!(!seen_ids.is_other(second.id, &IdContent::Intent(&second)));
        assert!(!seen_ids.is_other(first.id, &IdContent::Malformed(&BODY)), "it is new again");
    }
}

//! What the ids stood for that this process has seen, so that an id that is used for two intents is noticed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use bytes::Bytes;

use super::bounded::Bounded;
use super::lock;
use crate::domain::intent::{CancelIntent, IntentId};

/// What a letter uses its id for. White space and `reference` do not count where it could be read.
#[derive(Debug, Hash)]
pub enum IdContent<'a> {
    /// This, and it is called for.
    Intent(&'a CancelIntent),
    /// Nothing that is called for: the same bytes are the same.
    Malformed(&'a Bytes),
}

/// A bounded memory of ids. Only a fingerprint is kept of what an id stood for: two that are taken for one, of which the
/// chance is 1 in 2^64, are what they would be without this memory.
#[derive(Debug)]
pub struct SeenIds {
    hasher: RandomState,
    fingerprints: Mutex<Bounded<IntentId, u64>>,
}

impl SeenIds {
    /// A memory of this many ids at most.
    pub fn new(len_max: usize) -> SeenIds {
        SeenIds { hasher: RandomState::new(), fingerprints: Mutex::new(Bounded::new(len_max)) }
    }

    /// Whether the id was seen with other content. An id that is new is remembered with this one.
    pub fn is_other(&self, id: IntentId, content: &IdContent<'_>) -> bool {
        let fingerprint = self.hasher.hash_one(content);
        let mut fingerprints = lock(&self.fingerprints);
        if let Some(known) = fingerprints.get(&id) {
            return *known != fingerprint;
        }
        fingerprints.keep(id, fingerprint, 1);
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
    fn the_same_wish_may_come_again_and_another_may_not() {
        let wishes = SeenIds::new(10);
        let first = intent(Kind::AsyncCancel);
        for _ in 0..2 {
            assert!(!wishes.is_other(first.id, &IdContent::Intent(&first)));
        }
        let merchant = MerchantName::parse("other").expect("it is a name");
        let later = first.requested_at + SignedDuration::from_secs(1);
        for other in [
            CancelIntent { merchant, ..first.clone() },
            CancelIntent { requested_at: later, ..first.clone() },
            CancelIntent { target: intent(Kind::TransactionCancel).target, ..first.clone() },
        ] {
            assert!(wishes.is_other(first.id, &IdContent::Intent(&other)), "{other:?}");
        }
        assert!(!wishes.is_other(first.id, &IdContent::Intent(&first)));
    }

    #[test]
    fn what_could_not_be_read_is_another_wish_than_what_can() {
        let wishes = SeenIds::new(10);
        let valid = intent(Kind::AsyncCancel);
        assert!(!wishes.is_other(valid.id, &IdContent::Malformed(&BODY)));
        assert!(!wishes.is_other(valid.id, &IdContent::Malformed(&BODY)));
        assert!(wishes.is_other(valid.id, &IdContent::Intent(&valid)));
    }

    #[test]
    fn the_oldest_id_is_forgotten_when_the_memory_is_full() {
        let wishes = SeenIds::new(1);
        let (first, second) = (intent(Kind::AsyncCancel), intent(Kind::TransactionCancel));
        let second =
            CancelIntent { id: IntentId::try_new(uuid::Uuid::from_u128(7)).expect("not nil"), ..second };
        assert!(!wishes.is_other(first.id, &IdContent::Intent(&first)));
        assert!(!wishes.is_other(second.id, &IdContent::Intent(&second)));
        assert!(!wishes.is_other(first.id, &IdContent::Malformed(&BODY)), "it is new again");
    }
}

//! What the ids stood for that this process has seen, so that an id that is used for two intents is noticed.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::domain::intent::{CancelIntent, IntentId};

/// What a letter uses its id for. White space and `reference` do not count where it could be read.
#[derive(Debug)]
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
    len_max: usize,
    hasher: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    fingerprints: HashMap<IntentId, u64>,
    /// In the order of their coming, for forgetting the oldest.
    order: VecDeque<IntentId>,
}

impl SeenIds {
    /// A memory of at most so many ids.
    pub fn new(len_max: usize) -> SeenIds {
        SeenIds { len_max, hasher: RandomState::new(), inner: Mutex::default() }
    }

    /// Whether the id was seen with other content. An id that is new is remembered with this one.
    pub fn is_other(&self, id: IntentId, content: &IdContent<'_>) -> bool {
        let fingerprint = self.fingerprint(content);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.fingerprints.get(&id) {
            return *known != fingerprint;
        }
        inner.fingerprints.insert(id, fingerprint);
        inner.order.push_back(id);
        while inner.order.len() > self.len_max {
            if let Some(oldest) = inner.order.pop_front() {
                inner.fingerprints.remove(&oldest);
            }
        }
        false
    }

    fn fingerprint(&self, content: &IdContent<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        match content {
            IdContent::Intent(intent) => (0_u8, intent).hash(&mut hasher),
            IdContent::Malformed(body) => (1_u8, body).hash(&mut hasher),
        }
        hasher.finish()
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

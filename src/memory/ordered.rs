//! The intents that this process has ordered, or done.

use std::sync::Mutex;

use jiff::Timestamp;

use super::bounded::Bounded;
use super::lock;
use crate::domain::intent::IntentId;

/// The intents that this process has ordered, or done. A call for a second copy of such an intent would be in vain; and for
/// an async cancel whose order was rolled back, it would order again what was withdrawn. So a look decides the copy.
/// Copies come without any intention: a publisher that gets no confirm in time publishes again.
#[derive(Debug)]
pub struct Ordered(Mutex<Bounded<IntentId, Timestamp>>);

impl Ordered {
    /// A memory of this many intents at most.
    pub fn new(len_max: usize) -> Ordered {
        Ordered(Mutex::new(Bounded::new(len_max)))
    }

    /// Remembers that an intent was ordered, or done, by a call that ended then.
    pub fn remember(&self, intent: IntentId, called_at: Timestamp) {
        let mut calls = lock(&self.0);
        match calls.get_mut(&intent) {
            Some(known) => *known = called_at,
            None => calls.keep(intent, called_at, 1),
        }
    }

    /// When the call that ordered this intent ended, if this process made it and still knows.
    pub fn called_at(&self, intent: IntentId) -> Option<Timestamp> {
        lock(&self.0).get(&intent).copied()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> IntentId {
        IntentId::try_new(Uuid::from_u128(n)).expect("not nil")
    }

    #[test]
    fn the_oldest_is_forgotten_when_the_memory_is_full() {
        let memory = Ordered::new(2);
        for n in 1..=3 {
            memory.remember(id(n), Timestamp::UNIX_EPOCH);
        }
        let known: Vec<bool> = (1..=3).map(|n| memory.called_at(id(n)).is_some()).collect();
        assert_eq!(known, [false, true, true]);
    }

    #[test]
    fn an_intent_that_is_ordered_twice_takes_one_place() {
        let memory = Ordered::new(2);
        for n in [1, 1, 1, 2] {
            memory.remember(id(n), Timestamp::UNIX_EPOCH);
        }
        assert!(memory.called_at(id(1)).is_some());
    }
}

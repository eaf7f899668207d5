//! The one map for what is remembered within a limit.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A map whose idle entries have a limit of weight: bytes, or a count. Beyond it the map forgets idle entries, those
/// first that were kept first. An entry in use weighs nothing and is never forgotten.
///
/// Every operation takes constant time, amortized.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    weight_max: usize,
    /// The weight of all idle entries.
    weight: usize,
    entries: HashMap<K, Entry<V>>,
    /// Idle entries by age, the oldest first. A turn that its entry no longer has is stale.
    order: VecDeque<(K, u64)>,
    turns: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    /// Numbers the idle entries as they were kept; `None`: in use.
    turn: Option<u64>,
    weight: usize,
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    pub(super) fn new(weight_max: usize) -> Bounded<K, V> {
        Bounded { weight_max, weight: 0, entries: HashMap::new(), order: VecDeque::new(), turns: 0 }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Puts an entry that is in use, in place of any that was there.
    pub(super) fn hold(&mut self, key: K, value: V) {
        self.remove(&key);
        self.entries.insert(key, Entry { value, turn: None, weight: 0 });
    }

    /// Puts an idle entry, the youngest, in place of any that was there; forgets the oldest ones beyond the limit.
    pub(super) fn keep(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        self.turns += 1;
        self.weight += weight;
        self.order.push_back((key, self.turns));
        self.entries.insert(key, Entry { value, turn: Some(self.turns), weight });
        self.forget_oldest_while(|_| false);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let Entry { value, weight, .. } = self.entries.remove(key)?;
        self.weight -= weight;
        // An old entry that stays must not let the stale turns behind it pile up.
        if self.order.len() > 2 * self.entries.len() + 32 {
            self.order
                .retain(|(key, turn)| self.entries.get(key).is_some_and(|entry| entry.turn == Some(*turn)));
        }
        Some(value)
    }

    /// Forgets the oldest idle entries as long as they are too old, or all together too heavy.
    pub(super) fn forget_oldest_while(&mut self, is_too_old: impl Fn(&V) -> bool) {
        while let Some(&(key, turn)) = self.order.front() {
            let entry = self.entries.get(&key).filter(|entry| entry.turn == Some(turn));
            if entry.is_some_and(|entry| self.weight <= self.weight_max && !is_too_old(&entry.value)) {
                return;
            }
            let is_stale = entry.is_none();
            self.order.pop_front();
            if !is_stale {
                self.remove(&key);
            }
        }
    }
}

#[cfg(test)]
impl<K, V> Bounded<K, V> {
    pub(super) fn len_and_weight(&self) -> (usize, usize) {
        (self.entries.len(), self.weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const WEIGHT_MAX: usize = 100;

    #[derive(Debug, Clone, Copy)]
    enum Operation {
        Hold,
        Keep { weight: usize },
        Remove,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let keep = (0..60_usize).prop_map(|weight| Operation::Keep { weight });
        prop_oneof![2 => Just(Operation::Hold), 6 => keep, 3 => Just(Operation::Remove)]
    }

    proptest! {
        /// The naive list has key, value and weight; what is in use has no weight. Values grow, so that the age of an
        /// entry can be told by them.
        #[test]
        fn it_remembers_what_a_naive_list_remembers(
            operations in vec((0..12_u8, operation(), prop::option::weighted(0.1, 0..300_usize)), 0..300),
        ) {
            let mut bounded = Bounded::new(WEIGHT_MAX);
            let mut naive: Vec<(u8, usize, Option<usize>)> = Vec::new();
            for (value, (key, operation, forgotten_below)) in operations.into_iter().enumerate() {
                let before = naive.iter().position(|(known, ..)| *known == key).map(|at| naive.remove(at));
                match operation {
                    Operation::Hold => {
                        bounded.hold(key, value);
                        naive.push((key, value, None));
                    }
                    Operation::Keep { weight } => {
                        bounded.keep(key, value, weight);
                        naive.push((key, value, Some(weight)));
                    }
                    Operation::Remove => prop_assert_eq!(bounded.remove(&key), before.map(|(_, value, _)| value)),
                }
                if let Some(below) = forgotten_below {
                    bounded.forget_oldest_while(|value| *value < below);
                }
                let weight = |naive: &[(u8, usize, Option<usize>)]| naive.iter().filter_map(|entry| entry.2).sum();
                while let Some(oldest) = naive.iter().position(|entry| entry.2.is_some())
                    && (weight(&naive) > WEIGHT_MAX || naive[oldest].1 < forgotten_below.unwrap_or(0))
                {
                    naive.remove(oldest);
                }
                prop_assert_eq!(bounded.len_and_weight(), (naive.len(), weight(&naive)));
                for (key, value, _) in &naive {
                    prop_assert_eq!(bounded.get(key), Some(value));
                }
            }
        }
    }

    #[test]
    fn an_old_entry_that_stays_lets_no_stale_turns_pile_up() {
        let mut bounded = Bounded::new(WEIGHT_MAX);
        bounded.keep(0, (), 1);
        for _ in 0..10_000 {
            bounded.keep(1, (), 1);
        }
        assert_eq!(bounded.len_and_weight(), (2, 2));
        assert!(bounded.order.len() < 50, "{}", bounded.order.len());
    }
}

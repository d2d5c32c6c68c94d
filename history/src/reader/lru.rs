//! What was used last, up to a number of bytes.
//!
//! Owns: the order of use, and who goes first.
//! Does not own: what becomes of those that go.
//!
//! Invariant: what is held takes no more than the limit.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// By when it was used, counted in uses.
    order: BTreeMap<u64, K>,
    uses: u64,
    bytes: u64,
    limit: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    used: u64,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    pub(super) fn new(limit: u64) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), uses: 0, bytes: 0, limit }
    }

    /// Bytes of all that is held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether something so large may be held: one thing must not push out most others.
    pub(super) fn admits(&self, bytes: u64) -> bool {
        bytes <= self.limit / 4
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// A value, which counts as a use of it.
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.order.remove(&entry.used) {
            self.order.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(&entry.value)
    }

    /// Holds a value, if it is not too large; returns what has to go for it.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: u64) -> Vec<(K, V)> {
        self.remove(&key);
        if !self.admits(bytes) {
            return Vec::new();
        }
        let gone = self.make_room(bytes);
        self.uses += 1;
        self.bytes += bytes;
        self.order.insert(self.uses, key.clone());
        self.entries.insert(key, Entry { value, bytes, used: self.uses });
        gone
    }

    /// Lets the least recently used go until so many more bytes can be held.
    pub(super) fn make_room(&mut self, bytes: u64) -> Vec<(K, V)> {
        let mut gone = Vec::new();
        while self.bytes.saturating_add(bytes) > self.limit {
            let Some((_, key)) = self.order.pop_first() else { break };
            if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= entry.bytes;
                gone.push((key, entry.value));
            }
        }
        gone
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used);
        self.bytes -= entry.bytes;
        Some(entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Get(u8),
        Insert(u8, u64),
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..12).prop_map(Step::Get),
            (0_u8..12, 0_u64..40).prop_map(|(key, bytes)| Step::Insert(key, bytes)),
            (0_u8..12).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// A list, the least recently used first, does the same.
        #[test]
        fn the_least_recently_used_goes_first_and_the_limit_holds(steps in prop::collection::vec(step(), 0..200)) {
            const LIMIT: u64 = 100;
            let mut lru: Lru<u8, u64> = Lru::new(LIMIT);
            let mut naive: Vec<(u8, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Get(key) => {
                        let at = naive.iter().position(|&(known, _)| known == key);
                        let expected = at.map(|at| naive.remove(at));
                        naive.extend(expected);
                        prop_assert_eq!(lru.get(&key).copied(), expected.map(|(_, bytes)| bytes));
                    }
                    Step::Insert(key, bytes) => {
                        naive.retain(|&(known, _)| known != key);
                        let mut gone = Vec::new();
                        if bytes <= LIMIT / 4 {
                            while naive.iter().map(|&(_, bytes)| bytes).sum::<u64>() + bytes > LIMIT {
                                gone.push(naive.remove(0));
                            }
                            naive.push((key, bytes));
                        }
                        prop_assert_eq!(lru.insert(key, bytes, bytes), gone);
                    }
                    Step::Remove(key) => {
                        lru.remove(&key);
                        naive.retain(|&(known, _)| known != key);
                    }
                }
                prop_assert!(lru.bytes() <= LIMIT);
                prop_assert_eq!(lru.bytes(), naive.iter().map(|&(_, bytes)| bytes).sum::<u64>());
                prop_assert_eq!(lru.entries.len(), lru.order.len());
            }
        }
    }
}

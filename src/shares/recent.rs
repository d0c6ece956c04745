//! Values by name, of which a limited number is remembered.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use crate::names::CallerId;

/// Remembers values, and forgets what was used least recently, of the caller with the most.
#[derive(Debug)]
pub struct Recent<K, V> {
    kept: HashMap<K, Kept<V>>,
    /// Counts the uses.
    uses: u64,
}

#[derive(Debug)]
struct Kept<V> {
    caller: CallerId,
    used: u64,
    value: V,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { kept: HashMap::new(), uses: 0 }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    /// The value of this name, which is used now.
    pub fn get<Q>(&mut self, name: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.uses += 1;
        let kept = self.kept.get_mut(name)?;
        kept.used = self.uses;
        Some(kept.value.clone())
    }

    /// Remembers a value of `caller`'s. If there are more than `max`, one is forgotten.
    pub fn insert(&mut self, caller: &CallerId, name: K, value: V, max: usize) {
        self.uses += 1;
        self.kept.insert(name, Kept { caller: caller.clone(), used: self.uses, value });
        if self.kept.len() <= max {
            return;
        }
        let mut callers: HashMap<&CallerId, usize> = HashMap::new();
        self.kept.values().for_each(|kept| *callers.entry(&kept.caller).or_default() += 1);
        let oldest = self.kept.iter().max_by_key(|(_, kept)| {
            (callers.get(&kept.caller).copied().unwrap_or_default(), u64::MAX - kept.used)
        });
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.kept.remove(&name);
        }
    }

    /// Forgets a value.
    pub fn remove<Q>(&mut self, name: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.kept.remove(name);
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_with_the_most_values_loses_one() {
        let mut table = Recent::default();
        let (one, other) = (CallerId::Uid(1), CallerId::Uid(2));
        for (caller, key) in [(&one, 1), (&other, 2), (&other, 3), (&other, 4)] {
            table.insert(caller, key, key, 4);
        }
        assert_eq!(table.get(&2), Some(2));
        // The oldest of the other's is now the third.
        table.insert(&one, 5, 5, 4);
        assert_eq!([1, 2, 3, 4, 5].map(|key| table.get(&key)), [Some(1), Some(2), None, Some(4), Some(5)]);
    }
}

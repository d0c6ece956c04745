//! What is known of files that were fetched: the digest of the content, and by what the server tells whether it has
//! changed. Forgetting costs a download.

use std::{collections::HashMap, hash::Hash, sync::Mutex};

use sha2::{Digest as _, Sha256};

use super::lock;
use crate::{
    names::{CallerId, reference::Digest},
    registry::Validators,
};

/// How many files are remembered: each takes some 700 bytes.
const KNOWN_MAX: usize = 4096;

/// A file, as it was fetched last.
#[derive(Clone, Debug)]
pub(super) struct KnownFile {
    pub(super) validators: Validators,
    pub(super) digest: Digest,
}

/// The remembered files.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Table<[u8; 32], KnownFile>>);

/// A table that forgets what was used least recently, of the caller with the most.
#[derive(Debug)]
struct Table<K, V> {
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

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { kept: HashMap::new(), uses: 0 }
    }
}

impl Known {
    /// The file of this name.
    pub(super) fn of(&self, name: &str) -> Option<KnownFile> {
        lock(&self.0).get(&key(name))
    }

    /// Remembers a file that `caller` has fetched.
    pub(super) fn remember(&self, caller: &CallerId, name: &str, file: KnownFile) {
        lock(&self.0).insert(caller, key(name), file, KNOWN_MAX);
    }

    /// Forgets a file.
    pub(super) fn forget(&self, name: &str) {
        lock(&self.0).kept.remove(&key(name));
    }
}

fn key(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

impl<K: Clone + Eq + Hash, V: Clone> Table<K, V> {
    fn get(&mut self, key: &K) -> Option<V> {
        self.uses += 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = self.uses;
        Some(kept.value.clone())
    }

    fn insert(&mut self, caller: &CallerId, key: K, value: V, max: usize) {
        self.uses += 1;
        self.kept.insert(key, Kept { caller: caller.clone(), used: self.uses, value });
        if self.kept.len() <= max {
            return;
        }
        let mut callers: HashMap<&CallerId, usize> = HashMap::new();
        self.kept.values().for_each(|kept| *callers.entry(&kept.caller).or_default() += 1);
        let oldest = self.kept.iter().max_by_key(|(_, kept)| {
            (callers.get(&kept.caller).copied().unwrap_or_default(), u64::MAX - kept.used)
        });
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.kept.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_with_the_most_files_loses_one() {
        let mut table = Table::default();
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

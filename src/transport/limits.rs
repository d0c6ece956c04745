//! Limits on open connections and calls of one caller.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How often the log says that a caller is beyond its limits.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(1);
/// How often it says so of all strangers together.
pub(super) const STRANGERS_LINE_EVERY: Duration = Duration::from_secs(60);

/// The limits of one caller.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one caller, over all sockets.
    pub connections_per_caller: usize,
    /// Calls of one caller that run at once, over all its connections. Each may cost a stream's window
    /// and an incomplete message.
    pub calls_per_caller: usize,
    /// Connections of one stranger: a user that is not served.
    pub connections_per_stranger: usize,
    /// Connections of all strangers: in a user namespace, one person can be many users.
    pub connections_of_strangers: usize,
    /// Connections of one user that have proven nothing yet, on a node with tokens.
    pub connections_of_unproven_user: usize,
    /// The same of all users.
    pub connections_of_unproven: usize,
    /// How long a client may take to send its preface. A live client sends it at once.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Six calls for each of 150 builds, and some to spare.
        Self {
            connections_per_caller: 512,
            calls_per_caller: 1024,
            connections_per_stranger: 4,
            connections_of_strangers: 64,
            connections_of_unproven_user: 64,
            connections_of_unproven: 256,
            handshake: Duration::from_secs(10),
        }
    }
}

/// The number of connections or calls for each key.
#[derive(Debug)]
pub struct Counts<K> {
    max: usize,
    by: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self { max: self.max, by: Arc::clone(&self.by) }
    }
}

impl<K: Clone + Eq + Hash> Counts<K> {
    /// At most `max` for each key.
    pub fn new(max: usize) -> Self {
        Self { max, by: Arc::default() }
    }

    /// The most for each key.
    pub fn max(&self) -> usize {
        self.max
    }

    /// A place for one more of `whose`, if one is free.
    pub fn take(&self, whose: &K) -> Option<Place<K>> {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        // A refused caller must not leave an entry behind.
        let count = by.get(whose).copied().unwrap_or_default();
        if count >= self.max {
            return None;
        }
        by.insert(whose.clone(), count + 1);
        Some(Place { whose: whose.clone(), counts: self.clone() })
    }
}

/// The place of a connection or call; dropping it frees it.
pub struct Place<K: Clone + Eq + Hash> {
    whose: K,
    counts: Counts<K>,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut by = self.counts.by.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                by.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::CallerId;

    #[test]
    fn a_user_has_so_many_connections_and_gets_their_places_back() {
        let counts = Counts::new(2);
        let first = counts.take(&CallerId::Uid(1));
        let second = counts.take(&CallerId::Uid(1));
        assert!(first.is_some() && second.is_some());
        assert!(counts.take(&CallerId::Uid(1)).is_none());
        assert!(counts.take(&CallerId::Uid(2)).is_some(), "another user has places of its own");
        drop(first);
        assert!(counts.take(&CallerId::Uid(1)).is_some());
        drop(second);
        assert!(counts.by.lock().unwrap().is_empty());
    }
}

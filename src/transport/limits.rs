//! How much one user may have open: counts, and places among them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::Response;
use tonic::body::Body;

use crate::fault::{Fault, Reason};

/// How much one user may have open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one uid, over all sockets.
    pub connections_per_uid: usize,
    /// Calls of one uid that run at once, over all its connections. Each may cost a stream's window
    /// and a message that is not yet whole.
    pub calls_per_uid: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Six calls for each of 150 builds, and some.
        Self { connections_per_uid: 512, calls_per_uid: 1024 }
    }
}

/// The calls of each user, and what those beyond its last get.
#[derive(Clone)]
pub(super) struct Calls {
    counts: Counts,
    refuse: fn(&Fault) -> Response<Body>,
}

impl Calls {
    pub(super) fn new(max: usize, refuse: fn(&Fault) -> Response<Body>) -> Self {
        Self { counts: Counts::new(max), refuse }
    }

    /// A place for one more of `uid`, if there is one.
    pub(super) fn take(&self, uid: u32) -> Option<Place> {
        self.counts.take(uid)
    }

    /// The answer to a call of `uid` that has no place.
    pub(super) fn refused(&self, uid: u32) -> Response<Body> {
        let text = format!("uid {uid} has {} calls that run at once: no more are taken", self.counts.max);
        (self.refuse)(&Fault::new(Reason::LimitReached, text).hint("try again when some have ended"))
    }
}

/// How many connections or calls each user has.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    max: usize,
    by_uid: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Counts {
    pub(super) fn new(max: usize) -> Self {
        Self { max, by_uid: Arc::default() }
    }

    /// A place for one more of `uid`, if there is one.
    pub(super) fn take(&self, uid: u32) -> Option<Place> {
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_uid.entry(uid).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { uid, counts: self.clone() })
    }
}

/// A connection's or a call's place among its user's; free again when dropped.
pub(super) struct Place {
    uid: u32,
    counts: Counts,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_uid = self.counts.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_uid.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_connections_and_gets_their_places_back() {
        let counts = Counts::new(2);
        let first = counts.take(1);
        let second = counts.take(1);
        assert!(first.is_some() && second.is_some());
        assert!(counts.take(1).is_none());
        assert!(counts.take(2).is_some(), "another user has places of its own");
        drop(first);
        assert!(counts.take(1).is_some());
        drop(second);
        assert!(counts.by_uid.lock().unwrap().is_empty());
    }
}

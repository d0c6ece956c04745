//! How much one caller may have open: counts, and places among them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Response;
use tonic::body::Body;

use crate::{
    fault::{Fault, Reason},
    names::CallerId,
    telemetry::Repeats,
};

/// How often it is said that a caller is beyond its limits.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(1);

/// How much one caller may have open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one caller, over all sockets.
    pub connections_per_caller: usize,
    /// Calls of one caller that run at once, over all its connections. Each may cost a stream's window
    /// and a message that is not yet whole.
    pub calls_per_caller: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Six calls for each of 150 builds, and some.
        Self { connections_per_caller: 512, calls_per_caller: 1024 }
    }
}

/// The calls of each caller, and what those beyond its last get.
#[derive(Clone)]
pub(super) struct Calls {
    counts: Counts,
    lines: Arc<Repeats<CallerId>>,
    refuse: fn(&Fault) -> Response<Body>,
}

impl Calls {
    pub(super) fn new(max: usize, refuse: fn(&Fault) -> Response<Body>) -> Self {
        Self { counts: Counts::new(max), lines: Arc::new(Repeats::every(LINE_EVERY)), refuse }
    }

    /// A place for one more of `caller`, if there is one.
    pub(super) fn take(&self, caller: &CallerId) -> Option<Place> {
        self.counts.take(caller)
    }

    /// The answer to a call of `caller` that has no place.
    pub(super) fn refused(&self, caller: &CallerId) -> Response<Body> {
        let text = format!("{caller} has {} calls that run at once: no more are taken", self.counts.max);
        if let Some(said) = self.lines.may_say(caller.clone()) {
            tracing::warn!(unlogged = said.unsaid(), "calls are refused: {text}");
        }
        (self.refuse)(&Fault::new(Reason::LimitReached, text).hint("try again when some have ended"))
    }
}

/// How many connections or calls each caller has.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    max: usize,
    by_caller: Arc<Mutex<HashMap<CallerId, usize>>>,
}

impl Counts {
    pub(super) fn new(max: usize) -> Self {
        Self { max, by_caller: Arc::default() }
    }

    /// A place for one more of `caller`, if there is one.
    pub(super) fn take(&self, caller: &CallerId) -> Option<Place> {
        let mut by_caller = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_caller.entry(caller.clone()).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { caller: caller.clone(), counts: self.clone() })
    }
}

/// A connection's or a call's place among its caller's; free again when dropped.
pub(super) struct Place {
    caller: CallerId,
    counts: Counts,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_caller = self.counts.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_caller.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                by_caller.remove(&self.caller);
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
        let first = counts.take(&CallerId::Uid(1));
        let second = counts.take(&CallerId::Uid(1));
        assert!(first.is_some() && second.is_some());
        assert!(counts.take(&CallerId::Uid(1)).is_none());
        assert!(counts.take(&CallerId::Uid(2)).is_some(), "another user has places of its own");
        drop(first);
        assert!(counts.take(&CallerId::Uid(1)).is_some());
        drop(second);
        assert!(counts.by_caller.lock().unwrap().is_empty());
    }
}

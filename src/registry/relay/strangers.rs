//! Connections to the relay without a password so far. Anyone on the node's loopback can make them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::oneshot;

/// Connections that have shown no password yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Strangers {
    /// Adds a connection. Returns its number, and a receiver that says when to end the connection.
    pub(super) fn add(&self) -> (u64, oneshot::Receiver<()>) {
        let (end, ended) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(number, end);
        (number, ended)
    }

    /// Removes a connection that has shown a password or has ended.
    pub(super) fn remove(&self, number: u64) {
        self.waiting().remove(&number);
    }

    /// Ends the oldest connection.
    pub(super) fn end_oldest(&self) {
        if let Some((_, end)) = self.waiting().pop_first() {
            // The connection may have ended already.
            let _ = end.send(());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

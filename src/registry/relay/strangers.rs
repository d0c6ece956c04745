//! Who is connected to the relay and has not shown whom it is: anybody on the node's loopback.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::oneshot;

/// Connections that have shown no password yet, the oldest first: anybody on the node's loopback can make
/// them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Strangers {
    /// One more, and what ends it.
    pub(super) fn add(&self) -> (u64, oneshot::Receiver<()>) {
        let (end, ended) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(number, end);
        (number, ended)
    }

    /// It is none any more, and nobody ends it.
    pub(super) fn remove(&self, number: u64) {
        self.waiting().remove(&number);
    }

    /// Ends the oldest.
    pub(super) fn end_oldest(&self) {
        if let Some((_, end)) = self.waiting().pop_first() {
            // Ended already.
            let _ = end.send(());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

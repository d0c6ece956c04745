//! Turns for fetching an image: one fetch at a time for each hold. A waiting fetch may use another registry,
//! and need not wait for a slow one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::sleep,
};

use super::locks::Locks;
use crate::registry::{LOOK, Meter, Reading};

/// The turns of all holds.
#[derive(Debug, Default)]
pub(super) struct Turns {
    locks: Locks,
    now: Mutex<HashMap<String, Arc<Now>>>,
}

/// The fetch whose turn it is.
#[derive(Debug)]
struct Now {
    /// The repository that the fetch reads.
    repository: String,
    meter: Arc<Meter>,
    displaced: watch::Sender<bool>,
}

/// A turn. It ends when this is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    hold: String,
    now: Arc<Now>,
    _lock: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the lock of a hold, in order to remove the hold.
    pub(super) async fn lock(&self, hold: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(hold).await
    }

    /// Waits for the turn to fetch the image of `hold` from `repository`. If `may_displace`, takes the turn
    /// from a fetch that reads another repository and is slow.
    pub(super) async fn begin(
        &self,
        hold: &str,
        repository: &str,
        meter: &Arc<Meter>,
        may_displace: bool,
    ) -> Turn<'_> {
        let mut locking = std::pin::pin!(self.locks.lock(hold));
        let mut before: Option<(Arc<Now>, Reading)> = None;
        let lock = loop {
            tokio::select! {
                lock = &mut locking => break lock,
                () = sleep(LOOK), if may_displace => {}
            }
            let Some(now) = self.map().get(hold).cloned() else { continue };
            let reading = now.meter.read();
            if let Some((seen, then)) = &before
                && Arc::ptr_eq(seen, &now)
                && now.repository != repository
                && reading.is_slow_since(then)
            {
                now.displaced.send_replace(true);
            }
            before = Some((now, reading));
        };
        let displaced = watch::Sender::new(false);
        let now = Arc::new(Now { repository: repository.to_owned(), meter: Arc::clone(meter), displaced });
        self.map().insert(hold.to_owned(), Arc::clone(&now));
        Turn { turns: self, hold: hold.to_owned(), now, _lock: lock }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Now>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Returns once another fetch takes the turn.
    pub(super) async fn displaced(&self) {
        // Waiting cannot fail: the sender is in `now`.
        let _ = self.now.displaced.subscribe().wait_for(|displaced| *displaced).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.map().remove(&self.hold);
    }
}

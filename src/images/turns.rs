//! Whose turn it is to bring an image: one at a time for a hold. Whoever waits has another registry, maybe,
//! and does not wait for one that drips.

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

/// Who brings an image now.
#[derive(Debug)]
struct Now {
    /// Where from.
    repository: String,
    meter: Arc<Meter>,
    displaced: watch::Sender<bool>,
}

/// A turn, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    hold: String,
    now: Arc<Now>,
    _lock: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the lock of a hold, to let go of it.
    pub(super) async fn lock(&self, hold: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(hold).await
    }

    /// Waits for the turn to bring what `hold` holds from `repository`. Displaces whoever has it by
    /// another repository that is slow, if `may_displace` says so.
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
    /// Returns once another's turn shall come.
    pub(super) async fn displaced(&self) {
        // The sender is in `now`.
        let _ = self.now.displaced.subscribe().wait_for(|displaced| *displaced).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.map().remove(&self.hold);
    }
}

//! Turns for fetching an image: one fetch at a time for each hold. A waiting fetch may use another registry,
//! and need not wait for a slow one, nor for all the fetches that another caller has begun before it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::sleep,
};

use crate::{
    names::CallerId,
    registry::{LOOK, Meter, Reading},
    shares::Locks,
};

/// The turns of all holds.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Each caller's place in the line for a hold. It has one, whatever it fetches: the lines of other callers
    /// are no longer for it.
    lines: Locks<(String, CallerId)>,
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
    // Freed before the place in the line, behind which the same caller's next fetch waits.
    _lock: OwnedMutexGuard<()>,
    _place: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the lock of a hold, in order to remove the hold.
    pub(super) async fn lock(&self, hold: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(hold).await
    }

    /// The lock of a hold, if nobody has it.
    pub(super) fn try_lock(&self, hold: &str) -> Option<OwnedMutexGuard<()>> {
        self.locks.try_lock(hold)
    }

    /// Waits for `caller`'s turn to fetch the image of `hold` from `repository`. If `may_displace`, takes the
    /// turn from a fetch that reads another repository and is slow.
    pub(super) async fn begin(
        &self,
        hold: &str,
        caller: &CallerId,
        repository: &str,
        meter: &Arc<Meter>,
        may_displace: bool,
    ) -> Turn<'_> {
        let line = (hold.to_owned(), caller.clone());
        let mut locking = std::pin::pin!(async {
            let place = self.lines.lock(&line).await;
            (self.locks.lock(hold).await, place)
        });
        let mut before: Option<(Arc<Now>, Reading)> = None;
        let (lock, place) = loop {
            tokio::select! {
                locks = &mut locking => break locks,
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
        Turn { turns: self, hold: hold.to_owned(), now, _lock: lock, _place: place }
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_caller_with_many_fetches_delays_another_by_one() {
        let (turns, meter) = (Turns::default(), Arc::new(Meter::default()));
        let (many, one) = (CallerId::Uid(1), CallerId::Uid(2));
        let begin = |caller| Box::pin(turns.begin("hold", caller, "reg/app", &meter, true));
        let first = begin(&many).await;
        let mut waiting: Vec<_> = (0..16).map(|_| begin(&many)).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        let mut others = begin(&one);
        assert!(others.as_mut().now_or_never().is_none());
        drop(first);
        let turn = others.now_or_never().expect("the other caller's turn comes next");
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "one at a time");
        }
        drop(turn);
        for turn in waiting {
            assert!(turn.now_or_never().is_some(), "each has its turn, in order");
        }
        assert!(turns.map().is_empty());
    }
}

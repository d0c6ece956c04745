//! Places for work that costs wharfd memory: a number for all callers, of which one caller has a part at most.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::locks::Table;
use crate::names::CallerId;

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    of_caller: Table<CallerId, Semaphore>,
    each: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    // Freed before the caller's own, for which only its own work waits.
    _one: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Places {
    /// `count` places, `each` of them at most for one caller.
    pub(super) fn new(count: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(count)), of_caller: Table::default(), each }
    }

    /// A place, if there is one for `caller`.
    pub(super) fn try_take(&self, caller: &CallerId) -> Option<Place> {
        let own = self.own(caller).try_acquire_owned().ok()?;
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _one: one, _own: own })
    }

    /// Waits for a place. Only as many of a caller's wait beside others' as it may have.
    pub(super) async fn take(&self, caller: &CallerId) -> Place {
        // Neither semaphore is ever closed.
        loop {
            let Ok(own) = self.own(caller).acquire_owned().await else { continue };
            let Ok(one) = Arc::clone(&self.all).acquire_owned().await else { continue };
            return Place { _one: one, _own: own };
        }
    }

    /// Whether nobody's place is left.
    pub(super) fn are_taken(&self) -> bool {
        self.all.available_permits() == 0
    }

    fn own(&self, caller: &CallerId) -> Arc<Semaphore> {
        self.of_caller.get(caller, || Semaphore::new(self.each))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_caller_with_much_work_leaves_places_to_others() {
        let places = Places::new(4, 2);
        let (many, one) = (CallerId::Uid(1), CallerId::Uid(2));
        let own = [places.try_take(&many).unwrap(), places.try_take(&many).unwrap()];
        assert!(places.try_take(&many).is_none() && !places.are_taken());
        let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(places.take(&many))).collect();
        assert!(waiting.iter_mut().all(|place| place.as_mut().now_or_never().is_none()));
        let others = [places.take(&one).now_or_never().unwrap(), places.try_take(&one).unwrap()];
        assert!(places.are_taken());
        drop((own, others));
        assert!(waiting.pop().is_some() && places.take(&one).now_or_never().is_some());
        drop(waiting);
        assert_eq!(places.of_caller.len(), 0, "callers without work leave nothing behind");
    }
}

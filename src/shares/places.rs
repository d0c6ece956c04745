//! Places for work that costs memory or threads.

use std::{hash::Hash, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Table;
use crate::names::CallerId;

/// Places of each owner's own: owners do not wait for one another. An owner without work leaves nothing behind.
#[derive(Debug)]
pub struct Own<K> {
    places: Table<K, Semaphore>,
    each: usize,
}

impl<K: Clone + Eq + Hash> Own<K> {
    /// `each` places for each owner.
    pub fn new(each: usize) -> Self {
        Self { places: Table::default(), each }
    }

    /// The places of each owner.
    pub fn each(&self) -> usize {
        self.each
    }

    /// A place of `owner`, if one is free.
    pub fn try_take(&self, owner: &K) -> Option<OwnedSemaphorePermit> {
        self.of(owner).try_acquire_owned().ok()
    }

    /// Waits for a place of `owner`.
    pub async fn take(&self, owner: &K) -> OwnedSemaphorePermit {
        loop {
            // No semaphore is ever closed.
            if let Ok(place) = self.of(owner).acquire_owned().await {
                return place;
            }
        }
    }

    fn of(&self, owner: &K) -> Arc<Semaphore> {
        self.places.get(owner, || Semaphore::new(self.each))
    }
}

/// A number of places for all callers; one caller has at most a part of them.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    own: Own<CallerId>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    // Freed before the caller's own, for which only its own work waits.
    _one: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Places {
    /// `count` places, `each` of them at most for one caller.
    pub fn new(count: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(count)), own: Own::new(each) }
    }

    /// A place, if there is one for `caller`.
    pub fn try_take(&self, caller: &CallerId) -> Option<Place> {
        let own = self.own.try_take(caller)?;
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _one: one, _own: own })
    }

    /// Waits for a place. Only as many of a caller's wait beside others' as it may have.
    pub async fn take(&self, caller: &CallerId) -> Place {
        loop {
            let own = self.own.take(caller).await;
            let Ok(one) = Arc::clone(&self.all).acquire_owned().await else { continue };
            return Place { _one: one, _own: own };
        }
    }

    /// Whether nobody's place is left.
    pub fn are_taken(&self) -> bool {
        self.all.available_permits() == 0
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn an_owner_has_so_many_places_and_gets_them_back() {
        let places = Own::new(2);
        let first = places.try_take(&CallerId::Uid(1));
        let second = places.try_take(&CallerId::Uid(1));
        assert!(first.is_some() && second.is_some());
        assert!(places.try_take(&CallerId::Uid(1)).is_none());
        assert!(places.try_take(&CallerId::Uid(2)).is_some(), "another user has places of its own");
        drop(first);
        assert!(places.try_take(&CallerId::Uid(1)).is_some());
        drop(second);
        assert_eq!(places.places.len(), 0);
    }

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
        assert_eq!(places.own.places.len(), 0, "callers without work leave nothing behind");
    }
}

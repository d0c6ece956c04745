//! The place of a connection: among its caller's, among those on which nothing is proven yet, or among strangers'.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::{
    names::{AddressBlock, CallerId},
    shares::Own,
    tasks::{Cause, Group},
};

/// A connection's place, an extension of each of its requests. The first proof moves it to the caller.
#[derive(Clone)]
pub struct Seat {
    inner: Arc<Inner>,
}

struct Inner {
    at: Mutex<At>,
    callers: Arc<Own<CallerId>>,
    proven: Notify,
    /// The proof of a call of the connection; its door knows the type.
    proof: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

enum At {
    Caller { _own: OwnedSemaphorePermit },
    Unproven { _own: Waiting },
    Stranger { _own: OwnedSemaphorePermit, _all: OwnedSemaphorePermit },
}

impl Seat {
    pub(super) fn of_caller(own: OwnedSemaphorePermit, callers: &Arc<Own<CallerId>>) -> Self {
        Self::new(At::Caller { _own: own }, callers)
    }

    pub(super) fn unproven(own: Waiting, callers: &Arc<Own<CallerId>>) -> Self {
        Self::new(At::Unproven { _own: own }, callers)
    }

    pub(super) fn of_stranger(
        own: OwnedSemaphorePermit,
        all: OwnedSemaphorePermit,
        callers: &Arc<Own<CallerId>>,
    ) -> Self {
        Self::new(At::Stranger { _own: own, _all: all }, callers)
    }

    fn new(at: At, callers: &Arc<Own<CallerId>>) -> Self {
        let (at, proof) = (Mutex::new(at), Mutex::default());
        Self { inner: Arc::new(Inner { at, callers: Arc::clone(callers), proven: Notify::new(), proof }) }
    }

    /// Records that a call of the connection has proven `caller`. False if that caller has too many connections.
    pub fn prove(&self, caller: &CallerId) -> bool {
        let mut at = lock(&self.inner.at);
        if matches!(*at, At::Unproven { .. }) {
            let Some(own) = self.inner.callers.try_take(caller) else { return false };
            *at = At::Caller { _own: own };
            self.inner.proven.notify_one();
        }
        true
    }

    /// Waits for the first proof.
    pub(super) async fn proven(&self) {
        self.inner.proven.notified().await;
    }

    /// Keeps a proof for the connection's life.
    pub fn keep(&self, proof: Arc<dyn Any + Send + Sync>) {
        *lock(&self.inner.proof) = Some(proof);
    }

    /// The last proof that was kept.
    pub fn kept(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        lock(&self.inner.proof).clone()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

/// The owners that share the places of connections on which nothing is proven yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    /// A user of the node.
    User(u32),
    /// A pod, by its number.
    Pod(usize),
    /// A part of the network.
    Network(AddressBlock),
}

/// The connections on which nothing is proven yet. A new one is never refused: it ends the oldest of its own
/// user or source, or of the owner with the most, since an honest client proves who it is at once.
#[derive(Clone)]
pub(super) struct Unproven {
    by: Arc<Mutex<Arrivals>>,
    each: usize,
    all: usize,
}

/// In order of arrival: whose connection it is, and its group.
#[derive(Default)]
struct Arrivals {
    next: u64,
    waiting: BTreeMap<u64, (Whose, Group)>,
}

impl Arrivals {
    /// The oldest connection of the owner with the most: the many connections of a few owners end nobody
    /// else's.
    fn oldest_of_most(&self) -> Option<u64> {
        let mut counts = HashMap::<Whose, usize>::new();
        for (whose, _) in self.waiting.values() {
            *counts.entry(*whose).or_default() += 1;
        }
        let most = counts.values().max();
        let oldest = self.waiting.iter().find(|(_, (whose, _))| counts.get(whose) == most);
        oldest.map(|(number, _)| *number)
    }
}

/// The place of such a connection; dropping it frees it.
pub(super) struct Waiting {
    number: u64,
    by: Arc<Mutex<Arrivals>>,
}

impl Unproven {
    /// `each` connections for each user or source, `all` for all of them.
    pub(super) fn new(each: usize, all: usize) -> Self {
        Self { by: Arc::default(), each, all }
    }

    /// A place for a connection of `whose`, which is `group`. True if another connection ends for it.
    pub(super) fn take(&self, whose: Whose, group: &Group) -> (Waiting, bool) {
        let mut by = lock(&self.by);
        let own = |(_, (other, _)): &(&u64, &(Whose, Group))| *other == whose;
        let evicted = if by.waiting.iter().filter(own).count() >= self.each {
            by.waiting.iter().find(own).map(|(number, _)| *number)
        } else if by.waiting.len() >= self.all {
            by.oldest_of_most()
        } else {
            None
        };
        let evicted = evicted.and_then(|number| by.waiting.remove(&number));
        if let Some((_, group)) = &evicted {
            group.cancel(Cause::ClientGone);
        }
        let number = by.next;
        by.next += 1;
        by.waiting.insert(number, (whose, group.clone()));
        (Waiting { number, by: Arc::clone(&self.by) }, evicted.is_some())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.by).waiting.remove(&self.number);
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_ends_the_oldest_of_its_user_on_which_nothing_is_proven() {
        let (unproven, callers) = (Unproven::new(2, 3), Arc::new(Own::new(2)));
        let groups: Vec<Group> = (0..5).map(|_| Group::root()).collect();
        let seat = |uid, at: usize| {
            let (own, ends_another) = unproven.take(Whose::User(uid), &groups[at]);
            (Seat::unproven(own, &callers), ends_another)
        };
        let cancelled = || groups.iter().map(|group| group.cancelled_by().is_some()).collect::<Vec<_>>();
        let (first, _) = seat(1, 0);
        let (second, _) = seat(1, 1);
        assert!(first.prove(&CallerId::Uid(7)), "it waits no more");
        let (_third, ends_another) = seat(1, 2);
        assert!(!ends_another);
        let (_fourth, ends_another) = seat(1, 3);
        assert!(ends_another);
        assert_eq!(cancelled(), [false, true, false, false, false], "the oldest of those that wait");
        drop(second);
        let (_other, ends_another) = seat(2, 4);
        assert!(!ends_another);
        let one_more = Group::root();
        assert!(unproven.take(Whose::User(3), &one_more).1, "over all users");
        assert_eq!(cancelled(), [false, true, true, false, false]);
    }

    #[test]
    fn the_many_connections_of_a_few_end_nobody_elses() {
        let unproven = Unproven::new(4, 9);
        let (alone, few) = (Group::root(), Group::root());
        let _waits = unproven.take(Whose::User(9), &alone);
        let mut waiting: Vec<_> = (0..8).map(|at| unproven.take(Whose::User(at % 2), &few).0).collect();
        for newcomer in 10..20 {
            let (place, ends_another) = unproven.take(Whose::User(newcomer), &few);
            assert!(ends_another);
            // Only one newcomer waits at a time: each has as few as the one that waits.
            drop(place);
            waiting.push(unproven.take(Whose::User(newcomer % 2), &few).0);
            assert_eq!(alone.cancelled_by(), None);
        }
    }

    #[test]
    fn a_proof_takes_a_place_of_its_caller() {
        let (unproven, callers) = (Unproven::new(9, 9), Arc::new(Own::new(1)));
        let seat = || Seat::unproven(unproven.take(Whose::User(1), &Group::root()).0, &callers);
        let (one, two) = (seat(), seat());
        assert!(one.prove(&CallerId::Uid(7)) && one.prove(&CallerId::Uid(8)), "the first proof counts");
        assert!(!two.prove(&CallerId::Uid(7)), "its caller has its connections");
        assert!(two.prove(&CallerId::Uid(8)), "another has its own");
        drop(one);
        assert!(seat().prove(&CallerId::Uid(7)));
    }
}

//! Values by name, such as locks.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// Values by name, each of which exists while someone uses it.
#[derive(Debug)]
pub struct Table<K, V> {
    by_name: Mutex<HashMap<K, Weak<V>>>,
}

/// Locks, each of which exists while someone holds or awaits it.
pub type Locks<K = String> = Table<K, tokio::sync::Mutex<()>>;

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { by_name: Mutex::default() }
    }
}

impl<K: Hash + Eq, V> Table<K, V> {
    /// The value `name`; `make` makes it if nobody uses one.
    pub fn get<Q>(&self, name: &Q, make: impl FnOnce() -> V) -> Arc<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = by_name.get(name).and_then(Weak::upgrade) {
            return value;
        }
        by_name.retain(|_, value| value.strong_count() > 0);
        let value = Arc::new(make());
        by_name.insert(name.to_owned(), Arc::downgrade(&value));
        value
    }
}

impl<K: Hash + Eq> Locks<K> {
    /// Waits for the lock `name`. Waiting calls get it in order of arrival.
    pub async fn lock<Q>(&self, name: &Q) -> OwnedMutexGuard<()>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.get(name, Default::default).lock_owned().await
    }

    /// The lock `name`, if nobody has it.
    pub fn try_lock<Q>(&self, name: &Q) -> Option<OwnedMutexGuard<()>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.get(name, Default::default).try_lock_owned().ok()
    }
}

#[cfg(test)]
impl<K, V> Table<K, V> {
    /// How many values are in use.
    pub(crate) fn len(&self) -> usize {
        self.by_name.lock().unwrap().values().filter(|value| value.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_name_has_one_holder_and_names_do_not_meet() {
        let locks = <Locks>::default();
        let held = locks.lock("a").await;
        assert!(locks.lock("a").now_or_never().is_none() && locks.try_lock("a").is_none());
        assert!(locks.lock("b").now_or_never().is_some());
        drop(held);
        assert!(locks.lock("a").now_or_never().is_some());
        assert!(locks.try_lock("c").is_some());
        assert_eq!(locks.by_name.lock().unwrap().len(), 1);
    }
}

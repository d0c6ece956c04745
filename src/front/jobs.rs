//! Who uses the cache mounts of jobs: their builds, or the one that removes them.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    names::EngineName,
    naming::MountsKey,
    shares::{Locks, Table},
};

/// An engine, and a job's cache mounts there.
type Key = (EngineName, MountsKey);

/// The uses of the cache mounts of jobs.
#[derive(Default)]
pub struct Jobs {
    /// Builds share the lock of their job in their engine; who removes the job's cache mounts holds it alone.
    builds: Table<Key, RwLock<()>>,
    /// Who has the lock of a job in an engine is the only one to remove its cache mounts.
    retirements: Locks<Key>,
}

/// The sole right to remove a job's cache mounts from an engine.
#[derive(Debug)]
pub struct Retirement {
    builds: Arc<RwLock<()>>,
    _turn: OwnedMutexGuard<()>,
}

impl Jobs {
    /// Notes that a build uses a job's cache mounts; waits while they are being removed.
    pub(super) async fn build(&self, engine: &EngineName, mounts: &MountsKey) -> OwnedRwLockReadGuard<()> {
        self.builds(&key(engine, mounts)).read_owned().await
    }

    /// Waits until nobody else removes a job's cache mounts. Whoever ends a job asks before it notes the end in the store:
    /// otherwise the janitor could remove them first, and the call could not tell how many there were.
    pub(super) async fn retirement(&self, engine: &EngineName, mounts: &MountsKey) -> Retirement {
        let key = key(engine, mounts);
        let turn = self.retirements.lock(&key).await;
        Retirement { builds: self.builds(&key), _turn: turn }
    }

    /// The same without waiting; `None` if somebody else removes them.
    pub fn try_retirement(&self, engine: &EngineName, mounts: &MountsKey) -> Option<Retirement> {
        let key = key(engine, mounts);
        let turn = self.retirements.try_lock(&key)?;
        Some(Retirement { builds: self.builds(&key), _turn: turn })
    }

    fn builds(&self, key: &Key) -> Arc<RwLock<()>> {
        self.builds.get(key, RwLock::default)
    }
}

impl Retirement {
    /// Keeps builds of the job from beginning, for as long as the value lives; `None` if one runs or waits.
    pub fn without_builds(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        Arc::clone(&self.builds).try_write_owned().ok()
    }
}

fn key(engine: &EngineName, mounts: &MountsKey) -> Key {
    (engine.clone(), mounts.clone())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_ends_a_job_removes_its_mounts() {
        let (jobs, engine) = (Jobs::default(), EngineName::try_from("main".to_owned()).unwrap());
        let ending = jobs.retirement(&engine, &"a".into()).await;
        assert!(jobs.try_retirement(&engine, &"a".into()).is_none(), "the janitor leaves them alone");
        assert!(jobs.try_retirement(&engine, &"b".into()).is_some());
        drop(ending);
        assert!(jobs.try_retirement(&engine, &"a".into()).is_some());
    }

    #[tokio::test]
    async fn builds_of_a_job_keep_its_mounts() {
        let (jobs, engine) = (Jobs::default(), EngineName::try_from("main".to_owned()).unwrap());
        let build = jobs.build(&engine, &"a".into()).await;
        let ending = jobs.retirement(&engine, &"a".into()).await;
        assert!(ending.without_builds().is_none());
        drop(build);
        let removing = ending.without_builds().unwrap();
        let mounts = "a".into();
        let mut build = Box::pin(jobs.build(&engine, &mounts));
        assert!(build.as_mut().now_or_never().is_none(), "it waits");
        drop(removing);
        build.await;
    }
}

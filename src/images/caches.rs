//! The cache mounts of jobs.

use std::{collections::HashMap, future::Future, time::Duration};

use tokio::time::timeout;
use tonic::Status;

use super::Images;
use crate::{
    buildkit::cache::{self, CacheMount},
    engine::ANSWER_TIMEOUT,
    fault::{Fault, Reason},
    store::Access,
};

/// The result of the removal of a job's cache mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedMounts {
    /// How many are gone.
    pub count: usize,
    /// Their size in bytes.
    pub size: i64,
    /// How many stay, since a step uses them.
    pub in_use: usize,
}

impl Images {
    /// The cache mounts of all jobs, by the name of each job's mounts; the ids are those that the job gave them. Those of
    /// others than this wharfd are left out.
    pub async fn cache_mounts(&self) -> Result<HashMap<String, Vec<CacheMount>>, Fault> {
        let connection = self.engine().dial(self.engine().tasks()).await?;
        let mut jobs = HashMap::<_, Vec<CacheMount>>::new();
        for mut mount in self.answer(cache::cache_mounts(&connection)).await? {
            let Some((job, given)) = self.keys().job_of_mount(&mount.id) else { continue };
            let (job, given) = (job.to_owned(), given.to_owned());
            mount.id = given;
            jobs.entry(job).or_default().push(mount);
        }
        for mounts in jobs.values_mut() {
            mounts.sort_by(|one, other| (&one.id, &one.record).cmp(&(&other.id, &other.record)));
        }
        Ok(jobs)
    }

    /// Removes the cache mounts of a job by the name of its mounts, as far as no step uses them, and forgets the job once
    /// it has none. No build of it may run. `known` are its mounts, if nobody has built it since they were listed.
    pub async fn retire_job(
        &self,
        store: &Access,
        name: &str,
        known: Option<Vec<CacheMount>>,
    ) -> Result<RemovedMounts, Fault> {
        let mounts = match known {
            Some(mounts) => mounts,
            None => Box::pin(self.cache_mounts()).await?.remove(name).unwrap_or_default(),
        };
        let removed = self.remove_cache_mounts(&mounts).await?;
        if removed.in_use == 0 {
            store.forget_job(self.engine().name(), name).await?;
        }
        Ok(removed)
    }

    async fn remove_cache_mounts(&self, mounts: &[CacheMount]) -> Result<RemovedMounts, Fault> {
        if mounts.is_empty() {
            return Ok(RemovedMounts::default());
        }
        let connection = self.engine().dial(self.engine().tasks()).await?;
        let records: Vec<_> = mounts.iter().map(|mount| mount.record.clone()).collect();
        let gone = self.answer(cache::remove_cache_mounts(&connection, &records)).await?;
        let is_gone = |mount: &&CacheMount| gone.contains(&mount.record);
        let size = mounts.iter().filter(is_gone).map(|mount| mount.size).fold(0, i64::saturating_add);
        Ok(RemovedMounts { count: gone.len(), size, in_use: mounts.len().saturating_sub(gone.len()) })
    }

    /// Removes what BuildKit's cache has besides cache mounts, and was not used for `age`, as far as no build has it.
    /// `removed` gets the bytes of each record. It takes as long as the disk does.
    pub async fn remove_unused_cache(&self, age: Duration, removed: impl FnMut(i64)) -> Result<(), Fault> {
        let connection = self.engine().dial(self.engine().tasks()).await?;
        cache::remove_unused(&connection, age, removed).await.map_err(|status| self.failed(status))
    }

    fn failed(&self, status: Status) -> Fault {
        let text = format!("the engine `{}` cannot list or remove its build cache", self.engine().name());
        Fault::new(Reason::EngineUnavailable, text).hint("try again").caused_by(status)
    }

    /// BuildKit's answer about its cache. It may take long: it asks the disk.
    async fn answer<T>(&self, question: impl Future<Output = Result<T, Status>>) -> Result<T, Fault> {
        match timeout(ANSWER_TIMEOUT, question).await {
            Ok(answer) => answer.map_err(|status| self.failed(status)),
            Err(elapsed) => Err(self.engine().silent().caused_by(elapsed)),
        }
    }
}

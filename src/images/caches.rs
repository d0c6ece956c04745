//! The cache mounts of jobs.

use std::{collections::BTreeSet, future::Future, time::Duration};

use tokio::time::{sleep, timeout};
use tonic::Status;

use super::Images;
use crate::{
    buildkit::cache::{self, CacheMount, Gone, PAGES},
    engine::ANSWER_TIMEOUT,
    fault::{Fault, Reason, causes},
    names::shortened,
    naming::MountsKey,
    store::Access,
    telemetry::each_second,
};

/// How much of an error of BuildKit's is logged: it has a path of a job's.
const CAUSE_BYTES_MAX: usize = 300;

/// The pauses, in milliseconds, before a job's mounts are listed and removed again: while BuildKit finds out
/// the size of one, it lists another record in its place and does not remove it. It does so for every client
/// that lists all of its cache, and for itself a minute after a build.
const MEASURED_PAUSES: [u64; 7] = [0, 50, 100, 200, 400, 800, 1600];

/// The cache mounts of a job.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    /// The mounts; their ids are those that the job gave them.
    pub mounts: Vec<CacheMount>,
    /// Whether the engine could not list all of them.
    pub is_partial: bool,
}

/// The result of the removal of a job's cache mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedMounts {
    /// How many are gone.
    pub count: usize,
    /// Their size in bytes.
    pub size: i64,
    /// Whether some stay, since a step uses them or the removal has failed.
    pub is_left: bool,
}

impl Images {
    /// The cache mounts of a job by the name of its mounts. The engine may take long to measure them, or fail
    /// to.
    pub async fn cache_mounts(&self, name: &MountsKey) -> Mounts {
        let mut mounts = Vec::new();
        let listing = timeout(ANSWER_TIMEOUT, async {
            for pause in MEASURED_PAUSES {
                sleep(Duration::from_millis(pause)).await;
                mounts.clear();
                if self.list_mounts(name, &mut mounts).await.is_some() {
                    return false;
                }
                if !mounts.iter().any(|mount| mount.is_measured) {
                    break;
                }
            }
            true
        });
        let is_partial = listing.await != Ok(true);
        for mount in &mut mounts {
            if let Some((_, given)) = self.keys().job_of_mount(&mount.id) {
                mount.id = given.to_owned();
            }
        }
        mounts.sort_by(|one, other| one.id.cmp(&other.id));
        Mounts { mounts, is_partial }
    }

    /// Lists the cache mounts of a job as far as possible, with their whole ids. Returns why some are missing.
    async fn list_mounts(&self, name: &MountsKey, listed: &mut Vec<CacheMount>) -> Option<Fault> {
        let prefix = self.keys().mounts_prefix(name);
        let is_own =
            |mount: &CacheMount| self.keys().job_of_mount(&mount.id).is_some_and(|(job, _)| job == *name);
        let mut add = |mounts: Vec<CacheMount>| listed.extend(mounts.into_iter().filter(is_own));
        match self.page(&prefix, None).await {
            Ok(mounts) => {
                add(mounts);
                None
            }
            // The answer is too long, or one cannot be measured.
            Err(_) => self.in_pages(&prefix, add).await,
        }
    }

    async fn page(&self, prefix: &str, page: Option<char>) -> Result<Vec<CacheMount>, Fault> {
        let connection = self.engine().dial(self.engine().tasks()).await?;
        self.answer(cache::cache_mounts(&connection, prefix, page)).await
    }

    /// Lists cache mounts page by page, and skips the pages that fail. Returns the last failure.
    async fn in_pages(&self, prefix: &str, mut add: impl FnMut(Vec<CacheMount>)) -> Option<Fault> {
        let mut failed = None;
        for page in PAGES.chars() {
            match self.page(prefix, Some(page)).await {
                Ok(mounts) => add(mounts),
                Err(fault) => {
                    let (engine, cause) = (self.engine().name(), shortened(causes(&fault), CAUSE_BYTES_MAX));
                    each_second!(warn, %engine, cause, "some cache mounts cannot be listed");
                    failed = Some(fault);
                }
            }
        }
        failed
    }

    /// The names of the mounts of all jobs that have cache mounts of this wharfd's.
    pub async fn jobs_with_mounts(&self) -> BTreeSet<MountsKey> {
        let mut jobs = BTreeSet::new();
        let name = |mount: CacheMount| self.keys().job_of_mount(&mount.id).map(|(job, _)| job);
        let add = |mounts: Vec<CacheMount>| jobs.extend(mounts.into_iter().filter_map(name));
        self.in_pages(self.keys().instance(), add).await;
        jobs
    }

    /// Removes the cache mounts of a job by the name of its mounts, as far as no step uses them. No build of
    /// it may run. Also returns why some are left, if that is a fault.
    pub async fn retire_job(&self, store: &Access, name: &MountsKey) -> (RemovedMounts, Option<Fault>) {
        let mut gone = Vec::new();
        let (mut removed, mut is_left) = (Ok(()), true);
        // The janitor looks again, and finds all of them gone.
        let mut unlisted = Ok(());
        for pause in MEASURED_PAUSES {
            sleep(Duration::from_millis(pause)).await;
            let (mut listed, gone_before) = (Vec::new(), gone.len());
            let are_unlisted = Box::pin(self.list_mounts(name, &mut listed)).await.is_some();
            let records: Vec<_> = listed.iter().map(|mount| mount.record.clone()).collect();
            removed = self.remove_mounts(&records, &mut gone).await;
            if are_unlisted {
                is_left = true;
                unlisted = self.remove_unlisted(name, &mut gone).await;
                break;
            }
            let left = records.len() + gone_before - gone.len();
            is_left = left > 0;
            // A step has the others, of a build that is not wharfd's.
            if removed.is_err() || left <= listed.iter().filter(|mount| mount.is_in_use).count() {
                break;
            }
        }
        let (count, size) = (gone.len(), gone.iter().map(|gone| gone.size).fold(0, i64::saturating_add));
        let noted = match removed.and(unlisted) {
            Ok(()) if !is_left => store.job_removed(self.engine().name(), name, count > 0).await,
            other => other,
        };
        (RemovedMounts { count, size, is_left: is_left || noted.is_err() }, noted.err())
    }

    async fn remove_mounts(&self, mut records: &[String], gone: &mut Vec<Gone>) -> Result<(), Fault> {
        while !records.is_empty() {
            let connection = self.engine().dial(self.engine().tasks()).await?;
            records = self.answer(cache::remove_cache_mounts(&connection, records, gone)).await?;
        }
        Ok(())
    }

    async fn remove_unlisted(&self, name: &MountsKey, gone: &mut Vec<Gone>) -> Result<(), Fault> {
        let connection = self.engine().dial(self.engine().tasks()).await?;
        let prefix = self.keys().mounts_prefix(name);
        self.answer(cache::remove_unlisted(&connection, &prefix, gone)).await
    }

    /// Removes everything in BuildKit's cache except cache mounts that was not used for `age` and that no
    /// build has. `removed` gets the bytes of each record. It takes as long as the disk does.
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

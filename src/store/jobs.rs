//! The jobs that may have cache mounts in an engine, and when each was last used.

use rusqlite::{OptionalExtension as _, Row, params};

use super::{Access, unused::now};
use crate::{
    fault::Fault,
    names::{CallerId, Job, Namespace},
};

/// The precision of a job's last use, in seconds: most builds need not wait for the disk.
const EXACT_SECONDS: i64 = 60;

/// A job whose cache mounts are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedJob {
    /// The name of its cache mounts.
    pub mounts: String,
    /// The job; `None` if wharfd has only found its cache mounts.
    pub job: Option<Job>,
    /// Whether somebody has ended it: otherwise nobody has used it for long.
    pub is_ended: bool,
}

impl Access {
    /// Notes that `caller` builds `job`, whose cache mounts have this name. It counts for the caller who has built it
    /// last. Of more than `max` jobs of a caller, the one that was used least recently counts as ended.
    pub async fn use_job(
        &self,
        engine: &str,
        mounts: &str,
        job: &Job,
        caller: &CallerId,
        max: u32,
    ) -> Result<(), Fault> {
        let [engine, mounts, caller] = [engine, mounts, &caller.key()].map(str::to_owned);
        let (issuer, name) = (job.issuer().map(ToString::to_string), job.name().to_owned());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            let known: Option<(String, i64)> = transaction
                .prepare_cached("SELECT caller, used FROM jobs WHERE engine = ? AND mounts = ?")?
                .query_row([&engine, &mounts], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let now = now();
            if let Some((of, used)) = &known
                && *of == caller
                // A clock may have been set back.
                && (now - EXACT_SECONDS..=now).contains(used)
            {
                return Ok(());
            }
            transaction.execute(
                "INSERT INTO jobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)
                 ON CONFLICT DO UPDATE SET caller = ?3, issuer = ?4, name = ?5, used = ?6",
                params![engine, mounts, caller, issuer.unwrap_or_default(), name, now],
            )?;
            transaction.execute(
                "UPDATE jobs SET ended = 1 WHERE engine = ?1 AND ended = 0 AND mounts IN
                 (SELECT mounts FROM jobs WHERE engine = ?1 AND caller = ?2 ORDER BY used DESC LIMIT -1 OFFSET ?3)",
                params![engine, caller, max],
            )?;
            transaction.commit()
        })
        .await
    }

    /// Notes that a job is used now, to the minute.
    pub async fn touch_job(&self, engine: &str, mounts: &str) -> Result<(), Fault> {
        let [engine, mounts] = [engine, mounts].map(str::to_owned);
        self.call(move |connection| {
            let now = now();
            connection
                .prepare_cached("UPDATE jobs SET used = ? WHERE engine = ? AND mounts = ? AND used < ?")?
                .execute(params![now, engine, mounts, now - EXACT_SECONDS])
                .map(drop)
        })
        .await
    }

    /// Adds the jobs of cache mounts that were found in the engine, unless they are known. They count as used now. Returns
    /// how many were added.
    pub async fn find_jobs(&self, engine: &str, mounts: Vec<String>) -> Result<usize, Fault> {
        let engine = engine.to_owned();
        self.call(move |connection| {
            let (transaction, now) = (connection.transaction()?, now());
            let mut added = 0;
            for mounts in mounts {
                added += transaction
                    .prepare_cached("INSERT OR IGNORE INTO jobs VALUES (?, ?, '', '', '', ?, 0)")?
                    .execute(params![engine, mounts, now])?;
            }
            transaction.commit()?;
            Ok(added)
        })
        .await
    }

    /// Notes that a job is ended: its cache mounts are to go, even if wharfd ends before they are gone.
    pub async fn end_job(&self, engine: &str, mounts: &str) -> Result<(), Fault> {
        let [engine, mounts] = [engine, mounts].map(str::to_owned);
        self.call(move |connection| {
            connection
                .prepare_cached("UPDATE jobs SET ended = 1 WHERE engine = ? AND mounts = ?")?
                .execute([engine, mounts])
                .map(drop)
        })
        .await
    }

    /// The jobs that are ended, or that nobody has used for `seconds`.
    pub async fn unused_jobs(&self, engine: &str, seconds: i64) -> Result<Vec<UnusedJob>, Fault> {
        let engine = engine.to_owned();
        self.call(move |connection| {
            let now = now();
            // A clock may have been set back.
            connection
                .prepare_cached("UPDATE jobs SET used = ?1 WHERE engine = ?2 AND used > ?1")?
                .execute(params![now, engine])?;
            connection
                .prepare_cached(
                    "SELECT mounts, issuer, name, ended FROM jobs
                     WHERE engine = ? AND (ended = 1 OR used <= ?) ORDER BY used",
                )?
                .query_map(params![engine, now - seconds], unused)?
                .collect()
        })
        .await
    }

    /// The job with cache mounts of this name, if it is ended or nobody has used it for `seconds`.
    pub async fn unused_job(
        &self,
        engine: &str,
        mounts: &str,
        seconds: i64,
    ) -> Result<Option<UnusedJob>, Fault> {
        let [engine, mounts] = [engine, mounts].map(str::to_owned);
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "SELECT mounts, issuer, name, ended FROM jobs
                     WHERE engine = ? AND mounts = ? AND (ended = 1 OR used <= ?)",
                )?
                .query_row(params![engine, mounts, now() - seconds], unused)
                .optional()
        })
        .await
    }

    /// Forgets a job that has no cache mounts any more.
    pub async fn forget_job(&self, engine: &str, mounts: &str) -> Result<(), Fault> {
        let [engine, mounts] = [engine, mounts].map(str::to_owned);
        self.call(move |connection| {
            connection.execute("DELETE FROM jobs WHERE engine = ? AND mounts = ?", [engine, mounts]).map(drop)
        })
        .await
    }
}

fn unused(row: &Row<'_>) -> rusqlite::Result<UnusedJob> {
    let (issuer, name): (String, String) = (row.get(1)?, row.get(2)?);
    // The run is not a part of the job; any will do.
    let job = Namespace::new(name, "0").ok().and_then(|namespace| {
        let namespace = match issuer.is_empty() {
            true => namespace,
            false => namespace.issued_by(issuer.try_into().ok()?),
        };
        Some(namespace.job().clone())
    });
    Ok(UnusedJob { mounts: row.get(0)?, job, is_ended: row.get(3)? })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Store, tests::directory},
        *,
    };

    fn job(name: &str) -> Job {
        Namespace::new(name, "1").unwrap().job().clone()
    }

    async fn unused(store: &Access, seconds: i64) -> Vec<(String, bool)> {
        let unused = store.unused_jobs("main", seconds).await.unwrap();
        unused.into_iter().map(|job| (job.mounts, job.is_ended)).collect()
    }

    async fn age(store: &Access, seconds: i64) {
        store
            .call(move |connection| connection.execute("UPDATE jobs SET used = used - ?", [seconds]))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_job_is_unused_by_age_or_once_ended() {
        let path = directory("jobs");
        let (store, caller) = (Store::open(&path).unwrap().own(), CallerId::Uid(1));
        store.use_job("main", "old", &job("old"), &caller, 9).await.unwrap();
        age(&store, 1000).await;
        store.use_job("main", "new", &job("new"), &caller, 9).await.unwrap();
        assert_eq!(unused(&store, 900).await, [("old".to_owned(), false)]);
        assert_eq!(store.unused_jobs("main", 900).await.unwrap()[0].job, Some(job("old")));
        store.touch_job("main", "old").await.unwrap();
        assert_eq!(unused(&store, 900).await, []);
        store.end_job("main", "new").await.unwrap();
        // A build of it meanwhile changes nothing.
        age(&store, 100).await;
        store.use_job("main", "new", &job("new"), &caller, 9).await.unwrap();
        assert_eq!(unused(&store, 900).await, [("new".to_owned(), true)]);
        assert_eq!(store.unused_job("main", "old", 900).await.unwrap(), None);
        store.forget_job("main", "new").await.unwrap();
        assert_eq!(unused(&store, 900).await, []);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_caller_has_a_limited_number() {
        let path = directory("jobs-limit");
        let (store, one, two) = (Store::open(&path).unwrap().own(), CallerId::Uid(1), CallerId::Uid(2));
        store.use_job("main", "other", &job("other"), &two, 2).await.unwrap();
        for name in ["a", "b", "c"] {
            age(&store, 100).await;
            store.use_job("main", name, &job(name), &one, 2).await.unwrap();
        }
        assert_eq!(unused(&store, 9000).await, [("a".to_owned(), true)]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn jobs_that_are_found_are_used_now_and_have_no_name() {
        let path = directory("jobs-found");
        let store = Store::open(&path).unwrap().own();
        store.use_job("main", "a", &job("a"), &CallerId::Uid(1), 9).await.unwrap();
        let found = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(store.find_jobs("main", found).await.unwrap(), 1);
        assert_eq!(unused(&store, 10).await, []);
        age(&store, 20).await;
        let jobs = store.unused_jobs("main", 10).await.unwrap();
        assert!(jobs[0].job == Some(job("a")) && jobs[1].job.is_none(), "{jobs:?}");
        std::fs::remove_dir_all(path).unwrap();
    }
}

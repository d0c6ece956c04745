//! The jobs that may have cache mounts in an engine, and when each was last used.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension as _, Row, params};

use super::{Access, unused::now};
use crate::{
    fault::Fault,
    names::{CallerId, EngineName, Job, Namespace},
    naming::MountsKey,
};

/// The precision of a job's last use, in seconds: most builds need not wait for the disk.
const EXACT_SECONDS: i64 = 60;
/// The value of `ended` for a job whose mounts are to be removed. Once they are gone, `ended` is the time of
/// the removal.
const TO_BE_REMOVED: i64 = 1;
/// How long after their removal a job's mounts are looked for once more: BuildKit neither removes nor lists a
/// mount while it measures the mount (the doubles in `DiskUsage` and `pruneOnce`).
const AGAIN_SECONDS: i64 = 300;

/// A job whose cache mounts are to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedJob {
    /// The name of its cache mounts.
    pub mounts: MountsKey,
    /// The job; `None` if wharfd has only found its cache mounts.
    pub job: Option<Job>,
    /// Whether somebody has ended it: otherwise nobody has used it for long, or its caller has too many jobs.
    pub is_ended: bool,
    used: i64,
    ended: i64,
}

impl Access {
    /// Notes that `caller` builds `job`, whose cache mounts have this name. It counts for the caller that has
    /// built it last. If its mounts are to go, they still do; if they are gone, it begins with new ones.
    pub async fn use_job(
        &self,
        engine: &EngineName,
        mounts: &MountsKey,
        job: &Job,
        caller: &CallerId,
    ) -> Result<(), Fault> {
        let (engine, mounts, caller) = (engine.clone(), mounts.clone(), caller.key());
        let (issuer, name) = (job.issuer().map(ToString::to_string), job.name().to_owned());
        self.call(move |connection| {
            let known: Option<(String, i64, i64)> = connection
                .prepare_cached("SELECT caller, used, ended FROM jobs WHERE engine = ? AND mounts = ?")?
                .query_row(params![engine, mounts], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let now = now();
            if let Some((of, used, ended)) = &known
                && *of == caller
                && *ended <= TO_BE_REMOVED
                // A clock may have been set back.
                && (now - EXACT_SECONDS..=now).contains(used)
            {
                return Ok(());
            }
            let issuer = issuer.unwrap_or_default();
            connection
                .execute(
                    "INSERT INTO jobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)
                     ON CONFLICT DO UPDATE SET caller = ?3, issuer = ?4, name = ?5, used = ?6,
                     ended = CASE ended WHEN ?7 THEN ?7 ELSE 0 END",
                    params![engine, mounts, caller, issuer, name, now, TO_BE_REMOVED],
                )
                .map(drop)
        })
        .await
    }

    /// Notes that a job is used now, to the minute.
    pub async fn touch_job(&self, engine: &EngineName, mounts: &MountsKey) -> Result<(), Fault> {
        let (engine, mounts) = (engine.clone(), mounts.clone());
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
    pub async fn find_jobs(&self, engine: &EngineName, mounts: BTreeSet<MountsKey>) -> Result<usize, Fault> {
        let engine = engine.clone();
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

    /// Notes that a job is ended: its cache mounts are to go, even if wharfd ends before they are gone. Returns whether it
    /// can have any.
    pub async fn end_job(&self, engine: &EngineName, mounts: &MountsKey) -> Result<bool, Fault> {
        let (engine, mounts) = (engine.clone(), mounts.clone());
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE jobs SET ended = ?3 WHERE engine = ?1 AND mounts = ?2 AND ended <= ?3",
                )?
                .execute(params![engine, mounts, TO_BE_REMOVED])
                .map(|rows| rows > 0)
        })
        .await
    }

    /// The jobs whose cache mounts are to be removed, or looked for once more: those that are ended, that
    /// nobody has used for `seconds`, and the least recently used ones of a caller that has more than `max`.
    pub async fn unused_jobs(
        &self,
        engine: &EngineName,
        seconds: i64,
        max: u32,
    ) -> Result<Vec<UnusedJob>, Fault> {
        let engine = engine.clone();
        self.call(move |connection| {
            let now = now();
            // A clock may have been set back.
            connection
                .prepare_cached(
                    "UPDATE jobs SET used = min(used, ?1), ended = min(ended, ?1)
                     WHERE engine = ?2 AND (used > ?1 OR ended > ?1)",
                )?
                .execute(params![now, engine])?;
            connection
                .prepare_cached(
                    "SELECT mounts, issuer, name, used, ended FROM
                     (SELECT *, row_number() OVER (PARTITION BY caller, ended > 0 ORDER BY used DESC, mounts) AS place
                      FROM jobs WHERE engine = ?1)
                     WHERE ended BETWEEN ?2 AND ?3 OR ended = 0 AND (used <= ?4 OR caller <> '' AND place > ?5)
                     ORDER BY used, mounts",
                )?
                .query_map(params![engine, TO_BE_REMOVED, now - AGAIN_SECONDS, now - seconds, max], unused)?
                .collect()
        })
        .await
    }

    /// Whether a job is as it was, or somebody has ended it since.
    pub async fn is_still_unused(&self, engine: &EngineName, job: &UnusedJob) -> Result<bool, Fault> {
        let (engine, mounts, used, ended) = (engine.clone(), job.mounts.clone(), job.used, job.ended);
        self.call(move |connection| {
            connection
                .prepare_cached(
                    "SELECT 1 FROM jobs WHERE engine = ? AND mounts = ? AND (used = ? AND ended = ? OR ended = ?)",
                )?
                .exists(params![engine, mounts, used, ended, TO_BE_REMOVED])
        })
        .await
    }

    /// Notes that the cache mounts of a job are removed; `had` says whether it had some. If it had none, also
    /// when they were looked for once more, the job is forgotten.
    pub async fn job_removed(&self, engine: &EngineName, mounts: &MountsKey, had: bool) -> Result<(), Fault> {
        let (engine, mounts) = (engine.clone(), mounts.clone());
        self.call(move |connection| {
            let transaction = connection.transaction()?;
            if !had {
                transaction.execute(
                    "DELETE FROM jobs WHERE engine = ? AND mounts = ? AND ended > ?",
                    params![engine, mounts, TO_BE_REMOVED],
                )?;
            }
            transaction.execute(
                "UPDATE jobs SET ended = ? WHERE engine = ? AND mounts = ?",
                params![now(), engine, mounts],
            )?;
            transaction.commit()
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
    let ended = row.get(4)?;
    Ok(UnusedJob { mounts: row.get(0)?, job, is_ended: ended > 0, used: row.get(3)?, ended })
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

    async fn unused(store: &Access, seconds: i64) -> Vec<(MountsKey, bool)> {
        let unused = store.unused_jobs(&"main".into(), seconds, 2).await.unwrap();
        unused.into_iter().map(|job| (job.mounts, job.is_ended)).collect()
    }

    async fn age(store: &Access, seconds: i64) {
        store
            .call(move |connection| {
                let age = "UPDATE jobs SET used = used - ?1, ended = CASE WHEN ended > 1 THEN ended - ?1 ELSE ended END";
                connection.execute(age, [seconds])
            })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_job_is_unused_by_age_or_once_ended() {
        let path = directory("jobs");
        let (store, caller) = (Store::open(&path).unwrap().own(), CallerId::Uid(1));
        store.use_job(&"main".into(), &"old".into(), &job("old"), &caller).await.unwrap();
        age(&store, 1000).await;
        store.use_job(&"main".into(), &"new".into(), &job("new"), &caller).await.unwrap();
        assert_eq!(unused(&store, 900).await, [("old".into(), false)]);
        assert_eq!(store.unused_jobs(&"main".into(), 900, 2).await.unwrap()[0].job, Some(job("old")));
        store.touch_job(&"main".into(), &"old".into()).await.unwrap();
        assert_eq!(unused(&store, 900).await, []);
        assert!(store.end_job(&"main".into(), &"new".into()).await.unwrap());
        // A build of it meanwhile changes nothing.
        age(&store, 100).await;
        store.use_job(&"main".into(), &"new".into(), &job("new"), &caller).await.unwrap();
        assert_eq!(unused(&store, 900).await, [("new".into(), true)]);
        assert!(!store.end_job(&"main".into(), &"other".into()).await.unwrap(), "it has never been built");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_job_is_forgotten_when_none_are_found_once_more() {
        let path = directory("jobs-forgotten");
        let (store, caller) = (Store::open(&path).unwrap().own(), CallerId::Uid(1));
        let row = async || {
            let row = "SELECT count(*) FROM jobs";
            store.call(|connection| connection.query_row(row, [], |row| row.get::<_, u32>(0))).await.unwrap()
        };
        for had in [false, true] {
            store.use_job(&"main".into(), &"a".into(), &job("a"), &caller).await.unwrap();
            assert!(store.end_job(&"main".into(), &"a".into()).await.unwrap());
            // BuildKit may just be finding out their sizes: then it has none.
            store.job_removed(&"main".into(), &"a".into(), had).await.unwrap();
            assert!(!store.end_job(&"main".into(), &"a".into()).await.unwrap(), "they are gone");
            assert_eq!(unused(&store, 900).await, [], "not at once");
            age(&store, 400).await;
            assert_eq!(unused(&store, 900).await, [("a".into(), true)]);
            store.job_removed(&"main".into(), &"a".into(), true).await.unwrap();
            age(&store, 400).await;
            let again = store.unused_jobs(&"main".into(), 900, 2).await.unwrap();
            assert!(store.is_still_unused(&"main".into(), &again[0]).await.unwrap());
            store.job_removed(&"main".into(), &"a".into(), false).await.unwrap();
            assert_eq!(row().await, 0);
        }
        // A job that is built again starts afresh.
        store.use_job(&"main".into(), &"a".into(), &job("a"), &caller).await.unwrap();
        store.end_job(&"main".into(), &"a".into()).await.unwrap();
        store.job_removed(&"main".into(), &"a".into(), true).await.unwrap();
        age(&store, 400).await;
        let again = store.unused_jobs(&"main".into(), 900, 2).await.unwrap();
        store.use_job(&"main".into(), &"a".into(), &job("a"), &caller).await.unwrap();
        assert!(!store.is_still_unused(&"main".into(), &again[0]).await.unwrap());
        assert_eq!(unused(&store, 900).await, []);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_caller_has_a_limited_number() {
        let path = directory("jobs-limit");
        let (store, one, two) = (Store::open(&path).unwrap().own(), CallerId::Uid(1), CallerId::Uid(2));
        store.use_job(&"main".into(), &"other".into(), &job("other"), &two).await.unwrap();
        for name in ["a", "b", "c"] {
            age(&store, 100).await;
            store.use_job(&"main".into(), &name.into(), &job(name), &one).await.unwrap();
        }
        assert_eq!(unused(&store, 9000).await, [("a".into(), false)]);
        // The longest unused one goes, and that is another once it is built again.
        age(&store, 100).await;
        let chosen = store.unused_jobs(&"main".into(), 9000, 2).await.unwrap();
        store.use_job(&"main".into(), &"a".into(), &job("a"), &one).await.unwrap();
        assert!(!store.is_still_unused(&"main".into(), &chosen[0]).await.unwrap());
        assert_eq!(unused(&store, 9000).await, [("b".into(), false)]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn jobs_that_are_found_are_used_now_and_have_no_name() {
        let path = directory("jobs-found");
        let store = Store::open(&path).unwrap().own();
        store.use_job(&"main".into(), &"a".into(), &job("a"), &CallerId::Uid(1)).await.unwrap();
        let found = ["a", "b"].map(MountsKey::from).into();
        assert_eq!(store.find_jobs(&"main".into(), found).await.unwrap(), 1);
        assert_eq!(unused(&store, 10).await, []);
        age(&store, 20).await;
        let jobs = store.unused_jobs(&"main".into(), 10, 2).await.unwrap();
        assert!(jobs[0].job == Some(job("a")) && jobs[1].job.is_none(), "{jobs:?}");
        std::fs::remove_dir_all(path).unwrap();
    }
}

//! Removes the cache mounts of jobs that somebody has ended, or that nobody has built for some time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::{every_while_up, gauge::Need, seconds, waits::Waits};
use crate::{
    audit::{Event, EventKind, Trail},
    engines::Handle,
    fault::{Fault, causes},
    front::Work,
    images::{Images, caches::RemovedMounts},
    names::{EngineName, Job},
    store::UnusedJob,
    tasks::Group,
    telemetry::each_second,
};

/// How often it looks at the store, which is cheap.
const INTERVAL: Duration = Duration::from_secs(10);
/// Every this-many-th look (once a day) also asks the engine for cache mounts that the store does not know.
/// For that the engine measures all mounts, and a step that needs one meanwhile may get an empty one.
const FIND_EVERY: u32 = 8640;
/// How many jobs of a caller may have cache mounts in an engine: beyond that the longest unused one is retired.
const JOBS_MAX: u32 = 10_000;

/// Retires the jobs in `engine` that nobody has used for `after`, or that are ended, until `tasks` are cancelled.
pub(super) fn retire(
    engine: Handle,
    work: Arc<Work>,
    after: Duration,
    waits: Arc<Waits>,
    trail: Trail,
    tasks: &Group,
) {
    let (name, looks) = (engine.name().clone(), AtomicU32::new(0));
    every_while_up("jobs", INTERVAL, engine, tasks, move |images| {
        let (work, waits, trail) = (Arc::clone(&work), Arc::clone(&waits), trail.clone());
        let look = Look {
            engine: name.clone(),
            images,
            work,
            after: seconds(after),
            rule: "job.retire_after",
            need: None,
            waits,
            trail,
        };
        let finds = looks.fetch_add(1, Ordering::Relaxed) % FIND_EVERY == 0;
        async move {
            if let Err(fault) = look.look(finds).await {
                tracing::warn!(engine = %look.engine, cause = causes(&fault), "cannot look for unused cache mounts");
            }
        }
    });
}

/// A look at one engine.
pub(super) struct Look {
    pub(super) engine: EngineName,
    pub(super) images: Images,
    pub(super) work: Arc<Work>,
    pub(super) after: i64,
    /// The setting that says so.
    pub(super) rule: &'static str,
    /// With one, the look ends once it is met.
    pub(super) need: Option<Arc<Need>>,
    /// The jobs that leave something behind: each can cost the engine 37 listings, every time.
    pub(super) waits: Arc<Waits>,
    pub(super) trail: Trail,
}

impl Look {
    pub(super) async fn look(&self, finds: bool) -> Result<(), Fault> {
        let store = self.images.store().own();
        let engine = &self.engine;
        if finds {
            let found = store.find_jobs(engine, self.images.jobs_with_mounts().await).await?;
            if found > 0 {
                tracing::info!(%engine, found, "found cache mounts of jobs that the store did not know");
            }
        }
        for job in store.unused_jobs(engine, self.after, JOBS_MAX).await? {
            if !self.waits.is_due(&job.mounts, Instant::now()) {
                continue;
            }
            if let Some(need) = &self.need
                && need.is_met().await
            {
                break;
            }
            if let Err(fault) = self.end(&job).await {
                // A job that fails again and again does not keep others from their end.
                each_second!(
                    warn,
                    %engine,
                    cause = causes(&fault),
                    "the cache mounts of a job cannot be removed"
                );
                self.images.engine().check().await?;
            }
        }
        Ok(())
    }

    /// Removes the cache mounts of a job, unless it has been used since.
    async fn end(&self, unused: &UnusedJob) -> Result<(), Fault> {
        let (engine, store) = (&self.engine, self.images.store().own());
        let UnusedJob { mounts, job, is_ended, .. } = unused;
        let Some(retirement) = self.work.jobs().try_retirement(&self.engine, mounts) else {
            // Whoever ends it removes them right now.
            return Ok(());
        };
        let Some(_no_builds) = retirement.without_builds() else {
            // A build of it is running.
            return store.touch_job(engine, mounts).await;
        };
        // No build of it can begin now.
        if !store.is_still_unused(engine, unused).await? {
            return Ok(());
        }
        let (removed, fault) = self.images.retire_job(&store, mounts).await;
        self.waits.tried(mounts, fault.is_none() && !removed.is_left, Instant::now());
        if removed.count > 0 {
            self.removed(job.as_ref(), *is_ended, removed);
        }
        fault.map_or(Ok(()), Err)
    }

    fn removed(&self, job: Option<&Job>, is_ended: bool, removed: RemovedMounts) {
        let engine = self.engine.as_str();
        let shown = job.map(Job::to_string);
        let (count, size) = (removed.count, removed.size);
        if let Some(need) = &self.need {
            need.removed(size);
        }
        tracing::info!(engine, job = shown, count, size, "the cache mounts of a job are removed");
        let rule = if is_ended { "ended" } else { self.rule };
        let event = Event::new(EventKind::JobRetired).text("engine", engine).text("rule", rule).job(job);
        let event = event.number("cache_mounts", count as u64);
        self.trail.record(event.number("cache_mounts_size", u64::try_from(size).unwrap_or_default()));
    }
}

//! Makes space on the disk of an engine before it is full. It removes whatever was unused longest first, and
//! nothing that a running build needs.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    every_while_up,
    gauge::{Gauge, Need},
    jobs, leases, seconds,
    waits::Waits,
};
use crate::{
    audit::{Event, EventKind, Trail},
    config::Config,
    engine::disk::Space,
    engines::{Disk, Handle, Level},
    fault::{Fault, Reason, causes},
    front::Work,
    images::Images,
    names::printable,
    tasks::Group,
};

/// How often it measures, which costs one system call.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it tries to make space while there is none to be made: at first, and at most.
const AGAIN: Duration = Duration::from_secs(15);
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// How often it says that the disk is low.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How long BuildKit may be silent between two records that it removes, while the janitor waits for it.
const SILENCE: Duration = Duration::from_secs(300);
/// The ages of what goes, one after the other until there is space. What was used a moment ago is about to be used again.
const AGES: [Duration; 5] = [
    Duration::from_secs(7 * 24 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(3600),
    Duration::from_secs(600),
    AGE_MIN,
];
/// A build may need younger data, so this is for an engine without builds.
const AGE_MIN: Duration = Duration::from_secs(60);
/// A namespace may be between two steps of its pipeline.
const NAMESPACE_AGE_MIN: Duration = Duration::from_secs(3600);
/// How many of the largest namespaces it names.
const LARGEST: usize = 3;

/// Looks after the disk of `engine` until `tasks` are cancelled.
pub(super) fn guard(
    engine: &Handle,
    work: &Arc<Work>,
    config: &Config,
    waits: Arc<Waits>,
    trail: &Trail,
    tasks: &Group,
) {
    let gauge = Arc::new(Gauge::new(engine, config, tasks));
    let measuring = Arc::clone(&gauge);
    let said = Arc::new(Mutex::new(Said { level: Level::Ample, at: None }));
    let told = trail.clone();
    every_while_up("disk", INTERVAL, engine.clone(), tasks, move |images| {
        let (gauge, said, trail) = (Arc::clone(&measuring), Arc::clone(&said), told.clone());
        async move { measure(&gauge, &images, &said, &trail).await }
    });
    let guard = Arc::new(Guard {
        engine: engine.clone(),
        gauge,
        work: Arc::clone(work),
        waits,
        trail: trail.clone(),
        pruning: Arc::default(),
        pause: Mutex::new(AGAIN),
        named: Mutex::default(),
    });
    every_while_up("space", INTERVAL, engine.clone(), tasks, move |images| {
        let guard = Arc::clone(&guard);
        async move { guard.make_space(images).await }
    });
}

async fn measure(gauge: &Gauge, images: &Images, said: &Mutex<Said>, trail: &Trail) {
    let engine = gauge.engine();
    let disk = gauge.disk(images).await;
    let before = engine.disk().borrow().clone();
    lock(said).say(&disk, &before, trail);
    if disk.level == Level::Ample {
        gauge.spent(false);
    }
    if disk != before {
        engine.measured(disk);
    }
}

/// The state that the logs have reported.
struct Said {
    /// The level that the audit log knows.
    level: Level,
    /// When the log last said that the disk is low.
    at: Option<Instant>,
}

impl Said {
    /// Says each change, and once a minute that the disk is low.
    fn say(&mut self, disk: &Disk, before: &Disk, trail: &Trail) {
        let (engine, Space { free, total }) = (&disk.engine, disk.space);
        let (level, is_new) = (disk.level.as_str(), disk.level != before.level);
        let (low, full) = disk.marks;
        match disk.level {
            Level::Unknown if disk.cause != before.cause => {
                let cause = disk.cause.as_deref().unwrap_or_default();
                tracing::warn!(
                    %engine,
                    cause,
                    "the disk of the engine is not watched: name a directory on it with `disk` in `[engines.NAME]`"
                );
            }
            Level::Ample if is_new => {
                tracing::info!(%engine, free, total, "the disk of the engine has space")
            }
            level_now
                if level_now.is_low() && (is_new || self.at.is_none_or(|at| at.elapsed() >= SAY_EVERY)) =>
            {
                tracing::warn!(%engine, level, free, total, low, full, "the disk of the engine is low");
                self.at = Some(Instant::now());
            }
            _ => {}
        }
        if disk.is_too_small() && !before.is_too_small() {
            tracing::warn!(
                %engine,
                total,
                low,
                "`disk.low` is as much as the whole disk of the engine or more: it is always low, and takes no builds"
            );
        }
        if disk.level != Level::Unknown && disk.level != self.level {
            self.level = disk.level;
            let event = Event::new(EventKind::Disk).text("engine", engine).text("level", level);
            trail.record(event.number("free", free).number("total", total));
        }
    }
}

struct Guard {
    engine: Handle,
    gauge: Arc<Gauge>,
    work: Arc<Work>,
    waits: Arc<Waits>,
    trail: Trail,
    /// Locked while BuildKit removes.
    pruning: Arc<tokio::sync::Mutex<()>>,
    /// The pause after the next pass, if that removes nothing.
    pause: Mutex<Duration>,
    /// When the largest namespaces were named last.
    named: Mutex<Option<Instant>>,
}

impl Guard {
    /// Removes unused data while the disk is low.
    async fn make_space(&self, images: Images) {
        // As `measure` has it, a moment ago.
        if !self.engine.disk().borrow().level.is_low() {
            return;
        }
        let need = Arc::new(Need::new(Arc::clone(&self.gauge), images.clone()));
        let is_whole = self.remove(&images, &need).await;
        if !self.gauge.disk(&images).await.level.is_low() {
            *lock(&self.pause) = AGAIN;
            return;
        }
        // There may be more to be removed if a part has failed.
        if is_whole {
            self.gauge.spent(true);
        }
        self.name_largest(&images).await;
        let pause = next(&mut lock(&self.pause), need.has_removed());
        let mut disk = self.engine.disk();
        let _ = tokio::time::timeout(pause, disk.wait_for(|disk| !disk.level.is_low())).await;
    }

    /// Removes the data that was unused longest, until there is space. Returns whether everything was tried
    /// without a fault.
    async fn remove(&self, images: &Images, need: &Arc<Need>) -> bool {
        let engine = self.engine.name();
        let (mut is_whole, mut namespaces_of) = (true, None);
        let mut tried = |step: &'static str, done: Result<(), Fault>| {
            if let Err(fault) = done {
                is_whole = false;
                let cause = causes(&fault);
                tracing::warn!(%engine, step, cause, "cannot make space on the disk of the engine");
            }
        };
        for age in AGES {
            if age == AGE_MIN && self.work.has_builds(engine) {
                break;
            }
            let look = jobs::Look {
                engine: engine.clone(),
                images: images.clone(),
                work: Arc::clone(&self.work),
                after: seconds(age),
                rule: "disk.low",
                need: Some(Arc::clone(need)),
                waits: Arc::clone(&self.waits),
                trail: self.trail.clone(),
            };
            need.begin().await;
            tried("cache mounts", look.look(false).await);
            if need.is_met().await {
                break;
            }
            need.begin().await;
            tried("build cache", self.prune(images, age, need).await);
            if need.is_met().await {
                break;
            }
            let ttl = age.max(NAMESPACE_AGE_MIN);
            if namespaces_of.replace(ttl) == Some(ttl) {
                continue;
            }
            let look = leases::Look {
                engine: engine.clone(),
                images: images.clone(),
                work: Arc::clone(&self.work),
                ttl,
                rule: "disk.low",
                need: Some(Arc::clone(need)),
                trail: self.trail.clone(),
            };
            need.begin().await;
            tried("namespaces", look.look().await);
            if need.is_met().await {
                break;
            }
        }
        is_whole
    }

    /// Removes build cache. BuildKit takes its time for large records, and forgets what it was about to
    /// remove if it is stopped (`cacheManager.prune`, BuildKit 0.13 and 0.33), so it continues even if nobody
    /// waits for it any longer.
    async fn prune(&self, images: &Images, age: Duration, need: &Arc<Need>) -> Result<(), Fault> {
        let Ok(pruning) = Arc::clone(&self.pruning).try_lock_owned() else {
            return Err(Fault::new(Reason::EngineUnavailable, "the engine still removes build cache"));
        };
        let (sender, mut sizes) = watch::channel(0_i64);
        let (tasks, removing, engine) =
            (images.engine().tasks().clone(), images.clone(), self.engine.name().clone());
        let cancelled = tasks.clone();
        let pruned = tasks.spawn("prune", async move {
            let _pruning = pruning;
            let pruned = removing.remove_unused_cache(age, |size| {
                sender.send_modify(|sum| *sum = sum.saturating_add(size.max(0)));
            });
            let pruned = cancelled.unless_cancelled(pruned).await;
            let removed = *sender.borrow();
            if removed > 0 {
                tracing::info!(%engine, removed, ?age, "build cache that was not used is removed, since the disk is low");
            }
            pruned.map_err(Fault::from).flatten()
        });
        let mut pruned = pin!(pruned);
        let mut counted = 0;
        loop {
            let progress = tokio::time::timeout(SILENCE, sizes.changed());
            let done = tokio::select! {
                biased;
                done = &mut pruned => Some(done.map_err(Fault::from).flatten()),
                progress = progress => match progress {
                    Ok(Ok(())) => None,
                    // It ends.
                    Ok(Err(_)) => Some(pruned.as_mut().await.map_err(Fault::from).flatten()),
                    Err(elapsed) => Some(Err(images.engine().silent().caused_by(elapsed))),
                },
            };
            let sum = *sizes.borrow_and_update();
            need.removed(sum.saturating_sub(counted));
            counted = sum;
            match done {
                Some(done) => return done,
                None if !self.gauge.disk(images).await.level.is_low() => return Ok(()),
                None => {}
            }
        }
    }

    /// Tells the operator once a minute whose images take most.
    async fn name_largest(&self, images: &Images) {
        let is_due = lock(&self.named).is_none_or(|named| named.elapsed() >= SAY_EVERY);
        if !is_due {
            return;
        }
        *lock(&self.named) = Some(Instant::now());
        let engine = self.engine.name();
        let named = async {
            let owned = images.possessions().await?;
            let mut largest: Vec<_> = owned.iter().map(|(opaque, owned)| (owned.size(), opaque)).collect();
            largest.sort_unstable_by(|one, other| other.cmp(one));
            let mut named = Vec::new();
            for (size, opaque) in largest.into_iter().take(LARGEST) {
                let lease = images.store().own().lease(engine, opaque).await?;
                let name = lease.and_then(|lease| lease.namespace).map(|name| name.to_string());
                let name = name.as_deref().map_or_else(|| "?".into(), printable);
                // A job's name may look like an entry of this list.
                named.push(format!("{name:?}: {} MiB", size >> 20));
            }
            Ok::<_, Fault>(named.join(", "))
        };
        match named.await {
            Ok(largest) => tracing::warn!(
                %engine,
                largest,
                "the disk of the engine stays low; these namespaces have the largest images"
            ),
            Err(fault) => {
                tracing::warn!(%engine, cause = causes(&fault), "cannot tell which namespaces have the largest images");
            }
        }
    }
}

/// The pause after a pass; `pause` is that after the next one, if it removes nothing.
fn next(pause: &mut Duration, has_removed: bool) -> Duration {
    let now = if has_removed { AGAIN } else { *pause };
    *pause = (now * 2).min(AGAIN_MAX);
    now
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_that_remove_nothing_become_rarer() {
        let mut pause = AGAIN;
        let mut next = |has_removed| next(&mut pause, has_removed).as_secs();
        assert_eq!([0; 7].map(|_| next(false)), [15, 30, 60, 120, 240, 300, 300]);
        assert_eq!([true, false, false].map(&mut next), [15, 30, 60]);
    }
}

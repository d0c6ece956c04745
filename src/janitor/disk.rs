//! Measures the disk of an engine, and makes space there before it is full: what was not used for longest goes first, and
//! nothing that a running build needs.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{every_while_up, jobs, leases, seconds};
use crate::{
    audit::{Event, Kind, Trail},
    config::{Config, DiskMarks},
    engine::disk::{Space, place},
    engines::{Disk, Handle, Level},
    fault::{Fault, causes},
    front::Work,
    images::Images,
    tasks::Group,
};

/// How often it measures, which costs one system call.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it tries to make space while there is none to be made.
const AGAIN: Duration = Duration::from_secs(15);
/// How often it says that the disk is low.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// The ages of what goes, one after the other until there is space. A build may need what was used a moment ago, so the
/// last one is for an engine without builds.
const AGES: [Duration; 5] = [
    Duration::from_secs(7 * 24 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(3600),
    Duration::from_secs(600),
    Duration::ZERO,
];
/// A namespace may be between two steps of its pipeline.
const NAMESPACE_AGE_MIN: Duration = Duration::from_secs(3600);

/// Looks after the disk of `engine` until `tasks` are cancelled.
pub(super) fn guard(engine: &Handle, work: &Arc<Work>, config: &Config, trail: &Trail, tasks: &Group) {
    let guard = Arc::new(Guard {
        engine: engine.clone(),
        place: config.engines.disk(engine.name()).map(ToOwned::to_owned),
        marks: config.disk,
        work: Arc::clone(work),
        trail: trail.clone(),
        is_spent: AtomicBool::new(false),
        tasks: tasks.clone(),
    });
    let measuring = Arc::clone(&guard);
    let said = Arc::new(std::sync::Mutex::new(None));
    every_while_up("disk", INTERVAL, engine.clone(), tasks, move |images| {
        let (guard, said) = (Arc::clone(&measuring), Arc::clone(&said));
        async move { guard.measure(&images, &said).await }
    });
    every_while_up("space", INTERVAL, engine.clone(), tasks, move |images| {
        let guard = Arc::clone(&guard);
        async move { guard.make_space(images).await }
    });
}

struct Guard {
    engine: Handle,
    /// A directory on the disk, as the configuration says.
    place: Option<PathBuf>,
    marks: DiskMarks,
    work: Arc<Work>,
    trail: Trail,
    /// Whether nothing was left to be removed the last time.
    is_spent: AtomicBool,
    tasks: Group,
}

impl Guard {
    /// The disk as it is now. The question may hang with the disk.
    async fn disk(&self, images: &Images) -> Disk {
        let name = self.engine.name().clone();
        let (configured, engine) = (self.place.clone(), images.engine().clone());
        let measured = self.tasks.spawn_blocking("disk", move || {
            let place = match configured {
                Some(place) => place,
                None => place(engine.root(), engine.id())?,
            };
            Space::of(&place).map_err(|error| format!("{}: {error}", place.display()))
        });
        match measured.await {
            Ok(Ok(space)) => Disk::new(name, space, self.marks, self.is_spent.load(Ordering::Relaxed)),
            Ok(Err(cause)) => Disk::unknown(name, cause),
            Err(cause) => Disk::unknown(name, causes(&Fault::from(cause))),
        }
    }

    async fn measure(&self, images: &Images, said: &std::sync::Mutex<Option<Instant>>) {
        let disk = self.disk(images).await;
        let before = self.engine.disk().borrow().clone();
        self.say(&disk, &before, said);
        if disk.level == Level::Ample {
            self.is_spent.store(false, Ordering::Relaxed);
        }
        if disk != before {
            self.engine.measured(disk);
        }
    }

    /// Says each change, and once a minute that the disk is low.
    fn say(&self, disk: &Disk, before: &Disk, said: &std::sync::Mutex<Option<Instant>>) {
        let (engine, Space { free, total }) = (self.engine.name(), disk.space);
        let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (level, is_new) = (disk.level.as_str(), disk.level != before.level);
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
            Level::Low | Level::Spent | Level::Full
                if is_new || said.is_none_or(|said| said.elapsed() >= SAY_EVERY) =>
            {
                let (low, full) = disk.marks;
                tracing::warn!(%engine, level, free, total, low, full, "the disk of the engine is low");
                *said = Some(Instant::now());
            }
            Level::Unknown | Level::Ample | Level::Low | Level::Spent | Level::Full => {}
        }
        let is_first = before.level == Level::Unknown && disk.level == Level::Ample;
        if is_new && !is_first && disk.level != Level::Unknown {
            let event = Event::new(Kind::Disk).text("engine", engine).text("level", level);
            self.trail.record(event.number("free", free).number("total", total));
        }
    }

    /// Removes what is unused while the disk is low.
    async fn make_space(&self, images: Images) {
        if !is_low(&self.disk(&images).await) {
            return;
        }
        let engine = self.engine.name();
        if let Err(fault) = self.remove(&images).await {
            tracing::warn!(%engine, cause = causes(&fault), "cannot make space on the disk of the engine");
        }
        let disk = self.disk(&images).await;
        if is_low(&disk) {
            self.is_spent.store(true, Ordering::Relaxed);
            let mut disk = self.engine.disk();
            let _ = tokio::time::timeout(AGAIN, disk.wait_for(|disk| !is_low(disk))).await;
        }
    }

    async fn remove(&self, images: &Images) -> Result<(), Fault> {
        let engine = self.engine.name();
        for age in AGES {
            if age.is_zero() && self.work.has_builds(engine) {
                break;
            }
            let after = seconds(age);
            let look = jobs::Look {
                engine: engine.clone(),
                images: images.clone(),
                work: Arc::clone(&self.work),
                after,
                rule: "disk.low",
                trail: self.trail.clone(),
            };
            look.look(false).await?;
            if !is_low(&self.disk(images).await) {
                break;
            }
            let removed = images.remove_unused_cache(age).await?;
            if removed > 0 {
                tracing::info!(%engine, removed, ?age, "build cache that was not used is removed, since the disk is low");
            }
            if !is_low(&self.disk(images).await) {
                break;
            }
            let look = leases::Look {
                engine: engine.clone(),
                images: images.clone(),
                work: Arc::clone(&self.work),
                ttl: age.max(NAMESPACE_AGE_MIN),
                rule: "disk.low",
                trail: self.trail.clone(),
            };
            look.look().await?;
            if !is_low(&self.disk(images).await) {
                break;
            }
        }
        Ok(())
    }
}

fn is_low(disk: &Disk) -> bool {
    matches!(disk.level, Level::Low | Level::Spent | Level::Full)
}

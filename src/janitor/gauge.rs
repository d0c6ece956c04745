//! Measures the disk of an engine, and reports when enough is removed from it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    config::{Config, DiskMarks},
    engine::disk::{Space, place},
    engines::{Disk, Handle},
    fault::{Fault, causes},
    images::Images,
    tasks::Group,
};

/// How long a disk may take to say how full it is.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long removed space may take to become free, over all of one step: Btrfs and ZFS free it later.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// How often it looks for that.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);

/// Measures one engine's disk.
pub(super) struct Gauge {
    engine: Handle,
    /// A directory on the disk, as the configuration says.
    place: Option<PathBuf>,
    marks: DiskMarks,
    /// Whether nothing was left to be removed the last time.
    is_spent: AtomicBool,
    asking: Asking,
}

impl Gauge {
    pub(super) fn new(engine: &Handle, config: &Config, tasks: &Group) -> Self {
        Self {
            engine: engine.clone(),
            place: config.engines.disk(engine.name()).map(ToOwned::to_owned),
            marks: config.disk,
            is_spent: AtomicBool::new(false),
            asking: Asking { tasks: tasks.clone(), one: Arc::default() },
        }
    }

    pub(super) fn engine(&self) -> &Handle {
        &self.engine
    }

    /// Notes whether nothing is left that could be removed.
    pub(super) fn spent(&self, is_spent: bool) {
        self.is_spent.store(is_spent, Ordering::Relaxed);
    }

    /// The disk as it is now.
    pub(super) async fn disk(&self, images: &Images) -> Disk {
        let name = self.engine.name().clone();
        let (configured, engine) = (self.place.clone(), images.engine().clone());
        let measured = self.asking.ask(ANSWER_MAX, move || {
            let place = match configured {
                Some(place) => place,
                None => place(engine.root(), engine.id())?,
            };
            Space::of(&place).map_err(|error| format!("{}: {error}", place.display()))
        });
        match measured.await {
            Ok(space) => {
                let was = self.engine.disk().borrow().level;
                Disk::new(name, space, self.marks, was, self.is_spent.load(Ordering::Relaxed))
            }
            Err(cause) => Disk::unknown(name, cause),
        }
    }
}

/// Questions to a disk that may hang: one at a time, so that a hanging one takes a single thread.
struct Asking {
    tasks: Group,
    one: Arc<tokio::sync::Mutex<()>>,
}

impl Asking {
    async fn ask<T: Send + 'static>(
        &self,
        max: Duration,
        question: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let asked = async {
            let one = Arc::clone(&self.one).lock_owned().await;
            let asked = self.tasks.spawn_blocking("disk", move || {
                let _one = one;
                question()
            });
            asked.await.unwrap_or_else(|panicked| Err(causes(&Fault::from(panicked))))
        };
        let silent = || format!("it has not reported its free space for {} s", max.as_secs());
        timeout(max, asked).await.unwrap_or_else(|_| Err(silent()))
    }
}

/// The need of space in one pass over unused data.
pub(super) struct Need {
    gauge: Arc<Gauge>,
    images: Images,
    step: Mutex<Step>,
}

/// A step of the pass.
struct Step {
    /// The free space when it began.
    free: u64,
    /// The bytes that it has removed since.
    removed: u64,
    /// How much longer it may wait for that to be free.
    patience: Duration,
    /// Whether this step or one before has removed anything.
    has_removed: bool,
}

impl Step {
    /// Whether the removed space is free. The sizes are rough: images share layers, and files blocks.
    fn is_settled(&self, free: u64) -> bool {
        free >= self.free.saturating_add(self.removed / 2)
    }
}

impl Need {
    pub(super) fn new(gauge: Arc<Gauge>, images: Images) -> Self {
        let step = Step { free: 0, removed: 0, patience: SETTLE_MAX, has_removed: false };
        Self { gauge, images, step: Mutex::new(step) }
    }

    /// Begins a step.
    pub(super) async fn begin(&self) {
        let free = self.gauge.disk(&self.images).await.space.free;
        self.with(|step| *step = Step { free, removed: 0, patience: SETTLE_MAX, ..*step });
    }

    /// Notes the number of removed bytes.
    pub(super) fn removed(&self, bytes: i64) {
        let bytes = u64::try_from(bytes).unwrap_or_default();
        self.with(|step| {
            step.removed = step.removed.saturating_add(bytes);
            step.has_removed |= bytes > 0;
        });
    }

    /// Whether anything is removed.
    pub(super) fn has_removed(&self) -> bool {
        self.with(|step| step.has_removed)
    }

    /// Whether there is space. Waits a while until the removed space is free.
    pub(super) async fn is_met(&self) -> bool {
        loop {
            let disk = self.gauge.disk(&self.images).await;
            if !disk.level.is_low() {
                return true;
            }
            let waits = self.with(|step| !step.is_settled(disk.space.free) && !step.patience.is_zero());
            if !waits {
                return false;
            }
            let begun = Instant::now();
            sleep(SETTLE_INTERVAL).await;
            self.with(|step| step.patience = step.patience.saturating_sub(begun.elapsed()));
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Step) -> T) -> T {
        f(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{atomic::AtomicU32, mpsc};

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_has_one_thread_and_is_asked_again_when_it_answers() {
        let asking = Asking { tasks: Group::root(), one: Arc::default() };
        let (release, released) = mpsc::channel::<()>();
        let max = Duration::from_millis(50);
        let hung = asking.ask(max, move || released.recv().map_err(|error| error.to_string())).await;
        assert_eq!(hung, Err("it has not reported its free space for 0 s".to_owned()));
        let asked = Arc::new(AtomicU32::new(0));
        for _ in 0..3 {
            let asked = Arc::clone(&asked);
            let question = move || Ok(asked.fetch_add(1, Ordering::Relaxed));
            assert!(asking.ask(max, question).await.is_err());
        }
        assert_eq!((asking.tasks.running(), asked.load(Ordering::Relaxed)), (1, 0), "it hangs");
        release.send(()).unwrap();
        assert_eq!(asking.ask(Duration::from_secs(60), || Ok(7)).await, Ok(7));
        let broken = asking.ask::<()>(Duration::from_secs(60), || panic!("on purpose")).await;
        assert!(broken.is_err());
        assert_eq!(asking.ask(Duration::from_secs(60), || Ok(8)).await, Ok(8));
    }

    #[test]
    fn what_is_removed_is_settled_once_it_is_free() {
        let step = |removed| Step { free: 100, removed, patience: SETTLE_MAX, has_removed: true };
        assert!(step(0).is_settled(100));
        assert!(!step(100).is_settled(149) && step(100).is_settled(150));
        assert!(!step(u64::MAX).is_settled(150));
        // A build writes meanwhile.
        assert!(!step(0).is_settled(99));
    }
}

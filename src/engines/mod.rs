//! The engines of the configuration: which of them are usable, and why the others are not.
//!
//! Each engine has a task that connects to it as soon as it answers, cleans up leftovers on it, and only
//! then lets calls use it; when the engine ends, the task starts over. So an engine that is down affects
//! only its own callers, and may come back as another version or with another image store: everything
//! that was found out about the old engine is dropped with it.

mod disk;

use std::{
    fmt,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

pub use disk::{Disk, Level, full};

use crate::{
    engine::Engine,
    fault::{Fault, Reason, causes},
    images::Images,
    metrics::{EngineMetrics, Metrics},
    names::EngineName,
    naming::Keys,
    registry::{Lookups, Relay},
    store::Store,
    tasks::{Cause, Group},
};

/// How long a call waits for an engine that is starting.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts to connect to an engine: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often wharfd checks that a running engine answers. Its end is noticed without that.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The dependencies for making an engine usable.
#[derive(Clone, Debug)]
pub struct Means {
    /// The node's keyed hashes.
    pub keys: Keys,
    /// wharfd's store.
    pub store: Store,
    /// The registry that engines pull from and push to.
    pub relay: Relay,
    /// The look-ups of names.
    pub lookups: Lookups,
    /// The program that reads Dockerfiles in a container; with `None`, BuildKit reads them itself.
    pub frontend: Option<PathBuf>,
    /// Whether each job's layers are its own.
    pub own_layers: bool,
    /// Counts what the engines do.
    pub metrics: Metrics,
}

/// An engine of the configuration, in whatever state. It is cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    name: EngineName,
    socket: PathBuf,
    state: watch::Sender<State>,
    disk: watch::Sender<Disk>,
    firewall: Option<PathBuf>,
    metrics: EngineMetrics,
    /// Notified by a call that needs the engine, so that the next attempt starts at once.
    wanted: Notify,
}

/// The state of an engine.
#[derive(Clone, Debug)]
pub enum State {
    /// It answers; wharfd is preparing it.
    Starting,
    /// It is usable.
    Up(Images),
    /// It is not usable, for this reason.
    Down(Arc<Fault>),
}

impl State {
    /// Whether the engine is usable.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }
}

/// The room for an archive: on the disk of this engine, if one makes it there.
pub struct RoomToSave(Option<Handle>);

impl RoomToSave {
    /// Runs `work`, which saves and watches `tasks`, and ends early if the disk is full.
    pub async fn while_it_lasts<T>(
        &self,
        tasks: &Group,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        match &self.0 {
            Some(engine) => engine.while_it_has_room(tasks, work).await,
            None => work.await,
        }
    }
}

impl Handle {
    /// Connects to the engine at `socket`, and again whenever it comes back, until `tasks` are
    /// cancelled. `firewall` is the file that is there while the rules of `wharfd firewall` are set.
    pub fn open(
        name: EngineName,
        socket: PathBuf,
        firewall: Option<PathBuf>,
        means: Means,
        tasks: &Group,
    ) -> Self {
        let (state, metrics) = (watch::Sender::new(State::Starting), means.metrics.of(&name));
        let handle = Self {
            inner: Arc::new(Inner {
                metrics,
                name,
                socket,
                state,
                disk: watch::Sender::default(),
                firewall,
                wanted: Notify::new(),
            }),
        };
        let (kept, group) = (handle.clone(), tasks.clone());
        drop(tasks.spawn("engine", async move {
            let _ = group.unless_cancelled(Box::pin(kept.keep_up(&means, &group))).await;
        }));
        handle
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &EngineName {
        &self.inner.name
    }

    /// Its metrics.
    pub fn metrics(&self) -> &EngineMetrics {
        &self.inner.metrics
    }

    /// Whether it is known that the rules of `wharfd firewall` are set in its network.
    pub async fn has_firewall(&self) -> bool {
        match &self.inner.firewall {
            Some(file) => tokio::fs::try_exists(file).await.unwrap_or(false),
            None => false,
        }
    }

    /// Its state, and every change of it.
    pub fn states(&self) -> watch::Receiver<State> {
        self.inner.state.subscribe()
    }

    /// Its disk as it was measured last, and every change of that.
    pub fn disk(&self) -> watch::Receiver<Disk> {
        self.inner.disk.subscribe()
    }

    /// Sets the state of its disk, while the engine is usable.
    pub fn measured(&self, disk: Disk) {
        // Held until the disk is set: the end of the engine forgets it afterwards.
        let state = self.inner.state.borrow();
        if state.is_up() {
            self.inner.disk.send_replace(disk);
        }
    }

    /// Refuses a new build or pull if its disk has no room for one.
    pub fn has_room(&self) -> Result<(), Fault> {
        self.inner.disk.borrow().refusal().map_or(Ok(()), Err)
    }

    /// Runs `work`, which fills its disk and watches `tasks`. It ends early, with the disk's fault, if the disk is full.
    pub async fn while_it_has_room<T>(
        &self,
        tasks: &Group,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let (mut work, mut disk) = (pin!(work), self.disk());
        let fault = tokio::select! {
            biased;
            done = &mut work => return done,
            fault = full(&mut disk) => fault,
        };
        tasks.cancel(Cause::Failed);
        work.await.map_err(|_| fault)
    }

    /// The room for an archive of its images. It is refused if the image store makes the archive on a disk that has none.
    pub fn room_to_save(&self, images: &Images) -> Result<RoomToSave, Fault> {
        if !images.engine().image_store().saves_by_disk() {
            return Ok(RoomToSave(None));
        }
        self.has_room()?;
        Ok(RoomToSave(Some(self.clone())))
    }

    /// Its images, if it is usable. For an engine that is down, this triggers one more attempt; for an
    /// engine that is starting, it waits a while.
    pub async fn images(&self) -> Result<Images, Fault> {
        self.within(PATIENCE).await
    }

    /// Like [`images`](Self::images), but waits at most `patience`.
    pub async fn within(&self, patience: Duration) -> Result<Images, Fault> {
        let mut states = self.states();
        if let State::Up(images) = &*states.borrow_and_update() {
            return Ok(images.clone());
        }
        self.inner.wanted.notify_one();
        let settled = async {
            loop {
                states.changed().await.map_err(Fault::internal)?;
                match &*states.borrow_and_update() {
                    State::Starting => {}
                    State::Up(images) => return Ok(images.clone()),
                    State::Down(fault) => return Err(for_caller(fault)),
                }
            }
        };
        match timeout(patience, settled).await {
            Ok(settled) => settled,
            Err(_) => Err(self.not_yet()),
        }
    }

    fn not_yet(&self) -> Fault {
        match &*self.inner.state.borrow() {
            State::Down(fault) => for_caller(fault),
            State::Starting | State::Up(_) => Fault::new(
                Reason::EngineUnavailable,
                format!("the engine `{}` is not ready yet", self.inner.name),
            )
            .hint("try again in a moment"),
        }
    }

    async fn keep_up(&self, means: &Means, tasks: &Group) {
        let (mut last, mut pause) = (None, PAUSE_MIN);
        loop {
            let fault = match self.take_up(last.as_ref(), means, tasks).await {
                Ok(images) => {
                    pause = PAUSE_MIN;
                    self.inner.state.send_replace(State::Up(images.clone()));
                    let fault = lost(images.engine(), &self.inner.metrics).await;
                    last = Some(images);
                    fault
                }
                Err(fault) => fault,
            };
            self.down(fault);
            sleep(PAUSE_MIN).await;
            let _ = timeout(pause, self.inner.wanted.notified()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Connects to the engine and prepares it. Nothing uses the engine before this returns.
    async fn take_up(&self, last: Option<&Images>, means: &Means, tasks: &Group) -> Result<Images, Fault> {
        if let Some(images) = last {
            if images.engine().ensure_there().is_ok() {
                // It only hung: everything that ran there still runs, and there are no leftovers.
                images.engine().check().await?;
                tracing::info!(engine = %self.inner.name, "the engine answers again");
                return Ok(images.clone());
            }
            images.remember_crash().await;
        }
        let begun = Instant::now();
        let engine = Engine::connect(&self.inner.name, &self.inner.socket, tasks).await?;
        self.inner.state.send_replace(State::Starting);
        let images = match last {
            None => Images::new(
                engine,
                means.keys.clone(),
                means.store.clone(),
                means.relay.clone(),
                means.lookups.clone(),
                means.own_layers,
                self.inner.metrics.clone(),
            ),
            Some(last) => last.found_again(engine),
        };
        let prepared = async {
            images.recover().await?;
            match &means.frontend {
                Some(program) => images.bring_frontend(program.clone()).await,
                None => images.remove_frontends(None).await,
            }
        };
        tokio::select! {
            prepared = prepared => prepared?,
            fault = images.engine().gone() => return Err(fault),
        }
        tracing::info!(engine = %self.inner.name, elapsed = ?begun.elapsed(), "the engine is up");
        Ok(images)
    }

    /// Records and logs why the engine is not usable, once for each reason.
    fn down(&self, fault: Fault) {
        let cause = causes(&fault);
        let is_said =
            matches!(&*self.inner.state.borrow(), State::Down(said) if causes(said.as_ref()) == cause);
        if !is_said {
            let hint = fault.hint_text();
            tracing::warn!(engine = %self.inner.name, cause, hint, "the engine is down");
        }
        self.inner.state.send_replace(State::Down(Arc::new(fault)));
        self.inner.disk.send_replace(Disk::default());
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// Waits until a running engine is no longer usable, and returns the reason.
async fn lost(engine: &Engine, metrics: &EngineMetrics) -> Fault {
    let looking = async {
        loop {
            sleep(LOOK_EVERY).await;
            let asked = Instant::now();
            let checked = engine.check().await;
            metrics.answered(asked.elapsed());
            if let Err(fault) = checked {
                return fault;
            }
        }
    };
    tokio::select! {
        fault = looking => fault,
        fault = engine.gone() => fault,
    }
}

/// The fault for a call: whatever is wrong with the engine, to the call it is unavailable.
fn for_caller(fault: &Arc<Fault>) -> Fault {
    Fault::new(Reason::EngineUnavailable, fault.text().to_owned())
        .hint("try again later; if it persists, the node's operator finds the cause in wharfd's log")
        .caused_by(causes(fault.as_ref()))
}

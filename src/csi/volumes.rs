//! The existing volumes, from their beginning to their end, over restarts of wharfd and of the kubelet.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    Refusal, ends,
    place::{self, Place},
    request::Wanted,
};
use crate::{
    audit::Trail,
    fault::{Fault, Reason, causes},
    front::Front,
    identity::Served,
    names::Pod,
    shares::Locks,
    store::{Access, Store, Volume},
    tasks::{Cause, Group},
    telemetry::each_second,
    transport::{Listener, Presence, pod},
};

/// The client's name in a volume.
const CLIENT: &str = "wharf";
/// The file that names the socket's namespace, for people and the client.
const NAMESPACE: &str = "namespace";
/// A pod needs one; each takes some megabytes of the node's disk, and a pod's author chooses their number.
const VOLUMES_OF_POD_MAX: usize = 4;
/// How long connections may take to close: each is cut, and only its own calls have to notice.
const CLOSE: Duration = Duration::from_secs(10);
/// How often it looks for pods that are gone without a word of the kubelet.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Serves a listener as wharfd's other sockets until the group is cancelled.
pub type ServeSocket = Arc<dyn Fn(Listener, Group) + Send + Sync>;

/// The driver's resources.
pub struct Resources {
    /// The kubelet's directory of pods, under the path that the kubelet uses.
    pub pods_dir: PathBuf,
    /// The client, which each volume gets.
    pub client: PathBuf,
    /// The served callers.
    pub served: Arc<Served>,
    /// The doors' common part.
    pub front: Arc<Front>,
    /// The store.
    pub store: Store,
    /// The audit log.
    pub trail: Trail,
    /// Serves pods' sockets.
    pub open: ServeSocket,
    /// The owner of pods' connections.
    pub connections: Group,
    /// The owner of the driver's own tasks.
    pub tasks: Group,
}

/// The driver.
pub struct Driver {
    means: Resources,
    store: Access,
    /// One request of a pod, by its uid, after the other.
    turns: Locks,
    volumes: Mutex<BTreeMap<String, Held>>,
    /// Whether the kubelet has found the driver: until then, the directory of pods may be another one than the kubelet's.
    known: watch::Sender<bool>,
}

/// A volume.
#[derive(Clone)]
struct Held {
    place: Place,
    pod: Presence,
    /// The group of its socket and connections; `None` while it has none.
    socket: Option<Group>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("volumes", &self.volumes().len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// Takes up the volumes from before: their sockets listen again when this returns.
    pub async fn start(means: Resources) -> Result<Arc<Self>, Fault> {
        let store = means.store.own();
        let (known, mut is_known) = watch::channel(false);
        let driver =
            Arc::new(Self { means, store, turns: Locks::default(), volumes: Mutex::default(), known });
        driver.restore().await?;
        let (looking, tasks) = (Arc::clone(&driver), driver.means.tasks.clone());
        drop(driver.means.tasks.spawn("volumes", async move {
            let look = async {
                // The sender lives as long as the driver.
                let _ = is_known.wait_for(|known| *known).await;
                let mut ticks = interval(LOOK_EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    looking.look();
                }
            };
            let _ = tasks.unless_cancelled(look).await;
        }));
        Ok(driver)
    }

    pub(super) fn pods_dir(&self) -> &std::path::Path {
        &self.means.pods_dir
    }

    pub(super) fn tasks(&self) -> &Group {
        &self.means.tasks
    }

    /// The kubelet has found the driver's sockets, so this is the kubelet's directory.
    pub(super) fn is_known(&self) {
        self.known.send_replace(true);
    }

    /// Makes a volume, or finds it made.
    pub(super) async fn publish(&self, wanted: Wanted) -> Result<(), Refusal> {
        let Wanted { volume, place, name } = wanted;
        let _turn = self.turns.lock(place.uid()).await;
        self.means.served.now().admit_pod(&volume.pod)?;
        let held = self.known(&volume, &place)?;
        if held.socket.is_some() && self.has_socket(&held).await? {
            return Ok(());
        }
        self.store.add_volume(volume.clone()).await?;
        self.open(&volume.id, held).await?;
        tracing::info!(pod = %volume.pod, name, volume = volume.id, "a pod has its socket");
        Ok(())
    }

    /// The volume, as it is known, or as a new one.
    fn known(&self, volume: &Volume, place: &Place) -> Result<Held, Refusal> {
        let volumes = self.volumes();
        let of_pod = || volumes.values().filter(|held| held.place.uid() == place.uid());
        if let Some(held) = of_pod().find(|held| held.pod.has_ended() || *held.pod.pod() != volume.pod) {
            let text = format!("pod {} is about to end", held.pod.pod());
            return Err(Fault::new(Reason::Cancelled, text).into());
        }
        match volumes.get(&volume.id) {
            Some(held) if held.place == *place => return Ok(held.clone()),
            Some(_) => return Err(Refusal::Another("volume_id: this volume is at another path".to_owned())),
            None => {}
        }
        if of_pod().any(|held| held.place == *place) {
            return Err(Refusal::Another("target_path: another volume is there".to_owned()));
        }
        if of_pod().count() >= VOLUMES_OF_POD_MAX {
            let text = format!("the pod has {VOLUMES_OF_POD_MAX} volumes of this driver, and needs only one");
            return Err(Refusal::Invalid(text));
        }
        let pod = of_pod().next().map(|held| held.pod.clone());
        let pod = pod.unwrap_or_else(|| Presence::new(volume.pod.clone()));
        Ok(Held { place: place.clone(), pod, socket: None })
    }

    /// Whether a volume that was made still has its socket.
    async fn has_socket(&self, held: &Held) -> Result<bool, Fault> {
        let (place, pods) = (held.place.clone(), self.means.pods_dir.clone());
        self.on_disk(move || {
            let Some(directory) = place.find(&pods)? else { return Ok(false) };
            Ok(rustix::fs::statat(&directory, pod::SOCKET, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok())
        })
        .await
    }

    /// Fills a volume's directory, and serves its socket.
    async fn open(&self, id: &str, held: Held) -> Result<(), Fault> {
        if let Some(socket) = &held.socket {
            socket.cancel(Cause::ClientGone);
        }
        // Known from now on, so that an end of it removes whatever is made of it.
        self.volumes().insert(id.to_owned(), Held { socket: None, ..held.clone() });
        let (place, pods, client) =
            (held.place.clone(), self.means.pods_dir.clone(), self.means.client.clone());
        let presence = held.pod.clone();
        let listener = self
            .on_disk(move || {
                let directory = place.make(&pods)?;
                place::put_program(directory.as_fd(), CLIENT, &client)?;
                let namespace = presence.pod().own_namespace();
                place::put_text(directory.as_fd(), NAMESPACE, &format!("{namespace}\n"))?;
                pod::PodListener::bind(directory.as_fd(), presence)
            })
            .await?;
        let socket = self.means.connections.child("pod");
        (self.means.open)(Listener::Pod(listener), socket.clone());
        self.volumes().insert(id.to_owned(), Held { socket: Some(socket), ..held });
        Ok(())
    }

    /// Removes a volume: returns when nothing of it is left, and with a pod's last volume nothing of the pod's.
    pub(super) async fn unpublish(&self, id: &str, place: &Place) -> Result<(), Refusal> {
        let _turn = self.turns.lock(place.uid()).await;
        self.remove(id, place).await
    }

    async fn remove(&self, id: &str, place: &Place) -> Result<(), Refusal> {
        let (held, is_last) = {
            let volumes = self.volumes();
            let others =
                || volumes.iter().filter(|(other, held)| *other != id && held.place.uid() == place.uid());
            if others().any(|(_, held)| held.place == *place) {
                return Err(Refusal::Invalid("target_path: another volume is there".to_owned()));
            }
            (volumes.get(id).cloned(), others().next().is_none())
        };
        if let Some(held) = &held {
            if held.place != *place {
                return Err(Refusal::Invalid("target_path: this volume is at another path".to_owned()));
            }
            self.end(held, is_last).await?;
        }
        let (removed, pods) = (place.clone(), self.means.pods_dir.clone());
        self.on_disk(move || removed.remove(&pods)).await?;
        self.store.forget_volume(id).await?;
        if let Some(held) = held {
            self.volumes().remove(id);
            tracing::info!(pod = %held.pod.pod(), volume = id, "a pod's socket is gone");
        }
        Ok(())
    }

    /// Closes the socket of a volume with all connections; with a pod's last one the pod's namespace ends.
    async fn end(&self, held: &Held, is_last: bool) -> Result<(), Fault> {
        if is_last {
            held.pod.end();
        }
        if let Some(socket) = &held.socket {
            socket.cancel(Cause::ClientGone);
            if tokio::time::timeout(CLOSE, socket.close_and_wait()).await.is_err() {
                return Err(Fault::new(Reason::Cancelled, "connections of the pod are still closing"));
            }
        }
        if is_last {
            ends::end(&self.means.front, &self.store, &self.means.trail, held.pod.pod()).await?;
        }
        Ok(())
    }

    /// Takes up the volumes that the store knows.
    async fn restore(&self) -> Result<(), Fault> {
        let mut pods = BTreeMap::<Pod, Presence>::new();
        for volume in self.store.volumes().await? {
            let Volume { id, target, pod } = volume;
            let place = match Place::read(&self.means.pods_dir, &target) {
                Ok(place) if place.uid() == pod.uid() => place,
                Ok(_) | Err(_) => {
                    tracing::warn!(
                        volume = id,
                        target,
                        "a volume is not below `kubelet_dir`: it is left alone"
                    );
                    continue;
                }
            };
            let pod = pods.entry(pod.clone()).or_insert_with(|| Presence::new(pod)).clone();
            let held = Held { place: place.clone(), pod: pod.clone(), socket: None };
            self.volumes().insert(id.clone(), held.clone());
            let pods_dir = self.means.pods_dir.clone();
            let found = self.on_disk(move || place.find(&pods_dir).map(|found| found.is_some())).await;
            let opened = match found {
                Ok(true) => self.open(&id, held).await,
                // The pod is gone, or `look` finds it later.
                Ok(false) => Ok(()),
                Err(fault) => Err(fault),
            };
            match opened {
                Ok(()) => {
                    tracing::info!(pod = %pod.pod(), volume = id, "took over a pod's volume from before the restart")
                }
                Err(fault) => {
                    let cause = causes(&fault);
                    tracing::error!(pod = %pod.pod(), volume = id, cause, "a pod has no socket for now");
                }
            }
        }
        Ok(())
    }

    /// Ends the volumes of pods that the kubelet no longer has, and opens the sockets that could not be
    /// opened. Each in a task of its own: the end of one may have to wait for an engine.
    fn look(self: &Arc<Self>) {
        let all: Vec<_> = self.volumes().iter().map(|(id, held)| (id.clone(), held.place.clone())).collect();
        for (id, place) in all {
            // The holder of the turn does it.
            let Some(turn) = self.turns.try_lock(place.uid()) else { continue };
            let driver = Arc::clone(self);
            drop(self.means.tasks.spawn("look at a volume", async move {
                let _turn = turn;
                if let Err(refusal) = driver.look_at(&id, &place).await {
                    each_second!(
                        warn,
                        volume = id,
                        cause = causes(&refusal),
                        "a volume cannot be opened or ended yet"
                    );
                }
            }));
        }
    }

    /// The same for one volume, within the turn of its pod.
    async fn look_at(&self, id: &str, place: &Place) -> Result<(), Refusal> {
        let (looked, pods) = (place.clone(), self.means.pods_dir.clone());
        let (has_no_pod, is_there) =
            self.on_disk(move || Ok((looked.has_no_pod(&pods)?, looked.find(&pods)?.is_some()))).await?;
        if has_no_pod {
            return self.remove(id, place).await;
        }
        let held = self.volumes().get(id).filter(|held| held.place == *place).cloned();
        if let Some(held) = held.filter(|held| is_there && held.socket.is_none() && !held.pod.has_ended()) {
            let pod = held.pod.clone();
            self.open(id, held).await?;
            tracing::info!(pod = %pod.pod(), volume = id, "a pod has its socket again");
        }
        Ok(())
    }

    /// Does work that blocks: the kubelet's directory may lie on a disk that is slow.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let done = self.means.tasks.spawn_blocking("volume", work).await?;
        done.map_err(|error| {
            Fault::new(Reason::Internal, format!("the directory of the volume: {error}")).caused_by(error)
        })
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

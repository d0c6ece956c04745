//! The running work: builds, pushes, pulls and saves, by namespace.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedRwLockReadGuard;

use super::{call::Call, jobs::Jobs, quotas::Share};
use crate::{
    fault::Fault,
    names::{EngineName, Namespace},
    naming::{Keys, MountsKey, NamespaceKey},
    policy::Permit,
    tasks::{Cause, Group, Hold},
};

/// The kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkKind {
    /// A build.
    Build,
    /// The session that builds belong to.
    Session,
    /// A push.
    Push,
    /// A pull.
    Pull,
    /// An archive of images.
    Save,
    /// A quick change: a tag, a removal.
    Change,
}

impl WorkKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Session => "session",
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Save => "save",
            Self::Change => "change",
        }
    }
}

/// All work, as groups of tasks: one for each namespace, and below it one for each piece of work.
pub struct Work {
    group: Group,
    keys: Keys,
    namespaces: Mutex<HashMap<Key, Entry>>,
    jobs: Jobs,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    engine: EngineName,
    /// Of some namespaces nobody knows another name.
    namespace: NamespaceKey,
}

struct Entry {
    group: Group,
    members: usize,
    builds: u32,
}

impl Work {
    /// Starts without work; `group` will own all work.
    pub fn new(group: Group, keys: Keys) -> Arc<Self> {
        Arc::new(Self { group, keys, namespaces: Mutex::default(), jobs: Jobs::default() })
    }

    fn key(&self, engine: &EngineName, namespace: &Permit<Namespace>) -> Key {
        Key { engine: engine.clone(), namespace: self.opaque(namespace.subject()) }
    }

    /// Begins a piece of work in a namespace and makes a group for its tasks. Fails once wharfd is
    /// draining, and while the namespace is being deleted.
    pub fn begin(
        self: &Arc<Self>,
        engine: &EngineName,
        namespace: &Permit<Namespace>,
        kind: WorkKind,
    ) -> Result<Member, Fault> {
        let key = self.key(engine, namespace);
        let mut namespaces = self.namespaces();
        let entry = match namespaces.get_mut(&key) {
            Some(entry) => entry,
            None => {
                let whose = namespace.subject().to_string();
                let group = self.group.enter_for("namespace", Some(whose))?;
                namespaces.entry(key.clone()).or_insert(Entry { group, members: 0, builds: 0 })
            }
        };
        let group = entry.group.enter(kind.as_str())?;
        entry.members += 1;
        entry.builds += u32::from(kind == WorkKind::Build);
        let hold = group.hold();
        let place = Place { kind: Some(kind), key, work: Arc::clone(self) };
        Ok(Member { group, _share: None, _job: None, place, _hold: hold })
    }

    /// Cancels all work in a namespace and waits for its end. No work can begin there until the returned
    /// value is dropped.
    pub async fn end(self: &Arc<Self>, engine: &EngineName, namespace: &Permit<Namespace>) -> Ending {
        self.end_known(self.key(engine, namespace)).await
    }

    /// The same for a namespace whose owner is gone: nobody's rules matter.
    pub async fn end_abandoned(self: &Arc<Self>, engine: &EngineName, namespace: &Namespace) -> Ending {
        self.end_known(Key { engine: engine.clone(), namespace: self.opaque(namespace) }).await
    }

    /// The opaque name of a namespace.
    pub fn opaque(&self, namespace: &Namespace) -> NamespaceKey {
        self.keys.namespace(namespace)
    }

    async fn end_known(self: &Arc<Self>, key: Key) -> Ending {
        let (group, builds) = {
            let mut namespaces = self.namespaces();
            let entry = namespaces.entry(key.clone()).or_insert_with(|| Entry {
                group: self.group.child("namespace"),
                members: 0,
                builds: 0,
            });
            entry.members += 1;
            (entry.group.clone(), entry.builds)
        };
        let place = Place { kind: None, key, work: Arc::clone(self) };
        group.cancel(Cause::NamespaceDeleted);
        group.close_and_wait().await;
        Ending { builds, _place: place }
    }

    /// Begins the end of a namespace in which nothing runs; `None` if something does.
    pub fn end_idle(self: &Arc<Self>, engine: &EngineName, namespace: &NamespaceKey) -> Option<Ending> {
        let key = Key { engine: engine.clone(), namespace: namespace.clone() };
        let mut namespaces = self.namespaces();
        if namespaces.contains_key(&key) {
            return None;
        }
        let group = self.group.child("namespace");
        group.cancel(Cause::NamespaceDeleted);
        namespaces.insert(key.clone(), Entry { group, members: 1, builds: 0 });
        drop(namespaces);
        Some(Ending { builds: 0, _place: Place { kind: None, key, work: Arc::clone(self) } })
    }

    /// The name of the cache mounts of a namespace's job.
    pub(super) fn mounts_of(&self, namespace: &Permit<Namespace>) -> MountsKey {
        self.keys.mounts_of(namespace.subject().job())
    }

    /// Who uses the cache mounts of jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// The namespaces in which something runs.
    pub fn namespaces_of(&self, engine: &EngineName) -> Vec<NamespaceKey> {
        let namespaces = self.namespaces();
        namespaces.keys().filter(|key| key.engine == *engine).map(|key| key.namespace.clone()).collect()
    }

    /// The group that owns all work.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Whether a build runs or waits in an engine.
    pub fn has_builds(&self, engine: &EngineName) -> bool {
        self.namespaces().iter().any(|(key, entry)| key.engine == *engine && entry.builds > 0)
    }

    /// The number of running builds.
    pub fn builds(&self) -> u32 {
        self.namespaces().values().map(|entry| entry.builds).sum()
    }

    fn namespaces(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("group", &self.group).finish_non_exhaustive()
    }
}

/// A piece of work, with a group for its tasks. It counts as running until this is dropped, so the last
/// task of the work must own it.
pub struct Member {
    group: Group,
    _share: Option<Share>,
    /// Keeps a build's cache mounts.
    _job: Option<OwnedRwLockReadGuard<()>>,
    // Dropped before `_hold`, so that the place is free when a waiter for the group wakes.
    place: Place,
    _hold: Hold,
}

/// The end of a namespace: no work begins in it until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it opens the namespace again"]
pub struct Ending {
    builds: u32,
    _place: Place,
}

impl Ending {
    /// The number of builds that were cancelled.
    pub fn builds(&self) -> u32 {
        self.builds
    }
}

/// Keeps a namespace's entry, for a piece of work or for the end of the namespace.
#[derive(Debug)]
struct Place {
    kind: Option<WorkKind>,
    key: Key,
    work: Arc<Work>,
}

impl Member {
    /// Adds the share of the caller's quota that the work uses.
    pub(super) fn with_share(self, share: Option<Share>) -> Self {
        Self { _share: share, ..self }
    }

    /// Adds what keeps a build's cache mounts.
    pub(super) fn with_job(self, job: OwnedRwLockReadGuard<()>) -> Self {
        Self { _job: Some(job), ..self }
    }

    /// The opaque name of its namespace.
    pub(super) fn namespace(&self) -> &NamespaceKey {
        &self.place.key.namespace
    }

    /// The group of its tasks.
    pub fn tasks(&self) -> &Group {
        &self.group
    }

    /// Does the `work` of `call` to its end even if the client disconnects: half of a change helps nobody. Its end is
    /// the call's: a client that leaves does not make it less done.
    pub fn to_its_end<T: Send + 'static>(
        self,
        call: &Call,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Fault>> + Send {
        let (tasks, work, call) = (self.group.clone(), Box::pin(work), call.clone());
        let held = async move {
            let _member = self;
            let done = work.await;
            call.ended_with(&done);
            done
        };
        async move { tasks.spawn("change", held).await? }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut namespaces = self.work.namespaces();
        let Some(entry) = namespaces.get_mut(&self.key) else { return };
        entry.members -= 1;
        entry.builds -= u32::from(self.kind == Some(WorkKind::Build));
        if entry.members == 0 {
            namespaces.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fault::Reason,
        names::{CallerId, Pattern},
        naming::keys_of,
        policy::Rules,
    };

    fn keys() -> Keys {
        keys_of(1)
    }

    fn permit(job: &str) -> Permit<Namespace> {
        let rules = Arc::new(Rules::built_in("test", Pattern::any()));
        rules.namespace(&CallerId::Uid(1), Namespace::new(job, "1").unwrap()).unwrap()
    }

    fn engine() -> EngineName {
        "main".to_owned().try_into().unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_namespace_cancels_its_work_and_waits() {
        let work = Work::new(Group::root(), keys());
        let (ours, theirs) = (permit("a"), permit("b"));
        let build = work.begin(&engine(), &ours, WorkKind::Build).unwrap();
        let push = work.begin(&engine(), &ours, WorkKind::Push).unwrap();
        let other = work.begin(&engine(), &theirs, WorkKind::Build).unwrap();
        assert_eq!(work.builds(), 2);
        for member in [build, push] {
            let group = member.tasks().clone();
            group.spawn("work", async move {
                assert_eq!(member.tasks().cancelled().await, Cause::NamespaceDeleted);
            });
        }
        let end = work.end(&engine(), &ours).await;
        assert_eq!(end.builds(), 1);
        assert_eq!(other.tasks().cancelled_by(), None);
        assert_eq!(work.builds(), 1);
        assert!(work.begin(&engine(), &ours, WorkKind::Build).is_err(), "what it had is being removed");
        assert_eq!(work.end(&engine(), &ours).await.builds(), 0, "nothing runs any more");
        drop(end);
        assert!(work.begin(&engine(), &ours, WorkKind::Build).is_ok(), "its name can be used again");
    }

    #[tokio::test]
    async fn a_namespace_in_use_is_not_idle() {
        let (work, permit) = (Work::new(Group::root(), keys()), permit("a"));
        let opaque = keys().namespace(permit.subject());
        let session = work.begin(&engine(), &permit, WorkKind::Session).unwrap();
        assert_eq!(work.namespaces_of(&engine()), std::slice::from_ref(&opaque));
        assert!(work.end_idle(&engine(), &opaque).is_none());
        drop(session);
        let end = work.end_idle(&engine(), &opaque).unwrap();
        assert!(work.end_idle(&engine(), &opaque).is_none(), "it is ending already");
        assert!(work.begin(&engine(), &permit, WorkKind::Build).is_err(), "what it had is being removed");
        drop(end);
        assert!(work.begin(&engine(), &permit, WorkKind::Build).is_ok());
    }

    #[tokio::test]
    async fn nothing_begins_once_wharfd_drains() {
        let work = Work::new(Group::root(), keys());
        let running = work.begin(&engine(), &permit("a"), WorkKind::Build).unwrap();
        work.group().drain();
        for job in ["a", "b"] {
            let fault = work.begin(&engine(), &permit(job), WorkKind::Build).unwrap_err();
            assert_eq!(fault.reason(), Reason::ShuttingDown);
        }
        assert_eq!(running.tasks().cancelled_by(), None);
    }
}

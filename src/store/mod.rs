//! wharfd's memory, one SQLite file: facts about layers, pins, the names that wharfd uses in engines, the
//! builds that may have crashed one, the namespaces that own something, the ends of namespaces, and the
//! volumes of pods. Losing the file costs time, the tokens of ended namespaces are valid again until they
//! expire, and the running pods lose their sockets. It contains no secrets.

mod ends;
mod exports;
mod file;
mod holds;
mod jobs;
mod keys;
mod layers;
mod long_names;
mod namespaces;
mod pins;
mod suspects;
mod unused;
mod volumes;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use exports::RecordedExport;
pub use file::StoreError;
pub use jobs::UnusedJob;
pub use layers::{LayerClaim, LayerFact, Packing};
pub use namespaces::{Counted, Lease};
pub use pins::{Pin, PinSource};
pub use suspects::{Blame, Suspect};
pub use unused::Forgotten;
pub use volumes::Volume;

use crate::{fault::Fault, names::CallerId, shares::Own};

type Call = Box<dyn FnOnce(&mut Connection) + Send>;

/// A user of the store: a caller, or wharfd itself.
type User = Option<CallerId>;

/// The store. It is cheap to clone; the file closes with the last clone.
#[derive(Clone, Debug)]
pub struct Store {
    calls: mpsc::UnboundedSender<Call>,
    /// Each user has one call in the queue at most, so the users take turns.
    turns: Arc<Own<User>>,
}

/// The store, for one user. Its calls run in order, and wait for one call of each other user.
#[derive(Clone, Debug)]
pub struct Access {
    store: Store,
    user: User,
}

impl Store {
    /// Opens the store in `state_dir` and locks the directory for this wharfd. An unreadable file is
    /// moved aside, and a new one started.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let lock = file::lock(state_dir)?;
        let mut connection = file::open(state_dir)?;
        let (calls, mut queue) = mpsc::unbounded_channel::<Call>();
        let serve = move || {
            while let Some(call) = queue.blocking_recv() {
                // A panic fails only its own call: its transaction is rolled back, and the store stays open.
                let _ = catch_unwind(AssertUnwindSafe(|| call(&mut connection)));
            }
            // Close the file before the lock is released for another wharfd.
            drop(connection);
            drop(lock);
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(serve)
            .map_err(|source| StoreError::Directory { path: state_dir.to_owned(), source })?;
        Ok(Self { calls, turns: Arc::new(Own::new(1)) })
    }

    /// The store, for work on behalf of `caller`.
    pub fn of(&self, caller: &CallerId) -> Access {
        Access { store: self.clone(), user: Some(caller.clone()) }
    }

    /// The store, for work that no caller has asked for.
    pub fn own(&self) -> Access {
        Access { store: self.clone(), user: None }
    }
}

impl Access {
    /// Runs `call` on the store's own thread: SQLite blocks, and has one writer.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let turn = self.store.turns.take(&self.user).await;
        let call: Call = Box::new(move |connection| {
            // The call runs even if its caller is gone and nobody reads the answer.
            let _ = answer.send(call(connection));
            drop(turn);
        });
        self.store.calls.send(call).map_err(|_| Fault::internal("the store's thread has ended"))?;
        answered.await.map_err(|_| Fault::internal("a call of the store panicked"))?.map_err(Fault::internal)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;
    use crate::names::reference::Digest;

    pub(super) fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("wharf-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn a_directory_has_one_wharfd() {
        let path = directory("lock");
        let store = Store::open(&path).unwrap().own();
        let second = Store::open(&path).unwrap_err();
        assert!(matches!(second, StoreError::Locked { .. }), "{second}");
        assert!(second.to_string().contains(path.to_str().unwrap()), "{second}");
        store
            .remember_long_name(&"main".into(), &"a".into(), &"h".into(), "docker.io/library/app:1")
            .await
            .unwrap();
        drop(store);
        // The thread ends a moment after the last clone is dropped.
        let lock = std::fs::File::open(path.join(file::LOCK_NAME)).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        drop(lock);
        let again = Store::open(&path).unwrap().own();
        assert_eq!(again.long_name(&"h".into()).await.unwrap().as_deref(), Some("docker.io/library/app:1"));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_call_that_panics_ends_no_other() {
        let path = directory("panics");
        let store = Store::open(&path).unwrap().own();
        let broken = store.call(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute("INSERT INTO long_names VALUES ('main', 'a', 'h', 'app:1', 1)", [])?;
            if transaction.is_autocommit() { Ok(()) } else { panic!("on purpose") }
        });
        assert_eq!(broken.await.unwrap_err().reason(), crate::fault::Reason::Internal);
        assert_eq!(store.long_name(&"h".into()).await.unwrap(), None, "it is rolled back");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_call_waits_for_one_of_each_other_user() {
        let path = directory("turns");
        let store = Store::open(&path).unwrap();
        let (many, one, own) = (store.of(&CallerId::Uid(1)), store.of(&CallerId::Uid(2)), store.own());
        let (go_on, held) = std::sync::mpsc::channel();
        let mut first = Box::pin(many.call(move |_| Ok(held.recv())));
        assert!(first.as_mut().now_or_never().is_none());
        let order = Arc::<Mutex<Vec<&str>>>::default();
        let called = |access: &Access, who| {
            let (access, order) = (access.clone(), Arc::clone(&order));
            let note = move |_: &mut Connection| {
                order.lock().unwrap().push(who);
                Ok(())
            };
            let mut call = Box::pin(async move { access.call(note).await.unwrap() });
            assert!(call.as_mut().now_or_never().is_none(), "the first call is still running");
            call
        };
        let mut calls: Vec<_> = (0..4).map(|_| called(&many, "many")).collect();
        calls.extend([called(&one, "one"), called(&own, "wharfd")]);
        go_on.send(()).unwrap();
        first.await.unwrap().unwrap();
        join_all(calls).await;
        let order = order.lock().unwrap();
        assert_eq!(order[..], ["one", "wharfd", "many", "many", "many", "many"]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn its_files_are_for_this_user_alone() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let path = directory("modes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(&path).unwrap().own();
        store
            .remember_long_name(&"main".into(), &"a".into(), &"h".into(), "docker.io/library/app:1")
            .await
            .unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_broken_or_newer_is_moved_aside() {
        for (name, content) in
            [("broken", &b"not a database, and long enough to look at"[..]), ("newer", b"")]
        {
            let path = directory(name);
            let file = path.join(file::NAME);
            std::fs::write(&file, content).unwrap();
            if content.is_empty() {
                let newer = Connection::open(&file).unwrap();
                newer.pragma_update(None, "user_version", 9999).unwrap();
            }
            let store = Store::open(&path).unwrap().own();
            assert_eq!(store.long_name(&"h".into()).await.unwrap(), None);
            let aside = std::fs::read_dir(&path)
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains(".aside-"))
                .count();
            assert_eq!(aside, 1, "{name}");
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    #[tokio::test]
    async fn a_pin_without_an_engine_is_one_of_each_that_its_namespace_uses() {
        let path = directory("pins-older");
        let older = Connection::open(path.join(file::NAME)).unwrap();
        for step in &file::SCHEMA[..12] {
            older.execute_batch(step).unwrap();
        }
        let digest = Digest::from_sha256([7; 32]);
        for namespace in ["known", "unknown"] {
            let pin = "INSERT INTO pins VALUES (?, 'docker.io/library/app:1', 'registry', ?, ?, 9)";
            older.execute(pin, [namespace, digest.as_str(), digest.as_str()]).unwrap();
        }
        for engine in ["main", "other"] {
            let row = "INSERT INTO namespaces VALUES (?, 'known', 'uid:1', '', 'job', '1', 1, 1)";
            older.execute(row, [engine]).unwrap();
        }
        older.pragma_update(None, "user_version", 12).unwrap();
        drop(older);
        let store = Store::open(&path).unwrap().own();
        let app = crate::names::Reference::parse("app:1").unwrap();
        let pin = Pin { source: PinSource::Registry, digest: digest.clone(), held: digest };
        for engine in ["main", "other"] {
            assert_eq!(store.pin(&engine.into(), &"known".into(), &app).await.unwrap().as_ref(), Some(&pin));
            assert_eq!(store.pin(&engine.into(), &"unknown".into(), &app).await.unwrap(), None);
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn an_older_file_is_brought_up_to_date() {
        let path = directory("older");
        let older = Connection::open(path.join(file::NAME)).unwrap();
        older.execute_batch(file::SCHEMA[0]).unwrap();
        older.execute("INSERT INTO long_names VALUES ('h', 'docker.io/library/app:1')", []).unwrap();
        older.execute("INSERT INTO holds VALUES ('main', 'hold', 1)", []).unwrap();
        let digest = Digest::from_sha256([7; 32]);
        let claim = [digest.as_str(), "linux/amd64", digest.as_str(), digest.as_str()];
        older.execute("INSERT INTO layer_claims VALUES (?, ?, 0, ?, ?)", claim).unwrap();
        older.pragma_update(None, "user_version", 1).unwrap();
        drop(older);
        let store = Store::open(&path).unwrap().own();
        assert_eq!(store.long_name(&"h".into()).await.unwrap().as_deref(), Some("docker.io/library/app:1"));
        assert!(!store.is_held(&"main".into(), &"hold".into()).await.unwrap());
        store.hold(&"main".into(), &"hold".into(), &"namespace".into()).await.unwrap();
        assert!(store.is_held(&"main".into(), &"hold".into()).await.unwrap());
        assert_eq!(store.layer_claims(&digest).await.unwrap(), []);
        let layer = LayerFact { diff_id: digest.clone(), packing: Packing::Gzip, size: 7 };
        let claims = vec![LayerClaim { blob: digest.clone(), layer }];
        store.learn_claims(&digest, claims.clone()).await.unwrap();
        assert_eq!(store.layer_claims(&digest).await.unwrap(), claims);
        std::fs::remove_dir_all(path).unwrap();
    }
}

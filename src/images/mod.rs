//! The images of one engine: which namespace owns which, what a build may use, how an image comes from
//! a registry and goes to one, and under which names the engine has it meanwhile.

pub mod admission;
pub mod exports;
pub(crate) mod fetch;
pub mod frontend;
#[cfg(fuzzing)]
pub mod fuzz;
mod holds;
mod layers;
mod locks;
pub mod naming;
pub mod owned;
mod proof;
pub mod push;
mod recovery;
mod turns;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use tokio::sync::{Mutex, Semaphore};

use crate::{engine::Engine, registry, store::Store};
use exports::Exporting;
use frontend::Frontend;
use locks::Locks;
use naming::Keys;
use turns::Turns;

/// Where an engine has what it trusts of single registries; wharfd goes by the same.
const CERTS_DIRECTORY: &str = "/etc/docker/certs.d";

/// How many layers are hashed at once as they pass, and as many that are fetched for that. Each holds what its decoder looks back at, up to 128 MiB: jobs
/// choose it.
const HASHED_AT_ONCE: usize = 8;

/// The images of an engine. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    found: Arc<Found>,
    inner: Arc<Inner>,
}

/// What goes with the engine that was found.
struct Found {
    engine: Engine,
    /// How the engine reaches registries, and when it said so.
    reach: Mutex<Option<(Instant, registry::Reach)>>,
    /// What reads Dockerfiles in a container, if that is where they are read.
    frontend: OnceLock<Frontend>,
}

/// What stays when the engine is started again.
struct Inner {
    keys: Keys,
    store: Store,
    /// Who brings what a hold holds, or lets go of it.
    holds: Turns,
    /// One lock a namespace whose names move, by its opaque name.
    moves: Locks,
    /// Names under which images are made.
    exporting: Exporting,
    /// Places for layers that are hashed as they pass.
    passing: Arc<Semaphore>,
    /// Places for layers that are fetched to be hashed.
    fetching: Semaphore,
    /// One lock a namespace that fetches layers to hash them, by its opaque name.
    hashes: Locks,
    registries: registry::Client,
    /// What the engine pulls from and pushes to.
    relay: registry::Relay,
}

impl Images {
    /// The images of `engine`, which come and go by `relay`.
    pub fn new(engine: Engine, keys: Keys, store: Store, relay: registry::Relay) -> Self {
        let inner = Inner {
            keys,
            store,
            holds: Turns::default(),
            moves: Locks::default(),
            exporting: Exporting::default(),
            passing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
            fetching: Semaphore::new(HASHED_AT_ONCE),
            hashes: Locks::default(),
            registries: registry::Client::new(CERTS_DIRECTORY.into()),
            relay,
        };
        Self { found: Arc::new(Found::new(engine)), inner: Arc::new(inner) }
    }

    /// The images of an engine that was started again, or of another one in its place. What has not
    /// noticed yet has its locks in common with what begins.
    pub fn found_again(&self, engine: Engine) -> Self {
        Self { found: Arc::new(Found::new(engine)), inner: Arc::clone(&self.inner) }
    }

    /// The engine that has them.
    pub fn engine(&self) -> &Engine {
        &self.found.engine
    }

    /// The node's keyed hashes.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// What the engine pulls from and pushes to.
    pub(crate) fn relay(&self) -> &registry::Relay {
        &self.inner.relay
    }

    /// What wharfd remembers.
    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }
}

impl Found {
    fn new(engine: Engine) -> Self {
        Self { engine, reach: Mutex::default(), frontend: OnceLock::new() }
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("engine", self.engine()).finish_non_exhaustive()
    }
}

//! The images of one engine: ownership by namespaces, admission to builds, pulls and pushes.

pub mod admission;
pub mod caches;
pub mod exports;
pub(crate) mod fetch;
pub mod frontend;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod holds;
mod index;
pub mod inherited;
mod layers;
pub mod leases;
mod listing;
mod named;
pub mod owned;
mod proof;
pub mod push;
mod recovery;
pub mod removal;
pub mod save;
pub(crate) mod suspects;
mod tags;
mod turns;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use crate::{
    engine::{Engine, docker::listing::Listed},
    metrics::EngineMetrics,
    names::{CallerId, Job},
    naming::{Keys, NamespaceKey},
    registry,
    shares::{Locks, Own, Places, Told},
    store::Store,
};
use exports::Exporting;
use frontend::Frontend;
use named::Named;
use suspects::Inside;
use turns::Turns;

/// The engine's directory of certificates for single registries; wharfd trusts the same ones.
const CERTS_DIRECTORY: &str = "/etc/docker/certs.d";

/// How many layers are hashed at once as they pass, and how many more are fetched only to be hashed. Each
/// decoder has a window of up to 128 MiB, chosen by the job.
const HASHED_AT_ONCE: usize = 8;
/// The most of these for one caller. A layer that passes without a place must be fetched again, and wait for
/// one, behind the registries of others.
const HASHED_OF_CALLER: usize = 4;

/// How many images of one caller an engine gathers at once to save them: the classic store copies each to its disk first.
const SAVED_OF_CALLER: usize = 2;

/// The images of an engine. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    found: Arc<Found>,
    inner: Arc<Inner>,
}

/// State of the engine as it was found; a restart replaces it.
struct Found {
    engine: Engine,
    /// How the engine reaches registries.
    reach: Told<registry::Reach>,
    /// The engine's images.
    listing: Told<Arc<Vec<Listed>>>,
    /// The image that reads Dockerfiles in a container, if there is one.
    frontend: OnceLock<Frontend>,
}

/// State that outlives a restart of the engine.
struct Inner {
    keys: Keys,
    store: Store,
    /// Locks holds while their images are fetched or removed.
    holds: Turns,
    /// A lock for the names of each namespace.
    moves: Locks<NamespaceKey>,
    /// Names under which builds are making images.
    exporting: Exporting,
    /// The inputs of builds that are in the engine's BuildKit.
    inside: Inside,
    /// Places for layers that are hashed as they pass.
    passing: Places,
    /// Places for layers that are fetched to be hashed.
    fetching: Places,
    /// Places of each caller for images that the engine gathers into an archive.
    saving: Own<CallerId>,
    /// A place of each caller whose images are counted: the engine lists all images for that.
    counting: Own<CallerId>,
    /// How many names namespaces have.
    named: Named,
    /// A lock for each namespace that fetches layers to hash them.
    hashes: Locks<NamespaceKey>,
    registries: registry::Client,
    /// The registry from which the engine pulls and to which it pushes.
    relay: registry::Relay,
    /// Whether each job's layers are its own.
    own_layers: bool,
    metrics: EngineMetrics,
}

impl Images {
    /// The images of `engine`, which pulls and pushes through `relay`; `own_layers` keeps what each job builds apart
    /// from others' layers; `metrics` count.
    pub fn new(
        engine: Engine,
        keys: Keys,
        store: Store,
        relay: registry::Relay,
        lookups: registry::Lookups,
        own_layers: bool,
        metrics: EngineMetrics,
    ) -> Self {
        let inner = Inner {
            keys,
            store,
            holds: Turns::default(),
            moves: Locks::default(),
            exporting: Exporting::default(),
            inside: Inside::default(),
            passing: Places::new(HASHED_AT_ONCE, HASHED_OF_CALLER),
            fetching: Places::new(HASHED_AT_ONCE, HASHED_OF_CALLER),
            saving: Own::new(SAVED_OF_CALLER),
            counting: Own::new(1),
            named: Named::default(),
            hashes: Locks::default(),
            registries: registry::Client::new(CERTS_DIRECTORY.into(), lookups),
            relay,
            own_layers,
            metrics,
        };
        Self { found: Arc::new(Found::new(engine)), inner: Arc::new(inner) }
    }

    /// The images after the engine was restarted or replaced. Shares its locks with the old value, which
    /// running work may still use.
    pub fn found_again(&self, engine: Engine) -> Self {
        Self { found: Arc::new(Found::new(engine)), inner: Arc::clone(&self.inner) }
    }

    /// The engine that contains the images.
    pub fn engine(&self) -> &Engine {
        &self.found.engine
    }

    /// The node's keyed hashes.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// The path of the file in the layers that a job's builds have below their own, if they have such layers.
    pub(crate) fn own_layers(&self, job: &Job) -> Option<String> {
        self.inner.own_layers.then(|| self.keys().own_layers(job))
    }

    /// The registry from which the engine pulls and to which it pushes.
    pub(crate) fn relay(&self) -> &registry::Relay {
        &self.inner.relay
    }

    /// wharfd's store.
    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }
}

impl Found {
    fn new(engine: Engine) -> Self {
        Self { engine, reach: Told::default(), listing: Told::default(), frontend: OnceLock::new() }
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("engine", self.engine()).finish_non_exhaustive()
    }
}

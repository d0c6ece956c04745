//! The proof that a caller can read an image: the registry shows the bytes of its manifest to the caller's
//! own login, and wharfd hashes them.
//!
//! A digest alone proves nothing, since a caller may run a registry that names another image's digest: the
//! engine would find that image on the node and fetch nothing. For the same reason an index proves only
//! itself, and the registry must also show the manifest in it that the engine pulls.

use std::time::Duration;

use tokio::time::timeout;

use super::{Images, index::Document, layers::claims::ImageManifest};
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason},
    names::{CallerId, Login, Namespace, Reference, reference::Digest},
    policy::Permit,
    registry::{Error, Files, Kind, Manifest, Reach, Repository, Transfer},
};

/// A registry that does not show an image in this time counts as unavailable.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the engine's information about registries is used: the engine can reload its configuration.
const REACH_TTL: Duration = Duration::from_secs(60);
/// How long the engine may take to describe itself. Every caller who needs a registry waits for that.
const INFO_TIMEOUT: Duration = Duration::from_secs(30);

/// How many indexes may lie one within another. None of the usual tools nests them.
const INDEXES_MAX: usize = 4;

/// An image that a caller can read, as proven.
#[derive(Debug)]
pub(super) struct Proven {
    /// The digest of the image's manifest or index, under which the registry knows the image.
    pub(super) digest: Digest,
    pub(super) repository: Repository,
    /// The manifest, of an index the one for the engine's platform.
    pub(super) manifest: Manifest,
    /// The same as it was read.
    pub(super) image: ImageManifest,
}

/// The reason why an image is not proven.
enum Unproven {
    Registry(Error),
    Image(Fault),
}

impl From<Error> for Unproven {
    fn from(error: Error) -> Self {
        Self::Registry(error)
    }
}

impl Images {
    /// The image that the registry shows to `login` under `reference`.
    pub(super) async fn readable(
        &self,
        caller: &CallerId,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Proven, Fault> {
        // Boxed, so that a waiting build does not hold the whole future.
        let proven = timeout(REGISTRY_TIMEOUT, Box::pin(self.prove(caller, reference, login))).await;
        match proven {
            Ok(Ok(proven)) => Ok(proven),
            Ok(Err(Unproven::Image(fault))) => Err(fault),
            Ok(Err(Unproven::Registry(error))) => Err(error.fault(reference, login.is_some())),
            Err(_) => {
                let text = format!(
                    "the registry {} does not answer in time for {}",
                    reference.host(),
                    fault::in_registry(reference)
                );
                Err(fault::hub_named(reference, Fault::new(Reason::RegistryUnavailable, text)))
            }
        }
    }

    /// Whether the registry of `reference` currently serves nobody. Asks without a login, since a registry
    /// may fail because of a certain login. A registry that limits only this caller's requests serves others.
    pub(super) async fn serves_nobody(&self, caller: &CallerId, reference: &Reference) -> bool {
        match timeout(REGISTRY_TIMEOUT, Box::pin(self.prove(caller, reference, None))).await {
            Ok(Err(Unproven::Registry(error))) => {
                matches!(error.kind(), Kind::Unreachable | Kind::Unavailable)
            }
            Ok(Ok(_) | Err(Unproven::Image(_))) => false,
            Err(_) => true,
        }
    }

    async fn prove(
        &self,
        caller: &CallerId,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Proven, Unproven> {
        let mut repository = self.repository(caller, reference, login).await.map_err(Unproven::Image)?;
        let platform = self.engine().platform();
        let mut manifest = repository.manifest(reference).await?;
        let digest = manifest.digest().clone();
        for _ in 0..=INDEXES_MAX {
            let read = Document::read(manifest.bytes(), platform);
            let chosen = match read.map_err(|problem| Unproven::Image(problem.fault(reference)))? {
                Document::Image(image) => return Ok(Proven { digest, repository, manifest, image }),
                Document::Index(chosen) => chosen,
            };
            let none = || Unproven::Image(fault::wrong_platform(reference, platform));
            let chosen = chosen.ok_or_else(none)?;
            manifest = repository.manifest_by_digest(&chosen).await.map_err(|error| match error.kind() {
                // The engine might have the manifest from elsewhere.
                Kind::NotFound => Unproven::Image(lacking(reference, &chosen)),
                _ => error.into(),
            })?;
        }
        Err(Unproven::Image(fault::nested(reference, INDEXES_MAX)))
    }

    /// A client for the repository of `reference`, reached as the engine reaches it.
    pub(super) async fn repository(
        &self,
        caller: &CallerId,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Repository, Fault> {
        let opened = self.inner.registries.repository(caller, &self.reach().await?, reference, login);
        opened.map_err(|error| error.fault(reference, login.is_some()))
    }

    /// A transfer to `target` at the relay, once its registry has accepted the login.
    pub(super) async fn push_transfer(
        &self,
        caller: &CallerId,
        target: &Reference,
        login: Option<&Login>,
    ) -> Result<Transfer, Fault> {
        let reach = self.reach().await?;
        let opened = self.inner.registries.target(caller, &reach, target, login).await;
        let opened = opened.map_err(|error| error.push_fault(target, login.is_some()))?;
        let path = self.keys().relay(&target.repository());
        self.inner.relay.push(&path, opened).map_err(Fault::internal)
    }

    /// The client for the files that builds in the namespace fetch by URL, reached as the engine reaches registries.
    pub(crate) async fn files(&self, namespace: &Permit<Namespace>) -> Result<Files, Fault> {
        Ok(self.inner.registries.files(self.reach().await?, namespace))
    }

    async fn reach(&self) -> Result<Reach, Fault> {
        let engine = self.engine().clone();
        let tasks = engine.tasks().clone();
        let question = async move {
            match timeout(INFO_TIMEOUT, engine.info()).await {
                Ok(info) => Ok(Reach::of(&info?)),
                Err(_) => Err(engine.silent()),
            }
        };
        self.found.reach.recent(REACH_TTL, &tasks, question).await
    }
}

/// The fault of a registry that does not show a manifest in its own index.
fn lacking(reference: &Reference, digest: &Digest) -> Fault {
    let text = format!(
        "the registry {} lists {digest} in {} but does not serve it",
        reference.host(),
        fault::in_registry(reference)
    );
    Fault::new(Reason::BaseImageNotFound, text)
}

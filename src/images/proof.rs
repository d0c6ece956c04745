//! The proof that a caller can read an image: the registry shows the bytes of its manifest to the
//! caller's own login, and wharfd hashes them.
//!
//! A digest that a registry merely claims proves nothing: the engine, asked for another image's by
//! whoever runs a registry, finds it on the node and fetches nothing. For the same reason an index
//! proves no more than itself, and each manifest that the engine might use of it is shown, too.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{Images, layers::claims::children};
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason},
    names::{Login, Reference, reference::Digest},
    registry::{Error, Kind, Manifest, Reach, Repository, Transfer},
};

/// A registry that has not shown an image by then is not available.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the engine's word on how it reaches registries is good: it reads its configuration anew
/// when it is told to.
const REACH_TTL: Duration = Duration::from_secs(60);

/// How many manifests an index may list. The containerd store looks at each of them whenever images
/// are listed, which 10,000 of them bring to a halt; a real one has some dozens, attestations included.
const MANIFESTS_MAX: usize = 256;
/// How many of them wharfd reads: of a real index one is for the engine's platform.
const USED_MAX: usize = 32;

/// An image that a caller can read.
#[derive(Debug)]
pub(super) struct Proven {
    /// Of its manifest or index.
    pub(super) digest: Digest,
    pub(super) repository: Repository,
    /// The manifest or index itself, and what the engine might use of an index.
    pub(super) manifests: Vec<Manifest>,
}

/// Why nothing is proven.
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
    /// What the registry shows to `login` under `reference`.
    pub(super) async fn readable(
        &self,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Proven, Fault> {
        // Boxed: each build that waits for it would hold all of it.
        let proven = timeout(REGISTRY_TIMEOUT, Box::pin(self.prove(reference, login))).await;
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

    /// Whether the registry of `reference` serves nobody now. It is asked without a login: one can be such
    /// that a registry fails at it. One that counts a caller's questions serves others.
    pub(super) async fn serves_nobody(&self, reference: &Reference) -> bool {
        match timeout(REGISTRY_TIMEOUT, Box::pin(self.prove(reference, None))).await {
            Ok(Err(Unproven::Registry(error))) => {
                matches!(error.kind(), Kind::Unreachable | Kind::Unavailable)
            }
            Ok(Ok(_) | Err(Unproven::Image(_))) => false,
            Err(_) => true,
        }
    }

    async fn prove(&self, reference: &Reference, login: Option<&Login>) -> Result<Proven, Unproven> {
        let mut repository = self.repository(reference, login).await.map_err(Unproven::Image)?;
        let top = repository.manifest(reference).await?;
        let mut seen = BTreeSet::from([top.digest().clone()]);
        let mut left = self.used(reference, &top)?;
        let digest = top.digest().clone();
        let mut manifests = vec![top];
        while let Some(digest) = left.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            if seen.len() > USED_MAX {
                return Err(Unproven::Image(fault::too_many_manifests(reference, seen.len(), USED_MAX)));
            }
            let child = repository.manifest_by_digest(&digest).await.map_err(|error| match error.kind() {
                // The engine might have it from elsewhere.
                Kind::NotFound => Unproven::Image(lacking(reference, &digest)),
                _ => error.into(),
            })?;
            left.extend(self.used(reference, &child)?);
            manifests.push(child);
        }
        Ok(Proven { digest, repository, manifests })
    }

    /// The repository of `reference`, reached as the engine reaches it.
    pub(super) async fn repository(
        &self,
        reference: &Reference,
        login: Option<&Login>,
    ) -> Result<Repository, Fault> {
        let opened = self.inner.registries.repository(&self.reach().await?, reference, login);
        opened.map_err(|error| error.fault(reference, login.is_some()))
    }

    /// A transfer to `target` at the relay, once its registry has taken the login.
    pub(super) async fn push_transfer(
        &self,
        target: &Reference,
        login: Option<&Login>,
    ) -> Result<Transfer, Fault> {
        let reach = self.reach().await?;
        let opened = self.inner.registries.target(&reach, target, login).await;
        let opened = opened.map_err(|error| error.push_fault(target, login.is_some()))?;
        let path = self.keys().relay(&target.repository());
        self.inner.relay.push(&path, opened).map_err(Fault::internal)
    }

    async fn reach(&self) -> Result<Reach, Fault> {
        let mut known = self.found.reach.lock().await;
        if let Some((since, reach)) = &*known
            && since.elapsed() < REACH_TTL
        {
            return Ok(reach.clone());
        }
        let info = self.engine().docker().info().await;
        let reach =
            Reach::of(&info.map_err(|error| fault::unexpected("say which registries it trusts", error))?);
        *known = Some((Instant::now(), reach.clone()));
        Ok(reach)
    }

    /// What the engine might use of an index.
    fn used(&self, reference: &Reference, manifest: &Manifest) -> Result<Vec<Digest>, Unproven> {
        let read = children(manifest.bytes(), self.engine().platform());
        let children = read.map_err(|problem| Unproven::Image(problem.fault(reference)))?;
        if children.count > MANIFESTS_MAX {
            let fault = fault::too_many_manifests(reference, children.count, MANIFESTS_MAX);
            return Err(Unproven::Image(fault));
        }
        Ok(children.used)
    }
}

/// The registry does not show a manifest that its own index lists.
fn lacking(reference: &Reference, digest: &Digest) -> Fault {
    let text = format!(
        "the registry {} lists {digest} in {} and does not show it",
        reference.host(),
        fault::in_registry(reference)
    );
    Fault::new(Reason::BaseImageNotFound, text)
}

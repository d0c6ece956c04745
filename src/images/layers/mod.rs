//! Whether an image's layers are what its config says. The containerd store names a layer by the
//! diff ids that a config claims, and fetches none that it has by that name: a config that claims
//! another image's is believed. So each layer is hashed here, once for all time: as it passes on its way
//! to the engine, which gets the end of it only if it is what the config says, or for its own sake when
//! the engine does not fetch it.

mod blobs;
pub(super) mod claims;
mod hashing;
mod strict;

use std::collections::HashMap;

use bollard::models::ImageInspect;

use claims::{claims_of, configs_of, is_read};

use super::{Images, fetch::Fetch};
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason},
    names::{Reference, reference::Digest},
    progress::Step,
    store::{LayerClaim, LayerFact},
};

/// containerd reads no larger config (`images` limits it to 8 MiB).
const CONFIG_BYTES_MAX: usize = 8 << 20;

/// What an image claims of its layers.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    /// A list for each of its manifests that the engine might use.
    lists: Vec<Vec<LayerClaim>>,
    /// Whether that was looked at before, and held.
    is_known: bool,
}

impl Claims {
    fn all(&self) -> impl Iterator<Item = &LayerClaim> {
        self.lists.iter().flatten()
    }

    /// Whether `blob`, which is `layer`, is not what it is claimed to be.
    fn belies(&self, blob: &Digest, layer: Option<&LayerFact>) -> bool {
        self.all().any(|claim| claim.blob == *blob && Some(&claim.layer) != layer)
    }
}

impl Images {
    /// What the image that `fetch` brings claims of its layers, before the engine has any of them. What
    /// is known to be untrue is refused.
    pub(super) async fn layer_claims(&self, fetch: &Fetch) -> Result<Claims, Fault> {
        let platform = self.engine().platform().to_string();
        let known = self.store().layer_claims(&fetch.digest, &platform).await?;
        let claims = if known.is_empty() {
            Claims { lists: self.read_claims(fetch).await?, is_known: false }
        } else {
            Claims { lists: vec![known], is_known: true }
        };
        for claim in claims.all() {
            let fact = self.store().layer_fact(&claim.blob).await?;
            if fact.is_some_and(|layer| layer != claim.layer) {
                return Err(fault::forged(&fetch.reference));
            }
        }
        Ok(claims)
    }

    /// Checks each layer of the image that `fetch` has brought. Facts that are known are not looked for
    /// again.
    pub(super) async fn verify_layers(
        &self,
        fetch: &Fetch,
        claims: &Claims,
        image: &ImageInspect,
        step: &Step,
    ) -> Result<(), Fault> {
        if !claims.is_known {
            if !is_read(&claims.lists, image) {
                return Err(fault::forged(&fetch.reference));
            }
            let platform = self.engine().platform().to_string();
            self.store().learn_claims(&fetch.digest, &platform, claims.all().cloned().collect()).await?;
        }
        for claim in claims.all() {
            let layer = match self.store().layer_fact(&claim.blob).await? {
                Some(layer) => layer,
                // The engine has it already, or had it before wharfd was there.
                None => self.hash_layer(fetch, &claim.blob, step).await?,
            };
            if layer != claim.layer {
                return Err(fault::forged(&fetch.reference));
            }
        }
        Ok(())
    }

    /// Reads in the image's own documents what it claims.
    async fn read_claims(&self, fetch: &Fetch) -> Result<Vec<Vec<LayerClaim>>, Fault> {
        let told = |problem: Problem| problem.fault(&fetch.reference);
        let mut documents: HashMap<_, _> = fetch
            .manifests
            .iter()
            .map(|manifest| (manifest.digest().clone(), manifest.bytes().clone()))
            .collect();
        for config in configs_of(&documents).map_err(told)? {
            let read = fetch.repository.clone().small_blob(&config, "its config", CONFIG_BYTES_MAX).await;
            let read = read.map_err(|error| error.fault(&fetch.reference, fetch.logged_in))?;
            documents.insert(config, read);
        }
        claims_of(&fetch.digest, &documents, self.engine().platform()).map_err(told)
    }
}

/// Why an image is not admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Forged,
    OtherPlatform,
    Incomplete,
    Nested,
    /// A layer's media type is unknown.
    Unknown,
    /// A part of it is elsewhere.
    Elsewhere,
}

impl Problem {
    pub(super) fn fault(self, reference: &Reference) -> Fault {
        match self {
            Self::Forged => fault::forged(reference),
            Self::OtherPlatform | Self::Incomplete => {
                let text = format!("the engine has pulled {} only in part", reference.familiar());
                Fault::new(Reason::EngineFailed, text)
            }
            Self::Nested => fault::nested(reference),
            Self::Unknown => fault::unknown_layers(reference),
            Self::Elsewhere => fault::elsewhere(reference),
        }
    }
}

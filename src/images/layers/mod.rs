//! Checks that an image's layers match its config. The containerd store identifies a layer by the diff ids in
//! a config, and does not fetch a layer whose diff id it already has: it would believe a config that claims
//! another image's layers. So wharfd hashes each layer once: as it passes on its way to the engine, which
//! gets the end only if the layer matches the config, or in a separate fetch if the engine does not fetch the
//! layer.

mod blobs;
pub(super) mod claims;
mod hashing;
pub(super) mod strict;

use bollard::models::ImageInspect;

use claims::is_read;

use super::{Images, fetch::Fetch};
use crate::{
    engine::docker::fault,
    fault::Fault,
    names::{Reference, reference::Digest},
    progress::Step,
    registry::CONFIG_BYTES_MAX,
    store::{LayerClaim, LayerFact},
};

/// The claims of an image about its layers.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    layers: Vec<LayerClaim>,
    /// Whether the claims were verified in an earlier fetch.
    is_known: bool,
}

impl Claims {
    /// Whether `layer`, found in `blob`, contradicts a claim.
    fn belies(&self, blob: &Digest, layer: Option<&LayerFact>) -> bool {
        self.layers.iter().any(|claim| claim.blob == *blob && Some(&claim.layer) != layer)
    }
}

impl Images {
    /// The claims of the image that `fetch` fetches, read before the engine has any of its layers; `None` if the engine
    /// checks them itself. Claims known to be false are refused.
    pub(super) async fn layer_claims(&self, fetch: &Fetch) -> Result<Option<Claims>, Fault> {
        if self.engine().image_store().checks_layers() {
            return Ok(None);
        }
        let store = self.store().of(&fetch.caller);
        let known = store.layer_claims(fetch.manifest.digest()).await?;
        let claims = if known.is_empty() {
            Claims { layers: self.read_claims(fetch).await?, is_known: false }
        } else {
            Claims { layers: known, is_known: true }
        };
        for claim in &claims.layers {
            let fact = store.layer_fact(&claim.blob).await?;
            if fact.is_some_and(|layer| layer != claim.layer) {
                return Err(fault::forged(&fetch.reference));
            }
        }
        Ok(Some(claims))
    }

    /// Checks each layer of the image that `fetch` has fetched. Known facts are not computed again.
    pub(super) async fn verify_layers(
        &self,
        fetch: &Fetch,
        claims: &Claims,
        image: &ImageInspect,
        step: &Step,
    ) -> Result<(), Fault> {
        let store = self.store().of(&fetch.caller);
        if !claims.is_known {
            if !is_read(&claims.layers, image) {
                return Err(fault::forged(&fetch.reference));
            }
            store.learn_claims(fetch.manifest.digest(), claims.layers.clone()).await?;
        }
        for claim in &claims.layers {
            let layer = match store.layer_fact(&claim.blob).await? {
                Some(layer) => layer,
                // The engine had the layer before this fetch, perhaps before wharfd.
                None => self.hash_layer(fetch, &claim.blob, step).await?,
            };
            if layer != claim.layer {
                return Err(fault::forged(&fetch.reference));
            }
        }
        Ok(())
    }

    /// Reads the claims in the image's own documents.
    async fn read_claims(&self, fetch: &Fetch) -> Result<Vec<LayerClaim>, Fault> {
        let told = |problem: Problem| problem.fault(&fetch.reference);
        let config = fetch.image.config().map_err(told)?;
        let config = fetch.repository.clone().small_blob(config, "its config", CONFIG_BYTES_MAX).await;
        let config = config.map_err(|error| error.fault(&fetch.reference, fetch.logged_in))?;
        fetch.image.claims(&config).map_err(told)
    }
}

/// The reason why an image is not admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Forged,
    /// It is neither an image's manifest nor an index.
    NoImage,
    /// A layer's media type is unknown.
    Unknown,
    /// A part of the image is at a URL, or in its own description.
    Elsewhere,
}

impl Problem {
    pub(super) fn fault(self, reference: &Reference) -> Fault {
        match self {
            Self::Forged => fault::forged(reference),
            Self::NoImage => fault::no_image(reference),
            Self::Unknown => fault::unknown_layers(reference),
            Self::Elsewhere => fault::elsewhere(reference),
        }
    }
}

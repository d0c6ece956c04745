//! Whether an image's layers are what its config says. The containerd store names a layer by the
//! diff ids that a config claims, and fetches none that it has by that name: a config that claims
//! another image's is believed. So each layer is hashed here, once for all time: as it passes on its way
//! to the engine, or for its own sake when the engine does not fetch it.

mod blobs;
pub(super) mod claims;
mod hashing;
mod strict;

use std::collections::HashMap;

use bollard::models::ImageInspect;

use claims::{claims_of, configs_of};

use super::{Images, fetch::Fetch};
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason},
    names::Reference,
    store::LayerClaim,
    wire::progress::Step,
};

/// containerd reads no larger config (`images` limits it to 8 MiB).
const CONFIG_BYTES_MAX: usize = 8 << 20;

impl Images {
    /// Checks each layer of the image that `fetch` brings against its config. Facts that are known are
    /// not looked for again.
    pub(super) async fn verify_layers(
        &self,
        fetch: &Fetch,
        image: &ImageInspect,
        step: &Step,
    ) -> Result<(), Fault> {
        let platform = self.engine().platform().to_string();
        let mut claims = self.store().layer_claims(&fetch.digest, &platform).await?;
        if claims.is_empty() {
            claims = self.read_claims(fetch, image).await?;
            self.store().learn_claims(&fetch.digest, &platform, claims.clone()).await?;
        }
        for claim in &claims {
            let diff_id = match self.store().layer_fact(&claim.blob).await? {
                Some(diff_id) => diff_id,
                // The engine has it already, or had it before wharfd was there.
                None => self.hash_layer(fetch, &claim.blob, step).await?,
            };
            if diff_id != claim.diff_id {
                return Err(fault::forged(&fetch.reference));
            }
        }
        Ok(())
    }

    /// Reads in the image's own documents what it claims.
    async fn read_claims(&self, fetch: &Fetch, image: &ImageInspect) -> Result<Vec<LayerClaim>, Fault> {
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
        claims_of(&fetch.digest, &documents, self.engine().platform(), image).map_err(told)
    }
}

/// Why an image is not admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Forged,
    OtherPlatform,
    Incomplete,
    Nested,
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
        }
    }
}

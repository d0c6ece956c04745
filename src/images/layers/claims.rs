//! The claims that an image's documents make about its layers. Reads manifests and configs as the engine does.

use bollard::models::ImageInspect;
use serde::{Deserialize, de::IgnoredAny};

use super::{Problem, strict::Strict};
use crate::{
    go_json::zero,
    names::reference::Digest,
    registry::Parts,
    store::{LayerClaim, LayerFact, Packing},
};

/// Whether `claims` match the layers that the engine shows for the image; true if it shows none.
pub(super) fn is_read(claims: &[LayerClaim], image: &ImageInspect) -> bool {
    let Some(read) = image.root_fs.as_ref().and_then(|root| root.layers.as_ref()) else { return true };
    claims.iter().map(|claim| claim.layer.diff_id.as_str()).eq(read.iter())
}

/// The manifest of an image (OCI image specification, manifest.md), as the engine reads it. It is read once, when a registry
/// has shown it: whatever is done for the image is done by this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::images) struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl ImageManifest {
    /// The manifest of these parts; each has to have a digest.
    pub(in crate::images) fn new(
        Strict(config): Strict<Written>,
        layers: Vec<Strict<Written>>,
    ) -> Result<Self, Problem> {
        let layers = layers.into_iter().map(|Strict(layer)| layer.checked()).collect::<Result<_, _>>()?;
        Ok(Self { config: config.checked()?, layers })
    }

    /// The blobs that it names.
    pub(in crate::images) fn parts(&self) -> Parts {
        let layers = self.layers.iter().map(|layer| layer.digest.clone()).collect();
        Parts { config: self.config.digest.clone(), layers }
    }

    /// The digest of the image's config. It would be read as an index if it were called one.
    pub(super) fn config(&self) -> Result<&Digest, Problem> {
        const TYPES: [&str; 3] = [
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.oci.image.config.v1+json",
            // Docker 1.10 has pushed this.
            "application/octet-stream",
        ];
        if TYPES.contains(&self.config.media_type.as_str()) {
            self.config.digest()
        } else {
            Err(Problem::Unknown)
        }
    }

    /// The claims about the image's layers, with those of its config.
    pub(in crate::images) fn claims(&self, config: &[u8]) -> Result<Vec<LayerClaim>, Problem> {
        let Strict(Config { rootfs: Strict(rootfs) }) =
            serde_json::from_slice(config).map_err(|_| Problem::Forged)?;
        if rootfs.r#type != "layers" || rootfs.diff_ids.len() != self.layers.len() {
            return Err(Problem::Forged);
        }
        let claim = |(layer, diff_id): (&Descriptor, &String)| {
            let (blob, packing, size) = (layer.digest()?.clone(), layer.packing()?, layer.size);
            let diff_id = Digest::parse(diff_id).ok_or(Problem::Forged)?;
            Ok(LayerClaim { blob, layer: LayerFact { diff_id, packing, size } })
        };
        self.layers.iter().zip(&rootfs.diff_ids).map(claim).collect()
    }
}

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Descriptor {
    digest: Digest,
    media_type: String,
    size: u64,
    /// Whether its content may come from a URL, or from the descriptor itself.
    is_elsewhere: bool,
}

impl Descriptor {
    /// The digest. Descriptors with URLs are refused: an engine with the containerd store fetches such
    /// content from the URL, which may be a server on the node's network, and wharfd would not see it. It takes the
    /// content from the descriptor itself, too (`data`).
    fn digest(&self) -> Result<&Digest, Problem> {
        if self.is_elsewhere { Err(Problem::Elsewhere) } else { Ok(&self.digest) }
    }

    /// A layer's compression, by its media type.
    fn packing(&self) -> Result<Packing, Problem> {
        const TYPES: [&str; 4] = [
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
        ];
        let rest = TYPES.iter().find_map(|known| self.media_type.strip_prefix(known));
        match rest {
            Some("") => Ok(Packing::Plain),
            Some(".gzip" | "+gzip") => Ok(Packing::Gzip),
            Some(".zstd" | "+zstd") => Ok(Packing::Zstd),
            Some(_) | None => Err(Problem::Unknown),
        }
    }
}

/// A descriptor as it is written.
#[derive(Deserialize)]
pub(in crate::images) struct Written {
    digest: String,
    #[serde(default, rename = "mediaType", deserialize_with = "zero")]
    media_type: String,
    #[serde(default, deserialize_with = "zero")]
    size: u64,
    urls: Option<Vec<IgnoredAny>>,
    data: Option<IgnoredAny>,
}

impl Written {
    fn checked(self) -> Result<Descriptor, Problem> {
        let Self { digest, media_type, size, urls, data } = self;
        let digest = Digest::parse(&digest).ok_or(Problem::Forged)?;
        let is_elsewhere = data.is_some() || urls.is_some_and(|urls| !urls.is_empty());
        Ok(Descriptor { digest, media_type, size, is_elsewhere })
    }
}

#[derive(Deserialize)]
struct Config {
    rootfs: Strict<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    /// `layers`, the only one that the specification knows. Without any, Docker's own inspection of the image
    /// cannot be read.
    r#type: String,
    #[serde(default, deserialize_with = "zero")]
    diff_ids: Vec<String>,
}

#[cfg(test)]
mod tests;

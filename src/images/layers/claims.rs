//! The claims that an image's documents make about its layers. Reads manifests and configs as the engine does.

use bollard::models::ImageInspect;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{Problem, strict::Strict};
use crate::{
    go_json::zero,
    names::reference::Digest,
    registry::Parts,
    store::{LayerClaim, LayerFact, Packing},
};

/// The digest of the config that an image's manifest names.
pub(super) fn config_of(manifest: &[u8]) -> Result<Digest, Problem> {
    let Manifest { config: Strict(config), .. } = read(manifest)?;
    config.config()
}

/// The blobs that an image's manifest names.
pub(in crate::images) fn parts_of(manifest: &[u8]) -> Result<Parts, Problem> {
    let Manifest { config: Strict(config), layers } = read(manifest)?;
    let digest = |descriptor: &Descriptor| Digest::parse(&descriptor.digest).ok_or(Problem::Forged);
    let layers = layers.iter().map(|Strict(layer)| digest(layer)).collect::<Result<_, _>>()?;
    Ok(Parts { config: digest(&config)?, layers })
}

/// The claims of an image about its layers.
pub(in crate::images) fn claims_of(manifest: &[u8], config: &[u8]) -> Result<Vec<LayerClaim>, Problem> {
    let manifest: Manifest = read(manifest)?;
    let Config { rootfs: Strict(rootfs) } = read(config)?;
    if rootfs.r#type != "layers" || rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Problem::Forged);
    }
    let claim = |(Strict(layer), diff_id): (&Strict<Descriptor>, &String)| {
        let (blob, packing, size) = (layer.digest()?, layer.packing()?, layer.size);
        let diff_id = Digest::parse(diff_id).ok_or(Problem::Forged)?;
        Ok(LayerClaim { blob, layer: LayerFact { diff_id, packing, size } })
    };
    manifest.layers.iter().zip(&rootfs.diff_ids).map(claim).collect()
}

/// Whether `claims` match the layers that the engine shows for the image; true if it shows none.
pub(super) fn is_read(claims: &[LayerClaim], image: &ImageInspect) -> bool {
    let Some(read) = image.root_fs.as_ref().and_then(|root| root.layers.as_ref()) else { return true };
    claims.iter().map(|claim| claim.layer.diff_id.as_str()).eq(read.iter())
}

fn read<T: DeserializeOwned>(document: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(document).map(|Strict(read)| read).map_err(|_| Problem::Forged)
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType", deserialize_with = "zero")]
    media_type: String,
    #[serde(default, deserialize_with = "zero")]
    size: u64,
    urls: Option<Vec<String>>,
    data: Option<IgnoredAny>,
}

impl Descriptor {
    /// The digest. Descriptors with URLs are refused: an engine with the containerd store fetches such
    /// content from the URL, which may be a server on the node's network, and wharfd would not see it. It takes the
    /// content from the descriptor itself, too (`data`).
    fn digest(&self) -> Result<Digest, Problem> {
        if self.data.is_some() || self.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            return Err(Problem::Elsewhere);
        }
        Digest::parse(&self.digest).ok_or(Problem::Forged)
    }

    /// The digest of an image's config. It would be read as an index if it were called one.
    fn config(&self) -> Result<Digest, Problem> {
        const TYPES: [&str; 3] = [
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.oci.image.config.v1+json",
            // Docker 1.10 has pushed this.
            "application/octet-stream",
        ];
        if TYPES.contains(&self.media_type.as_str()) { self.digest() } else { Err(Problem::Unknown) }
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

/// An image's manifest (OCI image specification, manifest.md).
#[derive(Deserialize)]
struct Manifest {
    config: Strict<Descriptor>,
    #[serde(default, deserialize_with = "zero")]
    layers: Vec<Strict<Descriptor>>,
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

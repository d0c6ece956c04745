//! containerd's store.

use bollard::{
    models::{ImageInspect, SystemInfo},
    query_parameters::ListImagesOptions,
};

use super::Engine;
use crate::{fault::Fault, names::reference::Digest};

/// Engine 29.2: an image's origins are told from here on.
pub(super) const API_WITH_ORIGINS: (u16, u16) = (1, 53);

pub(super) fn is_used(info: &SystemInfo) -> bool {
    info.driver_status.iter().flatten().any(|entry| {
        matches!(entry.as_slice(), [key, value]
            if key == "driver-type" && value == "io.containerd.snapshotter.v1")
    })
}

/// Every image has a digest here, so that proves no pull; the repositories of an image do.
pub(super) fn origins(image: &ImageInspect) -> impl Iterator<Item = &str> {
    let pulls = image.identity.iter().flat_map(|identity| identity.pull.iter().flatten());
    pulls.map(|pull| pull.repository.as_deref().unwrap_or_default())
}

/// An image is its manifest, or an index of which the engine pushes what it has.
pub(super) async fn is_manifest_of(engine: &Engine, digest: &Digest, id: &Digest) -> Result<bool, Fault> {
    Ok(digest == id || manifests_of(engine, id).await?.contains(digest))
}

/// The manifests that the engine has of an image that is an index.
async fn manifests_of(engine: &Engine, id: &Digest) -> Result<Vec<Digest>, Fault> {
    let options = ListImagesOptions { manifests: true, ..ListImagesOptions::default() };
    let found =
        engine.list_images(Some(options)).await?.into_iter().find(|summary| summary.id == id.as_str());
    let manifests = found.and_then(|summary| summary.manifests).unwrap_or_default();
    Ok(manifests
        .iter()
        .filter(|manifest| manifest.available)
        .filter_map(|manifest| Digest::parse(&manifest.id))
        .collect())
}

//! The engine's own store.

use bollard::models::ImageInspect;

use super::Engine;
use crate::{
    fault::Fault,
    names::{Reference, reference::Digest},
};

/// A pull leaves the registry's digest; `docker load`, `import` and `build` leave none.
pub(super) fn is_pulled(image: &ImageInspect) -> bool {
    image.repo_digests.iter().flatten().next().is_some()
}

pub(super) fn digest_references(image: &ImageInspect, target: &Reference) -> Vec<String> {
    let references = image.repo_digests.iter().flatten().filter_map(|digest| Reference::parse(digest).ok());
    references
        .filter(|digest| digest.repository() == target.repository())
        .map(|digest| digest.to_string())
        .collect()
}

/// The engine notes which image it has made a manifest of.
pub(super) async fn is_manifest_of(
    engine: &Engine,
    digest: &Digest,
    target: &Reference,
    id: &Digest,
) -> Result<bool, Fault> {
    let noted = engine.inspect_name(&target.at(digest).to_string()).await?;
    Ok(noted.and_then(|image| image.id).as_deref() == Some(id.as_str()))
}

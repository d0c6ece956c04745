//! The engine's own image store.

use bollard::models::ImageInspect;

/// The repositories from which the image was pulled. A pull leaves the registry's digest; `docker load`,
/// `import` and `build` leave none.
pub(super) fn origins(image: &ImageInspect) -> impl Iterator<Item = &str> {
    image
        .repo_digests
        .iter()
        .flatten()
        .map(|name| name.split_once('@').map_or(name.as_str(), |(name, _)| name))
}

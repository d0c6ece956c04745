//! The engine's own store.

use bollard::models::ImageInspect;

/// A pull leaves the registry's digest; `docker load`, `import` and `build` leave none.
pub(super) fn origins(image: &ImageInspect) -> impl Iterator<Item = &str> {
    image
        .repo_digests
        .iter()
        .flatten()
        .map(|name| name.split_once('@').map_or(name.as_str(), |(name, _)| name))
}

//! The engine's own image store.

use bollard::models::ImageInspect;

use super::Traits;

pub(super) const TRAITS: Traits = Traits {
    name: "classic",
    checks_layers: true,
    exports_archives: false,
    saves_by_disk: true,
    takes_platform_lists: false,
    ids_are_manifests: false,
    origins: Some(origins),
};

/// The repositories from which the image was pulled. A pull leaves the registry's digest; `docker load`,
/// `import` and `build` leave none.
fn origins(image: &ImageInspect) -> Vec<&str> {
    let digests = image.repo_digests.iter().flatten();
    digests.map(|name| name.split_once('@').map_or(name.as_str(), |(name, _)| name)).collect()
}

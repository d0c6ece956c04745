//! containerd's image store.

use bollard::models::{ImageInspect, SystemInfo};

use super::{Origins, Traits};

/// The API of Engine 29.2, the first that reports an image's origins.
const API_WITH_ORIGINS: (u16, u16) = (1, 53);

pub(super) fn traits(api_version: (u16, u16)) -> Traits {
    Traits {
        name: "containerd",
        checks_layers: false,
        exports_archives: true,
        saves_by_disk: false,
        takes_platform_lists: true,
        ids_are_manifests: true,
        origins: (api_version >= API_WITH_ORIGINS).then_some(origins as Origins),
    }
}

pub(super) fn is_used(info: &SystemInfo) -> bool {
    info.driver_status.iter().flatten().any(|entry| {
        matches!(entry.as_slice(), [key, value]
            if key == "driver-type" && value == "io.containerd.snapshotter.v1")
    })
}

/// The repositories from which the image was pulled. Here every image has a digest, so a digest does not
/// prove a pull; the recorded repositories do.
fn origins(image: &ImageInspect) -> Vec<&str> {
    let pulls = image.identity.iter().flat_map(|identity| identity.pull.iter().flatten());
    pulls.map(|pull| pull.repository.as_deref().unwrap_or_default()).collect()
}

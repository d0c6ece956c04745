//! containerd's image store.

use bollard::models::{ImageInspect, SystemInfo};

/// The API of Engine 29.2, the first that reports an image's origins.
pub(super) const API_WITH_ORIGINS: (u16, u16) = (1, 53);

pub(super) fn is_used(info: &SystemInfo) -> bool {
    info.driver_status.iter().flatten().any(|entry| {
        matches!(entry.as_slice(), [key, value]
            if key == "driver-type" && value == "io.containerd.snapshotter.v1")
    })
}

/// The repositories from which the image was pulled. Here every image has a digest, so a digest does not
/// prove a pull; the recorded repositories do.
pub(super) fn origins(image: &ImageInspect) -> impl Iterator<Item = &str> {
    let pulls = image.identity.iter().flat_map(|identity| identity.pull.iter().flatten());
    pulls.map(|pull| pull.repository.as_deref().unwrap_or_default())
}

//! containerd's store.

use bollard::models::{ImageInspect, SystemInfo};

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

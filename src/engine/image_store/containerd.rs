//! containerd's image store.

use bollard::models::{ImageInspect, SystemInfo};

use super::StoreKind;
use crate::{buildkit::solve::Layout, fault::Fault};

/// The API of Engine 29.2, the first that reports an image's origins.
const API_WITH_ORIGINS: (u16, u16) = (1, 53);

pub(super) struct Containerd {
    reports_origins: bool,
}

impl Containerd {
    pub(super) fn new(api_version: (u16, u16)) -> Self {
        Self { reports_origins: api_version >= API_WITH_ORIGINS }
    }
}

pub(super) fn is_used(info: &SystemInfo) -> bool {
    info.driver_status.iter().flatten().any(|entry| {
        matches!(entry.as_slice(), [key, value]
            if key == "driver-type" && value == "io.containerd.snapshotter.v1")
    })
}

impl StoreKind for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn checks_layers(&self) -> bool {
        false
    }

    /// BuildKit's exporters, which do not name the image in the store.
    fn archive_exporter(&self, layout: Layout) -> Option<&'static str> {
        Some(match layout {
            Layout::Oci => "oci",
            Layout::Docker => "docker",
        })
    }

    fn saves_by_disk(&self) -> bool {
        false
    }

    fn check_platforms(&self, _asked: &[String]) -> Result<(), Fault> {
        Ok(())
    }

    fn manifest_digest<'a>(&self, id: &'a str) -> Option<&'a str> {
        Some(id)
    }

    /// Here every image has a digest, so a digest does not prove a pull; the recorded repositories do.
    fn origins<'a>(&self, image: &'a ImageInspect) -> Option<Vec<&'a str>> {
        let pulls = image.identity.iter().flat_map(|identity| identity.pull.iter().flatten());
        let repositories = pulls.map(|pull| pull.repository.as_deref().unwrap_or_default());
        self.reports_origins.then(|| repositories.collect())
    }
}

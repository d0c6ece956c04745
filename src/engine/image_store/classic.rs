//! The engine's own image store.

use bollard::models::ImageInspect;

use super::StoreKind;
use crate::{
    buildkit::solve::Layout,
    fault::{Fault, Reason},
};

pub(super) struct Classic;

impl StoreKind for Classic {
    fn name(&self) -> &'static str {
        "classic"
    }

    fn checks_layers(&self) -> bool {
        true
    }

    fn archive_exporter(&self, _layout: Layout) -> Option<&'static str> {
        None
    }

    fn saves_by_disk(&self) -> bool {
        true
    }

    /// buildx, too, refuses such a list for this store.
    fn check_platforms(&self, asked: &[String]) -> Result<(), Fault> {
        if asked.len() < 2 {
            return Ok(());
        }
        let text = "the build asks for a list of platforms, and this engine's image store takes one platform";
        Err(Fault::new(Reason::GraphDenied, text).hint("name the platform once"))
    }

    fn manifest_digest<'a>(&self, _id: &'a str) -> Option<&'a str> {
        None
    }

    /// A pull leaves the registry's digest; `docker load`, `import` and `build` leave none.
    fn origins<'a>(&self, image: &'a ImageInspect) -> Option<Vec<&'a str>> {
        let digests = image.repo_digests.iter().flatten();
        let repositories = digests.map(|name| name.split_once('@').map_or(name.as_str(), |(name, _)| name));
        Some(repositories.collect())
    }
}

//! The list of an engine's images. For each listing an engine holds all images in its memory with their
//! labels, which jobs choose, several times over. So an engine makes one listing at a time, and all calls
//! that asked before it began share its result.

use std::sync::Arc;

use super::Images;
use crate::{engine::docker::listing::Listed, fault::Fault};

impl Images {
    /// All images of the engine.
    pub(super) async fn listed(&self) -> Result<Arc<Vec<Listed>>, Fault> {
        let (engine, tasks) = (self.engine().clone(), self.engine().tasks().clone());
        let ends = tasks.clone();
        let listing = async move {
            let listed = Box::pin(engine.image_store().list());
            ends.unless_cancelled(listed).await?.map(Arc::new)
        };
        self.found.listing.fresh(&tasks, listing).await
    }
}

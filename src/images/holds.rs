//! Holds: names of wharfd's by which the engine keeps the images that namespaces have admitted. An
//! image goes with the last namespace that it is held for; what the engine's builder has unpacked of
//! it stays in the builder's own cache.

use bollard::models::ImageSummary;

use super::{
    Images,
    naming::{self, Room},
};
use crate::fault::{Fault, causes};

impl Images {
    /// Lets go of what is held for `namespace`, an opaque name of one, and for no other.
    pub(super) async fn release_holds(&self, namespace: &str) -> Result<(), Fault> {
        for hold in self.store().holds_of(self.engine().name(), namespace).await? {
            let _lock = self.inner.holds.lock(&hold).await;
            if !self.store().let_go(self.engine().name(), &hold, namespace).await? {
                self.remove_hold(&hold).await;
            }
        }
        Ok(())
    }

    /// Removes the holds that are of use to no namespace: a crash between the two halves of a release
    /// leaves one, the loss of the store all. Called before the engine is used.
    pub(super) async fn remove_lost_holds(&self, images: &[ImageSummary]) -> Result<(), Fault> {
        for name in images.iter().flat_map(|image| &image.repo_tags) {
            let ours = naming::room(name).filter(|(instance, _)| *instance == self.keys().instance());
            if !matches!(ours, Some((_, Room::Hold | Room::Node))) {
                continue;
            }
            let _lock = self.inner.holds.lock(name).await;
            if !self.store().is_held(self.engine().name(), name).await? {
                tracing::info!(
                    engine = self.engine().name(),
                    name,
                    "removing an image that is held for nobody"
                );
                self.remove_hold(name).await;
            }
        }
        Ok(())
    }

    /// Whoever lets go has no part in what keeps the name: a container of the operator's, perhaps.
    async fn remove_hold(&self, hold: &str) {
        if let Err(fault) = self.engine().remove_name(hold).await {
            let cause = causes(&fault);
            tracing::warn!(engine = self.engine().name(), hold, cause, "a hold stays until the next start");
        }
    }
}

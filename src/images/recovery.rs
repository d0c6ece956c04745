//! Cleans up an engine after it, or an earlier wharfd, ended in the middle of work.

use super::Images;
use crate::{
    engine::docker::listing::Listed,
    fault::{Fault, causes},
    naming::{self, ImageName},
    telemetry::each_second,
};

impl Images {
    /// Removes leftovers of an earlier wharfd or of the engine's end. Called before the engine is used.
    pub async fn recover(&self) -> Result<(), Fault> {
        self.remove_late_exports().await?;
        let images = self.listed().await?;
        self.remove_lost_transfers(&images).await;
        self.remove_lost_holds(&images).await?;
        self.find_namespaces(&images).await?;
        self.forget_long_names(&images).await
    }

    /// Forgets long references that no image has any more.
    async fn forget_long_names(&self, images: &[Listed]) -> Result<(), Fault> {
        let names = images.iter().flat_map(|image| &image.repo_tags);
        let long = names.filter_map(|name| naming::long_name(self.keys().instance(), name));
        let kept = long.collect();
        let forgotten = self.store().own().forget_long_names_but(self.engine().name(), kept).await?;
        if forgotten > 0 {
            tracing::info!(
                engine = %self.engine().name(),
                forgotten,
                "forgot long references that no image has"
            );
        }
        Ok(())
    }

    /// Removes the names of interrupted pushes and pulls. Running transfers have such names too, but none is
    /// running on an engine that was just found.
    async fn remove_lost_transfers(&self, images: &[Listed]) {
        let names = images.iter().flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests));
        let lost: Vec<_> = names.filter_map(|name| self.keys().own_transfer(name)).collect();
        for name in &lost {
            tracing::info!(engine = %self.engine().name(), %name, "removing the name of a broken transfer");
            self.remove_transfer(name).await;
        }
    }

    /// The name in the engine of a push or a pull, as it reads.
    pub(super) fn transfer_name(&self, name: &str) -> Result<ImageName, Fault> {
        let own = self.keys().own_transfer(name);
        own.ok_or_else(|| Fault::internal("the relay has given a transfer a foreign name"))
    }

    /// Makes the engine forget the name of a push or a pull.
    pub(super) async fn remove_transfer(&self, name: &ImageName) {
        if let Err(fault) = self.engine().image_store().remove(name).await {
            let cause = causes(&fault);
            let engine = self.engine().name();
            each_second!(warn, %engine, %name, cause, "a name stays until the next start");
        }
    }
}

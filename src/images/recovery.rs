//! What an earlier wharfd has left in an engine when it ended in the middle of something.

use super::{Images, naming};
use crate::fault::{Fault, causes};

impl Images {
    /// Puts right what an earlier wharfd has left behind. Called before anyone is served.
    pub async fn recover(&self) -> Result<(), Fault> {
        self.remove_late_exports().await?;
        self.remove_lost_transfers().await?;
        self.remove_lost_holds().await
    }

    /// Removes the names of pushes and pulls that were broken off. Those of this wharfd's that run have
    /// names too, so this is for the start alone.
    async fn remove_lost_transfers(&self) -> Result<(), Fault> {
        let images = self.engine().list_images(None).await?;
        let names = images.iter().flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests));
        for name in names.filter(|name| naming::relay_instance(name) == Some(self.keys().instance())) {
            tracing::info!(engine = self.engine().name(), name, "removing the name of a broken transfer");
            if let Err(fault) = self.engine().remove_name(name).await {
                let cause = causes(&fault);
                tracing::warn!(
                    engine = self.engine().name(),
                    name,
                    cause,
                    "a name stays until the next start"
                );
            }
        }
        Ok(())
    }
}

//! The end of a build whose image was made.

use std::collections::HashMap;

use super::Build;
use crate::{
    build::{client::BuildClient, outcome::Built, pass_facts::descriptor},
    fault::Fault,
    images::{admission::CredentialSource, owned::OwnedImage},
};

impl Build<'_> {
    /// Inspects the image after the build, and pushes it if the client asked for that.
    pub(super) async fn finish(
        &self,
        facts: &HashMap<String, String>,
        image: &OwnedImage,
    ) -> Result<Built, Fault> {
        let id = facts.get("containerimage.digest").cloned().unwrap_or_default();
        let config = facts.get("containerimage.config.digest").unwrap_or(&id).clone();
        let digest = self.images.engine().image_store().manifest_digest(&id).map(str::to_owned);
        let mut built = Built {
            image_id: id,
            config_digest: config,
            digest,
            descriptor: descriptor(facts),
            references: self.order.references().cloned().collect(),
            pushed: Vec::new(),
        };
        let client: &BuildClient = &self.order.client;
        client.details.image(&built.image_id, built.digest.as_ref());
        for target in &self.order.pushes {
            let reference = target.subject().reference();
            let login = CredentialSource::credentials(client, reference.host()).await?;
            let pushing = self.images.push(image, target, login.as_ref(), self.reporter, &client.tasks);
            let digest = pushing.await?;
            client.details.pushed(reference, &digest);
            built.digest = Some(digest.to_string());
            built.pushed.push((reference.clone(), digest));
        }
        Ok(built)
    }
}

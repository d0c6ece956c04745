//! The references of a namespace's images, and how one moves from image to image.

use super::{Images, owned::OwnedImage};
use crate::{
    engine::image_store::NameOrId,
    fault::Fault,
    names::{Namespace, Reference, reference::Digest},
    naming::{ImageName, PrivateName},
    policy::{Permit, TagAs},
};

impl Images {
    /// Gives an image another reference in its namespace. A reference of another image moves.
    pub async fn tag_image(&self, image: &OwnedImage, target: &Permit<TagAs>) -> Result<(), Fault> {
        self.give_reference(image.namespace(), image.id(), target).await
    }

    /// Gives `source`, an image of the namespace, a reference.
    pub(super) async fn give_reference(
        &self,
        namespace: &Namespace,
        source: impl Into<NameOrId<'_>>,
        target: &Permit<TagAs>,
    ) -> Result<(), Fault> {
        let target = target.subject();
        if target.namespace() != namespace {
            return Err(Fault::internal("the permission to tag is for another namespace"));
        }
        let name = self.private_name(namespace, target.reference()).await?;
        self.move_name(namespace, source, name.name()).await
    }

    /// Gives `source` a name in the namespace. If the name belonged to another image, that image still
    /// belongs to the namespace (`docker` shows it as `<none>`): without a name it would belong to nobody,
    /// and would remain when the namespace ends. It gets its new name before it loses the old one.
    pub(super) async fn move_name(
        &self,
        namespace: &Namespace,
        source: impl Into<NameOrId<'_>>,
        target: &ImageName,
    ) -> Result<(), Fault> {
        let (images, names) = (self.engine().image_store(), self.keys().names(namespace));
        // Nobody else may take names from the image meanwhile.
        let _lock = self.inner.moves.lock(names.opaque()).await;
        let before = images.inspect(target).await?.and_then(|image| Digest::parse(image.id.as_deref()?));
        let kept = before.as_ref().map(|id| names.untagged(id));
        if let Some((id, kept)) = before.as_ref().zip(kept.as_ref()) {
            // If a prune was faster, there is nothing to keep.
            images.tag_if_there(id, kept).await?;
        }
        images.tag(source, target).await?;
        let Some(kept) = kept else { return Ok(()) };
        let image = images.inspect(&kept).await?;
        let others = image.iter().flat_map(|image| image.repo_tags.iter().flatten());
        if others.into_iter().any(|name| name != kept.as_str() && names.read(name).is_some()) {
            images.remove(&kept).await?;
        }
        Ok(())
    }

    /// The name in the engine for a reference of a namespace, ready for use: the store knows it if it was too
    /// long.
    pub(super) async fn private_name(
        &self,
        namespace: &Namespace,
        reference: &Reference,
    ) -> Result<PrivateName, Fault> {
        let name = self.keys().names(namespace).name(reference);
        if let Some(hash) = name.long() {
            let reference = reference.clone().tagged().to_string();
            let namespace = self.keys().names(namespace);
            let engine = self.engine().name();
            self.store().remember_long_name(engine, namespace.opaque(), hash, &reference).await?;
        }
        Ok(name)
    }
}

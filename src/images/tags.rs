//! The references of a namespace's images, and how one moves from image to image.

use super::{Images, owned::Taggable};
use crate::{
    engine::image_store::NameOrId,
    fault::Fault,
    names::{Namespace, Reference, reference::Digest},
    policy::Permit,
};

impl Images {
    /// Gives an image another reference in its namespace. A reference of another image moves.
    pub async fn tag_image(&self, Taggable { image, target }: &Taggable<'_>) -> Result<(), Fault> {
        self.move_name(image.namespace(), image.id(), target.subject().reference()).await
    }

    /// Gives `source` a reference in the namespace. If the reference belonged to another image, that image still
    /// belongs to the namespace (`docker` shows it as `<none>`): without a name it would belong to nobody,
    /// and would remain when the namespace ends. It gets its new name before it loses the old one.
    pub(super) async fn move_name(
        &self,
        namespace: &Permit<Namespace>,
        source: impl Into<NameOrId<'_>>,
        target: &Reference,
    ) -> Result<(), Fault> {
        let (images, names) = (self.engine().image_store(), self.keys().names(namespace.subject()));
        // Nobody else may take names from the image meanwhile.
        let _lock = self.inner.moves.lock(names.opaque()).await;
        let (name, source) = (names.name(target), source.into());
        let before = images.inspect(name.name()).await?;
        let before = before.and_then(|image| Digest::parse(image.id.as_deref()?));
        if before.as_ref().is_some_and(|before| source.is_id(before)) {
            return Ok(());
        }
        self.count_name(namespace, names.opaque()).await?;
        if let Some(hash) = name.long() {
            let reference = target.clone().tagged().to_string();
            let store = self.store().of(namespace.caller());
            store.remember_long_name(self.engine().name(), names.opaque(), hash, &reference).await?;
        }
        let target = name.name();
        let kept = before.as_ref().map(|id| names.untagged(id));
        if let Some((id, kept)) = before.as_ref().zip(kept.as_ref()) {
            // If a prune was faster, there is nothing to keep.
            images.tag_if_there(id, kept).await?;
        }
        let tagged = images.tag(source, target).await;
        let Some(kept) = kept else { return tagged };
        let spare = async {
            let image = images.inspect(&kept).await?;
            let others = image.iter().flat_map(|image| image.repo_tags.iter().flatten());
            match others.into_iter().any(|name| name != kept.as_str() && names.read(name).is_some()) {
                true => images.remove(&kept).await,
                false => Ok(()),
            }
        };
        // The new name may be spare because the reference has not moved.
        let spared = spare.await;
        tagged.and(spared)
    }
}

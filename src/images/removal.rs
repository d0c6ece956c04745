//! Removes images from a namespace, and whole namespaces.

use super::{Images, owned::OwnedImage};
use crate::{
    engine::image_store::Removal,
    fault::Fault,
    names::{Namespace, Reference, printable, reference::Digest},
    naming::{ImageName, Owner},
    policy::Permit,
};

/// The result of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The references, in full.
    pub untagged: Vec<Reference>,
    /// The ids of images that were removed with their last reference.
    pub deleted: Vec<Digest>,
}

impl Images {
    /// Removes a reference from the namespace, and the image with its last reference. If `text` is the id of
    /// an image with several references, `force` is required.
    pub async fn remove_image(
        &self,
        namespace: &Permit<Namespace>,
        text: &str,
        force: bool,
    ) -> Result<Removed, Fault> {
        let image = self.find_image(namespace, text).await?;
        let named = Reference::parse(text).ok().map(Reference::tagged);
        let named = named.and_then(|reference| image.names.get_key_value(&reference));
        let mut removed = Removed::default();
        match named {
            Some((reference, name)) if image.names.len() > 1 => {
                self.remove_own(&image, Some(reference), name, &mut removed).await?;
            }
            None if image.names.len() > 1 && !force => {
                let text = format!(
                    "image {} has {} references: remove them one by one, or force the removal of all",
                    printable(text),
                    image.names.len()
                );
                return Err(Fault::invalid("force", text));
            }
            // The image is removed with its last reference.
            Some(_) | None => self.remove_all(&image, &mut removed).await?,
        }
        Ok(removed)
    }

    /// Removes everything that a namespace has in the engine and in the store: images, references, pins, and
    /// images held only for it. A namespace without anything counts as removed. Returns the number of its
    /// images, and their references.
    pub async fn delete_namespace(
        &self,
        namespace: &Permit<Namespace>,
    ) -> Result<(usize, Vec<Reference>), Fault> {
        let mut removed = Removed::default();
        let images = self.list(namespace).await?;
        for image in &images {
            self.remove_all(image, &mut removed).await?;
        }
        let names = self.keys().names(namespace.subject());
        self.store().forget_pins(names.opaque()).await?;
        self.store().forget_long_names(self.engine().name(), names.opaque()).await?;
        self.release_holds(names.opaque()).await?;
        removed.untagged.sort();
        Ok((images.len(), removed.untagged))
    }

    async fn remove_all(&self, image: &OwnedImage, removed: &mut Removed) -> Result<(), Fault> {
        for (reference, name) in &image.names {
            self.remove_own(image, Some(reference), name, removed).await?;
        }
        for name in &image.untagged {
            self.remove_own(image, None, name, removed).await?;
        }
        Ok(())
    }

    async fn remove_own(
        &self,
        image: &OwnedImage,
        reference: Option<&Reference>,
        name: &ImageName,
        removed: &mut Removed,
    ) -> Result<(), Fault> {
        let (id, names) = (image.id(), self.keys().names(image.namespace()));
        // The name must not be given again between its removal and that of its reference.
        let _lock = self.inner.moves.lock(names.opaque()).await;
        let deleted = match self.engine().image_store().try_remove(name).await? {
            Removal::Done(deleted) => Some(deleted),
            Removal::Absent => None,
            Removal::InUse(error) => {
                let shown = reference.map_or_else(|| id.to_string(), Reference::familiar);
                let text = format!("{shown} is in use by a container");
                return Err(Fault::invalid("reference", text)
                    .hint("the container does not belong to a wharfd job: its owner has to remove it first")
                    .caused_by(error));
            }
        };
        if let Some(Owner::Long(hash)) = names.read(name.as_str()) {
            self.store().forget_long_name(self.engine().name(), names.opaque(), &hash).await?;
        }
        let Some(deleted) = deleted else { return Ok(()) };
        removed.untagged.extend(reference.cloned());
        if deleted.iter().any(|deleted| deleted == id.as_str()) {
            removed.deleted.push(id.clone());
        }
        Ok(())
    }
}

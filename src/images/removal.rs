//! Removes images from a namespace, and whole namespaces.

use std::collections::BTreeSet;

use bollard::errors::Error;

use super::{Images, owned::OwnedImage};
use crate::{
    engine::image_store::Removal,
    fault::Fault,
    names::{Namespace, Reference, printable, reference::Digest},
    naming::{ImageName, Owner},
    policy::Permit,
};

/// The most images that a message names.
const SHOWN_MAX: usize = 8;

/// An image that a container uses.
struct InUse {
    /// Its reference, or its id.
    shown: String,
    error: Error,
}

/// The result of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The references, in full.
    pub untagged: Vec<Reference>,
    /// The ids of images that were removed with their last reference.
    pub deleted: Vec<Digest>,
}

impl Images {
    /// Removes a reference from the namespace, and the image with its last reference. If `text` is the id of an image with
    /// several references, `force` is required. As with docker, the digests by which an image was pushed go with the last
    /// tag of their repository.
    pub async fn remove_image(
        &self,
        namespace: &Permit<Namespace>,
        text: &str,
        force: bool,
    ) -> Result<Removed, Fault> {
        let image = self.find_image(namespace, text).await?;
        let named = Reference::parse(text).ok().map(Reference::tagged);
        let named = named.filter(|reference| image.names.contains_key(reference));
        let mut removed = Removed::default();
        let going = match &named {
            Some(reference) => going_with(reference, &image),
            None if force || has_one_name(&image) => image.references().collect(),
            None => {
                let text = format!(
                    "image {} has {} references: remove them one by one, or force the removal of all",
                    printable(text),
                    image.names.len()
                );
                return Err(Fault::invalid("force", text));
            }
        };
        if going.len() == image.names.len() {
            // The image is removed with its last reference.
            self.remove_all(&image, &mut removed).await?;
        } else {
            for (reference, name) in image.names.iter().filter(|(reference, _)| going.contains(reference)) {
                self.remove_or_fail(&image, Some(reference), name, &mut removed).await?;
            }
        }
        Ok(removed)
    }

    /// Removes everything that a namespace has in the engine and in the store: images, references, pins, and
    /// images held only for it. A namespace without anything counts as removed. Returns the number of its
    /// images, and their references. An image that a container uses stays, alone, and the error names it.
    pub async fn delete_namespace(
        &self,
        namespace: &Permit<Namespace>,
    ) -> Result<(usize, Vec<Reference>), Fault> {
        let (mut removed, mut used) = (Removed::default(), Vec::new());
        let images = self.list(namespace).await?;
        for image in &images {
            for (reference, name) in image.own_names() {
                used.extend(self.remove_own(image, reference, name, &mut removed).await?);
            }
        }
        let (names, store) = (self.keys().names(namespace.subject()), self.store().of(namespace.caller()));
        self.forget(&store, names.opaque(), used.is_empty()).await?;
        let count = used.len();
        if let Some(InUse { shown, error }) = used.pop() {
            let mut all: Vec<_> = used.into_iter().map(|used| used.shown).chain([shown]).collect();
            all.sort();
            all.truncate(SHOWN_MAX);
            let others = match count - all.len() {
                0 => String::new(),
                others => format!(" and {others} others"),
            };
            let (are, container) = if count == 1 { ("is", "a container") } else { ("are", "containers") };
            let text = format!(
                "{}{others} {are} in use by {container}; everything else of the namespace is removed",
                all.join(", ")
            );
            return Err(in_use(text, error));
        }
        removed.untagged.sort();
        Ok((images.len(), removed.untagged))
    }

    async fn remove_all(&self, image: &OwnedImage, removed: &mut Removed) -> Result<(), Fault> {
        for (reference, name) in image.own_names() {
            self.remove_or_fail(image, reference, name, removed).await?;
        }
        Ok(())
    }

    async fn remove_or_fail(
        &self,
        image: &OwnedImage,
        reference: Option<&Reference>,
        name: &ImageName,
        removed: &mut Removed,
    ) -> Result<(), Fault> {
        match self.remove_own(image, reference, name, removed).await? {
            None => Ok(()),
            Some(InUse { shown, error }) => Err(in_use(format!("{shown} is in use by a container"), error)),
        }
    }

    /// Removes a name of an image; returns it if it stays, since a container uses the image.
    async fn remove_own(
        &self,
        image: &OwnedImage,
        reference: Option<&Reference>,
        name: &ImageName,
        removed: &mut Removed,
    ) -> Result<Option<InUse>, Fault> {
        let (id, names) = (image.id(), self.keys().names(image.namespace().subject()));
        // The name must not be given again between its removal and that of its reference.
        let _lock = self.inner.moves.lock(names.opaque()).await;
        let deleted = match self.engine().image_store().try_remove(name).await? {
            Removal::Done(deleted) => Some(deleted),
            Removal::Absent => None,
            Removal::InUse(error) => {
                let shown = reference.map_or_else(|| id.to_string(), Reference::familiar);
                return Ok(Some(InUse { shown, error }));
            }
        };
        if let Some(Owner::Long(hash)) = names.read(name.as_str()) {
            let store = self.store().of(image.namespace().caller());
            store.forget_long_name(self.engine().name(), names.opaque(), &hash).await?;
        }
        let Some(deleted) = deleted else { return Ok(None) };
        removed.untagged.extend(reference.cloned());
        if deleted.iter().any(|deleted| deleted == id.as_str()) {
            removed.deleted.push(id.clone());
        }
        Ok(None)
    }
}

/// The references of an image that are removed with this one.
fn going_with<'a>(reference: &Reference, image: &'a OwnedImage) -> Vec<&'a Reference> {
    let repository = reference.repository();
    let here: Vec<_> = image.references().filter(|one| one.repository() == repository).collect();
    let tags = here.iter().filter(|one| one.digest().is_none()).count();
    if reference.digest().is_none() && tags == 1 {
        return here;
    }
    here.into_iter().filter(|&one| one == reference).collect()
}

/// Whether an image has no more than one tag, and no digests but of that tag's repository.
fn has_one_name(image: &OwnedImage) -> bool {
    let tags = image.references().filter(|one| one.digest().is_none()).count();
    let repositories: BTreeSet<_> = image.references().map(Reference::repository).collect();
    tags <= 1 && repositories.len() <= 1
}

fn in_use(text: String, error: Error) -> Fault {
    Fault::invalid("reference", text)
        .hint("the container does not belong to a wharfd job: its owner has to remove it first")
        .caused_by(error)
}

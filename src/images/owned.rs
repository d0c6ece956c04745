//! The images of a namespace, found only by names and ids that belong to it. "Not yours" and "not there" are
//! the same answer.

use std::{borrow::Cow, collections::BTreeMap};

use bollard::{models::ImageInspect, query_parameters::RemoveImageOptions};

use super::{
    Images,
    admission::CredentialSource,
    naming::{self, Owner, PrivateName, Room},
};
use prost_types::Timestamp;

use crate::{
    engine::docker::{
        fault::{self, Kind},
        listing::Listed,
    },
    fault::{Fault, Reason},
    names::{Namespace, RESERVED_HOST, Reference, printable, reference::Digest},
    policy::Permit,
    progress::Reporter,
    tasks::Group,
};

/// An image of a namespace. Only a lookup in that namespace makes one.
#[derive(Clone, Debug)]
pub struct OwnedImage {
    namespace: Namespace,
    id: Digest,
    /// The names in the engine, by reference.
    names: BTreeMap<Reference, String>,
    /// Names in the engine that builds without a tag have made.
    untagged: Vec<String>,
    created: i64,
    size: i64,
}

/// The engine's description of an image.
struct Found {
    id: String,
    names: Vec<String>,
    created: i64,
    size: i64,
}

/// The result of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The references, in full.
    pub untagged: Vec<Reference>,
    /// The ids of images that were removed with their last reference.
    pub deleted: Vec<Digest>,
}

impl OwnedImage {
    /// The namespace in which the image was found.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The image's id in the engine.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// The image's references in the namespace, in full; none if it was built without a tag.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.names.keys()
    }

    /// The time when the image was made, in seconds since 1970.
    pub fn created(&self) -> i64 {
        self.created
    }

    /// The image's size on the node in bytes.
    pub fn size(&self) -> i64 {
        self.size
    }
}

impl Images {
    /// The images of a namespace, newest first.
    pub async fn list(&self, namespace: &Permit<Namespace>) -> Result<Vec<OwnedImage>, Fault> {
        let mut images = Vec::new();
        for summary in self.engine().list_images().await? {
            let Listed { id, repo_tags, created, size, .. } = summary;
            images.extend(
                self.owned(namespace.subject(), Found { id, names: repo_tags, created, size }).await?,
            );
        }
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        Ok(images)
    }

    /// Finds an image of a namespace by reference, by id, or by the beginning of an id, as `docker` does.
    pub async fn find_image(&self, namespace: &Permit<Namespace>, text: &str) -> Result<OwnedImage, Fault> {
        if let Ok(reference) = Reference::parse(text) {
            let name = self.keys().names(namespace.subject()).name(&reference);
            if let Some(image) = self.engine().inspect_name(name.as_str()).await? {
                return self.owned_by(namespace.subject(), image, text).await;
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(id) = Digest::parse(&format!("sha256:{hex}")) {
            let image = self.engine().inspect_name(id.as_str()).await?;
            let image = image.ok_or_else(|| no_such_image(namespace.subject(), text))?;
            return self.owned_by(namespace.subject(), image, text).await;
        }
        let mut images = self.list(namespace).await?;
        images.retain(|image| !hex.is_empty() && hex_of(&image.id).starts_with(hex));
        match (images.pop(), images.is_empty()) {
            (Some(image), true) => Ok(image),
            (Some(_), false) => {
                let text = format!("several images have an id that begins with `{}`", printable(text));
                Err(Fault::invalid("reference", text).hint("give more of the id"))
            }
            (None, _) => Err(no_such_image(namespace.subject(), text)),
        }
    }

    /// Finds an image by its name in the engine; errors call it `text`, the caller's name for it.
    pub(super) async fn find_by_name(
        &self,
        namespace: &Namespace,
        name: &str,
        text: &str,
    ) -> Result<OwnedImage, Fault> {
        let image = self.engine().inspect_name(name).await?;
        let image = image.ok_or_else(|| no_such_image(namespace, text))?;
        self.owned_by(namespace, image, text).await
    }

    /// The image as the namespace owns it. An image without a name in the namespace is not found.
    async fn owned_by(
        &self,
        namespace: &Namespace,
        image: Box<ImageInspect>,
        text: &str,
    ) -> Result<OwnedImage, Fault> {
        let created = image.created.as_deref().and_then(|created| created.parse::<Timestamp>().ok());
        let found = Found {
            id: image.id.unwrap_or_default(),
            names: image.repo_tags.unwrap_or_default(),
            created: created.map_or(0, |created| created.seconds),
            size: image.size.unwrap_or_default(),
        };
        let owned = self.owned(namespace, found).await?;
        owned.ok_or_else(|| no_such_image(namespace, text))
    }

    /// Gives an image another reference in its namespace. A reference of another image moves.
    pub async fn tag_image(&self, image: &OwnedImage, target: &Reference) -> Result<(), Fault> {
        check_target("target", target)?;
        let target = self.private_name(image.namespace(), target).await?;
        self.move_name(image.namespace(), image.id().as_str(), target.as_str()).await
    }

    /// Gives `source` a name in the namespace. If the name belonged to another image, that image still
    /// belongs to the namespace (`docker` shows it as `<none>`): without a name it would belong to nobody,
    /// and would remain when the namespace ends. It gets its new name before it loses the old one.
    pub(super) async fn move_name(
        &self,
        namespace: &Namespace,
        source: &str,
        target: &str,
    ) -> Result<(), Fault> {
        let (engine, names) = (self.engine(), self.keys().names(namespace));
        // Nobody else may take names from the image meanwhile.
        let _lock = self.inner.moves.lock(names.opaque()).await;
        let before = engine.inspect_name(target).await?.and_then(|image| image.id);
        let kept = before.as_deref().and_then(Digest::parse).map(|id| names.untagged(hex_of(&id)));
        if let Some((id, kept)) = before.as_deref().zip(kept.as_deref()) {
            // If a prune was faster, there is nothing to keep.
            engine.tag_if_there(id, kept).await?;
        }
        engine.tag_name(source, target).await?;
        let Some(kept) = kept else { return Ok(()) };
        let image = engine.inspect_name(&kept).await?;
        let others = image.iter().flat_map(|image| image.repo_tags.iter().flatten());
        if others.into_iter().any(|name| *name != kept && names.read(name).is_some()) {
            engine.remove_name(&kept).await?;
        }
        Ok(())
    }

    /// Brings an image into the namespace: admits it, which ends with `tasks`, and names it. Must not be
    /// dropped: a name and the image that it replaces change together.
    pub async fn pull_image(
        &self,
        namespace: &Permit<Namespace>,
        reference: &Reference,
        credentials: &dyn CredentialSource,
        reporter: &Reporter,
        tasks: &Group,
    ) -> Result<(Option<Digest>, OwnedImage), Fault> {
        let reference = reference.clone().tagged();
        if reference.is_reserved() {
            return Err(fault::not_found(&reference));
        }
        let admitted = self.admit_foreign(namespace, reference.clone(), credentials, true, reporter, tasks);
        let admitted = tasks.unless_cancelled(admitted).await??;
        let name = self.private_name(namespace.subject(), &reference).await?;
        self.move_name(namespace.subject(), admitted.target(), name.as_str()).await?;
        let image = self.find_by_name(namespace.subject(), name.as_str(), &reference.to_string()).await?;
        Ok((admitted.digest().cloned(), image))
    }

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
                self.remove_own(Some(reference), name, &image.id, &mut removed).await?;
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

    /// An image as `docker inspect` shows it, but only with the namespace's names.
    pub async fn inspect_image(
        &self,
        namespace: &Permit<Namespace>,
        text: &str,
    ) -> Result<(OwnedImage, serde_json::Value), Fault> {
        let image = self.find_image(namespace, text).await?;
        let all = self
            .engine()
            .inspect_name(image.id().as_str())
            .await?
            .ok_or_else(|| no_such_image(namespace.subject(), text))?;
        // The fields are listed one by one: a field that a later engine adds may reveal other namespaces.
        let shown = ImageInspect {
            id: all.id,
            repo_tags: Some(
                image.references().filter(|r| r.tag().is_some()).map(Reference::familiar).collect(),
            ),
            repo_digests: Some(
                image.references().filter(|r| r.digest().is_some()).map(Reference::familiar).collect(),
            ),
            comment: all.comment,
            created: all.created,
            author: all.author,
            config: all.config,
            architecture: all.architecture,
            variant: all.variant,
            os: all.os,
            os_version: all.os_version,
            size: all.size,
            root_fs: all.root_fs,
            ..ImageInspect::default()
        };
        Ok((image, serde_json::to_value(shown).map_err(Fault::internal)?))
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

    /// The name in the engine for a reference of a namespace, ready for use: the store knows it if it was too
    /// long.
    pub async fn private_name(
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

    async fn owned(&self, namespace: &Namespace, found: Found) -> Result<Option<OwnedImage>, Fault> {
        let names = self.keys().names(namespace);
        let mut owned = BTreeMap::new();
        let mut untagged = Vec::new();
        for name in found.names {
            let reference = match names.read(&name) {
                Some(Owner::Reference(reference)) => reference,
                Some(Owner::Long(hash)) => {
                    let known = self.store().long_name(&hash).await?;
                    match known.and_then(|known| Reference::parse(&known).ok()) {
                        Some(reference) => reference,
                        // The store was lost: only the name itself is left to show.
                        None => match Reference::parse(&name) {
                            Ok(reference) => reference,
                            Err(_) => continue,
                        },
                    }
                }
                Some(Owner::Untagged) => {
                    untagged.push(name);
                    continue;
                }
                None => continue,
            };
            owned.insert(reference, name);
        }
        if owned.is_empty() && untagged.is_empty() {
            return Ok(None);
        }
        let Some(id) = Digest::parse(&found.id) else { return Ok(None) };
        let namespace = namespace.clone();
        Ok(Some(OwnedImage {
            namespace,
            id,
            names: owned,
            untagged,
            created: found.created,
            size: found.size,
        }))
    }

    async fn remove_all(&self, image: &OwnedImage, removed: &mut Removed) -> Result<(), Fault> {
        for (reference, name) in &image.names {
            self.remove_own(Some(reference), name, &image.id, removed).await?;
        }
        for name in &image.untagged {
            self.remove_own(None, name, &image.id, removed).await?;
        }
        Ok(())
    }

    async fn remove_own(
        &self,
        reference: Option<&Reference>,
        name: &str,
        id: &Digest,
        removed: &mut Removed,
    ) -> Result<(), Fault> {
        let items = match self.engine().docker().remove_image(name, None::<RemoveImageOptions>, None).await {
            Ok(items) => items,
            Err(error) if fault::kind(&error) == Kind::NotFound => return Ok(()),
            Err(error) if fault::kind(&error) == Kind::Conflict => {
                let shown = reference.map_or_else(|| id.to_string(), Reference::familiar);
                let text = format!("{shown} is in use by a container");
                return Err(Fault::invalid("reference", text)
                    .hint("the container does not belong to a wharfd job: its owner has to remove it first")
                    .caused_by(error));
            }
            Err(error) => return Err(fault::unexpected("remove an image", error)),
        };
        removed.untagged.extend(reference.cloned());
        if items.iter().any(|item| item.deleted.as_deref() == Some(id.as_str())) {
            removed.deleted.push(id.clone());
        }
        Ok(())
    }

    /// Whether another wharfd has brought this image to the node, from a registry or for a namespace. Then
    /// that wharfd may have given the image its public name, which does not prove that the operator has put
    /// the image there. This wharfd never gives public names, so its own names do not count: otherwise a
    /// caller could take the operator's image from others by pushing and pulling it.
    pub(crate) fn is_brought(&self, image: &ImageInspect) -> bool {
        self.rooms(image).any(|(ours, room)| match room {
            Room::Node | Room::Frontend => false,
            Room::Hold | Room::Namespace => !ours,
        })
    }

    /// The rooms of all wharfds that an image is in, and whether each belongs to this wharfd.
    fn rooms<'a>(&'a self, image: &'a ImageInspect) -> impl Iterator<Item = (bool, Room)> + 'a {
        let names = image.repo_tags.iter().flatten();
        names
            .filter_map(|name| naming::room(name))
            .map(|(instance, room)| (instance == self.keys().instance(), room))
    }
}

/// Refuses a reference that cannot be a new name.
pub(crate) fn check_target(field: impl Into<Cow<'static, str>>, target: &Reference) -> Result<(), Fault> {
    if target.digest().is_some() {
        let text = format!(
            "`{}` has a digest: a new name cannot choose the image's digest; omit it",
            target.familiar()
        );
        return Err(Fault::invalid(field, text));
    }
    if target.is_reserved() {
        return Err(Fault::invalid(
            field,
            format!("names under `{RESERVED_HOST}` are wharfd's own: choose another host"),
        ));
    }
    Ok(())
}

fn no_such_image(namespace: &Namespace, text: &str) -> Fault {
    let name = Reference::parse(text).map_or_else(|_| printable(text), |reference| reference.familiar());
    let text = format!("no such image in the namespace {}: {name}", printable(&namespace.to_string()));
    Fault::new(Reason::ImageNotFound, text).hint("a job sees only the images of its own namespace")
}

fn hex_of(digest: &Digest) -> &str {
    digest.as_str().strip_prefix("sha256:").unwrap_or_default()
}

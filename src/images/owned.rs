//! The images of a namespace, found only by names and ids that belong to it. "Not yours" and "not there" are
//! the same answer.

use std::collections::BTreeMap;

use bollard::models::ImageInspect;
use prost_types::Timestamp;

use super::{Images, admission::CredentialSource};
use crate::{
    engine::{docker::listing::Listed, image_store::IdPrefix},
    fault::{Fault, Reason},
    names::{
        Namespace, Reference, printable,
        reference::{Digest, are_hex_digits},
    },
    naming::{ImageName, Owner},
    policy::{Permit, PushTo, TagAs},
    progress::Reporter,
    tasks::Group,
};

const OWN_IMAGES: &str = "a job sees only the images of its own namespace";

/// An image of a namespace. Only a lookup in that namespace makes one.
#[derive(Clone, Debug)]
pub struct OwnedImage {
    namespace: Permit<Namespace>,
    id: Digest,
    /// The names in the engine, by reference.
    pub(super) names: BTreeMap<Reference, ImageName>,
    /// Names in the engine that builds without a tag have made.
    pub(super) untagged: Vec<ImageName>,
    created: i64,
    size: i64,
}

/// An image with a reference that it may get. Only the image itself makes one, so the reference is permitted for its
/// namespace, and for no other's.
#[derive(Debug)]
pub struct Taggable<'a> {
    pub(super) image: &'a OwnedImage,
    pub(super) target: Permit<TagAs>,
}

/// The same with a reference to which the image may be pushed.
#[derive(Debug)]
pub struct Pushable<'a> {
    pub(super) image: &'a OwnedImage,
    pub(super) target: Permit<PushTo>,
}

/// The engine's description of an image.
struct Found {
    id: String,
    names: Vec<String>,
    created: i64,
    size: i64,
}

impl From<Box<ImageInspect>> for Found {
    fn from(image: Box<ImageInspect>) -> Self {
        let created = image.created.as_deref().and_then(|created| created.parse::<Timestamp>().ok());
        Self {
            id: image.id.unwrap_or_default(),
            names: image.repo_tags.unwrap_or_default(),
            created: created.map_or(0, |created| created.seconds),
            size: image.size.unwrap_or_default(),
        }
    }
}

impl OwnedImage {
    /// The namespace in which the image was found, for the caller who looked.
    pub(super) fn namespace(&self) -> &Permit<Namespace> {
        &self.namespace
    }

    /// Whether the image may get `reference`, which comes from `field` of a request.
    pub fn tag_as(&self, field: &'static str, reference: Reference) -> Result<Taggable<'_>, Fault> {
        Ok(Taggable { image: self, target: self.namespace.tag_as(field, reference)? })
    }

    /// Whether the image may be pushed to `reference`, which comes from `field` of a request.
    pub fn push_to(&self, field: &'static str, reference: Reference) -> Result<Pushable<'_>, Fault> {
        Ok(Pushable { image: self, target: self.namespace.push_to(field, reference)? })
    }

    /// The image's id in the engine.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// The names in the engine, each with its reference.
    pub(super) fn own_names(&self) -> impl Iterator<Item = (Option<&Reference>, &ImageName)> {
        let named = self.names.iter().map(|(reference, name)| (Some(reference), name));
        named.chain(self.untagged.iter().map(|name| (None, name)))
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
        for summary in self.listed().await?.iter() {
            let Listed { id, repo_tags, created, size, .. } = summary;
            let (id, names, created, size) = (id.clone(), repo_tags.clone(), *created, *size);
            images.extend(self.owned(namespace, Found { id, names, created, size }).await?);
        }
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        Ok(images)
    }

    /// Whether the namespace's policy lets it have another image.
    pub async fn room_for_another(&self, namespace: &Permit<Namespace>) -> Result<(), Fault> {
        let Some(max) = namespace.limits().images else { return Ok(()) };
        let _place = self.inner.counting.take(namespace.caller()).await;
        if self.list(namespace).await?.len() < max as usize {
            return Ok(());
        }
        Err(namespace.over("images").hint("remove images that the job does not need"))
    }

    /// Finds an image of a namespace by reference, by id, or by the beginning of an id, as `docker` does.
    pub async fn find_image(&self, namespace: &Permit<Namespace>, text: &str) -> Result<OwnedImage, Fault> {
        if let Ok(reference) = Reference::parse(text) {
            let name = self.keys().names(namespace.subject()).name(&reference);
            if let Some(image) = self.engine().image_store().inspect(name.name()).await? {
                return self.owned_by(namespace, image, text).await;
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(id) = Digest::parse(&format!("sha256:{hex}")) {
            let image = self.engine().image_store().inspect(&id).await?;
            let image = image.ok_or_else(|| no_such_image(namespace.subject(), text))?;
            return self.owned_by(namespace, image, text).await;
        }
        // The engine finds an image by the beginning of its id if no other image's begins so, whoever owns the others. A
        // listing of all images would find it among them; but a listing takes the engine's memory, and fails while
        // images disappear. So the caller gives more of the id.
        let found = match IdPrefix::parse(hex) {
            Some(prefix) => self.engine().image_store().inspect(&prefix).await?,
            None => None,
        };
        let owned = match found {
            Some(image) => self.owned(namespace, image.into()).await?,
            None => None,
        };
        // The engine may have taken the text for a name.
        let owned = owned.filter(|image| hex_of(&image.id).starts_with(hex));
        owned.ok_or_else(|| {
            let fault = no_such_image(namespace.subject(), text);
            if !are_hex_digits(hex) {
                return fault;
            }
            fault.hint(format!(
                "{OWN_IMAGES}; of an id, give 4 digits or more, until no other image's begins so"
            ))
        })
    }

    /// Finds an image by its name in the engine; errors call it `text`, the caller's name for it.
    pub(super) async fn find_by_name(
        &self,
        namespace: &Permit<Namespace>,
        name: &ImageName,
        text: &str,
    ) -> Result<OwnedImage, Fault> {
        let image = self.engine().image_store().inspect(name).await?;
        let image = image.ok_or_else(|| no_such_image(namespace.subject(), text))?;
        self.owned_by(namespace, image, text).await
    }

    /// The image as the namespace owns it. An image without a name in the namespace is not found.
    async fn owned_by(
        &self,
        namespace: &Permit<Namespace>,
        image: Box<ImageInspect>,
        text: &str,
    ) -> Result<OwnedImage, Fault> {
        let owned = self.owned(namespace, image.into()).await?;
        owned.ok_or_else(|| no_such_image(namespace.subject(), text))
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
        self.room_for_another(namespace).await?;
        let reference = reference.clone().tagged();
        let admitted = self.admit_foreign(namespace, reference.clone(), credentials, true, reporter, tasks);
        let admitted = tasks.unless_cancelled(admitted).await??;
        self.move_name(namespace, admitted.target(), &reference).await?;
        let name = self.keys().names(namespace.subject()).name(&reference);
        let image = self.find_by_name(namespace, name.name(), &reference.to_string()).await?;
        Ok((admitted.digest().cloned(), image))
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
            .image_store()
            .inspect(image.id())
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

    async fn owned(&self, namespace: &Permit<Namespace>, found: Found) -> Result<Option<OwnedImage>, Fault> {
        let names = self.keys().names(namespace.subject());
        let mut owned = BTreeMap::new();
        let mut untagged = Vec::new();
        for (name, owner) in found.names.iter().filter_map(|name| names.own(name)) {
            let reference = match owner {
                Owner::Reference(reference) => reference,
                Owner::Long(hash) => {
                    let known = self.store().of(namespace.caller()).long_name(&hash).await?;
                    match known.and_then(|known| Reference::parse(&known).ok()) {
                        Some(reference) => reference,
                        // The store was lost: only the name itself is left to show.
                        None => match Reference::parse(name.as_str()) {
                            Ok(reference) => reference,
                            Err(_) => continue,
                        },
                    }
                }
                Owner::Untagged => {
                    untagged.push(name);
                    continue;
                }
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
}

fn no_such_image(namespace: &Namespace, text: &str) -> Fault {
    let name = Reference::parse(text).map_or_else(|_| printable(text), |reference| reference.familiar());
    let text = format!("no such image in the namespace {namespace}: {name}");
    Fault::new(Reason::ImageNotFound, text).hint(OWN_IMAGES)
}

fn hex_of(digest: &Digest) -> &str {
    digest.as_str().strip_prefix("sha256:").unwrap_or_default()
}

//! The engine's image store: looking images up, naming, removing, moving them, and the differences between
//! Docker's two stores.
//!
//! It takes names only from [`naming`](crate::naming). Whose a name is, and what may be done with it, the callers
//! know.

mod classic;
mod containerd;

use std::time::Duration;

use bollard::{
    Docker,
    auth::DockerCredentials,
    body_full,
    errors::Error,
    models::{CreateImageInfo, ImageInspect, SystemInfo},
    query_parameters::{CreateImageOptions, ImportImageOptions, RemoveImageOptions, TagImageOptions},
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};

use super::{
    Platform, STALL_TIMEOUT,
    docker::{
        fault::{self, Kind},
        lines::{Answer, Body, Lines},
        listing::{Listed, ListedContainer},
    },
};
use crate::{
    buildkit::solve::Layout,
    fault::{Fault, Reason},
    names::{
        NormalPlatform, Secret,
        reference::{Digest, are_hex_digits},
    },
    naming::ImageName,
    policy::{FromNode, Permit},
    tasks::Group,
};

/// How many times a listing is retried when an image disappears during it.
const LISTINGS_MAX: u32 = 20;

/// The pause before the second listing; each further one is longer by as much.
const LISTING_PAUSE: Duration = Duration::from_millis(5);

/// The place where an engine keeps images.
pub struct ImageStore {
    kind: Box<dyn StoreKind>,
    docker: Docker,
    lines: Lines,
    platform: Platform,
}

/// The part in which Docker's two image stores differ.
pub(super) trait StoreKind: Send + Sync {
    /// The store's name, for people.
    fn name(&self) -> &'static str;

    /// Whether a pull checks each layer against the image's config, since it unpacks them in the engine's own process.
    fn checks_layers(&self) -> bool;

    /// The exporter of the engine's builder that makes an archive of this layout; `None` if only the store makes it, from
    /// an image that it has.
    fn archive_exporter(&self, layout: Layout) -> Option<&'static str>;

    /// Whether the store writes an archive of an image to its disk before it sends the first byte.
    fn saves_by_disk(&self) -> bool;

    /// Refuses a build that asks for a list of platforms, even of equal ones, if the store takes one platform.
    fn check_platforms(&self, asked: &[String]) -> Result<(), Fault>;

    /// The digest of an image's manifest or index, if the store uses it as the image's id; else the id is that of the
    /// image's config.
    fn manifest_digest<'a>(&self, id: &'a str) -> Option<&'a str>;

    /// The repositories that an image was pulled from; `None` if the engine does not report them.
    fn origins<'a>(&self, image: &'a ImageInspect) -> Option<Vec<&'a str>>;
}

/// The kind of image store that an engine has, by the engine's description of itself.
pub(super) fn kind(info: &SystemInfo, api_version: (u16, u16)) -> Box<dyn StoreKind> {
    if containerd::is_used(info) {
        Box::new(containerd::Containerd::new(api_version))
    } else {
        Box::new(classic::Classic)
    }
}

/// An image, by a name or by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NameOrId<'a> {
    /// A name.
    Name(&'a ImageName),
    /// An id.
    Id(&'a Digest),
    /// The beginning of an id, if no other image's id begins so.
    Prefix(&'a IdPrefix),
}

/// The beginning of an id, of a length at which both stores look for one.
#[derive(Clone, Debug)]
pub(crate) struct IdPrefix(String);

impl IdPrefix {
    /// Reads 4 to 63 digits (`checkTruncatedID` in moby's `daemon/containerd`).
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        let valid = (4..64).contains(&digits.len()) && are_hex_digits(digits);
        valid.then(|| Self(format!("sha256:{digits}")))
    }
}

/// The result of a removal.
pub(crate) enum Removal {
    /// The name is gone. With its last name the image is gone, too; its id is among these.
    Done(Vec<String>),
    /// There was no such name.
    Absent,
    /// A container uses the image.
    InUse(Error),
}

impl ImageStore {
    /// The store of an engine that builds for `platform`.
    pub(super) fn new(kind: Box<dyn StoreKind>, docker: Docker, lines: Lines, platform: Platform) -> Self {
        Self { kind, docker, lines, platform }
    }

    /// The store's name, for people.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Whether a pull checks each layer against the image's config.
    pub(crate) fn checks_layers(&self) -> bool {
        self.kind.checks_layers()
    }

    /// The exporter of the engine's builder that makes an archive of this layout; `None` if only the store makes it, from
    /// an image that it has.
    pub(crate) fn archive_exporter(&self, layout: Layout) -> Option<&'static str> {
        self.kind.archive_exporter(layout)
    }

    /// Whether the store writes an archive of an image to its disk before it sends the first byte.
    pub(crate) fn saves_by_disk(&self) -> bool {
        self.kind.saves_by_disk()
    }

    /// Refuses a build that asks for a list of platforms, if the store takes one platform.
    pub(crate) fn check_platforms(&self, asked: &[String]) -> Result<(), Fault> {
        self.kind.check_platforms(asked)
    }

    /// The digest of an image's manifest, if the store uses it as the image's id.
    pub(crate) fn manifest_digest<'a>(&self, id: &'a str) -> Option<&'a str> {
        self.kind.manifest_digest(id)
    }

    /// Whether an image came from a registry; `None` if the store cannot tell. `is_excused` selects the
    /// repositories whose record proves nothing.
    pub(crate) fn is_pulled(&self, image: &ImageInspect, is_excused: impl Fn(&str) -> bool) -> Option<bool> {
        let origins = self.kind.origins(image)?;
        Some(origins.into_iter().any(|origin| !is_excused(origin)))
    }

    /// Whether an image is for the system and the processor that the engine builds for. An image that does not name
    /// them is for each, as BuildKit takes it.
    pub(crate) fn is_for_platform(&self, image: &ImageInspect) -> bool {
        let of = |name: &Option<String>| name.as_deref().unwrap_or_default().to_owned();
        let (own, architecture) = (self.platform.normal(), of(&image.architecture));
        let image = NormalPlatform::of(&of(&image.os), &architecture, "");
        image.os == own.os && (architecture.is_empty() || image.architecture == own.architecture)
    }

    /// All images of the engine, of all owners.
    pub(crate) async fn list(&self) -> Result<Vec<Listed>, Fault> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.lines.images(self.docker.client_version()).await {
                // The containerd store reads each image while it lists them, and the listing fails when
                // an image is removed meanwhile, say by another job.
                Err(error) if tried < LISTINGS_MAX && fault::kind(&error) == Kind::NotFound => {
                    tokio::time::sleep(LISTING_PAUSE * tried).await;
                }
                listed => return listed.map_err(|error| fault::unexpected("list images", error)),
            }
        }
    }

    /// All containers of the engine, of all owners.
    pub(crate) async fn containers(&self) -> Result<Vec<ListedContainer>, Fault> {
        let listed = self.lines.containers(self.docker.client_version()).await;
        listed.map_err(|error| fault::unexpected("list containers", error))
    }

    /// The number of bytes of the history of the image with this name, as the engine reports it; `None` if it
    /// does not report that of this image, such as an image with fewer layers than its history says.
    pub(crate) async fn history_bytes(&self, image: &ImageName) -> Result<Option<u64>, Fault> {
        match self.lines.history_bytes(self.docker.client_version(), image.as_str()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::DockerResponseServerError { .. }) => Ok(None),
            Err(error) => Err(fault::unexpected("read an image's history", error)),
        }
    }

    /// The image with this name or id.
    pub(crate) async fn inspect(
        &self,
        image: impl Into<NameOrId<'_>>,
    ) -> Result<Option<Box<ImageInspect>>, Fault> {
        self.look_up(image.into().as_str()).await
    }

    /// The image that has the caller's own name for it, whoever has brought it to the node.
    pub(crate) async fn inspect_public(
        &self,
        from: &Permit<FromNode>,
    ) -> Result<Option<Box<ImageInspect>>, Fault> {
        self.look_up(&from.subject().reference().to_string()).await
    }

    async fn look_up(&self, name: &str) -> Result<Option<Box<ImageInspect>>, Fault> {
        match Box::pin(self.docker.inspect_image(name)).await {
            Ok(image) => Ok(Some(Box::new(image))),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(None),
            Err(error) => Err(fault::unexpected("look up an image", error)),
        }
    }

    /// Gives `source` the additional name `target`.
    pub(crate) async fn tag(&self, source: impl Into<NameOrId<'_>>, target: &ImageName) -> Result<(), Fault> {
        match self.tag_if_there(source, target).await? {
            true => Ok(()),
            false => Err(Fault::new(Reason::EngineFailed, "an image disappeared from the engine")),
        }
    }

    /// Like [`tag`](Self::tag); false if there is no `source`.
    pub(crate) async fn tag_if_there(
        &self,
        source: impl Into<NameOrId<'_>>,
        target: &ImageName,
    ) -> Result<bool, Fault> {
        let (repository, tag) = target.as_str().rsplit_once(':').unwrap_or((target.as_str(), "latest"));
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        match self.docker.tag_image(source.into().as_str(), Some(options)).await {
            Ok(()) => Ok(true),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(false),
            Err(error) => Err(fault::unexpected("name an image", error)),
        }
    }

    /// Removes a name, and the image with its last name. Succeeds if the name does not exist.
    pub(crate) async fn remove(&self, name: &ImageName) -> Result<(), Fault> {
        match self.try_remove(name).await? {
            Removal::Done(_) | Removal::Absent => Ok(()),
            Removal::InUse(error) => Err(fault::unexpected("remove a name of an image", error)),
        }
    }

    /// Like [`remove`](Self::remove), and returns what it has done.
    pub(crate) async fn try_remove(&self, name: &ImageName) -> Result<Removal, Fault> {
        match self.docker.remove_image(name.as_str(), None::<RemoveImageOptions>, None).await {
            Ok(items) => Ok(Removal::Done(items.into_iter().filter_map(|item| item.deleted).collect())),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(Removal::Absent),
            Err(error) if fault::kind(&error) == Kind::Conflict => Ok(Removal::InUse(error)),
            Err(error) => Err(fault::unexpected("remove an image", error)),
        }
    }

    /// Pulls the image `name` for the engine's platform from the registry at `host`.
    pub(crate) fn pull(
        &self,
        name: &ImageName,
        host: String,
        login: (&str, &Secret<String>),
    ) -> impl Stream<Item = Result<CreateImageInfo, Error>> {
        let options = CreateImageOptions {
            from_image: Some(name.to_string()),
            platform: self.platform.to_string(),
            ..CreateImageOptions::default()
        };
        self.docker.create_image(Some(options), None, Some(credentials(host, login)))
    }

    /// Pushes the image `name` to the registry at `host`.
    pub(crate) async fn push(
        &self,
        name: &ImageName,
        host: String,
        login: (&str, &Secret<String>),
    ) -> Result<Answer, Error> {
        let (repository, tag) = name.as_str().rsplit_once(':').unwrap_or((name.as_str(), "latest"));
        let path = format!("/images/{repository}/push?tag={tag}");
        self.lines.post(self.docker.client_version(), &path, &credentials(host, login)).await
    }

    /// The group that owns the connections to the engine.
    pub(crate) fn tasks(&self) -> &Group {
        self.lines.tasks()
    }

    /// The archive of the image with this id, as `docker save` makes it; `None` if there is no such image. Its answer
    /// begins once the engine has gathered the image, which takes as long as the image is large.
    pub(crate) async fn export(&self, id: &Digest) -> Result<Option<Body>, Fault> {
        let path = format!("/images/{id}/get");
        match self.lines.get(self.docker.client_version(), &path, STALL_TIMEOUT).await {
            Ok(archive) => Ok(Some(archive)),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(None),
            Err(error) => Err(fault::unexpected("save an image", error)),
        }
    }

    /// Loads an archive, as `docker load` does.
    pub(crate) async fn load(&self, archive: Bytes) -> Result<(), Error> {
        let load = self.docker.import_image(ImportImageOptions::default(), body_full(archive), None);
        load.try_for_each(|_| std::future::ready(Ok(()))).await
    }
}

/// A login in the engine's form.
fn credentials(host: String, (user, password): (&str, &Secret<String>)) -> DockerCredentials {
    DockerCredentials {
        username: Some(user.to_owned()),
        password: Some(password.expose().clone()),
        serveraddress: Some(host),
        ..DockerCredentials::default()
    }
}

impl NameOrId<'_> {
    /// Whether it is this id, and not a name of it.
    pub(crate) fn is_id(&self, other: &Digest) -> bool {
        matches!(self, Self::Id(id) if *id == other)
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Id(id) => id.as_str(),
            Self::Prefix(prefix) => &prefix.0,
        }
    }
}

impl<'a> From<&'a ImageName> for NameOrId<'a> {
    fn from(name: &'a ImageName) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a Digest> for NameOrId<'a> {
    fn from(id: &'a Digest) -> Self {
        Self::Id(id)
    }
}

impl<'a> From<&'a IdPrefix> for NameOrId<'a> {
    fn from(prefix: &'a IdPrefix) -> Self {
        Self::Prefix(prefix)
    }
}

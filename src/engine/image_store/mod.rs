//! The engine's image store: looking images up, naming and removing them, and the differences between
//! Docker's two stores.
//!
//! Names are full names and are not checked here: the callers know whose a name is and what may be done
//! with it.

mod classic;
mod containerd;

use std::{fmt, time::Duration};

use bollard::{
    models::{ImageInspect, SystemInfo},
    query_parameters::{RemoveImageOptions, TagImageOptions},
};

use super::{
    Engine,
    docker::{
        fault::{self, Kind},
        listing::Listed,
    },
};
use crate::fault::{Fault, Reason};

/// How many times a listing is retried when an image disappears during it.
const LISTINGS_MAX: u32 = 20;

/// The pause before the second listing; each further one is longer by as much.
const LISTING_PAUSE: Duration = Duration::from_millis(5);

/// Where the engine keeps images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageStore {
    /// The engine's own: an image's id is its config's digest.
    Classic,
    /// containerd's: an image's id is its manifest's or index's digest.
    Containerd {
        /// Whether it reports the repositories that an image was pulled from or pushed to.
        tells_origins: bool,
    },
}

impl ImageStore {
    pub(super) fn of(info: &SystemInfo, api_version: (u16, u16)) -> Self {
        if containerd::is_used(info) {
            Self::Containerd { tells_origins: api_version >= containerd::API_WITH_ORIGINS }
        } else {
            Self::Classic
        }
    }

    /// Whether a pull checks each layer against the image's config.
    pub(crate) fn checks_layers(self) -> bool {
        match self {
            Self::Classic => true,
            Self::Containerd { .. } => false,
        }
    }

    /// The digest of an image's manifest, if the store uses it as the image's id.
    pub(crate) fn manifest_digest(self, id: &str) -> Option<&str> {
        match self {
            Self::Classic => None,
            Self::Containerd { .. } => Some(id),
        }
    }

    /// Whether an image came from a registry; `None` if the store cannot tell. `is_excused` selects the
    /// repositories whose record proves nothing.
    pub(crate) fn is_pulled(self, image: &ImageInspect, is_excused: impl Fn(&str) -> bool) -> Option<bool> {
        match self {
            Self::Classic => Some(classic::origins(image).any(|origin| !is_excused(origin))),
            Self::Containerd { tells_origins: false } => None,
            Self::Containerd { tells_origins: true } => {
                Some(containerd::origins(image).any(|origin| !is_excused(origin)))
            }
        }
    }
}

impl fmt::Display for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::Containerd { .. } => "containerd",
        })
    }
}

impl Engine {
    /// All images of the engine, whoever owns them.
    pub(crate) async fn list_images(&self) -> Result<Vec<Listed>, Fault> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.listing().await {
                // The containerd store reads each image while it lists them, and the listing fails when
                // an image is removed meanwhile, say by another job.
                Err(error) if tried < LISTINGS_MAX && fault::kind(&error) == Kind::NotFound => {
                    tokio::time::sleep(LISTING_PAUSE * tried).await;
                }
                listed => return listed.map_err(|error| fault::unexpected("list images", error)),
            }
        }
    }

    /// The image with this name or id.
    pub(crate) async fn inspect_name(&self, name: &str) -> Result<Option<Box<ImageInspect>>, Fault> {
        match Box::pin(self.docker().inspect_image(name)).await {
            Ok(image) => Ok(Some(Box::new(image))),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(None),
            Err(error) => Err(fault::unexpected("look up an image", error)),
        }
    }

    /// Gives `source`, a name or an id, the additional name `target`.
    pub(crate) async fn tag_name(&self, source: &str, target: &str) -> Result<(), Fault> {
        match self.tag_if_there(source, target).await? {
            true => Ok(()),
            false => Err(Fault::new(Reason::EngineFailed, "an image disappeared from the engine")),
        }
    }

    /// Like [`tag_name`](Self::tag_name); false if there is no `source`.
    pub(crate) async fn tag_if_there(&self, source: &str, target: &str) -> Result<bool, Fault> {
        let (repository, tag) = target.rsplit_once(':').unwrap_or((target, "latest"));
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        match self.docker().tag_image(source, Some(options)).await {
            Ok(()) => Ok(true),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(false),
            Err(error) => Err(fault::unexpected("name an image", error)),
        }
    }

    /// Removes a name, and the image with its last name. Succeeds if the name does not exist.
    pub(crate) async fn remove_name(&self, name: &str) -> Result<(), Fault> {
        match self.docker().remove_image(name, None::<RemoveImageOptions>, None).await {
            Ok(_) => Ok(()),
            Err(error) if fault::kind(&error) == Kind::NotFound => Ok(()),
            Err(error) => Err(fault::unexpected("remove a name of an image", error)),
        }
    }

    /// Whether an image is for the platform that the engine builds for.
    pub(crate) fn is_for_platform(&self, image: &ImageInspect) -> bool {
        let platform = self.platform();
        image.os.as_deref() == Some(&platform.os)
            && image.architecture.as_deref() == Some(&platform.architecture)
    }
}

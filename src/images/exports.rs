//! Images that builds are making, each under a name of its own that no other build uses.
//!
//! BuildKit names an image during its export, and on the classic store it ignores a cancel while it does so.
//! So BuildKit never gives it the job's names: wharfd moves the job's references after the build, and an
//! image that arrives too late is recognised by its name.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Images, owned::OwnedImage};
use crate::{
    fault::{Fault, causes},
    names::{Namespace, Reference},
    naming::{ImageName, NamespaceNames},
    policy::Permit,
    store::Access,
    telemetry::each_second,
};

/// How long a build that was cut off may still make its image: the classic store reads the whole image.
const LATE_MAX: Duration = Duration::from_secs(3600);

/// The names under which builds of this wharfd are making images.
#[derive(Debug, Default)]
pub(super) struct Exporting(Mutex<HashSet<ImageName>>);

impl Exporting {
    fn names(&self) -> MutexGuard<'_, HashSet<ImageName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An image that a build is making. If this is dropped, [`Images::remove_late_exports`] removes the image
/// later.
#[derive(Debug)]
pub struct Export {
    images: Images,
    namespace: Permit<Namespace>,
    names: NamespaceNames,
    name: ImageName,
}

impl Images {
    /// Chooses a name for the image of a new build.
    pub async fn begin_export(&self, namespace: &Permit<Namespace>) -> Result<Export, Fault> {
        self.room_for_another(namespace).await?;
        let names = self.keys().names(namespace.subject());
        let name = names.fresh()?;
        self.store().of(namespace.caller()).export_begin(self.engine().name(), &name).await?;
        self.inner.exporting.names().insert(name.clone());
        Ok(Export { images: self.clone(), namespace: namespace.clone(), names, name })
    }

    /// Removes images that appeared after their builds were cut off, by this wharfd or an earlier one.
    pub async fn remove_late_exports(&self) -> Result<(), Fault> {
        let (engine, store) = (self.engine(), self.store().own());
        for export in store.exports(engine.name()).await? {
            let Some((name, _)) = self.keys().own(&export.name) else {
                // The node's secret was lost: nothing finds an image of that name any more.
                store.forget_export(engine.name(), export).await?;
                continue;
            };
            if self.inner.exporting.names().contains(&name) {
                continue;
            }
            // A build that has ended since the rows were read keeps its image. It has removed its row before it left
            // the names above.
            if !store.is_export(engine.name(), &name).await? {
                continue;
            }
            let made = engine.image_store().inspect(&name).await?.is_some();
            if made {
                each_second!(
                    info,
                    engine = %engine.name(),
                    %name,
                    "removing an image that came too late"
                );
                engine.image_store().remove(&name).await?;
            }
            // A build makes its image only once.
            if made || export.age > LATE_MAX {
                store.export_end(engine.name(), &name).await?;
            }
        }
        Ok(())
    }
}

impl Export {
    /// The image's name in the engine.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// The store, for the build's caller.
    fn store(&self) -> Access {
        self.images.store().of(self.namespace.caller())
    }

    /// Gives the finished image its references, and finds it. The images that the references named before
    /// still belong to the namespace.
    pub async fn tag(&self, references: &[Reference]) -> Result<OwnedImage, Fault> {
        let image = self.images.find_by_name(&self.namespace, &self.name, self.name.as_str()).await?;
        for reference in references {
            self.images.tag_image(&image.tag_as("tags", reference.clone())?).await?;
        }
        Ok(image)
    }

    /// Ends the export of a finished image. The image keeps this name if it has no other name.
    pub async fn release(self) -> Result<(), Fault> {
        let engine = self.images.engine();
        let _lock = self.images.inner.moves.lock(self.names.opaque()).await;
        let image = engine.image_store().inspect(&self.name).await?;
        let names = image.iter().flat_map(|image| image.repo_tags.iter().flatten());
        if names.into_iter().any(|name| name != self.name.as_str() && self.names.read(name).is_some()) {
            engine.image_store().remove(&self.name).await?;
        }
        self.store().export_end(engine.name(), &self.name).await
    }

    /// Removes the image. `is_over` means that BuildKit has ended the build, so no image can appear later.
    pub async fn discard(self, is_over: bool) {
        let engine = self.images.engine();
        let discarded = async {
            engine.image_store().remove(&self.name).await?;
            if is_over {
                self.store().export_end(engine.name(), &self.name).await?;
            }
            Ok::<(), Fault>(())
        };
        if let Err(fault) = discarded.await {
            each_second!(
                warn,
                cause = causes(&fault),
                "cannot remove a failed build's image now; it is removed later"
            );
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.images.inner.exporting.names().remove(&self.name);
    }
}

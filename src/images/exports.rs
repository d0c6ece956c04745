//! Images that builds are making, each under a name of its own that nothing else moves.
//!
//! BuildKit names an image in the middle of what it does, and on the classic store it looks at no
//! cancel while it does so. So it never names it as the job does: wharfd moves the job's references
//! once the build is over, and what came too late has a name that says so.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Images, naming::NamespaceNames, owned::OwnedImage};
use crate::{
    fault::{Fault, causes},
    names::{Namespace, Reference, random_id},
    policy::Permit,
};

/// How long a build that was cut off may still make its image: the classic store reads all of it.
const LATE_MAX: Duration = Duration::from_secs(3600);

/// The names under which builds of this wharfd make images now.
#[derive(Debug, Default)]
pub(super) struct Exporting(Mutex<HashSet<String>>);

impl Exporting {
    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An image that a build is making. One that is dropped is removed when somebody
/// [looks again](Images::remove_late_exports).
#[derive(Debug)]
pub struct Export {
    images: Images,
    namespace: Namespace,
    names: NamespaceNames,
    name: String,
}

impl Images {
    /// A name for the image of a build that begins.
    pub async fn begin_export(&self, namespace: &Permit<Namespace>) -> Result<Export, Fault> {
        let names = self.keys().names(namespace.subject());
        let name = names.untagged(&random_id().map_err(Fault::internal)?);
        self.store().export_begin(self.engine().name(), &name).await?;
        self.inner.exporting.names().insert(name.clone());
        Ok(Export { images: self.clone(), namespace: namespace.subject().clone(), names, name })
    }

    /// Removes images that were made after their builds were cut off, by this wharfd or an earlier one.
    pub async fn remove_late_exports(&self) -> Result<(), Fault> {
        let engine = self.engine();
        for export in self.store().exports(engine.name()).await? {
            if self.inner.exporting.names().contains(&export.name) {
                continue;
            }
            let made = engine.inspect_name(&export.name).await?.is_some();
            if made {
                tracing::info!(
                    engine = engine.name(),
                    name = export.name,
                    "removing an image that came too late"
                );
                engine.remove_name(&export.name).await?;
            }
            // It is made once.
            if made || export.age > LATE_MAX {
                self.store().export_end(engine.name(), &export.name).await?;
            }
        }
        Ok(())
    }
}

impl Export {
    /// The name in the engine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the image that was made its references, and finds it. What they named before stays the
    /// namespace's.
    pub async fn tag(&self, references: &[Reference]) -> Result<OwnedImage, Fault> {
        for reference in references {
            let target = self.images.private_name(&self.namespace, reference).await?;
            self.images.move_name(&self.namespace, &self.name, target.as_str()).await?;
        }
        self.images.find_by_name(&self.namespace, &self.name, &self.name).await
    }

    /// Lets go of an image that was made: it keeps its own name where it has no other.
    pub async fn release(self) -> Result<(), Fault> {
        let engine = self.images.engine();
        let _lock = self.images.inner.moves.lock(self.names.opaque()).await;
        let image = engine.inspect_name(&self.name).await?;
        let names = image.iter().flat_map(|image| image.repo_tags.iter().flatten());
        if names.into_iter().any(|name| *name != self.name && self.names.read(name).is_some()) {
            engine.remove_name(&self.name).await?;
        }
        self.images.store().export_end(engine.name(), &self.name).await
    }

    /// Removes what was made. `is_over`: BuildKit has ended the build, so that nothing is made later.
    pub async fn discard(self, is_over: bool) {
        let engine = self.images.engine();
        let discarded = async {
            engine.remove_name(&self.name).await?;
            if is_over {
                self.images.store().export_end(engine.name(), &self.name).await?;
            }
            Ok::<(), Fault>(())
        };
        if let Err(fault) = discarded.await {
            tracing::warn!(cause = causes(&fault), "the image of a build that failed is removed later");
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.images.inner.exporting.names().remove(&self.name);
    }
}

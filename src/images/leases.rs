//! Namespaces that nobody uses any more, and what each owns in the engine.

use std::collections::{HashMap, HashSet};

use super::Images;
use crate::{
    engine::{
        docker::listing::{Listed, ListedContainer},
        image_store::Removal,
    },
    fault::Fault,
    naming::{self, ImageName, NamespaceKey},
    store::Access,
};

/// The images of one namespace.
#[derive(Debug, Default)]
pub struct Possessions {
    /// Their names in the engine.
    names: Vec<ImageName>,
    images: HashSet<String>,
    size: i64,
}

impl Possessions {
    /// The number of images.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// The number of their names in the engine.
    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// The sum of the images' sizes in bytes. Layers that images share count for each of them.
    pub fn size(&self) -> i64 {
        self.size
    }

    /// Whether one of these containers uses an image of them.
    pub(crate) fn are_used_by(&self, containers: &[ListedContainer]) -> bool {
        containers.iter().any(|container| {
            self.images.contains(&container.image_id)
                || self.names.iter().any(|name| name.as_str() == container.image)
        })
    }
}

/// The result of the removal of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedNamespace {
    /// Whether everything is gone; an image that a container uses stays.
    pub is_gone: bool,
    /// How many images are gone: from the namespace, and from the engine if no other has them.
    pub images: usize,
}

impl Images {
    /// The images of every namespace, by its opaque name.
    pub async fn possessions(&self) -> Result<HashMap<NamespaceKey, Possessions>, Fault> {
        Ok(self.possessions_among(&self.listed().await?))
    }

    fn possessions_among(&self, listed: &[Listed]) -> HashMap<NamespaceKey, Possessions> {
        let mut all = HashMap::<_, Possessions>::new();
        for image in listed {
            for name in &image.repo_tags {
                let Some(opaque) = naming::namespace(self.keys().instance(), name) else { continue };
                let Some((own, _)) = self.keys().own(name) else { continue };
                let of = all.entry(opaque).or_default();
                of.names.push(own);
                if of.images.insert(image.id.clone()) {
                    of.size = of.size.saturating_add(image.size);
                }
            }
        }
        all
    }

    /// Tells the store of namespaces that it does not know, because it was lost or is older than they are. Called
    /// before the engine is used.
    pub(super) async fn find_namespaces(&self, listed: &[Listed]) -> Result<(), Fault> {
        let owned = self.possessions_among(listed);
        self.inner.named.count(owned.iter().map(|(opaque, owned)| (opaque.clone(), owned.names())));
        let opaque = owned.into_keys().collect();
        let found = self.store().own().find_namespaces(self.engine().name(), opaque).await?;
        if found > 0 {
            tracing::info!(
                engine = %self.engine().name(),
                found,
                "found namespaces in the engine that the store did not know"
            );
        }
        Ok(())
    }

    /// Removes everything that a namespace owns; nothing of it may be in use: these are its images.
    pub async fn remove_namespace(
        &self,
        opaque: &NamespaceKey,
        owned: &Possessions,
    ) -> Result<RemovedNamespace, Fault> {
        let mut used = 0;
        let mut deleted = HashSet::new();
        for name in &owned.names {
            let _lock = self.inner.moves.lock(opaque).await;
            match self.engine().image_store().try_remove(name).await? {
                Removal::Done(ids) => deleted.extend(ids.into_iter().filter(|id| owned.images.contains(id))),
                Removal::Absent => {}
                Removal::InUse(_) => used += 1,
            }
        }
        let is_gone = used == 0;
        self.forget(&self.store().own(), opaque, is_gone).await?;
        // Images that another namespace has, too, are not deleted.
        let images = if is_gone { owned.images() } else { deleted.len() };
        Ok(RemovedNamespace { is_gone, images })
    }

    /// Forgets all that `store` knows of a namespace, and removes the images that are held only for it. If its own
    /// images are not all gone, it is still known.
    pub(super) async fn forget(
        &self,
        store: &Access,
        opaque: &NamespaceKey,
        is_gone: bool,
    ) -> Result<(), Fault> {
        let engine = self.engine().name();
        store.forget_pins(engine, opaque).await?;
        self.release_holds(store, opaque).await?;
        if is_gone {
            self.inner.named.forget(opaque);
            store.forget_long_names(engine, opaque).await?;
            store.forget_namespace(engine, opaque).await?;
        }
        Ok(())
    }
}

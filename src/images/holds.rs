//! Holds: wharfd's names by which the engine keeps the images that namespaces have admitted. An image is
//! removed with the last namespace that holds it. Its unpacked layers stay in the builder's own cache.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::models::ImageInspect;
use tokio::time::timeout;

use super::Images;
use crate::{
    engine::docker::listing::Listed,
    fault::{Fault, causes},
    names::{random_id, reference::Digest},
    naming::{ImageName, NamespaceKey, Room},
    store::Access,
    tasks::Group,
    telemetry::each_second,
};

/// How long to wait for the lock of a hold that nobody needs, before looking again whether somebody needs it.
const LOCK_LOOK: Duration = Duration::from_secs(1);

/// Holds that end with the build that needs them. The store does not know them: after a crash they are lost
/// holds.
#[derive(Debug)]
pub struct PassingHolds {
    names: Mutex<Vec<ImageName>>,
    /// Gives the names to the images. An engine names an image even if nobody waits for its answer any more, so
    /// each of these calls runs to its end, and the name is removed after that.
    tasks: Group,
}

impl PassingHolds {
    /// Holds of a build with these tasks.
    pub fn new(tasks: &Group) -> Self {
        Self { names: Mutex::default(), tasks: tasks.child("holds") }
    }

    fn names(&self) -> MutexGuard<'_, Vec<ImageName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// Holds an image that has been inspected, until [`Self::release`].
    pub(super) async fn hold_for_now(
        &self,
        image: &ImageInspect,
        holds: &PassingHolds,
    ) -> Result<ImageName, Fault> {
        let id = image.id.as_deref().and_then(Digest::parse);
        let id = id.ok_or_else(|| Fault::internal("the engine gives an image no id"))?;
        let hold = self.keys().passing_hold(&random_id().map_err(Fault::internal)?);
        holds.names().push(hold.clone());
        let (images, name) = (self.clone(), hold.clone());
        let tagging = async move { images.engine().image_store().tag(&id, &name).await };
        holds.tasks.spawn("hold", tagging).await??;
        Ok(hold)
    }

    /// Removes the holds of a build that has ended.
    pub async fn release(&self, holds: &PassingHolds) {
        holds.tasks.close_and_wait().await;
        let names = std::mem::take(&mut *holds.names());
        for hold in names {
            self.remove_hold(&hold).await;
        }
    }

    /// Removes the holds that exist only for `namespace`. `store` is its caller's.
    pub(super) async fn release_holds(&self, store: &Access, namespace: &NamespaceKey) -> Result<(), Fault> {
        for hold in store.holds_of(self.engine().name(), namespace).await? {
            // With the node's secret, the names of holds and those of namespaces change together.
            let Some((hold, _)) = self.keys().own(&hold) else { continue };
            let mut is_held = store.let_go(self.engine().name(), &hold, namespace).await?;
            // A fetch has the lock for as long as its registry likes, and its namespace needs the hold. So this
            // waits for a lock only while no namespace needs the hold.
            while !is_held {
                let lock = timeout(LOCK_LOOK, self.inner.holds.lock(&hold)).await;
                is_held = store.is_held(self.engine().name(), &hold).await?;
                if let (Ok(_lock), false) = (lock, is_held) {
                    self.remove_hold(&hold).await;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Does `work`, from which on `namespace` needs `hold`, whose lock the caller has. If it fails, the namespace needs
    /// the hold only if it did before. `store` is its caller's. Must not be dropped: the engine may be naming the image.
    pub(super) async fn holding<T, E: From<Fault>>(
        &self,
        store: &Access,
        hold: &ImageName,
        namespace: &NamespaceKey,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let is_new = store.hold(self.engine().name(), hold, namespace).await?;
        let done = work.await;
        if done.is_err() && is_new {
            self.take_back(store, hold, namespace).await;
        }
        done
    }

    /// Takes back that `namespace` needs `hold`, and removes a hold that nobody else needs.
    async fn take_back(&self, store: &Access, hold: &ImageName, namespace: &NamespaceKey) {
        match store.let_go(self.engine().name(), hold, namespace).await {
            Ok(true) => {}
            Ok(false) => self.remove_hold(hold).await,
            Err(fault) => {
                let engine = self.engine().name();
                each_second!(warn, %engine, %hold, cause = causes(&fault), "a hold stays with its namespace");
            }
        }
    }

    /// Removes the holds that no namespace uses, and forgets those that the engine does not have: a crash in
    /// the middle of a release or a fetch leaves one, the loss of the store leaves all. Called before the
    /// engine is used.
    pub(super) async fn remove_lost_holds(&self, images: &[Listed]) -> Result<(), Fault> {
        let store = self.store().own();
        for name in images.iter().flat_map(|image| &image.repo_tags) {
            let Some((hold, Room::Hold | Room::Node)) = self.keys().own(name) else { continue };
            // The holder of the lock removes unneeded holds: a call that began before the engine's end may
            // still wait for a registry, and the engine's other callers must not wait for that.
            let Some(_lock) = self.inner.holds.try_lock(&hold) else { continue };
            if !store.is_held(self.engine().name(), &hold).await? {
                tracing::info!(
                    engine = %self.engine().name(),
                    name,
                    "removing an image that is held for nobody"
                );
                self.remove_hold(&hold).await;
            }
        }
        // A call that began before the engine's end needs no row: it fails before it has an image of this one.
        let kept = images.iter().flat_map(|image| image.repo_tags.iter().cloned()).collect();
        let forgotten = store.forget_holds_but(self.engine().name(), kept).await?;
        if forgotten > 0 {
            tracing::info!(
                engine = %self.engine().name(),
                forgotten,
                "forgot holds whose images are gone from the engine"
            );
        }
        Ok(())
    }

    /// A failure is only logged: the caller cannot do anything about its cause, such as a container that the
    /// operator runs.
    async fn remove_hold(&self, hold: &ImageName) {
        if let Err(fault) = self.engine().image_store().remove(hold).await {
            let cause = causes(&fault);
            let engine = self.engine().name();
            each_second!(warn, %engine, %hold, cause, "a hold stays until the next start");
        }
    }
}

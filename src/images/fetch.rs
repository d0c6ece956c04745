//! The fetch of one image from a registry into the engine, under its hold.

use std::{collections::HashMap, future::Future, sync::Arc};

use bollard::models::{CreateImageInfo, ImageInspect};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::{
    Images,
    inherited::Inherited,
    layers::{Claims, claims::ImageManifest},
    turns::Turn,
};
use crate::{
    engine::{STALL_TIMEOUT, docker::fault},
    fault::{Fault, Reason, causes},
    names::{CallerId, Reference, reference::Digest},
    naming::{ImageName, NamespaceKey},
    progress::Step,
    registry::{Error, Layers, Manifest, Puller, Repository, Transfer},
    tasks::Group,
    telemetry::each_second,
};

/// How often an image is pulled if other pulls let the engine down.
const TRIES_MAX: u32 = 10;

/// The fetch of one image.
pub(super) struct Fetch {
    pub(super) images: Images,
    /// The namespace.
    pub(super) namespace: NamespaceKey,
    /// The caller that asked for it.
    pub(super) caller: CallerId,
    pub(super) reference: Reference,
    pub(super) hold: ImageName,
    pub(super) repository: Repository,
    pub(super) manifest: Manifest,
    /// The manifest as it was read.
    pub(super) image: ImageManifest,
    pub(super) puller: Arc<Puller>,
    pub(super) logged_in: bool,
    pub(super) tasks: Group,
}

/// An image that the engine has.
pub(super) struct Fetched {
    /// The digest of its manifest.
    pub(super) manifest: Digest,
    /// The name that holds it.
    pub(super) hold: ImageName,
    /// The parts of it that a build on it inherits.
    pub(super) inherited: Arc<Inherited>,
}

/// An image that a turn has brought.
struct Brought {
    /// Whether the engine had it before.
    is_cached: bool,
    inherited: Arc<Inherited>,
}

/// The reason why an image was not fetched.
enum Stopped {
    Failed(Fault),
    /// Another fetch has taken the turn.
    Displaced,
    /// Another caller's pull waited in the engine for this one.
    GaveWay,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl Fetch {
    /// Fetches the image; returns its hold.
    pub(super) async fn run(self, step: Step) -> Result<Fetched, Fault> {
        match Box::pin(self.ensure(&step)).await {
            Ok(Brought { is_cached, inherited }) => {
                step.done(is_cached);
                Ok(Fetched { manifest: self.manifest.digest().clone(), hold: self.hold, inherited })
            }
            Err(fault) => {
                step.failed(fault.text());
                Err(fault)
            }
        }
    }

    /// Makes sure that the hold exists; returns whether it existed before.
    async fn ensure(&self, step: &Step) -> Result<Brought, Fault> {
        let (turns, hold) = (&self.images.inner.holds, &self.hold);
        let (repository, meter) = (self.reference.repository(), self.repository.meter());
        let lost = turns.lost(hold, &self.caller, &repository);
        loop {
            // A later fetch finds the earlier one's work done.
            let turn = turns.begin(hold, &self.caller, &repository, meter, &lost);
            let turn = self.tasks.unless_cancelled(turn).await?;
            match Box::pin(self.take_turn(&turn, step)).await {
                Ok(brought) => return Ok(brought),
                Err(Stopped::Failed(fault)) => return Err(fault),
                Err(Stopped::Displaced) => {
                    each_second!(
                        info,
                        %repository,
                        "a slow registry: another registry has the same image and takes over"
                    );
                }
                Err(Stopped::GaveWay) => {
                    each_second!(info, %repository, "another caller's pull waits for this one and comes first");
                    self.tasks.unless_cancelled(self.puller.wait()).await?;
                }
            }
        }
    }

    /// Fetches the image in its turn, which needs the hold from now on, or not if the fetch fails.
    async fn take_turn(&self, turn: &Turn<'_>, step: &Step) -> Result<Brought, Stopped> {
        let store = self.images.store().of(&self.caller);
        let bringing = Box::pin(self.bring(turn, step));
        self.images.holding(&store, &self.hold, &self.namespace, bringing).await
    }

    async fn bring(&self, turn: &Turn<'_>, step: &Step) -> Result<Brought, Stopped> {
        let (images, engine) = (&self.images, self.images.engine());
        let held = engine.image_store().inspect(&self.hold).await?;
        let is_cached = held.is_some();
        let claims = self.unless_stopped(turn, Box::pin(images.layer_claims(self))).await??;
        let image = match held {
            Some(image) => image,
            None => Box::pin(self.pull(claims.as_ref(), turn, step)).await?,
        };
        if let Some(claims) = &claims {
            // An existing hold is no proof here: a pull checks only the layers that it fetches.
            let verifying = Box::pin(images.verify_layers(self, claims, &image, step));
            if let Err(fault) = self.unless_stopped(turn, verifying).await? {
                if fault.reason() == Reason::ImageForged {
                    engine.image_store().remove(&self.hold).await?;
                    images.store().of(&self.caller).forget_hold(engine.name(), &self.hold).await?;
                }
                return Err(fault.into());
            }
        }
        // Another engine may have another image store: its layers would be checked by nobody.
        engine.check().await?;
        Ok(Brought { is_cached, inherited: Inherited::of(&image).into() })
    }

    async fn unless_stopped<F: Future>(&self, turn: &Turn<'_>, work: F) -> Result<F::Output, Stopped> {
        tokio::select! {
            done = self.tasks.unless_cancelled(work) => done.map_err(|cause| Stopped::Failed(cause.into())),
            () = turn.displaced() => Err(Stopped::Displaced),
        }
    }

    /// Pulls the manifest, and holds the image. The engine fails if it fetches a layer by another pull which
    /// fails or is cancelled: another try fetches the layer by this one.
    async fn pull(
        &self,
        claims: Option<&Claims>,
        turn: &Turn<'_>,
        step: &Step,
    ) -> Result<Box<ImageInspect>, Stopped> {
        let mut tries = 0;
        loop {
            let (pulled, is_let_down) = Box::pin(self.pull_once(claims, turn, step)).await?;
            tries += 1;
            match pulled {
                Err(_) if self.puller.gives_way() => return Err(Stopped::GaveWay),
                Err(fault) if is_let_down && tries < TRIES_MAX => {
                    let cause = causes(&fault);
                    each_second!(info, cause, "another pull did not bring a layer: this one tries again");
                }
                Err(fault) => return Err(fault.into()),
                Ok(()) => break,
            }
        }
        let engine = self.images.engine();
        match engine.image_store().inspect(&self.hold).await? {
            Some(image) if engine.image_store().is_for_platform(&image) => Ok(image),
            _ => {
                engine.image_store().remove(&self.hold).await?;
                Err(fault::wrong_platform(&self.reference, engine.platform()).into())
            }
        }
    }

    /// Pulls the manifest by its digest, by a name at the relay. Returns, too, whether the engine may have failed
    /// because of another pull.
    async fn pull_once(
        &self,
        claims: Option<&Claims>,
        turn: &Turn<'_>,
        step: &Step,
    ) -> Result<(Result<(), Fault>, bool), Stopped> {
        let images = &self.images;
        let path = images.keys().relay(&self.reference.repository());
        let hashes = self.tasks.child("hashes");
        let checks = match claims {
            Some(claims) => Layers::Watched(images.hash_passing(&self.caller, claims, &hashes)),
            None => Layers::WithoutZstd,
        };
        let (repository, manifest, parts) =
            (self.repository.clone(), self.manifest.clone(), self.image.parts());
        let transfer =
            images.relay().pull(&path, repository, manifest, parts, checks, Arc::clone(&self.puller));
        let transfer = transfer.map_err(Fault::internal)?;
        let name = format!("{}@{}", transfer.repository(), self.manifest.digest());
        let name = images.transfer_name(&name)?;
        let held = match self.unless_stopped(turn, self.pull_as(&transfer, &name, step)).await {
            // Never dropped: the engine would name the image even if nobody waited for its answer.
            Ok(Ok(())) => Ok(self.hold_pulled(&name).await),
            not_pulled => not_pulled,
        };
        // Even after a failure: the name may have appeared too late.
        images.remove_transfer(&name).await;
        let held = held?;
        if held.is_ok() {
            self.tasks.unless_cancelled(hashes.close_and_wait()).await.map_err(Fault::from)?;
        }
        Ok((held, transfer.is_let_down()))
    }

    async fn pull_as(&self, transfer: &Transfer, name: &ImageName, step: &Step) -> Result<(), Fault> {
        let fault = |error: Error| error.fault(&self.reference, self.logged_in);
        transfer.carry(self.engine_pulls(transfer, name, step), fault).await
    }

    /// Gives the image that was pulled as `name` its hold.
    async fn hold_pulled(&self, name: &ImageName) -> Result<(), Fault> {
        match self.images.engine().image_store().tag_if_there(name, &self.hold).await? {
            true => Ok(()),
            false => Err(fault::unreadable(&self.reference)),
        }
    }

    async fn engine_pulls(&self, transfer: &Transfer, name: &ImageName, step: &Step) -> Result<(), Fault> {
        let engine = self.images.engine();
        let pulling = engine.image_store().pull(name, transfer.host(), transfer.login());
        let mut stream = std::pin::pin!(pulling);
        let mut sizes = HashMap::new();
        loop {
            let line = timeout(STALL_TIMEOUT, stream.next()).await;
            match line.map_err(|_| fault::stalled(&self.reference))? {
                Some(Ok(line)) => report(line, &mut sizes, step),
                Some(Err(error)) => {
                    return Err(fault::pull(&self.reference, engine.platform(), error));
                }
                None => return Ok(()),
            }
        }
    }
}

/// Reports a line of a pull: the progress of a layer. Only some lines contain the layer's size, so `sizes`
/// remembers it.
fn report(line: CreateImageInfo, sizes: &mut HashMap<String, u64>, step: &Step) {
    let (Some(layer), Some(status)) = (line.id, line.status) else { return };
    let detail = line.progress_detail.unwrap_or_default();
    let bytes = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    let (current, total) = (bytes(detail.current), bytes(detail.total));
    match status.as_str() {
        "Downloading" => {
            sizes.insert(layer.clone(), total);
            step.moves(&layer, current, total, false);
        }
        "Extracting" if total > 0 => {
            step.moves(&format!("extracting {layer}"), current, total, current == total);
        }
        "Download complete" | "Already exists" => {
            let size = sizes.get(&layer).copied().unwrap_or(0);
            step.moves(&layer, size, size, true);
        }
        _ => {}
    }
}

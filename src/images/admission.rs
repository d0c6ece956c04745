//! Admission makes an image usable for a namespace's builds: policy allows the image, the caller has proven
//! that it can read it, the engine has pulled and verified it, and a hold keeps it.

use std::sync::Arc;

use bollard::models::ImageInspect;
use futures_util::future::BoxFuture;

use super::{
    Images,
    fetch::{Fetch, Fetched},
    holds::PassingHolds,
    inherited::Inherited,
    proof::Proven,
};
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason, causes},
    names::{Login, Logins, Namespace, Reference, reference::Digest},
    naming::{self, ImageName, NamespaceKey, Room},
    policy::{FromNode, Permit, PullFrom},
    progress::Reporter,
    registry::Puller,
    store::{Pin as Pinned, PinSource},
    tasks::{Cause, Group},
    telemetry::each_second,
};

/// The source of a caller's logins: its client, which is asked when wharfd asks a registry.
pub trait CredentialSource: Send + Sync {
    /// The login for `host`, as in a reference: `docker.io`, `registry.example:5000`. `None` means that the
    /// registry is asked without a login.
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Login>, Fault>>;
}

impl CredentialSource for Logins {
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Login>, Fault>> {
        Box::pin(std::future::ready(Ok(self.of(host).cloned())))
    }
}

/// The source of an admitted image, with its digest: of the manifest at a registry, else its id.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It belongs to the namespace.
    Own(Option<Digest>),
    /// The operator has put it on the node.
    Node(Digest),
    /// A registry has shown it to the caller.
    Registry(Digest),
}

/// An image that a namespace's builds may use. Only [`Images::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Admitted {
    origin: Origin,
    target: ImageName,
    content: String,
    inherited: Arc<Inherited>,
}

/// A permit's subject with which an image may be used that does not belong to the namespace.
trait Foreign {}

impl Foreign for PullFrom {}
impl Foreign for FromNode {}

impl Admitted {
    /// Each admission shows its permit: to act in the namespace whose image it is, or to pull the image.
    fn new<T>(
        _permit: &Permit<T>,
        origin: Origin,
        target: ImageName,
        content: String,
        inherited: Arc<Inherited>,
    ) -> Self {
        Self { origin, target, content, inherited }
    }

    /// An image that a hold keeps, which is the same for all namespaces.
    fn held<T: Foreign>(
        from: &Permit<T>,
        origin: Origin,
        hold: ImageName,
        inherited: Arc<Inherited>,
    ) -> Self {
        let content = hold.to_string();
        Self::new(from, origin, hold, content, inherited)
    }

    /// An image; only its name matters.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn any(target: &str) -> Self {
        let inherited = Arc::default();
        Self {
            origin: Origin::Own(None),
            target: ImageName::any(target),
            content: target.to_owned(),
            inherited,
        }
    }

    /// The digest at the registry; `None` for an image of the namespace or the operator.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.origin {
            Origin::Registry(digest) => Some(digest),
            Origin::Own(_) | Origin::Node(_) => None,
        }
    }

    /// Its source.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The name in the engine under which BuildKit uses the image.
    pub fn target(&self) -> &ImageName {
        &self.target
    }

    /// Which image it is, whatever namespace uses it.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The parts of it that a build inherits. The target is the same image as long as the engine holds it.
    pub fn inherited(&self) -> &Arc<Inherited> {
        &self.inherited
    }

    /// Whether the engine still has the name: otherwise BuildKit would ask the network for it.
    pub async fn still_held(&self, images: &Images) -> Result<bool, Fault> {
        Ok(images.engine().image_store().inspect(&self.target).await?.is_some())
    }
}

impl Images {
    /// Admits `reference` (`:latest` if it has neither tag nor digest) to the builds of `namespace`. The
    /// namespace's own images take precedence, then the operator's on this node, then the registry. In a
    /// namespace, a reference keeps the meaning of its first admission; with `pull` the registry is asked
    /// again. Work that must not be interrupted runs in a group below `tasks`. The namespace's own images are
    /// among `holds`: a job may give their names to other images at any time.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
    pub async fn admit(
        &self,
        namespace: &Permit<Namespace>,
        reference: &Reference,
        credentials: &dyn CredentialSource,
        pull: bool,
        holds: &PassingHolds,
        reporter: &Reporter,
        tasks: &Group,
    ) -> Result<Admitted, Fault> {
        let reference = reference.clone().tagged();
        let names = self.keys().names(namespace.subject());
        let own = names.name(&reference);
        if let Some(image) = self.engine().image_store().inspect(own.name()).await? {
            let content = image.id.clone().unwrap_or_else(|| own.name().to_string());
            let target = self.hold_for_now(&image, holds).await?;
            let origin = Origin::Own(image.id.as_deref().and_then(Digest::parse));
            return Ok(Admitted::new(namespace, origin, target, content, Inherited::of(&image).into()));
        }
        self.admit_foreign(namespace, reference, credentials, pull, reporter, tasks).await
    }

    /// Admits an image that does not belong to the namespace.
    pub(super) async fn admit_foreign(
        &self,
        namespace: &Permit<Namespace>,
        reference: Reference,
        credentials: &dyn CredentialSource,
        pull: bool,
        reporter: &Reporter,
        tasks: &Group,
    ) -> Result<Admitted, Fault> {
        if naming::relay_instance(reference.repository().as_str()) == Some(self.keys().instance()) {
            // The image is on its way for another caller.
            return Err(fault::not_found(&reference));
        }
        let names = self.keys().names(namespace.subject());
        // Policy is asked for this job now, whatever has been remembered of the image, and before the engine or a
        // registry is asked about it.
        let from_node = namespace.from_node(reference.clone());
        let from = match (namespace.pull_from(reference.clone()), &from_node) {
            (Err(denied), None) => return Err(denied),
            (from, _) => from,
        };

        let store = self.store().of(namespace.caller());
        let pin =
            if pull { None } else { store.pin(self.engine().name(), names.opaque(), &reference).await? };
        let pinned = match (&pin, &from, &from_node) {
            (Some(pin), Ok(from), _) if pin.source == PinSource::Registry => {
                self.pinned(from, &reference, pin, reporter).await?
            }
            (Some(pin), _, Some(from)) if pin.source == PinSource::Node => {
                self.pinned(from, &reference, pin, reporter).await?
            }
            _ => None,
        };
        if let Some(admitted) = pinned {
            return Ok(admitted);
        }
        let is_registrys = |pin: &Pinned| from.is_ok() && pin.source == PinSource::Registry;
        let pinned_digest = pin.filter(is_registrys).map(|pin| pin.digest);
        let on_node = match &from_node {
            Some(from) if pinned_digest.is_none() => self.on_node(from).await?,
            _ => OnNode::No,
        };
        let from = match (from, &on_node) {
            (_, OnNode::Operators(found)) => return self.admit_node(names.opaque(), found, tasks).await,
            // The registry may not be asked, and policy names the image as one on the node.
            (Err(_), OnNode::Unsure(found) | OnNode::Pulled(found)) => {
                return self.admit_node(names.opaque(), found, tasks).await;
            }
            (Err(denied), OnNode::No) => return Err(denied),
            (Ok(from), _) => from,
        };
        let admitted =
            self.admit_registry(names.opaque(), &from, pinned_digest.as_ref(), credentials, reporter, tasks);
        let admitted = admitted.await;
        self.inner.metrics.pulled(&admitted);
        match (admitted, on_node) {
            (Ok((digest, Fetched { manifest, hold, inherited })), _) => {
                let pin = Pinned { source: PinSource::Registry, digest: digest.clone(), held: manifest };
                store.set_pin(self.engine().name(), names.opaque(), &reference, &pin).await?;
                Ok(Admitted::held(&from, Origin::Registry(digest), hold, inherited))
            }
            (Err(fault), OnNode::Unsure(found))
                if fault.reason() == Reason::RegistryUnavailable
                    && self.serves_nobody(from.caller(), &reference).await =>
            {
                each_second!(info, %reference, cause = causes(&fault), "the node's image is used");
                self.admit_node(names.opaque(), &found, tasks).await
            }
            (Err(fault), _) => Err(fault),
        }
    }

    /// The image that the namespace has already admitted, if the engine still holds it.
    async fn pinned<T: Foreign>(
        &self,
        from: &Permit<T>,
        reference: &Reference,
        pin: &Pinned,
        reporter: &Reporter,
    ) -> Result<Option<Admitted>, Fault> {
        let digest = pin.digest.clone();
        let (target, origin) = match pin.source {
            PinSource::Registry => (self.keys().hold(&pin.held), Origin::Registry(digest)),
            PinSource::Node => (self.keys().node_hold(&pin.held), Origin::Node(digest)),
        };
        let Some(image) = self.engine().image_store().inspect(&target).await? else { return Ok(None) };
        if let Origin::Registry(digest) = &origin {
            reporter.step(step_name(reference, digest)).done(true);
        }
        Ok(Some(Admitted::held(from, origin, target, Inherited::of(&image).into())))
    }

    /// The image that the operator has put on the node, if there is one.
    async fn on_node<'a>(&self, from: &'a Permit<FromNode>) -> Result<OnNode<'a>, Fault> {
        let images = self.engine().image_store();
        let Some(image) = images.inspect_public(from).await? else { return Ok(OnNode::No) };
        if self.is_brought(&image) || !images.is_for_platform(&image) {
            return Ok(OnNode::No);
        }
        let Some(id) = image.id.as_deref().and_then(Digest::parse) else { return Ok(OnNode::No) };
        let found = NodeImage { from, id, inherited: Inherited::of(&image).into() };
        Ok(match images.is_pulled(&image, is_wharfds) {
            Some(false) => OnNode::Operators(found),
            Some(true) => OnNode::Pulled(found),
            None => OnNode::Unsure(found),
        })
    }

    /// Holds an image of the node.
    async fn admit_node(
        &self,
        namespace: &NamespaceKey,
        found: &NodeImage<'_>,
        tasks: &Group,
    ) -> Result<Admitted, Fault> {
        let NodeImage { from, id, inherited } = found;
        let (hold, store) = (self.keys().node_hold(id), self.store().of(from.caller()));
        let (images, of, to, named) = (self.clone(), store.clone(), hold.clone(), id.clone());
        let (opaque, ended) = (namespace.clone(), tasks.clone());
        // A task of its own, which the namespace's end waits for: the engine names the image even if nobody waits for
        // its answer any more.
        let holding = async move {
            let _lock = ended.unless_cancelled(images.inner.holds.lock(&to)).await?;
            let tagging = Box::pin(images.engine().image_store().tag(&named, &to));
            images.holding(&of, &to, &opaque, tagging).await
        };
        tasks.spawn("hold", holding).await??;
        let pin = Pinned { source: PinSource::Node, digest: id.clone(), held: id.clone() };
        store.set_pin(self.engine().name(), namespace, from.subject().reference(), &pin).await?;
        Ok(Admitted::held(from, Origin::Node(id.clone()), hold, Arc::clone(inherited)))
    }

    /// Proves that the caller can read the image, and makes the engine pull it. Returns the digest and the
    /// hold.
    async fn admit_registry(
        &self,
        namespace: &NamespaceKey,
        from: &Permit<PullFrom>,
        pinned: Option<&Digest>,
        credentials: &dyn CredentialSource,
        reporter: &Reporter,
        tasks: &Group,
    ) -> Result<(Digest, Fetched), Fault> {
        let reference = from.subject().reference();
        let login = credentials.credentials(reference.host()).await?;
        let asked = match pinned.or(reference.digest()) {
            Some(digest) => reference.at(digest),
            None => reference.clone(),
        };
        let Proven { digest, repository, manifest, image } =
            self.readable(from.caller(), &asked, login.as_ref()).await?;
        let step = reporter.step(step_name(reference, &digest));
        // Below the caller's group: the namespace must not end before the engine has forgotten the transfer's
        // name.
        let tasks = tasks.child("pull");
        let _cancel = tasks.cancel_on_drop(Cause::ClientGone);
        let fetch = Fetch {
            images: self.clone(),
            namespace: namespace.to_owned(),
            caller: from.caller().clone(),
            reference: reference.clone(),
            hold: self.keys().hold(manifest.digest()),
            repository,
            manifest,
            image,
            puller: Arc::new(Puller::new(from.caller().clone())),
            logged_in: login.is_some(),
            tasks: tasks.clone(),
        };
        // A task of its own: it must not stop between the pull and the removal of the name.
        let fetched = tasks.spawn("pull", fetch.run(step)).await??;
        tasks.cancel(Cause::Done);
        Ok((digest, fetched))
    }

    /// Whether another wharfd has brought this image to the node, from a registry or for a namespace. Then
    /// that wharfd may have given the image its public name, which does not prove that the operator has put
    /// the image there. This wharfd never gives public names, so its own names do not count: otherwise a
    /// caller could take the operator's image from others by pushing and pulling it.
    fn is_brought(&self, image: &ImageInspect) -> bool {
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

/// Whether a repository belongs to any wharfd's own names in the engine. Such names prove nothing.
fn is_wharfds(repository: &str) -> bool {
    naming::room(repository).is_some() || naming::relay_instance(repository).is_some()
}

/// The image on the node under a reference.
enum OnNode<'a> {
    /// No image that may be used.
    No,
    /// The image did not come from a registry.
    Operators(NodeImage<'a>),
    /// The image came from a registry, whose consent it takes if it may be asked.
    Pulled(NodeImage<'a>),
    /// The engine cannot tell whether the image came from a registry.
    Unsure(NodeImage<'a>),
}

struct NodeImage<'a> {
    from: &'a Permit<FromNode>,
    id: Digest,
    inherited: Arc<Inherited>,
}

/// `pull reg/app:1@sha256:…`.
fn step_name(reference: &Reference, digest: &Digest) -> String {
    match reference.digest() {
        Some(_) => format!("pull {}", reference.familiar()),
        None => format!("pull {}@{digest}", reference.familiar()),
    }
}

//! The sources of a build: the images and URLs that have been admitted to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::future::{join_all, try_join_all};

use super::{
    circles,
    client::BuildClient,
    downloads::{Download, NotFetched},
    gate,
    isolation::Source,
    rename::Renaming,
    running::Order,
};
use crate::{
    audit::By,
    fault::{Fault, Reason, causes},
    images::{
        Images,
        admission::{Admitted, Origin},
        holds::PassingHolds,
        inherited::Inherited,
    },
    names::{Reference, printable_url},
    naming::{BuildKey, ImageName},
    progress::Reporter,
    registry::CONFIG_BYTES_MAX,
};

/// The sources of one build.
pub(super) struct Sources<'a> {
    images: &'a Images,
    order: &'a Order,
    reporter: &'a Reporter,
    renaming: Renaming,
    /// Admitted images, by the name that BuildKit uses: `docker.io/library/busybox:latest`.
    admitted: BTreeMap<String, Admitted>,
    /// The files at admitted URLs, as these appear in the graph.
    urls: BTreeMap<String, Arc<Download>>,
    /// Sources that were admitted after a denial: a second denial ends the build.
    asked: BTreeSet<String>,
    /// The holds of the namespace's own images among the admitted ones.
    holds: PassingHolds,
}

impl<'a> Sources<'a> {
    /// Contains only the tar in the order, if there is one.
    pub(super) fn new(images: &'a Images, order: &'a Order, reporter: &'a Reporter) -> Self {
        let mut renaming =
            Renaming::new(images.keys().names(order.namespace.subject()), images.engine().root());
        if let Some(frontend) = images.frontend() {
            renaming.hide_frontend(frontend);
        }
        Self {
            images,
            order,
            reporter,
            renaming,
            admitted: BTreeMap::new(),
            urls: BTreeMap::new(),
            asked: BTreeSet::new(),
            holds: PassingHolds::new(&order.client.tasks),
        }
    }

    /// Replaces the sources' names in the engine by the Dockerfile's.
    pub(super) fn renaming(&self) -> &Renaming {
        &self.renaming
    }

    /// Shows the image's temporary name in the engine as its references.
    pub(super) fn show_export(&mut self, name: &ImageName) {
        let tags: Vec<String> = self.order.tags.iter().map(ToString::to_string).collect();
        if !tags.is_empty() {
            self.renaming.show(name, &tags.join(", "));
        }
    }

    /// Whether a source was admitted after BuildKit's policy had denied it.
    pub(super) fn has_been_asked_for(&self, source: &str) -> bool {
        self.asked.contains(source)
    }

    /// The key under which this build's bases are remembered: another target or Dockerfile has other bases.
    fn build_key(&self) -> BuildKey {
        let session = self.order.client.session.as_ref();
        let path = session.and_then(|session| session.offer().directory("dockerfile"));
        let spec = &self.order.spec;
        let parts = [path.unwrap_or_default(), spec.dockerfile.as_str(), spec.target.as_str()];
        self.images.keys().build(self.order.job(), &parts)
    }

    /// All sources.
    pub(super) fn list(&self) -> Vec<Source<'_>> {
        let images = self.admitted.iter().map(|(named, image)| Source::Image { named, image });
        let urls = self.urls.values().map(|download| Source::Url(download));
        images.chain(urls).chain(self.order.client.tar.as_ref().map(Source::Tar)).collect()
    }

    /// The admitted images: the Dockerfile's name for each, and which image that is.
    pub(super) fn bases(&self) -> Vec<String> {
        let parts = self.admitted.iter().flat_map(|(named, admitted)| [named.as_str(), admitted.content()]);
        parts.map(str::to_owned).collect()
    }

    /// Admits the bases that this build used last time. The Dockerfile may no longer name them.
    pub(super) async fn admit_bases(&mut self) -> Result<(), Fault> {
        let store = self.images.store().of(self.order.namespace.caller());
        let job = self.images.keys().job(self.order.job());
        let bases = store.bases(&job, &self.build_key()).await?;
        let admissions = bases.iter().map(|reference| self.admission(reference));
        for (reference, admitted) in bases.iter().zip(join_all(admissions).await) {
            match admitted {
                Ok(admitted) => {
                    // If it is refused and the Dockerfile still names it, the frontend says so.
                    let _ = self.take(&reference.to_string(), reference, admitted).await;
                }
                // If the Dockerfile still names it, BuildKit denies it and it is tried again.
                Err(fault) => {
                    let cause = causes(&fault);
                    tracing::debug!(%reference, cause, "a base from the last build is not admitted")
                }
            }
        }
        Ok(())
    }

    /// Remembers the images that the build used; `used` contains names in the engine.
    pub(super) async fn remember_bases(&self, used: &BTreeSet<String>) -> Result<(), Fault> {
        let used: Vec<Reference> = self
            .admitted
            .iter()
            .filter(|(_, admitted)| used.contains(admitted.target().as_str()))
            .filter_map(|(named, _)| Reference::parse(named).ok())
            .collect();
        let job = self.images.keys().job(self.order.job());
        let store = self.images.store().of(self.order.namespace.caller());
        store.set_bases(&job, &self.build_key(), &used).await
    }

    /// Makes sure that BuildKit may begin a pass: the sources are there, and the Dockerfile is judged with all of
    /// them.
    pub(super) async fn begin_pass(&mut self, pass: usize) -> Result<(), Fault> {
        tracing::debug!(pass, "a pass of the frontend");
        self.hold_again().await?;
        let refused = |why| Fault::new(Reason::ImageUnsupported, format!("the Dockerfile is refused: {why}"));
        self.order.client.dockerfile.again().await.map_err(|not| not.fault(refused))
    }

    /// Renews lost holds: an operator may prune between two passes, and without the hold BuildKit would look
    /// for the image elsewhere.
    async fn hold_again(&mut self) -> Result<(), Fault> {
        let mut lost = Vec::new();
        for (named, admitted) in &self.admitted {
            if !admitted.still_held(self.images).await? {
                lost.push(named.clone());
            }
        }
        for named in lost {
            self.admitted.remove(&named);
            if let Ok(reference) = Reference::parse(&named) {
                let admitted = self.admission(&reference).await?;
                self.take(&named, &reference, admitted).await?;
            }
        }
        Ok(())
    }

    fn admission<'b>(
        &'b self,
        reference: &'b Reference,
    ) -> impl Future<Output = Result<Admitted, Fault>> + use<'a, 'b> {
        let client: &BuildClient = &self.order.client;
        self.images.admit(
            &self.order.namespace,
            reference,
            client,
            self.order.spec.pull,
            &self.holds,
            self.reporter,
            &client.tasks,
        )
    }

    /// Refuses an image whose ONBUILD triggers could end BuildKit's frontend, or cost it too much.
    async fn judge_triggers(&self, reference: &Reference, admitted: &Admitted) -> Result<(), Fault> {
        let dockerfile = &self.order.client.dockerfile;
        let mut inherited = Inherited::clone(admitted.inherited());
        if dockerfile.judge().counts_histories() {
            let images = self.images.engine().image_store();
            // It is a part of the image's config.
            let most = CONFIG_BYTES_MAX as u64;
            inherited.history = images.history_bytes(admitted.target()).await?.unwrap_or(most);
        }
        let refused = |why| {
            let text = format!("{} is refused: {why}", reference.familiar());
            Fault::new(Reason::ImageUnsupported, text)
                .hint("build the image again with the usual tools, which make no such images")
        };
        dockerfile.admit(inherited).await.map_err(|not| not.fault(refused))
    }

    /// Ends the holds of this build. BuildKit must have ended it.
    pub(super) async fn release(&self) {
        self.images.release(&self.holds).await;
    }

    /// Refuses an image whose triggers copy from an image whose triggers copy again: the frontend need not come to
    /// an end.
    async fn judge_circle(&self, reference: &Reference, admitted: &Admitted) -> Result<(), Fault> {
        let named = reference.to_string();
        let others = self.admitted.iter().filter(|(other, _)| **other != named);
        let others = others.map(|(other, admitted)| (other.clone(), Arc::clone(admitted.inherited())));
        let mut images: Vec<_> = others.collect();
        images.push((named, Arc::clone(admitted.inherited())));
        let judge = move || {
            let images = images.iter().map(|(name, inherited)| (name.as_str(), &*inherited.triggers));
            let why = "its ONBUILD triggers may copy from images with such triggers without end";
            if circles::may_never_end(images) { Err(why.to_owned()) } else { Ok(()) }
        };
        let refused = |why| {
            Fault::new(Reason::ImageUnsupported, format!("{} is refused: {why}", reference.familiar()))
                .hint("let its triggers copy from images that have no such triggers, without variables")
        };
        self.order.client.dockerfile.run(judge).await.map_err(|not| not.fault(refused))
    }

    /// Adds an admitted image to the sources, unless its triggers are refused.
    async fn take(&mut self, named: &str, reference: &Reference, admitted: Admitted) -> Result<(), Fault> {
        self.judge_triggers(reference, &admitted).await?;
        self.judge_circle(reference, &admitted).await?;
        let (digest, by) = match admitted.origin() {
            Origin::Own(id) => (id.as_ref(), By::Own),
            Origin::Node(id) => (Some(id), By::Node),
            Origin::Registry(digest) => (Some(digest), By::Registry),
        };
        self.order.client.details.admitted(reference, digest, by);
        self.renaming.admit(admitted.target(), named, admitted.digest());
        self.admitted.insert(named.to_owned(), admitted);
        Ok(())
    }

    /// Admits a source that BuildKit's policy has denied; `line` is the Dockerfile's, if it is known.
    pub(super) async fn admit(&mut self, source: &str, line: Option<u32>) -> Result<(), Fault> {
        self.admit_denied(source).await.map_err(|fault| match fault.reason() {
            Reason::PolicyDenied => fault.at_line(line),
            _ => fault,
        })
    }

    async fn admit_denied(&mut self, source: &str) -> Result<(), Fault> {
        if !self.asked.insert(source.to_owned()) {
            let text =
                format!("the builder refuses `{}` although it was admitted", self.renaming.text(source));
            return Err(Fault::new(Reason::EngineFailed, text));
        }
        let denied = |why: &str| {
            let text =
                format!("the source `{}` is not allowed: {why}", printable_url(&self.renaming.text(source)));
            Fault::new(Reason::SourceDenied, text)
        };
        match source.split_once("://") {
            Some(("docker-image", named)) => {
                let reference = Reference::parse(named).map_err(|error| denied(&error.to_string()))?;
                let admitted = self.admission(&reference).await?;
                self.take(named, &reference, admitted).await
            }
            Some(("git", _)) => Err(gate::git_denied(&self.renaming.text(source))),
            _ => Err(denied("sources of this kind are not allowed")),
        }
    }

    /// Admits the URLs of a graph: policy judges them, and their servers are asked for the files.
    pub(super) async fn fetch(&mut self, urls: gate::Urls) -> Result<(), NotFetched> {
        let client: &BuildClient = &self.order.client;
        let (images, namespace) = (self.images, &self.order.namespace);
        let begun = urls.into_iter().map(async |(url, needed)| {
            let download = client.downloads.begin(images, namespace, &url, needed).await?;
            Ok::<_, NotFetched>((url, download))
        });
        for (url, download) in try_join_all(begun).await? {
            self.renaming.show_url(&download.session_url(), &url);
            self.urls.insert(url, download);
        }
        Ok(())
    }
}

//! One image on its way from a registry into the engine, under its hold name.

use std::collections::HashMap;

use bollard::{
    auth::DockerCredentials,
    models::{CreateImageInfo, ImageInspect},
    query_parameters::CreateImageOptions,
};
use futures_util::StreamExt as _;

use super::Images;
use crate::{
    engine::{STALL_TIMEOUT, docker::fault},
    fault::{Fault, Reason},
    names::{Login, Reference, reference::Digest},
    store::PublicName,
    tasks::Group,
    wire::progress::Step,
};

/// Another wharfd on the same engine may remove the public name, for a pull of its own, before the
/// image has its hold name. It does not do so for ever.
const ATTEMPTS: usize = 3;
/// How both stores say that the name was not there when they began.
const MADE: &str = "Status: Downloaded newer image";

/// What became of a pull.
enum Pulled {
    /// The name was not there before.
    Made,
    /// It was.
    Found,
    /// Another has removed it meanwhile.
    Lost,
}

/// One image on its way.
pub(super) struct Fetch {
    pub(super) images: Images,
    /// Whom it is for, by the opaque name.
    pub(super) namespace: String,
    pub(super) reference: Reference,
    pub(super) digest: Digest,
    pub(super) hold: String,
    pub(super) login: Option<Login>,
    pub(super) tasks: Group,
}

impl Fetch {
    /// The hold name.
    pub(super) async fn run(self, step: Step) -> Result<String, Fault> {
        match self.ensure(&step).await {
            Ok(cached) => {
                step.done(cached);
                Ok(self.hold)
            }
            Err(fault) => {
                step.failed(fault.text());
                Err(fault)
            }
        }
    }

    /// Whether it was there already.
    async fn ensure(&self, step: &Step) -> Result<bool, Fault> {
        let (images, engine) = (&self.images, self.images.engine());
        images.store().hold(engine.name(), &self.hold, &self.namespace).await?;
        // Whoever comes second finds the first one's work done.
        let _lock = self.tasks.unless_cancelled(images.inner.holds.lock(&self.hold)).await?;
        let held = engine.inspect_name(&self.hold).await?;
        let cached = held.is_some();
        let image = match held {
            Some(image) => image,
            None => self.pull(step).await?,
        };
        if !engine.image_store().checks_layers() {
            // A hold says nothing here: the pull checks only what it fetches.
            let verified = self.tasks.unless_cancelled(self.verify(&image, step)).await?;
            if let Err(fault) = verified {
                if fault.reason() == Reason::ImageForged {
                    engine.remove_name(&self.hold).await?;
                    images.store().forget_hold(engine.name(), &self.hold).await?;
                }
                return Err(fault);
            }
        }
        Ok(cached)
    }

    async fn verify(&self, image: &ImageInspect, step: &Step) -> Result<(), Fault> {
        self.images.verify_layers(&self.reference, &self.digest, &self.hold, image, step).await
    }

    /// Pulls by digest and holds; the public digest reference goes if it was not there before.
    async fn pull(&self, step: &Step) -> Result<Box<ImageInspect>, Fault> {
        let (images, engine) = (&self.images, self.images.engine());
        let public = self.reference.at(&self.digest).to_string();
        if engine.inspect_name(&public).await?.is_none() {
            self.journal(&public).await?;
        }
        let held = match self.tasks.unless_cancelled(self.pull_and_hold(&public, step)).await {
            Ok(held) => held,
            Err(cause) => Err(cause.into()),
        };
        // Even after a failure: it may have come too late.
        if let Err(fault) = images.settle(&public).await {
            images.unsettled(&fault);
        }
        held?;
        match engine.inspect_name(&self.hold).await? {
            Some(image) if engine.is_for_platform(&image) => Ok(image),
            _ => {
                engine.remove_name(&self.hold).await?;
                Err(fault::wrong_platform(&self.reference, engine.platform()))
            }
        }
    }

    /// Writes down that the public name is none of the operator's.
    async fn journal(&self, public: &str) -> Result<(), Fault> {
        let entry = PublicName { name: public.to_owned(), ..PublicName::default() };
        self.images.store().journal_begin(self.images.engine().name(), &entry).await
    }

    async fn pull_and_hold(&self, public: &str, step: &Step) -> Result<(), Fault> {
        for _ in 0..ATTEMPTS {
            match self.stream(public, step).await? {
                // What was there before was not the operator's: another wharfd's pull has removed it
                // meanwhile.
                Pulled::Made => self.journal(public).await?,
                Pulled::Found => {}
                Pulled::Lost => continue,
            }
            if self.images.engine().tag_if_there(public, &self.hold).await? {
                return Ok(());
            }
        }
        let text = format!("the engine loses {} as soon as it has pulled it", self.reference.familiar());
        Err(Fault::new(Reason::EngineFailed, text).hint("try again"))
    }

    async fn stream(&self, public: &str, step: &Step) -> Result<Pulled, Fault> {
        let engine = self.images.engine();
        let options = CreateImageOptions {
            from_image: Some(public.to_owned()),
            platform: engine.platform().to_string(),
            ..CreateImageOptions::default()
        };
        let login = self.login.as_ref().map(|login| docker_login(&self.reference, login));
        let mut stream = std::pin::pin!(engine.docker().create_image(Some(options), None, login));
        let mut sizes = HashMap::new();
        let mut pulled = Pulled::Found;
        loop {
            let line = tokio::time::timeout(STALL_TIMEOUT, stream.next()).await;
            let Some(line) = line.map_err(|_| fault::stalled(&self.reference))? else { return Ok(pulled) };
            match line {
                Ok(line) => {
                    if line.status.as_deref().is_some_and(|status| status.starts_with(MADE)) {
                        pulled = Pulled::Made;
                    }
                    report(line, &mut sizes, step);
                }
                Err(error) if fault::is_lost(&error) => return Ok(Pulled::Lost),
                Err(error) => {
                    let logged_in = self.login.is_some();
                    let fault = fault::registry(&self.reference, engine.platform(), logged_in, error);
                    return Err(one_sided(fault));
                }
            }
        }
    }
}

/// Says of a registry that does not answer the engine that it has answered wharfd.
fn one_sided(fault: Fault) -> Fault {
    if fault.reason() != Reason::RegistryUnavailable {
        return fault;
    }
    let said = fault.hint_text().map(|said| format!("{said}; ")).unwrap_or_default();
    fault.hint(format!(
        "{said}it has just answered wharfd: if it stays so, the node's operator must see why the engine does not \
         reach it"
    ))
}

/// A line of a pull: how far a layer is. Only some lines say how large it is: `sizes` knows.
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

/// A login as the engine wants it.
pub(crate) fn docker_login(reference: &Reference, login: &Login) -> DockerCredentials {
    let given = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let server = match reference.host() {
        "docker.io" => "https://index.docker.io/v1/",
        host => host,
    };
    DockerCredentials {
        username: given(&login.username),
        password: given(login.password.expose()),
        identitytoken: given(login.identity_token.expose()),
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    }
}

//! Pushes: one of a target at a time. Engines push by name only, and have one table of names: two
//! jobs that push one reference at once could push each other's image.

use tokio::time::timeout;

use super::{
    Images,
    admission::origins,
    fetch::docker_login,
    owned::{OwnedImage, check_target},
};
use crate::{
    engine::{
        STALL_TIMEOUT,
        docker::{
            fault,
            lines::{Line, Progress},
        },
    },
    fault::{Fault, Reason},
    names::{Login, Reference, reference::Digest},
    policy::{Permit, PushTo},
    store::PublicName,
    tasks::{Cause, Group},
    wire::progress::{Reporter, Step},
};

/// Another wharfd on the same engine may take the name away between tag and push. It does not do so
/// for ever.
const ATTEMPTS: usize = 3;

impl Images {
    /// Pushes an image of a namespace to where its images may go (`:latest` where that says no tag). The
    /// digest of the manifest that the registry has then. What must not stop half-way runs in a group
    /// below `tasks`.
    pub async fn push(
        &self,
        image: &OwnedImage,
        target: &Permit<PushTo>,
        login: Option<&Login>,
        reporter: &Reporter,
        tasks: &Group,
    ) -> Result<Digest, Fault> {
        let target = target.subject();
        if target.namespace() != image.namespace() {
            return Err(Fault::internal("an image is pushed by the leave of another namespace"));
        }
        let target = target.reference();
        check_target("reference", target)?;
        let target = target.clone().tagged();
        let step = reporter.step(format!("push {}", target.familiar()));
        // Below the caller's: its namespace does not end before the name is given back.
        let tasks = tasks.child("push");
        let _cancel = tasks.cancel_on_drop(Cause::ClientGone);
        let push = Push {
            images: self.clone(),
            image: image.clone(),
            target,
            login: login.cloned(),
            tasks: tasks.clone(),
        };
        // A task of its own: it must not stop before the name is given back.
        let digest = tasks.spawn("push", push.run(step)).await??;
        tasks.cancel(Cause::Done);
        Ok(digest)
    }
}

struct Push {
    images: Images,
    image: OwnedImage,
    target: Reference,
    login: Option<Login>,
    tasks: Group,
}

/// How an attempt ended.
enum Attempt {
    Pushed(Digest),
    /// Another image was pushed, or none: someone moved the name.
    Moved,
}

impl Push {
    async fn run(self, mut step: Step) -> Result<Digest, Fault> {
        match self.push(&step).await {
            Ok(digest) => {
                step.rename(format!("push {}@{digest}", self.target.familiar()));
                step.done(false);
                Ok(digest)
            }
            Err(fault) => {
                step.failed(fault.text());
                Err(fault)
            }
        }
    }

    async fn push(&self, step: &Step) -> Result<Digest, Fault> {
        let name = self.target.to_string();
        let _lock = self.tasks.unless_cancelled(self.images.inner.targets.lock(&name)).await?;
        for _ in 0..ATTEMPTS {
            match self.attempt(&name, step).await? {
                Attempt::Pushed(digest) => return Ok(digest),
                Attempt::Moved => {
                    tracing::warn!(target_name = name, "another has pushed under this name at the same time");
                }
            }
        }
        let text = format!("another push to {} won every time", self.target.familiar());
        Err(Fault::new(Reason::PushConflict, text).hint("push again when it is over"))
    }

    /// Takes the public name, pushes, and gives it back.
    async fn attempt(&self, name: &str, step: &Step) -> Result<Attempt, Fault> {
        let (images, engine) = (&self.images, self.images.engine());
        // What an attempt before could not give back.
        images.settle(name).await?;
        // Another wharfd's push at the same time is nothing to be restored.
        let before = engine.inspect_name(name).await?.filter(|image| !images.is_pushed_by_another(image));
        let before = before.and_then(|image| image.id);
        let entry = PublicName {
            name: name.to_owned(),
            ours: Some(self.image.id().to_string()),
            before: before.clone(),
            digests: engine.digests_of(&self.target, self.image.id()).await?,
        };
        images.store().journal_begin(engine.name(), &entry).await?;
        let pushed = self.attempt_journalled(name, before.as_deref(), step).await;
        if let Err(fault) = images.settle(name).await {
            images.unsettled(&fault);
        }
        pushed
    }

    async fn attempt_journalled(
        &self,
        name: &str,
        before: Option<&str>,
        step: &Step,
    ) -> Result<Attempt, Fault> {
        let (images, engine) = (&self.images, self.images.engine());
        if before != Some(self.image.id().as_str()) {
            if let Some(before) = before {
                // Without a name a prune would take it meanwhile.
                engine.tag_name(before, &images.keys().kept(name)).await?;
            }
            engine.tag_name(self.image.id().as_str(), name).await?;
        }
        let origins = self.origins().await?;
        let pushed = self.tasks.unless_cancelled(self.stream(step)).await?;
        // The engine calls where it was pushed an origin. That excuses an image that was the node's own
        // before: one that a namespace has made stays a stranger to the others, also once the operator
        // has pulled it.
        if self.is_of_node().await? {
            for origin in self.origins().await?.iter().filter(|origin| !origins.contains(origin)) {
                images.store().learn_pushed(engine.name(), self.image.id(), origin).await?;
            }
        }
        let digest = match pushed {
            Ok(digest) => digest,
            Err(fault) if !self.is_ours(name).await? => {
                tracing::debug!(%fault, "the name was moved");
                return Ok(Attempt::Moved);
            }
            Err(fault) => return Err(fault),
        };
        Ok(if self.is_pushed(&digest).await? { Attempt::Pushed(digest) } else { Attempt::Moved })
    }

    /// Whether the image was admitted as one that the operator has put on the node.
    async fn is_of_node(&self) -> Result<bool, Fault> {
        let image = self.images.engine().inspect_name(self.image.id().as_str()).await?;
        Ok(image.is_some_and(|image| self.images.is_held_for_node(&image)))
    }

    /// Where the engine says that the image comes from; a push adds to it.
    async fn origins(&self) -> Result<Vec<String>, Fault> {
        let image = self.images.engine().inspect_name(self.image.id().as_str()).await?;
        Ok(image.iter().flat_map(|image| origins(image)).map(str::to_owned).collect())
    }

    async fn is_ours(&self, name: &str) -> Result<bool, Fault> {
        let now = self.images.engine().inspect_name(name).await?.and_then(|image| image.id);
        Ok(now.as_deref() == Some(self.image.id().as_str()))
    }

    /// Whether the manifest that was pushed is this image's.
    async fn is_pushed(&self, digest: &Digest) -> Result<bool, Fault> {
        let engine = self.images.engine();
        engine.image_store().is_manifest_of(engine, digest, &self.target, self.image.id()).await
    }

    /// Pushes what is under the name; the digest of the manifest.
    async fn stream(&self, step: &Step) -> Result<Digest, Fault> {
        let engine = self.images.engine();
        let failed = |error| fault::push(&self.target, engine.platform(), self.login.is_some(), error);
        let login = self.login.as_ref().map(|login| docker_login(&self.target, login)).unwrap_or_default();
        let path = format!(
            "/images/{}/push?tag={}",
            self.target.repository(),
            self.target.tag().unwrap_or("latest")
        );
        let stalled = |_| fault::stalled(&self.target);
        let answer = timeout(STALL_TIMEOUT, engine.post_lines(&path, &login)).await;
        let mut answer = answer.map_err(stalled)?.map_err(failed)?;
        let mut digest = None;
        while let Some(line) =
            timeout(STALL_TIMEOUT, answer.next()).await.map_err(stalled)?.map_err(failed)?
        {
            digest = line.status.as_deref().and_then(pushed_digest).or(digest);
            report(line, step);
        }
        digest.ok_or_else(|| Fault::new(Reason::EngineFailed, "the engine did not say what it has pushed"))
    }
}

/// The digest in `1: digest: sha256:… size: 734`, the last line of a push: both stores write it, and
/// only one of them repeats it in a field.
fn pushed_digest(status: &str) -> Option<Digest> {
    let (_, rest) = status.split_once("digest: ")?;
    Digest::parse(rest.split_whitespace().next()?)
}

/// A line of a push: how far a layer is.
fn report(line: Line, step: &Step) {
    let (Some(layer), Some(status)) = (line.id, line.status) else { return };
    let Progress { current, total } = line.progress;
    match status.as_str() {
        "Pushing" => step.moves(&layer, current, total.max(current), false),
        "Pushed" | "Layer already exists" => step.moves(&layer, total, total, true),
        // The rest of such a line is another repository's name.
        status if status.starts_with("Mounted from ") => step.moves(&layer, total, total, true),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_in_the_last_line() {
        let hex = "a".repeat(64);
        assert_eq!(
            pushed_digest(&format!("1: digest: sha256:{hex} size: 734")),
            Digest::parse(&format!("sha256:{hex}"))
        );
        assert_eq!(pushed_digest("The push refers to repository [reg/app]"), None);
        assert_eq!(pushed_digest("1: digest: sha256:1 size: 7"), None);
    }
}

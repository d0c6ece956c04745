//! Pushes. Engines push only by name, so the image gets a name at the relay that nobody else uses, and the
//! relay forwards the engine's uploads to the real registry.

use tokio::time::timeout;

use super::{Images, owned::Pushable};
use crate::{
    engine::{
        STALL_TIMEOUT,
        docker::{
            fault,
            lines::{Line, Progress},
        },
    },
    fault::{Fault, Reason},
    names::{CallerId, Login, Namespace, Reference, reference::Digest},
    naming::ImageName,
    policy::Permit,
    progress::{Reporter, Step},
    registry::{Error, Transfer},
    tasks::{Cause, Group},
};

impl Images {
    /// Pushes an image of a namespace. Returns the digest of the manifest at the registry, by which the namespace then
    /// finds the image. Work that must not be interrupted runs in a group below `tasks`.
    pub async fn push(
        &self,
        Pushable { image, target }: &Pushable<'_>,
        login: Option<&Login>,
        reporter: &Reporter,
        tasks: &Group,
    ) -> Result<Digest, Fault> {
        let (caller, target) = (target.caller().clone(), target.subject().reference().clone());
        let step = reporter.step(format!("push {}", target.familiar()));
        // Below the caller's group: the namespace must not end before the engine has forgotten the transfer's
        // name.
        let tasks = tasks.child("push");
        let _cancel = tasks.cancel_on_drop(Cause::ClientGone);
        let push = Push {
            images: self.clone(),
            namespace: image.namespace().clone(),
            image: image.id().clone(),
            caller,
            target,
            login: login.cloned(),
            tasks: tasks.clone(),
        };
        // A task of its own: it must not stop before the name is removed.
        let digest = tasks.spawn("push", push.run(step)).await??;
        tasks.cancel(Cause::Done);
        Ok(digest)
    }
}

struct Push {
    images: Images,
    namespace: Permit<Namespace>,
    image: Digest,
    caller: CallerId,
    target: Reference,
    login: Option<Login>,
    tasks: Group,
}

impl Push {
    async fn run(self, mut step: Step) -> Result<Digest, Fault> {
        let pushed = self.push(&step).await;
        self.images.inner.metrics.pushed(&pushed);
        match pushed {
            Ok(digest) => {
                self.name(&digest).await;
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

    /// Names the image `repository@digest`, as `docker push` does, so that the job finds it by what it has pushed, though
    /// another build takes the tag. The registry has the image: a name that cannot be given does not change that.
    async fn name(&self, digest: &Digest) {
        let pinned = self.target.at(digest);
        if let Err(fault) = self.images.move_name(&self.namespace, &self.image, &pinned).await {
            tracing::debug!(%fault, reference = %pinned, "a pushed image has no name by its digest");
        }
    }

    async fn push(&self, step: &Step) -> Result<Digest, Fault> {
        let (images, engine) = (&self.images, self.images.engine());
        let transfer = self.tasks.unless_cancelled(images.push_transfer(
            &self.caller,
            &self.target,
            self.login.as_ref(),
        ));
        let transfer = transfer.await??;
        let name = images.transfer_name(&format!("{}:{}", transfer.repository(), transfer.tag()))?;
        let pushed = match engine.image_store().tag(&self.image, &name).await {
            Ok(()) => self.tasks.unless_cancelled(self.stream(&transfer, &name, step)).await,
            Err(fault) => Ok(Err(fault)),
        };
        // Even if the engine did not answer in time: it may have given the name. This also removes the name's digest,
        // which the classic store would keep.
        images.remove_transfer(&name).await;
        pushed?
    }

    /// Pushes the image under the transfer's name; returns the digest of the manifest.
    async fn stream(&self, transfer: &Transfer, name: &ImageName, step: &Step) -> Result<Digest, Fault> {
        let fault = |error: Error| error.push_fault(&self.target, self.login.is_some());
        transfer.carry(self.engine_pushes(transfer, name, step), fault).await
    }

    async fn engine_pushes(
        &self,
        transfer: &Transfer,
        name: &ImageName,
        step: &Step,
    ) -> Result<Digest, Fault> {
        let engine = self.images.engine();
        let failed = |error| fault::push(&self.target, engine.platform(), error);
        let stalled = |_| fault::stalled(&self.target);
        let pushing = engine.image_store().push(name, transfer.host(), transfer.login());
        let answer = timeout(STALL_TIMEOUT, pushing).await;
        let mut answer = answer.map_err(stalled)?.map_err(failed)?;
        let mut digest = None;
        while let Some(line) =
            timeout(STALL_TIMEOUT, answer.next()).await.map_err(stalled)?.map_err(failed)?
        {
            digest = line.status.as_deref().and_then(pushed_digest).or(digest);
            report(line, step);
        }
        digest.ok_or_else(|| {
            Fault::new(Reason::EngineFailed, "the engine did not name the manifest that it has pushed")
        })
    }
}

/// The digest in `1: digest: sha256:… size: 734`, the last line of a push: both stores write the line, but
/// only one also sends the digest in a field.
fn pushed_digest(status: &str) -> Option<Digest> {
    let (_, rest) = status.split_once("digest: ")?;
    Digest::parse(rest.split_whitespace().next()?)
}

/// Reports a line of a push: the progress of a layer.
fn report(line: Line, step: &Step) {
    let (Some(layer), Some(status)) = (line.id, line.status) else { return };
    let Progress { current, total } = line.progress;
    match status.as_str() {
        "Pushing" => step.moves(&layer, current, total.max(current), false),
        "Pushed" | "Layer already exists" => step.moves(&layer, total, total, true),
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

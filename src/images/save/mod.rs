//! Saves images of a namespace as one archive, for `docker load` and for programs that read an OCI image layout.

mod archive;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Images, owned::OwnedImage};
use crate::{
    buildkit::solve::Layout,
    engine::docker::lines::Body,
    fault::{Fault, Reason},
    names::{Namespace, Reference, reference::Digest},
    policy::Permit,
    progress::Reporter,
};
use archive::{Archive, Problem};

/// An image to save, under the references by which it was chosen; none if it was chosen by its id.
#[derive(Debug)]
pub struct Chosen {
    image: OwnedImage,
    references: Vec<Reference>,
}

impl Chosen {
    /// An image that a build has just made.
    pub fn built(image: OwnedImage, references: Vec<Reference>) -> Self {
        Self { image, references }
    }

    /// The image's id.
    pub fn id(&self) -> &Digest {
        self.image.id()
    }

    fn name(&self) -> String {
        self.references.first().map_or_else(|| self.image.id().to_string(), Reference::familiar)
    }
}

impl Images {
    /// Finds images of a namespace by references and ids: each image once, in the order in which they are named.
    pub async fn choose(
        &self,
        namespace: &Permit<Namespace>,
        texts: &[String],
    ) -> Result<Vec<Chosen>, Fault> {
        let mut all: Vec<Chosen> = Vec::new();
        for text in texts {
            let image = self.find_image(namespace, text).await?;
            // A text can be both a reference and the beginning of an id.
            let reference = Reference::parse(text).ok().map(Reference::tagged);
            let reference =
                reference.filter(|named| named.tag().is_some() && image.references().any(|one| one == named));
            let at = all.iter().position(|chosen| chosen.image.id() == image.id());
            let at = at.unwrap_or_else(|| {
                all.push(Chosen { image, references: Vec::new() });
                all.len() - 1
            });
            if let Some(chosen) = all.get_mut(at)
                && let Some(reference) = reference
                && !chosen.references.contains(&reference)
            {
                chosen.references.push(reference);
            }
        }
        Ok(all)
    }

    /// Saves `images` as one tar, whose pieces go to `pieces`. Ends early, without an error, when nobody takes them.
    pub async fn save(
        &self,
        images: &[Chosen],
        layout: Layout,
        pieces: mpsc::Sender<Bytes>,
        reporter: &Reporter,
    ) -> Result<(), Fault> {
        let mut archive = Archive::new(pieces, layout);
        for chosen in images {
            let step = reporter.step(format!("save {}", chosen.name()));
            let (export, _place) = self.export(chosen).await?;
            let saved = match export {
                Some(export) => archive.add(export, &chosen.references, &step).await,
                None => Err(Problem::Removed),
            };
            match saved {
                Ok(()) => step.done(false),
                Err(Problem::NobodyReads) => return Ok(()),
                Err(problem) => {
                    let fault = problem.fault(chosen.image.id());
                    step.failed(fault.to_string());
                    return Err(fault);
                }
            }
        }
        match archive.end().await {
            Ok(()) | Err(Problem::NobodyReads) => Ok(()),
            Err(problem) => Err(Fault::internal(problem)),
        }
    }

    /// The engine's archive of one image, and the caller's place for it.
    async fn export(&self, chosen: &Chosen) -> Result<(Option<Body>, OwnedSemaphorePermit), Fault> {
        let place = self.inner.saving.take(chosen.image.namespace().caller()).await;
        let (images, id) = (self.clone(), chosen.image.id().clone());
        // An engine gathers an image to its end, even if nobody waits for it any more: until then the place is taken, but
        // not for ever by an engine that hangs.
        let gathered = async move { Ok((images.engine().image_store().export(&id).await?, place)) };
        self.engine().image_store().tasks().spawn("export", gathered).await?
    }
}

impl Problem {
    fn fault(self, id: &Digest) -> Fault {
        match self {
            Self::Removed => {
                Fault::new(Reason::ImageNotFound, format!("the image {id} was removed while it was saved"))
                    .hint("save it before it is removed, or build it again")
            }
            problem => {
                Fault::new(Reason::EngineFailed, "the engine failed to save an image; wharfd's log says why")
                    .caused_by(problem)
            }
        }
    }
}

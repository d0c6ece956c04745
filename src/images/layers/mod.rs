//! Whether an image's layers are what its config says. The containerd store names a layer by the
//! diff ids that a config claims, and fetches none that it has by that name: a config that claims
//! another image's is believed. So each blob is hashed here, once for all time.

mod blobs;
pub(super) mod claims;
mod strict;

use bollard::{errors::Error, models::ImageInspect};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use blobs::{Exported, Pieces, read_export};
use claims::claims_of;

use super::Images;

use crate::{
    engine::docker::fault,
    fault::{Fault, Reason},
    names::{Reference, reference::Digest},
    wire::progress::Step,
};

/// Pieces of the export on their way to the thread that hashes.
const PIECES: usize = 16;
/// How containerd's export says that what an index lists is no image (`archive/exporter.go`).
const NO_IMAGE: &str = "unable to create manifests file";
/// How many bytes pass between two reports.
const REPORT_BYTES: u64 = 4 << 20;

impl Images {
    /// Checks each layer of the image under `hold` against its config. Facts that are known are not
    /// looked for again.
    pub(super) async fn verify_layers(
        &self,
        reference: &Reference,
        digest: &Digest,
        hold: &str,
        image: &ImageInspect,
        step: &Step,
    ) -> Result<(), Fault> {
        let platform = self.engine().platform().to_string();
        let mut claims = self.store().layer_claims(digest, &platform).await?;
        if claims.is_empty() {
            let _place = self.inner.verifying.acquire().await.map_err(Fault::internal)?;
            let exported = self.hash_export(reference, hold, step).await?;
            for (blob, diff_id) in exported.layers {
                self.store().learn_layer(&blob, &diff_id).await?;
            }
            let read = claims_of(digest, &exported.json, self.engine().platform(), image);
            claims = read.map_err(|problem| problem.fault(reference))?;
            self.store().learn_claims(digest, &platform, claims.clone()).await?;
        }
        for claim in &claims {
            match self.store().layer_fact(&claim.blob).await? {
                Some(diff_id) if diff_id == claim.diff_id => {}
                Some(_) => return Err(fault::forged(reference)),
                None => return Err(Problem::Unfetched(claim.blob.clone()).fault(reference)),
            }
        }
        Ok(())
    }

    /// Reads the image as the engine stores it, and hashes all of it, with flat memory.
    async fn hash_export(&self, reference: &Reference, hold: &str, step: &Step) -> Result<Exported, Fault> {
        let failed = |error| match error {
            // What containerd exports of an index it takes for images.
            Error::DockerResponseServerError { ref message, .. } if message.contains(NO_IMAGE) => {
                fault::nested(reference).caused_by(error)
            }
            error => fault::unexpected("export an image", error),
        };
        let (pieces, received) = mpsc::channel(PIECES);
        let hashing = tokio::task::spawn_blocking(move || read_export(Pieces::new(received)));
        let mut stream = std::pin::pin!(self.engine().docker().export_image(hold));
        let (mut done, mut reported) = (0, 0);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(failed)?;
            done += piece.len() as u64;
            // The thread has ended: it says why.
            if pieces.send(piece).await.is_err() {
                break;
            }
            if done - reported >= REPORT_BYTES {
                reported = done;
                step.moves("verifying layers", done, 0, false);
            }
        }
        drop(pieces);
        step.moves("verifying layers", done, done, true);
        hashing.await.map_err(Fault::internal)?.map_err(|error| {
            Fault::new(Reason::EngineFailed, "the engine exports an image that is not sound").caused_by(error)
        })
    }
}

/// Why an image is not admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Forged,
    OtherPlatform,
    Unfetched(Digest),
    Incomplete,
    Nested,
}

impl Problem {
    pub(super) fn fault(self, reference: &Reference) -> Fault {
        match self {
            Self::Forged => fault::forged(reference),
            Self::OtherPlatform | Self::Incomplete => {
                let text = format!("the engine has pulled {} only in part", reference.familiar());
                Fault::new(Reason::EngineFailed, text)
            }
            Self::Nested => fault::nested(reference),
            Self::Unfetched(blob) => {
                let text = format!(
                    "{} is refused: its config calls layer {blob} by the name of one that the engine has, so the \
                     engine did not fetch it, and nobody knows what is in it",
                    reference.familiar()
                );
                Fault::new(Reason::ImageForged, text).hint(
                    "if the image is genuine, another one has this layer in another compression: the node's \
                     operator can remove that one",
                )
            }
        }
    }
}

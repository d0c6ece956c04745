//! The end of a build whose results were made.

use std::{collections::HashMap, sync::Arc};

use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Build, Passed, Unmade};
use crate::{
    build::{
        client::BuildClient,
        downloads::NotFetched,
        gate,
        outcome::{Built, Failed, FailureKind},
        outputs::{
            self,
            relay::{self, Told},
        },
        pass_progress::descriptor,
        session::Subject,
    },
    buildkit::{
        failure::SolveFailure,
        solve::{Form, Layout},
    },
    fault::{Fault, Reason},
    images::{admission::CredentialSource, owned::OwnedImage, save::Chosen},
    names::Reference,
};

impl Build<'_> {
    /// The end of a build with a stage for another platform.
    pub(super) fn foreign_platform(&self, failure: &SolveFailure) -> Fault {
        let own = self.images.engine().platform();
        let text = format!("the stage asks for another platform than the engine's, which is `{own}`");
        Fault::new(Reason::GraphDenied, text).hint(gate::PLATFORM_HINT).at_line(failure.line())
    }

    /// The end of a build whose sync was refused, whatever BuildKit has made of it.
    pub(super) fn refused(&self, refused: &Status, is_over: bool) -> Result<Passed, Unmade> {
        if let Some(cause) = self.order.client.tasks.cancelled_by() {
            return Err(Unmade { fault: cause.into(), is_over });
        }
        let message = self.told(&SolveFailure::read(refused));
        let kind = FailureKind::Dockerfile;
        let failure = Failed { kind, message, vertex: None, exit_code: None, source: None };
        Ok(Passed::Failed { failure, is_over })
    }

    /// The end of a build that lacks a file of a URL.
    pub(super) fn not_fetched(&self, not: NotFetched, is_over: bool) -> Result<Passed, Unmade> {
        if let Some(cause) = self.order.client.tasks.cancelled_by() {
            return Err(Unmade { fault: cause.into(), is_over });
        }
        match not {
            NotFetched::Fault(fault) => Err(Unmade { fault, is_over }),
            NotFetched::Failed(message) => {
                let kind = FailureKind::Step;
                let failure = Failed { kind, message, vertex: None, exit_code: None, source: None };
                Ok(Passed::Failed { failure, is_over })
            }
        }
    }

    /// The end of a build whose exporters have ended well. Its client must have every output that BuildKit sends: a
    /// build that is green without one of its files would be taken for whole.
    pub(super) fn made(&self, response: HashMap<String, String>) -> Result<Passed, Unmade> {
        let Some(missing) = self.order.client.outputs.missing() else {
            return Ok(Passed::Exported(response));
        };
        let text = format!("the engine's builder has ended the build without its output {}", missing + 1);
        Err(Fault::new(Reason::EngineFailed, text).hint("try the build again").into())
    }

    /// The image that BuildKit has made; nothing if there is none. Each exporter of an image adds to the
    /// response, and the last one counts: only the engine knows which image is the engine's.
    pub(super) fn built(&self, response: &HashMap<String, String>, image: Option<&OwnedImage>) -> Built {
        let value = |key: &str| response.get(key).cloned();
        let Some(stated) = value("containerimage.digest") else { return Built::default() };
        let config_digest = value("containerimage.config.digest").unwrap_or_else(|| stated.clone());
        // An image in archives alone has no id in the engine.
        let id = image.map_or_else(|| config_digest.clone(), |image| image.id().to_string());
        let store = self.images.engine().image_store();
        let digest = image.map_or(Some(stated.as_str()), |_| store.manifest_digest(&id)).map(str::to_owned);
        let descriptor =
            descriptor(response).filter(|_| digest.as_ref().is_none_or(|digest| *digest == stated));
        self.order.client.details.image(&id, digest.as_ref());
        Built {
            image_id: id,
            config_digest,
            digest,
            descriptor,
            references: self.order.tags.clone(),
            pushed: Vec::new(),
        }
    }

    /// Inspects the image after the build, gives the client the archives that the engine's store makes, and pushes the
    /// image if the client asked for that.
    pub(super) async fn finish(
        &self,
        response: &HashMap<String, String>,
        image: &OwnedImage,
    ) -> Result<Built, Fault> {
        let mut built = self.built(response, Some(image));
        let client: &BuildClient = &self.order.client;
        for (position, layout, names) in outputs::stores_archives(&self.order.spec, self.images.engine()) {
            tokio::select! {
                saved = self.save(image, position, layout, names) => saved?,
                // The build's time, and the disk on which the store makes the archive.
                fault = client.used.watch() => return Err(fault),
            }
        }
        for reference in self.order.tags.iter().filter(|_| self.order.spec.push) {
            let target = image.push_to("tags", reference.clone())?;
            let login = CredentialSource::credentials(client, reference.host()).await?;
            let pushing = self.images.push(&target, login.as_ref(), self.reporter, &client.tasks);
            let digest = pushing.await?;
            client.details.pushed(reference, &digest);
            built.digest = Some(digest.to_string());
            built.pushed.push((reference.clone(), digest));
        }
        Ok(built)
    }

    /// Gives the client an archive of the image, as BuildKit's exporters would.
    async fn save(
        &self,
        image: &OwnedImage,
        position: usize,
        layout: Layout,
        names: &[Reference],
    ) -> Result<(), Fault> {
        let client: &BuildClient = &self.order.client;
        let broken = |status: Status| {
            Fault::new(
                Reason::StreamBroken,
                format!("the client did not accept an output: {}", status.message()),
            )
        };
        let chosen = [Chosen::built(image.clone(), names.to_vec())];
        let (pieces, mut made) = mpsc::channel(1);
        let (whole, ended) = oneshot::channel();
        let saved = async {
            self.images.save(&chosen, layout, pieces, self.reporter).await?;
            // If nobody waits for this, nobody has taken the archive.
            let _ = whole.send(());
            Ok(())
        };
        let taken = async {
            // The engine may take long to gather the image, and before that the save waits for its place. The client is
            // waited for from the first piece on.
            let Some(first) = made.recv().await else { return Ok(()) };
            let stream = client.session().map_err(broken)?;
            let stream = stream.stream(Subject::Output(position, Form::File)).await.map_err(broken)?;
            // The end of the pieces alone does not say that they are all.
            let ended = stream::once(ended).filter_map(async |ended| match ended {
                Ok(()) => None,
                Err(_) => Some(Err(Status::aborted("the archive is not whole"))),
            });
            let pieces = stream::once(async { first }).chain(ReceiverStream::new(made));
            let sent = pieces.map(|piece| Ok(message(&piece))).chain(ended).boxed();
            let (refused, metrics) = (Arc::clone(&client.refused), client.used.metrics().clone());
            let told = Told { refused, metrics, ..Told::default() };
            let mut heard = relay::begin(Form::File, sent, stream, &client.tasks, relay::LIMITS, told);
            while let Some(said) = heard.next().await {
                said.map_err(broken)?;
            }
            Ok(())
        };
        Box::pin(async { tokio::try_join!(saved, taken) }).await.map(|((), ())| ())
    }
}

fn message(piece: &Bytes) -> Bytes {
    BytesMessage { data: piece.to_vec() }.encode_to_vec().into()
}

//! `ImageService`: the images of a namespace.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    accept, answer, authorize, begin,
    credentials::logins,
    look,
    stream::{self, Responses},
};
use crate::{
    audit::By,
    build::patience::Patience,
    buildkit::solve::Layout,
    fault::{Fault, Reason},
    front::{End, Front, Look, WorkKind},
    images::owned::OwnedImage,
    names::Reference,
    progress::Progress,
    tasks::Cause,
    wire::v1::{
        self, image_service_server::ImageService, pull_image_response, push_image_response,
        save_images_response,
    },
};

/// How many images an archive may have. Each is looked up by itself.
const SAVED_MAX: usize = 64;

/// `ImageService`.
#[derive(Debug)]
pub(super) struct Images {
    front: Arc<Front>,
}

impl Images {
    pub(super) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type PushImageStream = Responses<v1::PushImageResponse>;
    type PullImageStream = Responses<v1::PullImageResponse>;
    type SaveImagesStream = Responses<v1::SaveImagesResponse>;

    async fn push_image(
        &self,
        request: Request<v1::PushImageRequest>,
    ) -> Result<Response<Self::PushImageStream>, Status> {
        let call = accept(&self.front, &request, "ImageService/PushImage")?;
        let request = request.into_inner();
        begin(&call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            let reference = reference("reference", &request.reference)?.tagged();
            call.details().reference(&reference);
            // An image that may not be pushed is not looked for.
            permit.push_to("reference", reference.clone())?;
            let credentials = logins("credentials", request.credentials)?;
            let images = call.images().await?;
            let member = self.front.begin(&call, &permit, WorkKind::Push).await?;
            let tasks = member.tasks().clone();
            let (front, looking) = (Arc::clone(&self.front), call.clone());
            let work = move |reporter| async move {
                let look = front.look(&looking, Look::Work).await;
                let image = images.find_image(&permit, &reference.to_string()).await?;
                drop(look);
                let login = credentials.of(reference.host());
                looking.details().image(image.id(), None::<&str>);
                let target = image.push_to("reference", reference.clone())?;
                let digest = images.push(&target, login, &reporter, &tasks).await?;
                looking.details().pushed(&reference, &digest);
                Ok(v1::PushImageResult {
                    reference: reference.to_string(),
                    digest: digest.to_string(),
                    image_id: image.id().to_string(),
                })
            };
            Ok(stream::run(&call, member.tasks().clone(), member, work, pushing, |result| {
                (End::Done, pushed(result))
            }))
        })
        .await
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let call = accept(&self.front, &request, "ImageService/PullImage")?;
        let request = request.into_inner();
        begin(&call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            let reference = reference("reference", &request.reference)?.tagged();
            call.details().reference(&reference);
            let credentials = logins("credentials", request.credentials)?;
            let images = call.images().await?;
            call.engine().has_room()?;
            let member = self.front.begin(&call, &permit, WorkKind::Pull).await?;
            let (tasks, details) = (member.tasks().child("pull"), call.details().clone());
            let engine = call.engine().clone();
            let work = move |reporter| async move {
                let pulled = images.pull_image(&permit, &reference, &credentials, &reporter, &tasks);
                let (digest, image) = Box::pin(engine.while_it_has_room(&tasks, pulled)).await?;
                let by = if digest.is_some() { By::Registry } else { By::Node };
                details.admitted(&reference, Some(digest.as_ref().unwrap_or(image.id())), by);
                details.image(image.id(), digest.as_ref());
                Ok(v1::PullImageResult {
                    reference: reference.to_string(),
                    digest: digest.as_ref().map(ToString::to_string).unwrap_or_default(),
                    image_id: image.id().to_string(),
                })
            };
            Ok(stream::run(&call, member.tasks().clone(), member, work, pulling, |result| {
                (End::Done, pulled(result))
            }))
        })
        .await
    }

    async fn save_images(
        &self,
        request: Request<v1::SaveImagesRequest>,
    ) -> Result<Response<Self::SaveImagesStream>, Status> {
        let call = accept(&self.front, &request, "ImageService/SaveImages")?;
        let request = request.into_inner();
        begin(&call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            if request.images.is_empty() {
                return Err(Fault::invalid("images", "no image to save"));
            }
            if request.images.len() > SAVED_MAX {
                let text = format!("more than {SAVED_MAX} images to save");
                return Err(Fault::invalid("images", text).hint("save them in several archives"));
            }
            request.images.iter().for_each(|image| call.details().reference(image));
            let images = call.images().await?;
            let room = call.engine().room_to_save(&images)?;
            let member = self.front.begin(&call, &permit, WorkKind::Save).await?;
            let tasks = member.tasks().child("save");
            let (front, looking) = (Arc::clone(&self.front), call.clone());
            let metrics = call.engine().metrics().clone();
            let (sender, pieces) = mpsc::channel(1);
            let work = move |reporter| async move {
                let look = front.look(&looking, Look::Work).await;
                let chosen = tasks.unless_cancelled(images.choose(&permit, &request.images)).await??;
                drop(look);
                chosen.iter().for_each(|image| looking.details().saved(image.id()));
                let (read, mut made) = mpsc::channel(1);
                let saved = images.save(&chosen, Layout::Docker, read, &reporter);
                let taken = async {
                    let patience = Patience::begin();
                    while let Some(piece) = made.recv().await {
                        let bytes = piece.len();
                        patience
                            .wait(sender.send(piece))
                            .await
                            .map_err(|_| too_slow())?
                            .map_err(|_| Cause::ClientGone)?;
                        metrics.saved(bytes);
                    }
                    Ok(())
                };
                let whole = Box::pin(async { tokio::try_join!(saved, taken) });
                let whole = async { tasks.unless_cancelled(whole).await? };
                room.while_it_lasts(&tasks, whole).await.map(drop)
            };
            let pieces = ReceiverStream::new(pieces).map(saving);
            Ok(stream::run_beside(&call, member.tasks().clone(), member, work, reported, pieces, |()| {
                (End::Done, None)
            }))
        })
        .await
    }

    async fn tag_image(
        &self,
        request: Request<v1::TagImageRequest>,
    ) -> Result<Response<v1::TagImageResponse>, Status> {
        let call = accept(&self.front, &request, "ImageService/TagImage")?;
        let request = request.into_inner();
        answer(&call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            call.details().source(&request.source);
            call.details().reference(&request.target);
            let target = reference("target", &request.target)?;
            permit.tag_as("target", target.clone())?;
            let images = call.images().await?;
            let member = self.front.begin(&call, &permit, WorkKind::Change).await?;
            let (front, changing, call) = (Arc::clone(&self.front), call.clone(), call.clone());
            member
                .to_its_end(&changing, async move {
                    let _look = front.look(&call, Look::Work).await;
                    let image = images.find_image(&permit, &request.source).await?;
                    call.details().image(image.id(), None::<&str>);
                    images.tag_image(&image.tag_as("target", target)?).await?;
                    Ok(v1::TagImageResponse {})
                })
                .await
        })
        .await
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let call = accept(&self.front, &request, "ImageService/ListImages")?;
        let request = request.into_inner();
        look(&self.front, &call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            let filter = match request.reference.as_str() {
                "" => None,
                text => Some(reference("reference", text)?),
            };
            let images = call.images().await?.list(&permit).await?;
            let images = images.iter().filter_map(|image| listed(image, filter.as_ref())).collect();
            Ok(v1::ListImagesResponse { images })
        })
        .await
    }

    async fn inspect_image(
        &self,
        request: Request<v1::InspectImageRequest>,
    ) -> Result<Response<v1::InspectImageResponse>, Status> {
        let call = accept(&self.front, &request, "ImageService/InspectImage")?;
        let request = request.into_inner();
        look(&self.front, &call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            call.details().reference(&request.reference);
            let images = call.images().await?;
            let (image, json) = images.inspect_image(&permit, &request.reference).await?;
            Ok(v1::InspectImageResponse { image: listed(&image, None), json: json.to_string() })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let call = accept(&self.front, &request, "ImageService/RemoveImage")?;
        let request = request.into_inner();
        answer(&call, async {
            let permit = authorize(&self.front, &call, request.namespace).await?;
            call.details().reference(&request.reference);
            let images = call.images().await?;
            let member = self.front.begin(&call, &permit, WorkKind::Change).await?;
            let (front, changing, call) = (Arc::clone(&self.front), call.clone(), call.clone());
            member
                .to_its_end(&changing, async move {
                    let _look = front.look(&call, Look::Work).await;
                    let removed = images.remove_image(&permit, &request.reference, request.force).await?;
                    removed.untagged.iter().for_each(|reference| call.details().untagged(reference));
                    removed.deleted.iter().for_each(|id| call.details().deleted(id));
                    Ok(v1::RemoveImageResponse {
                        untagged: removed.untagged.iter().map(ToString::to_string).collect(),
                        deleted: removed.deleted.iter().map(ToString::to_string).collect(),
                    })
                })
                .await
        })
        .await
    }
}

fn reference(field: &'static str, text: &str) -> Result<Reference, Fault> {
    Reference::parse(text).map_err(|error| Fault::invalid(field, error.to_string()))
}

/// An image with the references that `filter` matches: all of a repository's, or a single one. `None` if
/// it has no such reference.
fn listed(image: &OwnedImage, filter: Option<&Reference>) -> Option<v1::Image> {
    let matches = |reference: &&Reference| {
        filter.is_none_or(|filter| {
            reference.repository() == filter.repository()
                && (filter.tag().is_none() || filter.tag() == reference.tag())
                && (filter.digest().is_none() || filter.digest() == reference.digest())
        })
    };
    let references: Vec<_> = image.references().filter(matches).map(ToString::to_string).collect();
    let created = prost_types::Timestamp { seconds: image.created(), nanos: 0 };
    let whole = filter.is_none() || !references.is_empty();
    whole.then(|| v1::Image {
        id: image.id().to_string(),
        references,
        created: Some(created),
        size: image.size(),
    })
}

fn pushing(progress: Progress) -> v1::PushImageResponse {
    v1::PushImageResponse { response: Some(push_image_response::Response::Progress(progress.into())) }
}

fn pushed(result: v1::PushImageResult) -> v1::PushImageResponse {
    v1::PushImageResponse { response: Some(push_image_response::Response::Result(result)) }
}

fn pulling(progress: Progress) -> v1::PullImageResponse {
    v1::PullImageResponse { response: Some(pull_image_response::Response::Progress(progress.into())) }
}

fn reported(progress: Progress) -> v1::SaveImagesResponse {
    v1::SaveImagesResponse { response: Some(save_images_response::Response::Progress(progress.into())) }
}

fn saving(piece: Bytes) -> v1::SaveImagesResponse {
    v1::SaveImagesResponse { response: Some(save_images_response::Response::Piece(piece)) }
}

/// The engine keeps the archive, or its parts, for as long as a client reads it.
fn too_slow() -> Fault {
    Fault::new(Reason::StreamBroken, "the client takes the archive too slowly")
        .hint("save to a local file, and send that on")
}

fn pulled(result: v1::PullImageResult) -> v1::PullImageResponse {
    v1::PullImageResponse { response: Some(pull_image_response::Response::Result(result)) }
}

//! Pulls: manifests as wharfd has read them, and blobs as they come.

use std::{collections::HashMap, io, sync::Arc};

use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::{
    super::client::{Blob, Manifest, Repository},
    Body, Error, Shared, answers, digest_in, is_head,
};
use crate::names::reference::Digest;

/// What a pull may see.
pub(super) struct Pull {
    repository: Repository,
    manifests: HashMap<Digest, Manifest>,
}

impl Pull {
    pub(super) fn new(repository: Repository, manifests: Vec<Manifest>) -> Self {
        let manifests = manifests.into_iter().map(|manifest| (manifest.digest().clone(), manifest));
        Self { repository, manifests: manifests.collect() }
    }

    pub(super) async fn answer(
        &self,
        method: &Method,
        what: &str,
        transfer: &Arc<Shared>,
    ) -> Result<Response<Body>, Error> {
        if !method.is_safe() {
            return Ok(answers::plain(StatusCode::METHOD_NOT_ALLOWED));
        }
        if let Some(digest) = digest_in(what, "manifests") {
            return self.manifest(method, &digest).await;
        }
        match digest_in(what, "blobs") {
            Some(digest) => {
                let blob = self.repository.clone().blob(&digest).await?;
                Ok(blob_answer(method, &digest, blob, Arc::clone(transfer)))
            }
            None => Ok(answers::plain(StatusCode::NOT_FOUND)),
        }
    }

    async fn manifest(&self, method: &Method, digest: &Digest) -> Result<Response<Body>, Error> {
        let manifest = match self.manifests.get(digest) {
            Some(manifest) => manifest.clone(),
            None => self.repository.clone().manifest_by_digest(digest).await?,
        };
        let length = manifest.bytes().len();
        let body = if is_head(method) { bytes::Bytes::new() } else { manifest.bytes().clone() };
        let mut answer = answers::with(StatusCode::OK, manifest.media_type(), body);
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        tell_digest(&mut answer, digest);
        Ok(answer)
    }
}

fn blob_answer(method: &Method, digest: &Digest, blob: Blob, transfer: Arc<Shared>) -> Response<Body> {
    let mut answer = answers::with(StatusCode::OK, "application/octet-stream", bytes::Bytes::new());
    if let Some(length) = blob.length() {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    tell_digest(&mut answer, digest);
    if !is_head(method) {
        let pieces = stream::try_unfold((blob, transfer), |(mut blob, transfer)| async move {
            match blob.next().await {
                Ok(piece) => Ok(piece.map(|piece| (Frame::data(piece), (blob, transfer)))),
                Err(error) => {
                    transfer.failure.note(error);
                    Err(io::Error::other("the registry has not sent the whole blob").into())
                }
            }
        });
        *answer.body_mut() = StreamBody::new(pieces).boxed_unsync();
    }
    answer
}

fn tell_digest(answer: &mut Response<Body>, digest: &Digest) {
    if let Ok(value) = HeaderValue::from_str(digest.as_str()) {
        answer.headers_mut().insert("docker-content-digest", value);
    }
}

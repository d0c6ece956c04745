//! Pulls: a manifest that wharfd has already read, and blobs as they come.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        client::{Blob, CONFIG_BYTES_MAX, Manifest, Repository},
        error::Kind,
    },
    Body, Error, Shared, answers, digest_in, is_head,
};
use crate::names::reference::Digest;

/// Returns the watcher of a blob, if it has one.
pub type Watch = Arc<dyn Fn(&Digest) -> Option<Watcher> + Send + Sync>;

/// Sees a blob as it passes.
#[derive(Debug)]
pub struct Watcher {
    /// Receives the blob's bytes. A full channel delays the blob.
    pub pieces: mpsc::Sender<Bytes>,
    /// Tells, after the pieces have ended, whether the engine may have the last piece.
    pub verdict: oneshot::Receiver<bool>,
    /// Is told that the blob was complete and matched its digest.
    pub whole: oneshot::Sender<()>,
}

/// The manifest and the blobs that a pull may see.
pub(super) struct Pull {
    pub(super) repository: Repository,
    manifest: Manifest,
    /// The type that the engine is told of the manifest.
    media_type: String,
    watch: Option<Watch>,
    /// The config that the manifest names: every other blob is a layer.
    config: Option<Digest>,
    /// Whether the engine has asked for a layer.
    layers_asked: AtomicBool,
    /// Has a clone for each blob that is on its way.
    blobs: Arc<()>,
}

/// A blob on its way to the engine.
struct Passing {
    blob: Blob,
    watcher: Option<Watcher>,
    /// The last piece received. The engine gets it only after the next piece, or once the whole blob has been
    /// verified.
    kept: Option<Bytes>,
    /// How many bytes the engine may still get.
    left: u64,
    is_over: bool,
    transfer: Arc<Shared>,
    _counted: Arc<()>,
}

impl Pull {
    pub(super) fn new(repository: Repository, manifest: Manifest, watch: Option<Watch>) -> Self {
        let document: Value = serde_json::from_slice(manifest.bytes()).unwrap_or_default();
        let config = document.pointer("/config/digest").and_then(Value::as_str).and_then(Digest::parse);
        let media_type = media_type(&manifest, &document).to_owned();
        let (layers_asked, blobs) = (AtomicBool::new(false), Arc::new(()));
        Self { repository, manifest, media_type, watch, config, layers_asked, blobs }
    }

    /// Whether the engine has not asked for a layer yet, although it is not waiting for the registry.
    pub(super) fn waits_for_the_engine(&self) -> bool {
        !self.layers_asked.load(Ordering::Relaxed) && Arc::strong_count(&self.blobs) == 1
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
            return Ok(self.manifest(method, &digest));
        }
        match digest_in(what, "blobs") {
            Some(digest) => {
                let _counted = Arc::clone(&self.blobs);
                let max = if self.config.as_ref() == Some(&digest) {
                    CONFIG_BYTES_MAX as u64
                } else {
                    self.layers_asked.store(true, Ordering::Relaxed);
                    u64::MAX
                };
                let blob = self.repository.clone().blob(&digest).await?;
                if blob.length().is_some_and(|length| length > max) {
                    return Err(config_too_large());
                }
                let watcher = self.watch.as_ref().filter(|_| !is_head(method));
                let watcher = watcher.and_then(|watch| watch(&digest));
                let transfer = Arc::clone(transfer);
                let passing =
                    Passing { blob, watcher, kept: None, left: max, is_over: false, transfer, _counted };
                Ok(blob_answer(method, &digest, passing))
            }
            None => Ok(answers::plain(StatusCode::NOT_FOUND)),
        }
    }

    /// The proven manifest. For the engine, no other exists.
    fn manifest(&self, method: &Method, digest: &Digest) -> Response<Body> {
        if self.manifest.digest() != digest {
            return answers::plain(StatusCode::NOT_FOUND);
        }
        let bytes = self.manifest.bytes();
        let length = bytes.len();
        let body = if is_head(method) { Bytes::new() } else { bytes.clone() };
        let mut answer = answers::with(StatusCode::OK, &self.media_type, body);
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        tell_digest(&mut answer, digest);
        answer
    }
}

/// The type of an image's manifest: the registry's, or the one in the document. The engine would read the document as
/// an index if a registry called it one.
fn media_type<'a>(manifest: &'a Manifest, document: &'a Value) -> &'a str {
    const TYPES: [&str; 2] = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
    ];
    let told = [manifest.media_type(), document.get("mediaType").and_then(Value::as_str).unwrap_or_default()];
    told.into_iter().find(|told| TYPES.contains(told)).unwrap_or(TYPES[1])
}

impl Passing {
    /// The next piece for the engine.
    async fn next(mut self) -> Result<Option<(Frame<Bytes>, Self)>, io::Error> {
        match self.piece().await {
            Ok(piece) => Ok(piece.map(|piece| (Frame::data(piece), self))),
            Err(error) => {
                self.transfer.failure.note(format!("blobs/{}", self.blob.digest()), error);
                Err(io::Error::other("the registry has not sent the whole blob"))
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.is_over {
            let Some(piece) = self.blob.next().await? else {
                self.is_over = true;
                break;
            };
            self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(config_too_large)?;
            if let Some(watcher) = &self.watcher {
                // A watcher that no longer receives has seen enough for its verdict.
                let _ = watcher.pieces.send(piece.clone()).await;
            }
            if let Some(before) = self.kept.replace(piece) {
                return Ok(Some(before));
            }
        }
        let Some(Watcher { pieces, verdict, whole }) = self.watcher.take() else {
            return Ok(self.kept.take());
        };
        drop(pieces);
        if !verdict.await.unwrap_or(false) {
            return Err(Error::new(Kind::Forged, "a layer does not match the image's config"));
        }
        // The watcher may be gone.
        let _ = whole.send(());
        Ok(self.kept.take())
    }
}

fn config_too_large() -> Error {
    Error::too_large("its config", CONFIG_BYTES_MAX)
}

fn blob_answer(method: &Method, digest: &Digest, passing: Passing) -> Response<Body> {
    let mut answer = answers::with(StatusCode::OK, "application/octet-stream", Bytes::new());
    if let Some(length) = passing.blob.length() {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    tell_digest(&mut answer, digest);
    if !is_head(method) {
        let pieces = stream::try_unfold(passing, Passing::next);
        *answer.body_mut() = StreamBody::new(pieces).map_err(Into::into).boxed_unsync();
    }
    answer
}

fn tell_digest(answer: &mut Response<Body>, digest: &Digest) {
    if let Ok(value) = HeaderValue::from_str(digest.as_str()) {
        answer.headers_mut().insert("docker-content-digest", value);
    }
}

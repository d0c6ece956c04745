//! Pulls: a manifest that wharfd has already read, and blobs as they come.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        blob::Blob,
        client::{CONFIG_BYTES_MAX, Manifest, Repository},
        error::Kind,
    },
    Body, Error, Puller, Relay, Shared, Work, answers, digest_in,
    format::NotZstd,
    is_head,
};
use crate::names::reference::Digest;

/// How the layers that pass are checked.
#[derive(Clone)]
pub enum Layers {
    /// wharfd hashes them.
    Watched(Watch),
    /// The engine hashes them and unpacks them in its own process, where Zstandard that breaks off ends
    /// Engine 26.1 (its decoder continues with the reader that the next one has), and each decoder stays in
    /// its memory. So no layer may be in that format, whatever its type says.
    WithoutZstd,
}

/// Returns the watcher of a blob, if it has one.
pub type Watch = Arc<dyn Fn(&Digest) -> Option<Watcher> + Send + Sync>;

/// Sees a blob as it passes.
#[derive(Debug)]
pub struct Watcher {
    /// Receives the blob's bytes. A full channel delays the blob.
    pub pieces: mpsc::Sender<Bytes>,
    /// Tells, after the pieces have ended, whether the engine may have the last piece; dropped if nobody knows.
    pub verdict: oneshot::Receiver<bool>,
    /// Receives the notice that the blob was complete and matched its digest.
    pub whole: oneshot::Sender<()>,
}

/// The blobs that a manifest names. The engine gets no others: it must have read the same names in the manifest as
/// wharfd, whose limits and checks go by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The image's config.
    pub config: Digest,
    /// The image's layers.
    pub layers: HashSet<Digest>,
}

/// The manifest and the blobs that a pull may see.
pub(super) struct Pull {
    pub(super) repository: Repository,
    manifest: Manifest,
    /// The manifest's media type, as the engine gets it.
    media_type: &'static str,
    checks: Layers,
    pub(super) puller: Arc<Puller>,
    parts: Parts,
    blobs: Mutex<Blobs>,
    /// Whether the engine may have had a layer on its way by another transfer that did not bring it.
    is_let_down: AtomicBool,
}

#[derive(Default)]
struct Blobs {
    /// The layers that the engine has asked for.
    asked: HashSet<Digest>,
    passing: Vec<Digest>,
}

/// Says that a blob is on its way, until it is dropped.
struct OnItsWay {
    digest: Digest,
    relay: Relay,
    transfer: Arc<Shared>,
    /// Whether the engine has all of it, or wanted none of it.
    is_whole: bool,
}

/// A blob on its way to the engine.
struct Passing {
    blob: Blob,
    watcher: Option<Watcher>,
    /// Judges the blob's format, if that matters.
    format: Option<NotZstd>,
    /// The last piece received. The engine gets it only after the next piece, or once the whole blob has been
    /// verified.
    kept: Option<Bytes>,
    /// How many bytes the engine may still get.
    left: u64,
    is_over: bool,
    way: OnItsWay,
}

impl Pull {
    pub(super) fn new(
        repository: Repository,
        manifest: Manifest,
        parts: Parts,
        checks: Layers,
        puller: Arc<Puller>,
    ) -> Self {
        let media_type = media_type(&manifest);
        let (blobs, is_let_down) = (Mutex::default(), AtomicBool::new(false));
        Self { repository, manifest, media_type, checks, puller, parts, blobs, is_let_down }
    }

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine has not asked for a layer yet, although it is not waiting for the registry.
    pub(super) fn waits_for_the_engine(&self) -> bool {
        let blobs = self.blobs();
        blobs.asked.is_empty() && blobs.passing.is_empty()
    }

    /// The blobs that are on their way.
    pub(super) fn passing(&self) -> Vec<Digest> {
        self.blobs().passing.clone()
    }

    /// Whether only `layers`, which are on their way by another transfer, keep the engine from going on: it
    /// fetches a layer once for all images that have it.
    pub(super) fn waits_for(&self, layers: &[Digest]) -> bool {
        let blobs = self.blobs();
        blobs.passing.is_empty() && layers.iter().any(|layer| self.misses(layer, &blobs))
    }

    fn misses(&self, layer: &Digest, blobs: &Blobs) -> bool {
        self.parts.layers.contains(layer) && !blobs.asked.contains(layer)
    }

    /// Whether the engine may have failed because of another transfer.
    pub(super) fn is_let_down(&self) -> bool {
        self.is_let_down.load(Ordering::Relaxed)
    }

    pub(super) async fn answer(
        &self,
        method: &Method,
        what: &str,
        transfer: &Arc<Shared>,
        relay: &Relay,
    ) -> Result<Response<Body>, Error> {
        if !method.is_safe() {
            return Ok(answers::plain(StatusCode::METHOD_NOT_ALLOWED));
        }
        if let Some(digest) = digest_in(what, "manifests") {
            return Ok(self.manifest(method, &digest));
        }
        let is_config = |digest: &Digest| self.parts.config == *digest;
        let is_part = |digest: &Digest| is_config(digest) || self.parts.layers.contains(digest);
        match digest_in(what, "blobs").filter(is_part) {
            Some(digest) => {
                let way = self.begin(&digest, is_head(method), transfer, relay);
                let max = if is_config(&digest) { CONFIG_BYTES_MAX as u64 } else { u64::MAX };
                let blob = self.repository.clone().blob(&digest).await?;
                if blob.length().is_some_and(|length| length > max) {
                    return Err(config_too_large());
                }
                let (watcher, format) = match &self.checks {
                    Layers::Watched(watch) if !is_head(method) => (watch(&digest), None),
                    Layers::Watched(_) => (None, None),
                    Layers::WithoutZstd => (None, Some(NotZstd::default())),
                };
                let passing = Passing { blob, watcher, format, kept: None, left: max, is_over: false, way };
                Ok(blob_answer(method, &digest, passing))
            }
            None => Ok(answers::plain(StatusCode::NOT_FOUND)),
        }
    }

    fn begin(&self, digest: &Digest, is_head: bool, transfer: &Arc<Shared>, relay: &Relay) -> OnItsWay {
        let mut blobs = self.blobs();
        if self.parts.layers.contains(digest) && blobs.asked.insert(digest.clone()) {
            self.puller.asks();
        }
        blobs.passing.push(digest.clone());
        let (relay, transfer) = (relay.clone(), Arc::clone(transfer));
        OnItsWay { digest: digest.clone(), relay, transfer, is_whole: is_head }
    }

    /// The proven manifest. For the engine, no other exists.
    fn manifest(&self, method: &Method, digest: &Digest) -> Response<Body> {
        if self.manifest.digest() != digest {
            return answers::plain(StatusCode::NOT_FOUND);
        }
        let bytes = self.manifest.bytes();
        let length = bytes.len();
        let body = if is_head(method) { Bytes::new() } else { bytes.clone() };
        let mut answer = answers::with(StatusCode::OK, self.media_type, body);
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        tell_digest(&mut answer, digest);
        answer
    }
}

/// The type of an image's manifest: the registry's, or the one in the document. The engine would read the document as
/// an index if a registry called it one.
fn media_type(manifest: &Manifest) -> &'static str {
    const TYPES: [&str; 2] = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
    ];
    #[derive(Default, Deserialize)]
    struct Typed {
        #[serde(default, rename = "mediaType")]
        media_type: String,
    }
    let Typed { media_type } = serde_json::from_slice(manifest.bytes()).unwrap_or_default();
    let told = [manifest.media_type(), &media_type];
    told.iter().find_map(|told| TYPES.into_iter().find(|known| known == told)).unwrap_or(TYPES[1])
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let Work::Pull(pull) = &self.transfer.work else { return };
        let mut blobs = pull.blobs();
        if let Some(at) = blobs.passing.iter().position(|passing| *passing == self.digest) {
            blobs.passing.swap_remove(at);
        }
        drop(blobs);
        if !self.is_whole {
            let_down(&self.relay, &format!("blobs/{}", self.digest));
        }
    }
}

/// Notes that a request of the engine for `path` fails, for the pulls that need the same layer.
pub(super) fn let_down(relay: &Relay, path: &str) {
    let Some(layer) = path.rsplit_once("blobs/").and_then(|(_, digest)| Digest::parse(digest)) else {
        return;
    };
    for other in relay.transfers().values() {
        if let Work::Pull(pull) = &other.work
            && pull.misses(&layer, &pull.blobs())
        {
            pull.is_let_down.store(true, Ordering::Relaxed);
        }
    }
}

impl Passing {
    /// The next piece for the engine.
    async fn next(mut self) -> Result<Option<(Frame<Bytes>, Self)>, io::Error> {
        let transfer = Arc::clone(&self.way.transfer);
        let piece = tokio::select! {
            piece = self.piece() => piece,
            // The engine may be fetching the layer for others, too, which then ask for it themselves.
            () = transfer.failure.is_final() => return Err(io::Error::other("the transfer is over")),
        };
        match piece {
            Ok(piece) => Ok(piece.map(|piece| (Frame::data(piece), self))),
            Err(error) => {
                self.way.transfer.failure.note(format!("blobs/{}", self.blob.digest()), error);
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
            if let Some(format) = &mut self.format {
                format.look_at(&piece)?;
            }
            if let Some(watcher) = &self.watcher {
                // A watcher that no longer receives has seen enough for its verdict.
                let _ = watcher.pieces.send(piece.clone()).await;
            }
            if let Some(before) = self.kept.replace(piece) {
                return Ok(Some(before));
            }
        }
        let Some(Watcher { pieces, verdict, whole }) = self.watcher.take() else {
            self.way.is_whole = true;
            return Ok(self.kept.take());
        };
        drop(pieces);
        match verdict.await {
            Ok(true) => {}
            Ok(false) => return Err(Error::new(Kind::Forged, "a layer does not match the image's config")),
            Err(_) => return Err(Error::new(Kind::Unavailable, "wharfd could not hash a layer")),
        }
        self.way.is_whole = true;
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

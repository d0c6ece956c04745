//! Pushes: forwards the engine's uploads as they come, and returns the registry's answers. The engine learns
//! no address of the registry, and the registry gets the real tag.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::{
    super::{
        again::Tries,
        answer::{Answer, Moving, full},
        client::Target,
        error::Kind,
        meter::Meter,
        server::{At, Place},
    },
    Body, Error, answers, digest_in, is_head,
    sent::Sent,
};
use crate::names::reference::Digest;

/// The largest manifest. The engine's own limit is no larger.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The most unfinished uploads of a push. An engine has about five at once.
const UPLOADS_MAX: usize = 256;
/// Headers of the engine's requests that are forwarded.
const ASKED: [HeaderName; 4] =
    [header::ACCEPT, header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_RANGE];
/// Headers of the registry's answers that are returned.
const ANSWERED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::RANGE,
    header::RETRY_AFTER,
    HeaderName::from_static("docker-content-digest"),
    HeaderName::from_static("docker-upload-uuid"),
    HeaderName::from_static("oci-chunk-min-length"),
];

/// A running push.
pub(super) struct Push {
    target: tokio::sync::Mutex<Target>,
    uploads: Mutex<HashMap<u64, Upload>>,
    /// The blobs that the registry has taken in this push, with their sizes.
    done: Mutex<HashMap<Digest, u64>>,
    next: AtomicU64,
    pub(super) meter: Arc<Meter>,
    /// How many requests the engine has sent.
    requests: AtomicU64,
    /// Has a clone for each request that is not answered yet.
    open: Arc<()>,
}

/// A blob on its way to the registry.
#[derive(Clone)]
struct Upload {
    place: Place,
    /// How many bytes have been sent.
    sent: Arc<AtomicU64>,
}

impl Push {
    pub(super) fn new(target: Target) -> Self {
        let target = tokio::sync::Mutex::new(target);
        Self {
            target,
            uploads: Mutex::default(),
            done: Mutex::default(),
            next: AtomicU64::new(0),
            meter: Arc::default(),
            requests: AtomicU64::new(0),
            open: Arc::default(),
        }
    }

    /// How many requests the engine has sent.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether a request of the engine waits for its answer.
    pub(super) fn is_asked(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }

    pub(super) async fn answer(
        &self,
        path: &str,
        request: Request<Incoming>,
        what: &str,
    ) -> Result<Response<Body>, Error> {
        let _open = Arc::clone(&self.open);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let method = request.method().clone();
        if let Some(at) = what.strip_prefix("manifests/") {
            match method {
                Method::PUT => self.put_manifest(at, request).await,
                Method::GET | Method::HEAD => self.ask(&method, &self.manifest(at).await, &request).await,
                _ => Ok(answers::plain(StatusCode::METHOD_NOT_ALLOWED)),
            }
        } else if what == "blobs/uploads/" && method == Method::POST {
            self.begin(path).await
        } else if let Some(id) = what.strip_prefix("blobs/uploads/") {
            self.go_on(path, id, request).await
        } else if let Some(digest) = digest_in(what, "blobs").filter(|_| method.is_safe()) {
            self.ask(&method, &format!("blobs/{digest}"), &request).await
        } else {
            Ok(answers::plain(StatusCode::NOT_FOUND))
        }
    }

    /// The registry's path for a manifest that the engine names: any tag means the target's tag or digest.
    async fn manifest(&self, at: &str) -> String {
        match Digest::parse(at) {
            Some(digest) => format!("manifests/{digest}"),
            None => format!("manifests/{}", self.target.lock().await.at),
        }
    }

    /// A request without a body. Not found is an answer, not an error.
    async fn ask(
        &self,
        method: &Method,
        what: &str,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Error> {
        let headers = chosen(request.headers(), &[header::ACCEPT]);
        let at = At::Repository(what.to_owned());
        let mut target = self.target.lock().await.clone();
        let mut tries = Attempts::default();
        let wait = self.meter.wait();
        let answer = loop {
            let answer = target.server.send(method, &at, &headers).await?;
            if !tries.again(answer.status, false).await {
                break answer;
            }
        };
        drop(wait);
        self.learn(&target).await;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(answers::plain(StatusCode::NOT_FOUND)),
            status if status.is_success() => {
                let length = answer.headers.get(header::CONTENT_LENGTH).cloned();
                let mut told = reply(status, &answer.headers);
                if is_head(method) {
                    told.headers_mut().extend(length.map(|length| (header::CONTENT_LENGTH, length)));
                } else {
                    *told.body_mut() = full(answer.read("its manifest", MANIFEST_BYTES_MAX).await?);
                }
                Ok(told)
            }
            // A login may be for writing alone, and a HEAD gives no reason: the upload itself succeeds, or says why not.
            status if is_head(method) && is_refused(status) => Ok(self.unseen(what)),
            _ => Err(answer.refusal().await),
        }
    }

    /// The answer to a look at something that the registry does not show: it has only what it took in this push.
    fn unseen(&self, what: &str) -> Response<Body> {
        let digest = digest_in(what, "blobs");
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(size) = digest.and_then(|digest| done.get(&digest).copied()) else {
            return answers::plain(StatusCode::NOT_FOUND);
        };
        let mut answer = answers::plain(StatusCode::OK);
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        answer
    }

    async fn put_manifest(&self, at: &str, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let what = self.manifest(at).await;
        let headers = chosen(request.headers(), &[header::CONTENT_TYPE]);
        let read = Limited::new(request.into_body(), MANIFEST_BYTES_MAX).collect().await;
        let body = read.map_err(Error::broken)?.to_bytes();
        let (mut target, moving) = (self.target.lock().await.clone(), Moving::new());
        let at = At::Repository(what);
        let mut tries = Attempts::default();
        let _wait = self.meter.wait();
        let answer = loop {
            let body = full(body.clone());
            let answer = target.server.send_body(&Method::PUT, &at, &headers, body, &moving).await?;
            // A registry may ask for a login only now: it shows everybody that it has the blobs.
            let asks = answer.status == StatusCode::UNAUTHORIZED && !tries.is_authorized();
            let is_authorized = asks && target.server.authorize_again(&answer.headers).await?;
            if !tries.again(answer.status, is_authorized).await {
                break answer;
            }
        };
        self.learn(&target).await;
        success(answer).await.map(|answer| reply(answer.status, &answer.headers))
    }

    /// Begins the upload of a blob. Always answers that an upload has begun, even if the registry answers
    /// 201, which means that it took the blob from another repository. The engine does not know other
    /// repositories of the registry, so it named none, and the classic store fails when it looks up the
    /// repository after a 201.
    async fn begin(&self, path: &str) -> Result<Response<Body>, Error> {
        let at = At::Repository("blobs/uploads/".to_owned());
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        let mut target = self.target.lock().await.clone();
        let _wait = self.meter.wait();
        let answer = success(target.server.send(&Method::POST, &at, &headers).await?).await?;
        let place = target.server.place(&at, &answer)?;
        self.learn(&target).await;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if uploads.len() >= UPLOADS_MAX {
            return Err(Error::new(Kind::Other, "the engine uploads too much at once"));
        }
        uploads.insert(id, Upload { place, sent: Arc::default() });
        drop(uploads);
        Ok(located(reply(StatusCode::ACCEPTED, &answer.headers), path, id))
    }

    /// A piece of an upload, its end, or a request for its status.
    async fn go_on(&self, path: &str, id: &str, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let known = |id: u64| {
            let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            Some((id, uploads.get(&id)?.clone()))
        };
        let Some((id, Upload { mut place, sent: count })) = id.parse().ok().and_then(known) else {
            return Ok(answers::plain(StatusCode::NOT_FOUND));
        };
        let method = request.method().clone();
        let mut whole = None;
        match method {
            Method::PUT => match digest_of(request.uri().query()) {
                Some(digest) => {
                    place.add_query(&format!("digest={digest}"));
                    whole = Some(digest);
                }
                None => return Ok(answers::plain(StatusCode::BAD_REQUEST)),
            },
            Method::DELETE | Method::PATCH | Method::GET => {}
            _ => return Ok(answers::plain(StatusCode::METHOD_NOT_ALLOWED)),
        }
        let headers = chosen(request.headers(), &ASKED);
        let at = At::Place(place);
        let mut target = self.target.lock().await.clone();
        let answer = if matches!(method, Method::PUT | Method::PATCH) {
            let moving = Moving::new();
            let (moved, meter) = (moving.clone(), Arc::clone(&self.meter));
            let (body, waiting) = Sent::new(request.into_body(), moved, meter, Arc::clone(&count));
            let body = body.map_err(Into::into).boxed_unsync();
            let sent = target.server.send_body(&method, &at, &headers, body, &moving).await;
            waiting.clear();
            sent?
        } else {
            let _wait = self.meter.wait();
            target.server.send(&method, &at, &headers).await?
        };
        let answer = success(answer).await?;
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if whole.is_some() || method == Method::DELETE {
            uploads.remove(&id);
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.extend(whole.map(|digest| (digest, count.load(Ordering::Relaxed))));
            return Ok(reply(answer.status, &answer.headers));
        }
        // An answer to a status request may have no location.
        if answer.headers.contains_key(header::LOCATION) {
            uploads.insert(id, Upload { place: target.server.place(&at, &answer)?, sent: count });
        }
        drop(uploads);
        Ok(located(reply(answer.status, &answer.headers), path, id))
    }

    /// Keeps the state learnt about the server, such as a token.
    async fn learn(&self, target: &Target) {
        *self.target.lock().await = target.clone();
    }
}

/// The attempts of a request without a body, or of a manifest. Some registries fail when two pushes of one tag meet, and
/// succeed a moment later. The engine itself does not retry.
#[derive(Default)]
struct Attempts {
    tries: Tries,
    is_authorized: bool,
}

impl Attempts {
    /// Whether the request must be repeated now: it failed, or `is_authorized` after it was refused. Waits before that.
    async fn again(&mut self, status: StatusCode, is_authorized: bool) -> bool {
        self.is_authorized |= is_authorized;
        if is_authorized || !status.is_server_error() {
            return is_authorized;
        }
        self.tries.again().await
    }

    /// Whether an authorization came after a refusal: another refusal stands.
    fn is_authorized(&self) -> bool {
        self.is_authorized
    }
}

/// Whether a registry does not let the caller look at something. 401 and 429 are for the whole push.
fn is_refused(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
}

async fn success(answer: Answer) -> Result<Answer, Error> {
    if answer.status.is_success() { Ok(answer) } else { Err(answer.refusal().await) }
}

fn chosen(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let all = names.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    let mut kept = HeaderMap::new();
    for (name, value) in all {
        kept.append(name, value.clone());
    }
    kept
}

/// The registry's answer without a body.
fn reply(status: StatusCode, headers: &HeaderMap) -> Response<Body> {
    let mut answer = answers::with(status, "", Bytes::new());
    answer.headers_mut().extend(chosen(headers, &ANSWERED));
    answer
}

/// Adds the upload's location at the relay.
fn located(mut answer: Response<Body>, path: &str, id: u64) -> Response<Body> {
    if let Ok(location) = HeaderValue::from_str(&format!("/v2/{path}/blobs/uploads/{id}")) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

/// The `digest=` in a query.
fn digest_of(query: Option<&str>) -> Option<Digest> {
    let values = query?.split('&').filter_map(|pair| pair.strip_prefix("digest="));
    values.map(|value| value.replace("%3A", ":").replace("%3a", ":")).find_map(|value| Digest::parse(&value))
}

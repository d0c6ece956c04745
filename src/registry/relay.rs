//! wharfd's own registry on the node's loopback: the engine pulls from it and pushes to it, and wharfd talks
//! to the real registry.
//!
//! So the engine sees only bytes that wharfd has read and hashed, a job's image never has a public name in
//! the engine, and no login leaves wharfd except to the registry. Each transfer has its own password, which
//! the engine uses in place of the job's login.

mod answers;
mod failure;
mod format;
mod passwords;
mod pull;
mod puller;
mod push;
mod sent;
mod starving;
mod strangers;

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{
    answer::Body,
    client::{Manifest, Repository, Target},
    error::Error,
};
use crate::{
    fault::{Fault, Reason},
    names::{Secret, random_id, reference::Digest},
    tasks::Group,
    telemetry::each_second,
};
use failure::LastFailure;
use passwords::Passwords;
use pull::Pull;
pub use pull::{Layers, Parts, Watch, Watcher};
pub use puller::Puller;
use push::Push;
use strangers::Strangers;

/// An engine makes about five connections for each image.
const CONNECTIONS_MAX: usize = 1024;
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The relay. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    address: SocketAddr,
    passwords: Passwords,
    transfers: Mutex<HashMap<String, Arc<Shared>>>,
    strangers: Strangers,
}

/// An image on its way through the relay. Dropping this ends the transfer.
pub struct Transfer {
    relay: Relay,
    id: String,
    shared: Arc<Shared>,
}

struct Shared {
    password: Secret<String>,
    /// The repository's path at the relay.
    path: String,
    work: Work,
    failure: LastFailure,
    /// Whether the engine has sent a request.
    has_come: AtomicBool,
}

enum Work {
    Pull(Box<Pull>),
    Push(Box<Push>),
}

impl Relay {
    /// Listens on a port of the node's loopback. Serves in a group below `tasks`.
    pub async fn bind(tasks: &Group) -> io::Result<Self> {
        Self::with_places(tasks, CONNECTIONS_MAX).await
    }

    /// The same, with another limit on connections.
    pub(super) async fn with_places(tasks: &Group, places: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let inner = Inner {
            address: listener.local_addr()?,
            passwords: Passwords::new()?,
            transfers: Mutex::default(),
            strangers: Strangers::default(),
        };
        let relay = Self { inner: Arc::new(inner) };
        let group = tasks.child("relay");
        let (feeding, ends) = (relay.clone().feed_the_starving(), group.clone());
        drop(group.spawn("relay-starving", async move { ends.unless_cancelled(feeding).await }));
        drop(group.spawn("relay", relay.clone().accept(listener, places, group.clone())));
        Ok(relay)
    }

    /// Starts a try of `puller` to pull from `repository`, which is called `path` at the relay, the image with the
    /// known `manifest`, which is not an index and names these `parts`.
    pub fn pull(
        &self,
        path: &str,
        repository: Repository,
        manifest: Manifest,
        parts: Parts,
        checks: Layers,
        puller: Arc<Puller>,
    ) -> io::Result<Transfer> {
        self.begin(path, Work::Pull(Box::new(Pull::new(repository, manifest, parts, checks, puller))))
    }

    /// Starts a push to `target`. At the relay its repository is called `path`, or a path below that, so that
    /// two simultaneous pushes never share a repository. An engine uploads a layer only once for all pushes
    /// that seem to go to the same repository, using the password of the first; when that push ends, the
    /// others fail.
    pub fn push(&self, path: &str, target: Target) -> io::Result<Transfer> {
        self.begin(path, Work::Push(Box::new(Push::new(target))))
    }

    fn begin(&self, path: &str, work: Work) -> io::Result<Transfer> {
        let id = random_id().map_err(io::Error::other)?;
        let password = self.inner.passwords.of(&id)?;
        let failure = LastFailure::default();
        let mut transfers = self.transfers();
        let is_push = matches!(work, Work::Push(_));
        let path = if is_push { free_path(path, &transfers) } else { path.to_owned() };
        let shared = Arc::new(Shared { password, path, work, failure, has_come: AtomicBool::new(false) });
        transfers.insert(id.clone(), Arc::clone(&shared));
        drop(transfers);
        Ok(Transfer { relay: self.clone(), id, shared })
    }

    fn transfers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Shared>>> {
        self.inner.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self, listener: TcpListener, places: usize, tasks: Group) {
        let places = Arc::new(Semaphore::new(places));
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        if places.available_permits() == 0 {
                            self.inner.strangers.end_oldest();
                        }
                        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                        let relay = self.clone();
                        let ends = tasks.clone();
                        drop(tasks.spawn("relay-connection", async move {
                            let _ = ends.unless_cancelled(relay.connection(stream)).await;
                            drop(place);
                        }));
                    }
                    Err(error) => {
                        each_second!(warn, %error, "the relay cannot accept a connection");
                        // Probably out of file descriptors: wait until connections end.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        let _ = tasks.unless_cancelled(accepting).await;
    }

    async fn connection(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (number, ended) = self.inner.strangers.add();
        let service = service_fn(|request| {
            let relay = self.clone();
            async move { Ok::<_, Infallible>(relay.answer(request, number).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = served => if let Err(error) = served {
                // An engine tries TLS first.
                tracing::trace!(%error, "a connection to the relay has ended");
            },
            Ok(()) = ended => {}
        }
        self.inner.strangers.remove(number);
    }

    /// Answers a request. Until a request shows a password, its connection is the connection of `stranger`.
    async fn answer(&self, request: Request<Incoming>, stranger: u64) -> Response<Body> {
        let path = request.uri().path();
        let Some(id) = self.inner.passwords.shown_in(request.headers()) else {
            return answers::unauthorized();
        };
        let shared = self.transfers().get(&id).cloned();
        let Some(shared) = shared else {
            // The engine asks by a transfer that has ended, and may do so for others, too.
            pull::let_down(self, path);
            return answers::unauthorized();
        };
        shared.has_come.store(true, Ordering::Relaxed);
        self.inner.strangers.remove(stranger);
        if matches!(path, "/v2/" | "/v2") && request.method().is_safe() {
            return answers::plain(StatusCode::OK);
        }
        let within = path.strip_prefix("/v2/").and_then(|path| path.strip_prefix(shared.path.as_str()));
        let Some(what) = within.and_then(|path| path.strip_prefix('/')).map(str::to_owned) else {
            return answers::plain(StatusCode::NOT_FOUND);
        };
        let working = async {
            match &shared.work {
                Work::Pull(pull) => pull.answer(request.method(), &what, &shared, self).await,
                Work::Push(push) => push.answer(&shared.path, request, &what).await,
            }
        };
        let answered = tokio::select! {
            answered = working => answered,
            // The registry may still be silent, and the engine keeps a place for the layer until it has an answer.
            () = shared.failure.is_final() => {
                pull::let_down(self, &what);
                return answers::refusal(StatusCode::FORBIDDEN);
            }
        };
        match answered {
            Ok(answer) => {
                if answer.status().is_success() {
                    shared.failure.forget(&what);
                }
                answer
            }
            Err(error) => {
                tracing::debug!(error = error.to_string(), "the registry refuses the engine");
                shared.failure.note(what, error)
            }
        }
    }
}

impl Transfer {
    /// The repository, as the engine must call it.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.relay.inner.address, self.shared.path)
    }

    /// The tag that the engine must push.
    pub fn tag(&self) -> &str {
        &self.id
    }

    /// The engine's login: a username and a password.
    pub fn login(&self) -> (&str, &Secret<String>) {
        (&self.id, &self.shared.password)
    }

    /// The host of [`repository`](Self::repository).
    pub fn host(&self) -> String {
        self.relay.inner.address.to_string()
    }

    /// Runs the engine's pull or push, and ends it if the real registry refuses for good. If the engine
    /// answers but the transfer failed, only the relay knows why: `fault` turns the real registry's last
    /// refusal into the fault.
    pub async fn carry<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
        fault: impl FnOnce(Error) -> Fault,
    ) -> Result<T, Fault> {
        let done = tokio::select! {
            done = work => done,
            () = self.refused() => Err(Fault::new(Reason::RegistryDenied, "the registry refuses")),
        };
        done.map_err(|engines| match engines.reason() {
            Reason::EngineUnavailable => engines,
            _ if !self.shared.has_come.load(Ordering::Relaxed) => self.unreached(engines),
            _ => self.failure(fault).unwrap_or(engines),
        })
    }

    /// Returns once the real registry has refused in a way that no retry by the engine changes.
    pub(super) async fn refused(&self) {
        self.shared.failure.is_final().await;
    }

    /// Whether the engine may have failed at this pull because it fetched a layer by another pull, which did not
    /// bring it. The engine fetches a layer once for all images that have it, and all of them fail with the first.
    pub fn is_let_down(&self) -> bool {
        matches!(&self.shared.work, Work::Pull(pull) if pull.is_let_down())
    }

    /// The fault of the engine's pull or push, if the real registry caused it.
    pub(super) fn failure(&self, fault: impl FnOnce(Error) -> Fault) -> Option<Fault> {
        self.shared.failure.take().map(fault)
    }

    /// The fault of an engine that failed before it reached the relay.
    fn unreached(&self, engines: Fault) -> Fault {
        let text = format!("the engine did not reach wharfd at {}, where it gets its images", self.host());
        Fault::new(Reason::EngineUnavailable, text)
            .hint("the node's operator must run wharfd in the engine's network (docs/operating.md, \"Registries\")")
            .caused_by(engines)
    }
}

#[cfg(test)]
impl Transfer {
    pub(super) fn waits_for_the_engine(&self) -> bool {
        matches!(&self.shared.work, Work::Pull(pull) if pull.waits_for_the_engine())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.relay.transfers().remove(&self.id);
        // Requests of the engine that still wait end, too.
        self.shared.failure.over();
    }
}

/// `path`, or the first path below it that no push uses. Only a few paths are ever used, so an engine that
/// remembers where it has pushed a layer finds the layer there again.
fn free_path(path: &str, transfers: &HashMap<String, Arc<Shared>>) -> String {
    let pushes = transfers.values().filter(|shared| matches!(shared.work, Work::Push(_)));
    let taken: HashSet<&str> = pushes.map(|shared| shared.path.as_str()).collect();
    let below = (1_u64..).map(|number| format!("{path}/{number}"));
    std::iter::once(path.to_owned())
        .chain(below)
        .find(|path| !taken.contains(path.as_str()))
        .unwrap_or_default()
}

/// The digest after `manifests/` or `blobs/` in a path.
fn digest_in(what: &str, kind: &str) -> Option<Digest> {
    Digest::parse(what.strip_prefix(kind)?.strip_prefix('/')?)
}

fn is_head(method: &Method) -> bool {
    method == Method::HEAD
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("repository", &self.repository()).finish_non_exhaustive()
    }
}

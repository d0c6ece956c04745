//! Notices when the engine that was found has ended, or when another engine answers at its socket.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::tasks::Group;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long an engine may take for an answer that costs it nothing. Long, since its node may be busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream of events that hardly ever come: those of the daemon itself, such as a reload of its
/// configuration.
const NO_EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D";

/// An engine that is stopped closes its idle connections first, and ends seconds later (Go, `Server.Shutdown`);
/// one that crashes or is killed ends all of them together.
const STOPPING: Duration = Duration::from_secs(1);
/// The pause before another idle connection: a proxy before the engine may end them as it likes.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// The presence of an engine that was found. A connection that ends with the engine reveals its end at once.
#[derive(Debug)]
pub(crate) struct Presence {
    greeting: Greeting,
    gone: CancellationToken,
    /// When the engine ended by itself: neither stopped by anybody, nor replaced.
    crashed: Arc<OnceLock<Instant>>,
    _end: DropGuard,
}

/// The headers by which an engine identifies itself in every answer: `Docker/26.1.5 (linux)` and the API's
/// version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Greeting {
    server: Option<HeaderValue>,
    api: Option<HeaderValue>,
}

impl Presence {
    /// Finds the engine at `socket`; `tasks` owns the connection.
    pub(crate) async fn find(socket: &Path, tasks: &Group) -> Result<Self, Error> {
        let mut events = in_time(ask(socket, NO_EVENTS, tasks)).await?.into_body();
        let gone = CancellationToken::new();
        let (ended, guard) = (gone.clone(), gone.clone().drop_guard());
        let (group, crashed) = (tasks.clone(), Arc::<OnceLock<Instant>>::default());
        let (by_itself, place) = (Arc::clone(&crashed), socket.to_owned());
        drop(tasks.spawn("presence", async move {
            let closing = Mutex::default();
            let stays = async {
                loop {
                    match events.frame().await {
                        Some(Ok(_)) => {}
                        // Engine 29 ends the answer when it is stopped.
                        None => break false,
                        Some(Err(_)) => {
                            break since(&closing).is_none_or(|since| since.elapsed() <= STOPPING);
                        }
                    }
                }
            };
            let idles = async {
                keep_idle(place, &closing).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                is_sudden = stays => {
                    if is_sudden {
                        let _ = by_itself.set(Instant::now());
                    }
                    ended.cancel();
                }
                () = idles => {}
                () = ended.cancelled() => {}
                _ = group.cancelled() => {}
            }
        }));
        let greeting = greeting(socket, tasks).await?;
        Ok(Self { greeting, gone, crashed, _end: guard })
    }

    /// When the engine crashed or was killed, if that is how it ended.
    pub(crate) fn crashed(&self) -> Option<Instant> {
        self.crashed.get().copied()
    }

    /// Whether the engine that answers at `socket` now identifies itself like this one.
    pub(crate) async fn is_same(&self, socket: &Path, tasks: &Group) -> Result<bool, Error> {
        Ok(greeting(socket, tasks).await? == self.greeting)
    }

    /// Waits until the engine has ended or another one has taken its place.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether the engine has ended or another one has taken its place.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Records that another engine has taken its place.
    pub(crate) fn leave(&self) {
        self.gone.cancel();
    }
}

fn since(closing: &Mutex<Option<Instant>>) -> Option<Instant> {
    *closing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps an idle connection, and records since when the engine allows none.
async fn keep_idle(socket: PathBuf, closing: &Mutex<Option<Instant>>) {
    let set = |since| *closing.lock().unwrap_or_else(PoisonError::into_inner) = since;
    loop {
        let Ok(idle) = in_time(idle(&socket)).await else { return };
        set(None);
        idle.await;
        set(Some(Instant::now()));
        tokio::time::sleep(IDLE_PAUSE).await;
    }
}

/// A connection on which the engine has answered; the returned future waits for the connection's end.
async fn idle(socket: &Path) -> Result<impl Future<Output = ()> + use<>, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(UnixStream::connect(socket).await?)).await?;
    let mut connection = Box::pin(connection);
    let asked = async {
        sender.send_request(get("/_ping")?).await?.into_body().collect().await?;
        Ok::<_, Error>(())
    };
    tokio::select! {
        answered = asked => answered?,
        _ = &mut connection => return Err("it ended the connection".into()),
    }
    Ok(async move {
        let _ = connection.await;
        drop(sender);
    })
}

async fn greeting(socket: &Path, tasks: &Group) -> Result<Greeting, Error> {
    let answer = in_time(ask(socket, "/_ping", tasks)).await?;
    let header = |name: &str| answer.headers().get(name).cloned();
    Ok(Greeting { server: header("server"), api: header("api-version") })
}

/// Asks on a new connection: a connection that was kept open would reach the old engine.
async fn ask(socket: &Path, path: &str, tasks: &Group) -> Result<Response<Incoming>, Error> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends when the answer is dropped.
    drop(tasks.spawn("connection", connection));
    let answer = sender.send_request(get(path)?).await?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        status => Err(format!("it answers {path} with {status}").into()),
    }
}

fn get(path: &str) -> http::Result<Request<Empty<Bytes>>> {
    Request::get(path).header(header::HOST, "docker").body(Empty::new())
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err("it does not answer".into()))
}

//! Whether the engine that was found still answers at its socket, and not another one in its place.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::tasks::Group;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long an engine may take for an answer that costs it nothing. Long: its node may be busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that an engine has once in its life: its configuration is loaded again.
const NO_EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D";

/// An engine that was found. Its end is noticed at once, by a connection that ends with it.
#[derive(Debug)]
pub(crate) struct Presence {
    greeting: Greeting,
    gone: CancellationToken,
    _end: DropGuard,
}

/// What an engine says about itself with every answer: `Docker/26.1.5 (linux)`, and its API's version.
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
        let group = tasks.clone();
        drop(tasks.spawn("presence", async move {
            let stays = async { while let Some(Ok(_)) = events.frame().await {} };
            tokio::select! {
                () = stays => ended.cancel(),
                () = ended.cancelled() => {}
                _ = group.cancelled() => {}
            }
        }));
        let greeting = greeting(socket, tasks).await?;
        Ok(Self { greeting, gone, _end: guard })
    }

    /// Whether an engine that answers like this one answers at `socket` now.
    pub(crate) async fn is_same(&self, socket: &Path, tasks: &Group) -> Result<bool, Error> {
        Ok(greeting(socket, tasks).await? == self.greeting)
    }

    /// Ends when the engine has ended, or another one has taken its place.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether it has.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Another engine has taken its place.
    pub(crate) fn leave(&self) {
        self.gone.cancel();
    }
}

async fn greeting(socket: &Path, tasks: &Group) -> Result<Greeting, Error> {
    let answer = in_time(ask(socket, "/_ping", tasks)).await?;
    let header = |name: &str| answer.headers().get(name).cloned();
    Ok(Greeting { server: header("server"), api: header("api-version") })
}

/// On a connection of its own: one that is kept would be answered by the engine that it was made to.
async fn ask(socket: &Path, path: &str, tasks: &Group) -> Result<Response<Incoming>, Error> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the answer is dropped.
    drop(tasks.spawn("connection", connection));
    let request = Request::get(path).header(header::HOST, "docker").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        status => Err(format!("it answers {path} with {status}").into()),
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err("it does not answer".into()))
}

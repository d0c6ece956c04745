//! A raw connection to the engine's BuildKit, one for each build.
//!
//! BuildKit's HTTP/2 server admits 250 streams on a connection, and a build holds several for its whole
//! length, so builds that shared a connection would wait for each other for ever.

mod severable;

use std::{
    error::Error,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bollard_buildkit_proto::moby::buildkit::v1::{
    InfoRequest, control_client::ControlClient, frontend::llb_bridge_client::LlbBridgeClient,
};
use bytes::Bytes;
use http::{Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::{Read, Write},
};
use tokio::{net::UnixStream, sync::Semaphore};
use tokio_util::sync::DropGuard;
use tonic::{Code, Status, body::Body, client::Grpc};
use tower::Service;

use super::raw::RawCodec;
use crate::{
    fault::{Fault, Reason, causes},
    tasks::Group,
};
use severable::Severable;

/// Graphs of large Dockerfiles come in one message; BuildKit's own clients allow 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The details of a failed step come as a trailer and contain the whole Dockerfile. BuildKit's own clients
/// have the same limit.
const HEADERS_BYTES_MAX: u32 = 16 << 20;
/// With HTTP/2's default, 64 KiB, an exporter sends at half the speed (measured).
const STREAM_WINDOW: u32 = 1 << 20;
/// Far more than all streams of a build together: h2 ends a connection whose unread frames cost more than
/// half its window. Each frame counts as 256 bytes, and a session's frames are small.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// A live engine upgrades a connection and answers on it within milliseconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a build may wait for its connection. Long, since many builds start at once on a busy node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// How many connections are dialled at once. BuildKit gives up on a client that is late in the handshake,
/// after 2 to 10 seconds; if a hundred dial at once on a busy node, all of them are late.
const AT_ONCE: usize = 8;
/// How many times to dial when the connection breaks before BuildKit has answered on it.
const ATTEMPTS: usize = 3;

/// The way to reach BuildKit's gRPC on an engine's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialling {
    /// Plain HTTP/2 on the socket: Engine 29.2 and newer.
    PriorKnowledge,
    /// An upgrade at `POST /grpc`. Engine 29.1 is the last that needs it.
    Upgrade,
}

/// Dials one engine's BuildKit.
#[derive(Debug)]
pub struct Dialler {
    socket: PathBuf,
    dialling: Dialling,
    turns: Semaphore,
}

impl Dialler {
    /// Makes a dialler for the engine at `socket`.
    pub fn new(socket: PathBuf, dialling: Dialling) -> Self {
        Self { socket, dialling, turns: Semaphore::new(AT_ONCE) }
    }

    /// Dials a connection on which BuildKit answers; `tasks` owns the connection's tasks.
    pub async fn connect(&self, tasks: &Group) -> Result<Connection, Fault> {
        let connecting = async {
            let _turn = self.turns.acquire().await.map_err(Fault::internal)?;
            let mut attempt = 1;
            loop {
                let connection = Connection::dial(&self.socket, self.dialling, tasks).await?;
                match connection.answers().await {
                    Ok(()) => return Ok(connection),
                    // Nothing has been sent on it yet, so it is safe to dial again.
                    Err(status) if attempt < ATTEMPTS => {
                        tracing::debug!(%status, "dialling BuildKit again");
                        attempt += 1;
                    }
                    Err(status) => return Err(unreachable(&self.socket, &status)),
                }
            }
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        connected.unwrap_or_else(|elapsed| Err(unreachable(&self.socket, &elapsed)))
    }
}

fn unreachable(socket: &Path, cause: &(dyn Error + 'static)) -> Fault {
    Fault::new(Reason::EngineUnavailable, "the engine's builder cannot be reached")
        .hint("try again; if it persists, the node's operator finds the cause in wharfd's log")
        .caused_by(format!("BuildKit at {}: {}", socket.display(), causes(cause)))
}

/// A connection to BuildKit. Dropping it cuts the socket, which ends every call on it and so cancels the
/// work of those calls.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    _cut: DropGuard,
}

/// The channel that gRPC clients use.
#[derive(Clone, Debug)]
pub struct Channel(http2::SendRequest<Body>);

impl Connection {
    /// Connects to BuildKit at the engine's `socket`; `tasks` owns the connection's own task.
    pub async fn dial(socket: &Path, dialling: Dialling, tasks: &Group) -> Result<Self, Fault> {
        let connecting = async {
            let stream = UnixStream::connect(socket).await?;
            let (io, cut) = Severable::new(stream);
            let cut = cut.drop_guard();
            let sender = match dialling {
                Dialling::PriorKnowledge => http2(io, tasks).await?,
                Dialling::Upgrade => http2(upgrade(io, tasks).await?, tasks).await?,
            };
            Ok::<_, Box<dyn Error + Send + Sync>>(Self { channel: Channel(sender), _cut: cut })
        };
        match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| unreachable(socket, error.as_ref())),
            Err(elapsed) => Err(unreachable(socket, &elapsed)),
        }
    }

    /// Waits for BuildKit's answer to a cheap call. A handshake alone proves nothing, since older engines
    /// accept the connection and then fail the first call in various ways.
    pub async fn answers(&self) -> Result<(), Status> {
        let mut control = self.control();
        match tokio::time::timeout(DIAL_TIMEOUT, control.info(InfoRequest {})).await {
            // Builds by Linux distributions omit `Info`, but this refusal is also an answer of BuildKit.
            Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(()),
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// BuildKit's Control API.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Makes a call whose messages stay bytes, so that the answer can be checked as it was sent.
    pub(super) async fn raw(
        &self,
        path: &'static str,
        request: tonic::Request<Bytes>,
    ) -> Result<Bytes, Status> {
        let mut client =
            Grpc::with_origin(self.channel.clone(), origin()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let path = PathAndQuery::from_static(path);
        client.unary(request, path, RawCodec).await.map(tonic::Response::into_inner)
    }

    /// BuildKit's gateway API.
    pub fn gateway(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

async fn http2<I>(io: I, tasks: &Group) -> Result<http2::SendRequest<Body>, hyper::Error>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(tasks.clone())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .handshake(io)
        .await?;
    tasks.spawn("engine connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = causes(&error), "connection to BuildKit ended");
        }
    });
    Ok(sender)
}

async fn upgrade(
    io: Severable,
    tasks: &Group,
) -> Result<hyper::upgrade::Upgraded, Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(io).await?;
    tasks.spawn("engine upgrade", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = causes(&error), "connection to the engine ended");
        }
    });
    let request = Request::post("/grpc")
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c")
        .body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("POST /grpc answered {} instead of an upgrade", response.status()).into());
    }
    Ok(hyper::upgrade::on(response).await?)
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read as _},
        os::unix::net::{UnixListener, UnixStream as Stream},
        sync::Arc,
    };

    use hyper_util::{rt::TokioIo, service::TowerToHyperService};
    use tonic::service::Routes;

    use super::*;
    use crate::tasks::Task;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// RFC 9113, 4.1: a frame's type is its head's fourth byte, 4 for SETTINGS.
    const FRAME_HEAD: usize = 9;

    /// A socket in place of an engine's. Everything runs on the test's own thread, so that only awaited
    /// futures make progress.
    struct Place {
        directory: PathBuf,
        listener: UnixListener,
        tasks: Group,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("wharf-connection-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let listener = UnixListener::bind(directory.join("engine.sock")).unwrap();
            listener.set_nonblocking(true).unwrap();
            Self { directory, listener, tasks: Group::root() }
        }

        fn socket(&self) -> PathBuf {
            self.directory.join("engine.sock")
        }

        /// A pending connection, if there is one.
        fn accept(&self) -> Option<Stream> {
            let (stream, _) = self.listener.accept().ok()?;
            stream.set_nonblocking(true).unwrap();
            Some(stream)
        }

        /// Waits for the next connection.
        async fn accepted(&self) -> Stream {
            loop {
                match self.accept() {
                    Some(stream) => return stream,
                    None => tokio::task::yield_now().await,
                }
            }
        }

        /// Answers all calls on a connection like an engine without that call.
        fn answer(&self, stream: Stream) {
            let io = TokioIo::new(UnixStream::from_std(stream).unwrap());
            let serving = hyper::server::conn::http2::Builder::new(self.tasks.clone())
                .serve_connection(io, TowerToHyperService::new(Routes::default().prepare()));
            drop(self.tasks.spawn("engine", serving));
        }

        fn connect(&self, dialler: &Arc<Dialler>) -> Task<Result<Connection, Fault>> {
            let (dialler, tasks) = (Arc::clone(dialler), self.tasks.clone());
            self.tasks.spawn("connect", async move { dialler.connect(&tasks).await })
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    /// Go's server waits two seconds for the settings after the preface.
    #[tokio::test]
    async fn the_preface_and_the_settings_go_out_together() {
        let place = Place::new("preface");
        // The connection's own task has not run yet when this returns.
        let connection =
            Connection::dial(&place.socket(), Dialling::PriorKnowledge, &place.tasks).await.unwrap();
        let mut engine = place.accept().unwrap();
        let mut first = [0; 1024];
        let read = loop {
            match engine.read(&mut first) {
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let settings = first[..read].strip_prefix(PREFACE).expect("HTTP/2's preface");
        assert!(settings.len() >= FRAME_HEAD, "the preface came alone");
        assert_eq!(settings[3], 4, "{settings:?}");
        drop(connection);
        place.tasks.close_and_wait().await;
    }

    #[tokio::test]
    async fn a_connection_that_breaks_before_an_answer_is_made_again() {
        let place = Place::new("again");
        let dialler = Arc::new(Dialler::new(place.socket(), Dialling::PriorKnowledge));
        let connecting = place.connect(&dialler);
        drop(place.accepted().await);
        let engine = place.accepted().await;
        place.answer(engine);
        drop(connecting.await.unwrap().unwrap());

        // But it does not try for ever.
        let connecting = place.connect(&dialler);
        for _ in 0..ATTEMPTS {
            drop(place.accepted().await);
        }
        assert_eq!(connecting.await.unwrap().unwrap_err().reason(), Reason::EngineUnavailable);
        place.tasks.close_and_wait().await;
    }

    #[tokio::test]
    async fn few_connections_are_made_at_once() {
        let place = Place::new("few");
        let dialler = Arc::new(Dialler::new(place.socket(), Dialling::PriorKnowledge));
        let connecting: Vec<_> = (0..=AT_ONCE).map(|_| place.connect(&dialler)).collect();
        let mut engines = Vec::new();
        for _ in 0..AT_ONCE {
            engines.push(place.accepted().await);
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(place.accept().is_none(), "one more is being made");
        place.answer(engines.remove(0));
        let last = place.accepted().await;
        engines.push(last);
        for engine in engines {
            place.answer(engine);
        }
        for connection in connecting {
            drop(connection.await.unwrap().unwrap());
        }
        place.tasks.close_and_wait().await;
    }
}

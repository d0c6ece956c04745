//! A raw connection to the engine's BuildKit, one for each build.
//!
//! One for each: BuildKit's HTTP/2 server admits 250 streams on a connection, and a build holds
//! several for its whole length, so builds that shared one would wait for each other for ever.

use std::{
    error::Error,
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bollard_buildkit_proto::moby::buildkit::v1::{
    control_client::ControlClient, frontend::llb_bridge_client::LlbBridgeClient,
};
use http::{Request, Response, Uri, header};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{io::BufWriter, net::UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tower::Service;

use crate::{
    fault::{Fault, Reason, causes},
    tasks::Group,
};

/// Graphs of large Dockerfiles come in one message; BuildKit's own clients allow 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The details of a failed step come as a trailer, with the whole Dockerfile in them; this is what
/// BuildKit's own clients take.
const HEADERS_BYTES_MAX: u32 = 16 << 20;
/// 64 KiB, HTTP/2's default, halves the speed of what an exporter sends down (measured).
const STREAM_WINDOW: u32 = 1 << 20;
/// Far more than the streams of a build together: h2 ends a connection whose unread frames, each
/// counted for 256 bytes, cost more than half its window, and a session's frames are small.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// An engine that lives upgrades a connection in milliseconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How BuildKit's gRPC is reached on an engine's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialling {
    /// Plain HTTP/2 on the socket: Engine 29.2 and newer.
    PriorKnowledge,
    /// An upgrade at `POST /grpc`. Goes with Engine 29.1, the last that needs it.
    Upgrade,
}

/// A connection to BuildKit. Dropping it cuts the socket, which ends every call on it and so
/// cancels what they run.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    _cut: DropGuard,
}

/// What gRPC clients are made over.
#[derive(Clone, Debug)]
pub struct Channel(http2::SendRequest<Body>);

impl Connection {
    /// Connects to BuildKit at the engine's `socket`; `tasks` owns the connection's own task.
    pub async fn dial(socket: &Path, dialling: Dialling, tasks: &Group) -> Result<Self, Fault> {
        let unavailable = |error: &dyn std::fmt::Display| {
            Fault::new(Reason::EngineUnavailable, "the engine's builder cannot be reached")
                .hint("try again; if it stays so, the node's operator finds why in wharfd's log")
                .caused_by(format!("BuildKit at {}: {error}", socket.display()))
        };
        let connecting = async {
            let stream = UnixStream::connect(socket).await?;
            let token = CancellationToken::new();
            let io = Severable {
                io: TokioIo::new(BufWriter::new(stream)),
                cut: Box::pin(token.clone().cancelled_owned()),
            };
            let cut = token.drop_guard();
            let sender = match dialling {
                Dialling::PriorKnowledge => http2(io, tasks).await?,
                Dialling::Upgrade => http2(upgrade(io, tasks).await?, tasks).await?,
            };
            Ok::<_, Box<dyn Error + Send + Sync>>(Self { channel: Channel(sender), _cut: cut })
        };
        match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| unavailable(error.as_ref())),
            Err(elapsed) => Err(unavailable(&elapsed)),
        }
    }

    /// BuildKit's Control API.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::with_origin(self.channel.clone(), origin())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
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

/// A socket that can be cut from outside. Dropping or aborting hyper's task does not close it:
/// HTTP/2 runs in a task of its own, which would go on, and the build's steps with it.
///
/// What is written goes out when it is flushed: h2 writes the client's preface and the settings that
/// must follow it apart, in two tasks, and Go's server ends a connection on which the second comes
/// two seconds after the first. That is soon when many builds begin at once.
struct Severable {
    io: TokioIo<BufWriter<UnixStream>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Severable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Read for Severable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Severable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixListener};

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// RFC 9113, 4.1: a frame's type is its head's fourth byte, 4 for SETTINGS.
    const FRAME_HEAD: usize = 9;

    /// Go's server waits two seconds for the settings once it has the preface.
    #[tokio::test]
    async fn the_preface_and_the_settings_go_out_together() {
        let directory = std::env::temp_dir().join(format!("wharf-connection-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let tasks = Group::root();
        // This thread runs the connection's own task too, and has not come to it when `dial` returns.
        let connection = Connection::dial(&socket, Dialling::PriorKnowledge, &tasks).await.unwrap();
        let (mut engine, _) = listener.accept().unwrap();
        engine.set_nonblocking(true).unwrap();
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
        tasks.close_and_wait().await;
        std::fs::remove_dir_all(directory).unwrap();
    }
}

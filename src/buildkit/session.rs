//! BuildKit's session: an HTTP/2 connection inside `Control.Session`, on which BuildKit is the
//! client and calls us for directories, credentials, secrets and an uploaded context.
//!
//! A [`SessionClient`] answers these calls; this module knows only the protocol.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bollard_buildkit_proto::{
    health,
    moby::{
        buildkit::{secrets::v1 as secrets, v1::BytesMessage},
        filesync::v1 as filesync,
        upload::v1 as upload,
    },
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use hyper::server::conn::http2;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, service::Routes};

use super::{
    connection::Connection,
    filesync::{DirectoryRequest, FileSyncService},
};
use crate::{
    fault::{Fault, Reason},
    names::Secret,
    tasks::Group,
};

/// The methods that BuildKit may call, announced by `x-docker-expose-session-grpc-method`.
const METHODS: [&str; 5] = [
    "/grpc.health.v1.Health/Check",
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.upload.v1.Upload/Pull",
];

/// Bytes gathered into one message to BuildKit; larger messages are no faster (measured).
const MESSAGE_BYTES: usize = 64 << 10;

/// The bytes that BuildKit may send on one stream before they are read. It asks for each file of a context
/// in a frame of some ten bytes, and h2 ends a connection whose unread frames cost more than half its
/// window (a frame counts as 256 bytes): 64 KiB of such frames cost 1.6 MiB, for which the connection's
/// window has room several times over.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
const _: () = assert!(4 * (STREAM_WINDOW / 10) * 256 <= CONNECTION_WINDOW / 2);

/// BuildKit sends a directory's exclude patterns (the whole `.dockerignore`) and the paths that the
/// Dockerfile copies as headers. `docker buildx` has the same limit.
const HEADERS_BYTES_MAX: u32 = 1 << 20;

/// Calls from BuildKit that may run at once.
const STREAMS_MAX: u32 = 200;
/// Streams that BuildKit may reset before we have accepted them. By default h2 ends a connection beyond 20,
/// and after a failed step BuildKit resets the calls of all other steps.
const RESETS_MAX: usize = STREAMS_MAX as usize;

/// The messages of one side.
pub type Messages = BoxStream<'static, Result<Bytes, Status>>;

/// Answers BuildKit's calls. BuildKit trusts the answers, so an implementation must judge everything that
/// comes from a caller.
pub trait SessionClient: Send + Sync + 'static {
    /// Sends a directory: takes BuildKit's `fsutil.types.Packet`s and returns the client's.
    fn sync(&self, request: DirectoryRequest, packets: Messages) -> BoxFuture<'_, Result<Messages, Status>>;

    /// The credentials for a registry, by the host that BuildKit asks for.
    fn credentials<'a>(
        &'a self,
        host: &'a str,
    ) -> BoxFuture<'a, Result<filesync::CredentialsResponse, Status>>;

    /// A secret, by id.
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Secret<Vec<u8>>, Status>>;

    /// The uploaded context, by the path of its URL. It can be read once.
    fn upload(&self, path: &str) -> Result<Messages, Status>;
}

/// A session with BuildKit.
#[derive(Clone, Debug)]
pub struct Session {
    id: String,
}

impl Session {
    /// Makes a session with this name, which must be unguessable.
    pub fn new(id: String) -> Self {
        Self { id }
    }

    /// The name by which solves refer to the session.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Serves the session on `connection` until BuildKit or the connection ends it; `tasks` owns its
    /// streams. `shared_key` decides with which earlier syncs BuildKit compares the directories: a caller
    /// who could choose it could read the files of others.
    pub async fn serve(
        &self,
        connection: &Connection,
        shared_key: &str,
        client: Arc<dyn SessionClient>,
        tasks: &Group,
    ) -> Result<Infallible, Fault> {
        let unavailable =
            |text: &'static str| Fault::new(Reason::EngineUnavailable, text).hint("try the build again");
        let (sender, receiver) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(receiver));
        expose(request.metadata_mut(), &self.id, shared_key).map_err(Fault::internal)?;
        let mut control = connection.control();
        let call = Box::pin(async move { control.session(request).await.map(Response::into_inner) });
        let io = SessionIo {
            incoming: Incoming::Opening(call),
            read: Bytes::new(),
            outgoing: PollSender::new(sender),
            write: BytesMut::new(),
        };
        answer(io, client, tasks).await.map_err(|error| {
            unavailable("the session with the engine's builder broke off").caused_by(error)
        })?;
        Err(unavailable("the engine's builder ended the session"))
    }
}

/// Answers the calls that come on `io` until it ends.
async fn answer<I>(io: I, client: Arc<dyn SessionClient>, tasks: &Group) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = Routes::new(FileSyncService::new(Arc::clone(&client)))
        .add_service(filesync::auth_server::AuthServer::new(Answers(Arc::clone(&client))))
        .add_service(secrets::secrets_server::SecretsServer::new(Answers(Arc::clone(&client))))
        .add_service(upload::upload_server::UploadServer::new(Answers(client)))
        .add_service(health::health_server::HealthServer::new(Healthy))
        .prepare();
    http2::Builder::new(tasks.clone())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes))
        .await
}

fn expose(
    metadata: &mut MetadataMap,
    id: &str,
    shared_key: &str,
) -> Result<(), tonic::metadata::errors::InvalidMetadataValue> {
    metadata.insert("x-docker-expose-session-uuid", id.parse()?);
    metadata.insert("x-docker-expose-session-name", "wharf".parse()?);
    metadata.insert("x-docker-expose-session-sharedkey", shared_key.parse()?);
    for method in METHODS {
        metadata.append("x-docker-expose-session-grpc-method", method.parse()?);
    }
    Ok(())
}

/// The unary calls and the upload, answered by the client.
struct Answers(Arc<dyn SessionClient>);

#[tonic::async_trait]
impl filesync::auth_server::Auth for Answers {
    async fn credentials(
        &self,
        request: Request<filesync::CredentialsRequest>,
    ) -> Result<Response<filesync::CredentialsResponse>, Status> {
        self.0.credentials(&request.get_ref().host).await.map(Response::new)
    }

    // Without the three methods below, BuildKit asks for the credentials and fetches tokens itself.
    async fn fetch_token(
        &self,
        _: Request<filesync::FetchTokenRequest>,
    ) -> Result<Response<filesync::FetchTokenResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the builder"))
    }

    async fn get_token_authority(
        &self,
        _: Request<filesync::GetTokenAuthorityRequest>,
    ) -> Result<Response<filesync::GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the builder"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<filesync::VerifyTokenAuthorityRequest>,
    ) -> Result<Response<filesync::VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the builder"))
    }
}

#[tonic::async_trait]
impl secrets::secrets_server::Secrets for Answers {
    async fn get_secret(
        &self,
        request: Request<secrets::GetSecretRequest>,
    ) -> Result<Response<secrets::GetSecretResponse>, Status> {
        let secret = self.0.secret(&request.get_ref().id).await?;
        Ok(Response::new(secrets::GetSecretResponse { data: secret.expose().clone() }))
    }
}

#[tonic::async_trait]
impl upload::upload_server::Upload for Answers {
    type PullStream = BoxStream<'static, Result<upload::BytesMessage, Status>>;

    async fn pull(
        &self,
        request: Request<Streaming<upload::BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        // BuildKit's upload client sends the path of `http://buildkit-session/…` as metadata.
        let path = request.metadata().get("urlpath").and_then(|path| path.to_str().ok()).unwrap_or_default();
        let stream = self.0.upload(path)?;
        let stream = stream.map(|piece| piece.map(|bytes| upload::BytesMessage { data: bytes.into() }));
        Ok(Response::new(stream.boxed()))
    }
}

/// The health check: BuildKit asks every five seconds and drops a session that does not answer.
struct Healthy;

#[tonic::async_trait]
impl health::health_server::Health for Healthy {
    type WatchStream = BoxStream<'static, Result<health::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<health::HealthCheckResponse>, Status> {
        let serving = health::health_check_response::ServingStatus::Serving;
        Ok(Response::new(health::HealthCheckResponse { status: serving.into() }))
    }

    async fn list(
        &self,
        _: Request<health::HealthListRequest>,
    ) -> Result<Response<health::HealthListResponse>, Status> {
        Err(Status::unimplemented("ask with Check"))
    }

    async fn watch(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with Check"))
    }
}

/// The session's byte stream over the messages of `Control.Session`.
struct SessionIo {
    incoming: Incoming,
    read: Bytes,
    outgoing: PollSender<BytesMessage>,
    write: BytesMut,
}

/// BuildKit's side of the call. Its response arrives only after we have begun to serve.
enum Incoming {
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<BytesMessage>, Status>> + Send>>),
    Open(Box<Streaming<BytesMessage>>),
}

impl Incoming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BytesMessage, Status>>> {
        loop {
            match self {
                Self::Opening(call) => match ready!(call.as_mut().poll(cx)) {
                    Ok(stream) => *self = Self::Open(Box::new(stream)),
                    Err(status) => return Poll::Ready(Some(Err(status))),
                },
                Self::Open(stream) => return Pin::new(stream.as_mut()).poll_next(cx),
            }
        }
    }
}

impl AsyncRead for SessionIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.incoming.poll_next(cx)) {
                Some(Ok(message)) => self.read = message.data.into(),
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl SessionIo {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(gone)?;
        let data = self.write.chunk().to_vec();
        self.write.clear();
        Poll::Ready(self.outgoing.send_item(BytesMessage { data }).map_err(gone))
    }
}

impl AsyncWrite for SessionIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.write.len() >= MESSAGE_BYTES {
            ready!(self.poll_send(cx))?;
        }
        self.write.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A client without files, secrets or credentials.
    struct Nothing;

    impl SessionClient for Nothing {
        fn sync(&self, _: DirectoryRequest, _: Messages) -> BoxFuture<'_, Result<Messages, Status>> {
            Box::pin(async { Err(Status::not_found("nothing")) })
        }

        fn credentials<'a>(
            &'a self,
            _: &'a str,
        ) -> BoxFuture<'a, Result<filesync::CredentialsResponse, Status>> {
            Box::pin(async { Err(Status::not_found("nothing")) })
        }

        fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret<Vec<u8>>, Status>> {
            Box::pin(async { Err(Status::not_found("nothing")) })
        }

        fn upload(&self, _: &str) -> Result<Messages, Status> {
            Err(Status::not_found("nothing"))
        }
    }

    // RFC 9113, 6: types of frames.
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// This happens when a step fails while others wait for their secrets and wharfd reads late.
    #[tokio::test]
    async fn calls_that_are_taken_back_unseen_end_nothing() {
        const CALLS: u32 = 100;
        let path = b"/moby.buildkit.secrets.v1.Secrets/GetSecret";
        // RFC 7541: POST and http of the static table, then a literal path.
        let mut headers = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        headers.extend(path);
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        said.extend(frame(SETTINGS, 0, 0, &[]));
        let streams = || (0..CALLS).map(|call| 2 * call + 1);
        said.extend(streams().flat_map(|stream| frame(HEADERS, 0x4, stream, &headers)));
        said.extend(streams().flat_map(|stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())));
        said.extend(frame(PING, 0, 0, b"all read"));

        let (mut buildkit, io) = tokio::io::duplex(64 << 10);
        buildkit.write_all(&said).await.unwrap();
        let tasks = Group::root();
        let answering = tasks.clone();
        let served = tasks.spawn("answer", async move { answer(io, Arc::new(Nothing), &answering).await });
        loop {
            let mut head = [0; 9];
            buildkit.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            buildkit.read_exact(&mut payload).await.unwrap();
            assert_ne!(head[3], GOAWAY, "{}", String::from_utf8_lossy(&payload));
            if (head[3], &*payload) == (PING, b"all read") {
                break;
            }
        }
        drop(buildkit);
        let _ = served.await;
        tasks.close_and_wait().await;
    }
}

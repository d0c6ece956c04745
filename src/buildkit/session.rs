//! BuildKit's session: an HTTP/2 connection inside `Control.Session`, on which BuildKit is the
//! client and calls us for directories, credentials, secrets and an uploaded context, and to take its outputs.
//!
//! A [`SessionClient`] answers these calls; this module knows only the protocol.

mod io;

use std::{convert::Infallible, sync::Arc};

use bollard_buildkit_proto::{
    health,
    moby::{buildkit::secrets::v1 as secrets, filesync::v1 as filesync, upload::v1 as upload},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use hyper::server::conn::http2;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, service::Routes};

use io::SessionIo;

use super::{
    connection::Connection,
    diff_copy::{DiffCopy as _, DiffCopyService},
    filesend::FileSend,
    filesync::{DirectoryRequest, FileSync},
};
use crate::{
    fault::{Fault, Reason},
    names::Secret,
    tasks::Group,
};

/// The methods that BuildKit may call in each build, announced by `x-docker-expose-session-grpc-method`.
const METHODS: [&str; 5] = [
    "/grpc.health.v1.Health/Check",
    FileSync::METHOD,
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.upload.v1.Upload/Pull",
];

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

    /// Whether the build has outputs for [`export`](Self::export). Without them BuildKit may not offer any.
    fn takes_exports(&self) -> bool {
        false
    }

    /// Takes the messages of the exporter at this position in the solve's list, and returns the receiver's.
    fn export(&self, exporter: usize, messages: Messages) -> BoxFuture<'_, Result<Messages, Status>> {
        let _ = (exporter, messages);
        Box::pin(async { Err(Status::not_found("the build has no such output")) })
    }
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
        expose(request.metadata_mut(), &self.id, shared_key, client.takes_exports())
            .map_err(Fault::internal)?;
        let mut control = connection.control();
        let call = async move { control.session(request).await.map(Response::into_inner) };
        let io = SessionIo::new(call, sender);
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
    let routes = Routes::new(DiffCopyService::<FileSync>::new(Arc::clone(&client)))
        .add_service(DiffCopyService::<FileSend>::new(Arc::clone(&client)))
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
    takes_exports: bool,
) -> Result<(), tonic::metadata::errors::InvalidMetadataValue> {
    metadata.insert("x-docker-expose-session-uuid", id.parse()?);
    metadata.insert("x-docker-expose-session-name", "wharf".parse()?);
    metadata.insert("x-docker-expose-session-sharedkey", shared_key.parse()?);
    for method in METHODS.into_iter().chain(takes_exports.then_some(FileSend::METHOD)) {
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

#[cfg(test)]
mod tests;

//! `moby.filesync.v1.FileSend`: BuildKit sends what an exporter has made, and the messages are passed on one by one.
//!
//! The exporters `local` and `tar` open one such call each (`session/filesync` in BuildKit).

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture};
use http::Request as HttpRequest;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    metadata::MetadataMap,
    server::{Grpc, NamedService, StreamingService},
};
use tower::Service;

use super::{
    raw::RawCodec,
    session::{Messages, SessionClient},
};

/// The only method.
pub(super) const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// BuildKit splits a file into messages of at most 3 MiB (`streamWriterCloser`), and a tree's packets are smaller.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The service that BuildKit calls.
#[derive(Clone)]
pub(super) struct FileSendService {
    client: Arc<dyn SessionClient>,
}

impl FileSendService {
    pub(super) fn new(client: Arc<dyn SessionClient>) -> Self {
        Self { client }
    }
}

impl NamedService for FileSendService {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl Service<HttpRequest<Body>> for FileSendService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let client = Arc::clone(&self.client);
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("only DiffCopy is supported").into_http());
            }
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.streaming(DiffCopy(client), request).await)
        })
    }
}

struct DiffCopy(Arc<dyn SessionClient>);

impl StreamingService<Bytes> for DiffCopy {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = BoxFuture<'static, Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let client = Arc::clone(&self.0);
        Box::pin(async move {
            let exporter = exporter(request.metadata())?;
            let messages = request.into_inner().boxed();
            client.export(exporter, messages).await.map(Response::new)
        })
    }
}

/// The position of the exporter in the solve's list. Like BuildKit's own client, the first if it is not named.
fn exporter(metadata: &MetadataMap) -> Result<usize, Status> {
    let Some(id) = metadata.get("buildkit-attachable-exporter-id") else { return Ok(0) };
    let id = id.to_str().ok().and_then(|id| id.parse().ok());
    id.ok_or_else(|| Status::invalid_argument("the exporter's id cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exporter_is_named_by_its_position() {
        let mut metadata = MetadataMap::new();
        assert_eq!(exporter(&metadata).unwrap(), 0);
        metadata.insert("buildkit-attachable-exporter-id", "12".parse().unwrap());
        assert_eq!(exporter(&metadata).unwrap(), 12);
        for wrong in ["", "-1", "x"] {
            metadata.insert("buildkit-attachable-exporter-id", wrong.parse().unwrap());
            assert!(exporter(&metadata).is_err(), "{wrong}");
        }
    }
}

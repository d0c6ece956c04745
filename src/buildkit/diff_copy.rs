//! The session's services with one method, `DiffCopy`, which passes messages on one by one. They stay bytes
//! here: the [`SessionClient`] that answers also judges them.

use std::{
    convert::Infallible,
    marker::PhantomData,
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

/// One of the services.
pub(super) trait DiffCopy: 'static {
    /// Its name.
    const NAME: &'static str;
    /// The path of its method.
    const METHOD: &'static str;
    /// The limit on a message of BuildKit's.
    const MESSAGE_BYTES_MAX: usize;

    /// Has the client answer a call.
    fn answer(
        client: &dyn SessionClient,
        metadata: MetadataMap,
        messages: Messages,
    ) -> BoxFuture<'_, Result<Messages, Status>>;
}

/// The service `D`, which BuildKit calls.
pub(super) struct DiffCopyService<D> {
    client: Arc<dyn SessionClient>,
    service: PhantomData<fn() -> D>,
}

impl<D> DiffCopyService<D> {
    pub(super) fn new(client: Arc<dyn SessionClient>) -> Self {
        Self { client, service: PhantomData }
    }
}

impl<D> Clone for DiffCopyService<D> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.client))
    }
}

impl<D: DiffCopy> NamedService for DiffCopyService<D> {
    const NAME: &'static str = D::NAME;
}

impl<D: DiffCopy> Service<HttpRequest<Body>> for DiffCopyService<D> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            if request.uri().path() != D::METHOD {
                return Ok(Status::unimplemented("only DiffCopy is supported").into_http());
            }
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(D::MESSAGE_BYTES_MAX);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

impl<D: DiffCopy> StreamingService<Bytes> for DiffCopyService<D> {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = BoxFuture<'static, Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let client = Arc::clone(&self.client);
        Box::pin(async move {
            let (metadata, _, messages) = request.into_parts();
            D::answer(&*client, metadata, messages.boxed()).await.map(Response::new)
        })
    }
}

//! `moby.filesync.v1.FileSync`: BuildKit asks for directories, and the messages are passed on one by one.
//!
//! The packets stay bytes here: the [`SessionClient`] that answers also judges them.

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
use crate::names::percent_decoded;

/// BuildKit sends 32 KiB of a file in a packet; a STAT can be larger because of its extended attributes.
const PACKET_BYTES_MAX: usize = 4 << 20;

/// BuildKit's request for a directory, from the call's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryRequest {
    /// The directory's name: `context`, `dockerfile`.
    pub name: String,
    /// Patterns of the entries to send; empty means all.
    pub include_patterns: Vec<String>,
    /// Patterns of the entries to leave out.
    pub exclude_patterns: Vec<String>,
    /// Paths to follow through symlinks.
    pub follow_paths: Vec<String>,
}

impl DirectoryRequest {
    fn from_metadata(metadata: &MetadataMap) -> Result<Self, Status> {
        let name = values(metadata, "dir-name")?.into_iter().next();
        Ok(Self {
            name: name.ok_or_else(|| Status::invalid_argument("no dir-name"))?,
            include_patterns: values(metadata, "include-patterns")?,
            exclude_patterns: values(metadata, "exclude-patterns")?,
            follow_paths: values(metadata, "followpaths")?,
        })
    }
}

/// The values of a key, decoded if `<key>-encoded: 1` is set.
fn values(metadata: &MetadataMap, key: &str) -> Result<Vec<String>, Status> {
    let encoded = metadata.get(format!("{key}-encoded")).is_some_and(|value| value == "1");
    let invalid = || Status::invalid_argument(format!("metadata {key} cannot be read"));
    let mut texts = Vec::new();
    for value in metadata.get_all(key) {
        let text = value.to_str().map_err(|_| invalid())?;
        texts.push(if encoded { query_unescape(text).ok_or_else(invalid)? } else { text.to_owned() });
    }
    Ok(texts)
}

/// Go's `url.QueryUnescape`: `%XX`, and `+` for a space.
fn query_unescape(text: &str) -> Option<String> {
    percent_decoded(&text.replace('+', " "))
}

/// The service that BuildKit calls.
#[derive(Clone)]
pub(super) struct FileSyncService {
    client: Arc<dyn SessionClient>,
}

impl FileSyncService {
    pub(super) fn new(client: Arc<dyn SessionClient>) -> Self {
        Self { client }
    }
}

impl NamedService for FileSyncService {
    const NAME: &'static str = "moby.filesync.v1.FileSync";
}

impl Service<HttpRequest<Body>> for FileSyncService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let client = Arc::clone(&self.client);
        Box::pin(async move {
            if request.uri().path() != "/moby.filesync.v1.FileSync/DiffCopy" {
                return Ok(Status::unimplemented("only DiffCopy is supported").into_http());
            }
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(PACKET_BYTES_MAX);
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
            let directory = DirectoryRequest::from_metadata(request.metadata())?;
            let packets = request.into_inner().boxed();
            client.sync(directory, packets).await.map(Response::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_become_a_request() {
        let mut metadata = MetadataMap::new();
        metadata.insert("dir-name", "context".parse().unwrap());
        metadata.append("followpaths", "a+b%2F%c3%a4".parse().unwrap());
        metadata.append("followpaths", "c".parse().unwrap());
        metadata.insert("followpaths-encoded", "1".parse().unwrap());
        metadata.append("exclude-patterns", "a+b".parse().unwrap());
        let request = DirectoryRequest::from_metadata(&metadata).unwrap();
        assert_eq!(request.name, "context");
        assert_eq!(request.follow_paths, ["a b/ä", "c"]);
        assert_eq!(request.exclude_patterns, ["a+b"]);
        assert!(request.include_patterns.is_empty());
        assert!(DirectoryRequest::from_metadata(&MetadataMap::new()).is_err());
        metadata.append("followpaths", "%zz".parse().unwrap());
        assert!(DirectoryRequest::from_metadata(&metadata).is_err());
    }
}

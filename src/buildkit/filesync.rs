//! `moby.filesync.v1.FileSync`: BuildKit asks for directories.

use futures_util::future::BoxFuture;
use tonic::{Status, metadata::MetadataMap};

use super::{
    diff_copy::DiffCopy,
    session::{Messages, SessionClient},
};
use crate::names::percent_decoded;

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

/// The service.
pub(super) struct FileSync;

impl DiffCopy for FileSync {
    const NAME: &'static str = "moby.filesync.v1.FileSync";
    const METHOD: &'static str = "/moby.filesync.v1.FileSync/DiffCopy";
    /// BuildKit sends 32 KiB of a file in a packet; a STAT can be larger because of its extended attributes.
    const MESSAGE_BYTES_MAX: usize = 4 << 20;

    fn answer(
        client: &dyn SessionClient,
        metadata: MetadataMap,
        messages: Messages,
    ) -> BoxFuture<'_, Result<Messages, Status>> {
        Box::pin(async move { client.sync(DirectoryRequest::from_metadata(&metadata)?, messages).await })
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

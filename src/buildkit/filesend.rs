//! `moby.filesync.v1.FileSend`: BuildKit sends the result of an exporter.
//!
//! The exporters `local` and `tar` open one such call each (`session/filesync` in BuildKit).

use futures_util::future::BoxFuture;
use tonic::{Status, metadata::MetadataMap};

use super::{
    diff_copy::DiffCopy,
    session::{Messages, SessionClient},
};

/// The service.
pub(super) struct FileSend;

impl DiffCopy for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
    const METHOD: &'static str = "/moby.filesync.v1.FileSend/DiffCopy";
    /// BuildKit splits a file into messages of at most 3 MiB (`streamWriterCloser`), and a tree's packets are smaller.
    const MESSAGE_BYTES_MAX: usize = 4 << 20;

    fn answer(
        client: &dyn SessionClient,
        metadata: MetadataMap,
        messages: Messages,
    ) -> BoxFuture<'_, Result<Messages, Status>> {
        Box::pin(async move { client.export(exporter(&metadata)?, messages).await })
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

//! The archive: an OCI image layout (OCI Image Format Specification, `image-layout.md`) with a `manifest.json`, which
//! `docker load` reads (moby's `image/tarexport`).
//!
//! wharfd requests each image from the engine by its id, so that the answer has no names. Its blobs pass
//! through; the documents that list images are written here, from the parts that are known, with the
//! namespace's own names: an engine may say more in them, such as its private names or an image's parent.

use std::{collections::HashSet, io};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
};

use crate::{
    buildkit::solve::Layout,
    names::{Reference, reference::Digest},
    progress::Step,
};

/// The size of a piece.
const PIECE_BYTES: usize = 256 << 10;
/// The largest document that lists images: for one image some hundred bytes, and a few hundred for each layer.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
/// After how many bytes progress is reported.
const STEP_BYTES: u64 = 1 << 20;
/// A tar's unit.
const BLOCK_BYTES: usize = 512;

/// The reason why an image is not saved.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// Nobody takes the pieces any more.
    #[error("nobody reads the archive")]
    NobodyReads,
    /// The image no longer exists.
    #[error("the image was removed")]
    Removed,
    /// The engine's answer broke off, or is not a tar.
    #[error("the engine's archive cannot be read")]
    Unreadable(#[from] io::Error),
    /// The engine's answer does not have the expected parts.
    #[error("the engine's archive is not understood: {0}")]
    Unknown(String),
}

/// An entry of an index. Its annotations are left out: they are the engine's own.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Value>,
    #[serde(default, skip_deserializing, skip_serializing_if = "Map::is_empty")]
    annotations: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(skip_deserializing)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer_sources: Option<Value>,
}

/// An archive that is being written.
pub(super) struct Archive {
    layout: Layout,
    pieces: mpsc::Sender<Bytes>,
    piece: BytesMut,
    /// The blobs that it has: images share layers.
    blobs: HashSet<String>,
    index: Vec<Descriptor>,
    listed: Vec<Listed>,
}

impl Archive {
    pub(super) fn new(pieces: mpsc::Sender<Bytes>, layout: Layout) -> Self {
        Self {
            layout,
            pieces,
            piece: BytesMut::with_capacity(PIECE_BYTES),
            blobs: HashSet::new(),
            index: Vec::new(),
            listed: Vec::new(),
        }
    }

    /// Adds the image that an engine has exported by its id.
    pub(super) async fn add(
        &mut self,
        export: impl AsyncRead + Unpin,
        references: &[Reference],
        step: &Step,
    ) -> Result<(), Problem> {
        let (mut index, mut listed) = (None, None);
        let mut moved = 0;
        let mut exported = tokio_tar::Archive::new(export);
        let mut entries = exported.entries()?;
        while let Some(entry) = entries.next().await {
            let mut entry = entry?;
            let (kind, size) = (entry.header().entry_type(), entry.effective_size());
            let path = String::from_utf8_lossy(&entry.path_bytes()?).into_owned();
            match path.as_str() {
                "index.json" => index = Some(document::<Index>(&path, &mut entry, size).await?),
                "manifest.json" => listed = Some(document::<Vec<Listed>>(&path, &mut entry, size).await?),
                _ if kind.is_file() && is_blob(&path) && self.blobs.insert(path.clone()) => {
                    let moves = |now| {
                        if (moved + now) / STEP_BYTES > moved / STEP_BYTES {
                            step.moves("saving", moved + now, 0, false);
                        }
                        moved += now;
                    };
                    self.file(&path, &mut entry, size, moves).await?;
                }
                // Directories, blobs that an earlier image has brought, the layout's version, and names.
                _ => {}
            }
        }
        step.moves("saving", moved, 0, true);
        let missing = |what: &str| Problem::Unknown(format!("it has no {what}"));
        let index = index.ok_or_else(|| missing("index.json"))?.manifests;
        let listed = listed.ok_or_else(|| missing("manifest.json"))?;
        if index.is_empty() || listed.is_empty() {
            return Err(missing("image"));
        }
        self.list(&index, listed, references);
        Ok(())
    }

    /// Lists an image under each of its references, or once without a name.
    fn list(&mut self, index: &[Descriptor], listed: Vec<Listed>, references: &[Reference]) {
        if references.is_empty() {
            self.index.extend_from_slice(index);
        }
        for reference in references {
            // The names that Docker and containerd give an image in an archive.
            let name = ("io.containerd.image.name".to_owned(), Value::from(reference.to_string()));
            let tag = reference.tag().unwrap_or_default();
            let tag = ("org.opencontainers.image.ref.name".to_owned(), Value::from(tag));
            for descriptor in index {
                let annotations = Map::from_iter([name.clone(), tag.clone()]);
                self.index.push(Descriptor { annotations, ..descriptor.clone() });
            }
        }
        let names: Vec<_> = references.iter().map(Reference::familiar).collect();
        let names = Some(names).filter(|names| !names.is_empty());
        self.listed.extend(listed.into_iter().map(|one| Listed { repo_tags: names.clone(), ..one }));
    }

    /// Ends the archive.
    pub(super) async fn end(mut self) -> Result<(), Problem> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.index,
        });
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        let listed = serde_json::to_vec(&self.listed).map_err(io::Error::other)?;
        let listed = match self.layout {
            Layout::Oci => None,
            Layout::Docker => Some(("manifest.json", listed)),
        };
        let index = ("index.json", index.to_string().into_bytes());
        let layout = ("oci-layout", layout.to_string().into_bytes());
        for (path, text) in [Some(index), listed, Some(layout)].into_iter().flatten() {
            self.file(path, &mut text.as_slice(), text.len() as u64, |_| ()).await?;
        }
        self.piece.resize(self.piece.len() + 2 * BLOCK_BYTES, 0);
        self.send().await
    }

    /// Adds a file of `size` bytes.
    async fn file(
        &mut self,
        path: &str,
        content: &mut (impl AsyncRead + Unpin),
        size: u64,
        mut moved: impl FnMut(u64),
    ) -> Result<(), Problem> {
        let mut header = tokio_tar::Header::new_gnu();
        header.set_path(path)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        // The same images make the same archive.
        header.set_mtime(0);
        header.set_cksum();
        self.piece.extend_from_slice(header.as_bytes());
        let mut content = content.take(size);
        loop {
            let read = content.read_buf(&mut self.piece).await?;
            if read == 0 {
                break;
            }
            moved(read as u64);
            if self.piece.len() >= PIECE_BYTES {
                self.send().await?;
            }
        }
        if content.limit() > 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let past = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or(0);
        self.piece.resize(self.piece.len() + (BLOCK_BYTES - past) % BLOCK_BYTES, 0);
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Problem> {
        let piece = self.piece.split().freeze();
        self.piece.reserve(PIECE_BYTES);
        self.pieces.send(piece).await.map_err(|_| Problem::NobodyReads)
    }
}

/// Whether a path is that of a blob: `blobs/sha256/`, and 64 hexadecimal digits.
fn is_blob(path: &str) -> bool {
    let digits = path.strip_prefix("blobs/sha256/");
    digits.is_some_and(|digits| Digest::parse(&format!("sha256:{digits}")).is_some())
}

/// Reads a document of the engine's.
async fn document<T: for<'de> Deserialize<'de>>(
    path: &str,
    entry: &mut (impl AsyncRead + Unpin),
    size: u64,
) -> Result<T, Problem> {
    if size > DOCUMENT_BYTES_MAX {
        return Err(Problem::Unknown(format!("its {path} has {size} bytes")));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).await?;
    serde_json::from_slice(&text).map_err(|error| Problem::Unknown(format!("its {path}: {error}")))
}

#[cfg(test)]
mod tests;

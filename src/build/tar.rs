//! A context that comes as a tar: read once, hashed as it passes, held nowhere.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    buildkit::session::Messages,
    fault::Fault,
    names::{random_id, reference::Digest},
};

/// Pieces on their way to BuildKit. Each is at most 1 MiB, and usually far less.
const PIECES: usize = 2;

/// A tar's unit (POSIX, "ustar Interchange Format"): each header is one.
const BLOCK_BYTES: usize = 512;

/// The beginning of a tar, gathered until it tells what it is.
///
/// BuildKit takes what it fetches for a tar, and not for a Dockerfile, if the first 1024 bytes hold
/// an entry (`frontend/dockerui`, `isArchive`). Where the first entry has an extended header, as
/// Python's `tarfile` writes for each, its own comes later. An entry for the root goes before it: one
/// that the tar has itself counts in its place.
#[derive(Debug)]
pub struct Beginning(Option<BytesMut>);

impl Default for Beginning {
    fn default() -> Self {
        Self(Some(BytesMut::new()))
    }
}

impl Beginning {
    /// What is to be sent, in this order, when `piece` has come.
    pub fn pass(&mut self, piece: Bytes) -> impl Iterator<Item = Bytes> + use<> {
        let mut root = None;
        let piece = match self.0.take() {
            None => Some(piece),
            Some(mut gathered) => {
                gathered.extend_from_slice(&piece);
                if gathered.len() < BLOCK_BYTES {
                    self.0 = Some(gathered);
                    None
                } else {
                    root = has_extended_header(&gathered).then(root_entry);
                    Some(gathered.freeze())
                }
            }
        };
        root.into_iter().chain(piece)
    }

    /// What is left to be sent when no piece comes any more.
    pub fn end(self) -> Option<Bytes> {
        self.0.filter(|gathered| !gathered.is_empty()).map(BytesMut::freeze)
    }
}

/// Whether a tar begins with PAX's or GNU's extension of its first entry's header.
fn has_extended_header(begin: &[u8]) -> bool {
    begin.get(257..262) == Some(b"ustar") && matches!(begin.get(156), Some(b'x' | b'g' | b'L' | b'K'))
}

fn root_entry() -> Bytes {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    // "./" fits any header.
    let _ = header.set_path("./");
    header.set_cksum();
    Bytes::copy_from_slice(header.as_bytes())
}

/// A tar that BuildKit fetches under a URL of its own.
#[derive(Debug)]
pub struct Tar {
    path: String,
    pieces: Mutex<Option<mpsc::Receiver<Result<Bytes, Status>>>>,
    digest: Arc<OnceLock<Digest>>,
}

impl Tar {
    /// A tar, and the end that its pieces are put into. The tar ends when that end is dropped, so
    /// whoever breaks off must put an error in first.
    pub fn new() -> Result<(Self, mpsc::Sender<Result<Bytes, Status>>), Fault> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let path = format!("/{}", random_id()?);
        Ok((Self { path, pieces: Mutex::new(Some(receiver)), digest: Arc::default() }, sender))
    }

    /// The URL that BuildKit asks the session for (`session/upload` in BuildKit).
    pub fn url(&self) -> String {
        format!("http://buildkit-session{}", self.path)
    }

    /// The digest, once the tar has been read: `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.get().map(Digest::as_str)
    }

    /// The tar's pieces, by the URL's path. It can be read once.
    pub fn read(&self, path: &str) -> Result<Messages, Status> {
        let pieces = (path == self.path)
            .then(|| self.pieces.lock().unwrap_or_else(PoisonError::into_inner).take())
            .flatten()
            .ok_or_else(|| Status::not_found("there is no such upload, or it was read already"))?;
        let digest = Arc::clone(&self.digest);
        let stream = stream::unfold((pieces, Some(Sha256::new())), move |(mut pieces, hash)| {
            let digest = Arc::clone(&digest);
            async move {
                let mut hash = hash?;
                match pieces.recv().await {
                    Some(Ok(piece)) => {
                        hash.update(&piece);
                        Some((Ok(piece), (pieces, Some(hash))))
                    }
                    Some(Err(status)) => Some((Err(status), (pieces, None))),
                    None => {
                        // Set once: the pieces can be taken once.
                        let _ = digest.set(Digest::from_sha256(hash.finalize().into()));
                        None
                    }
                }
            }
        });
        Ok(stream.boxed())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    fn block(kind: u8) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        block[156] = kind;
        block[257..262].copy_from_slice(b"ustar");
        block
    }

    /// What comes of `begin` in pieces of `size`.
    fn passed(begin: &[u8], size: usize) -> Vec<u8> {
        let mut beginning = Beginning::default();
        let mut passed: Vec<Bytes> =
            begin.chunks(size).flat_map(|piece| beginning.pass(Bytes::copy_from_slice(piece))).collect();
        passed.extend(beginning.end());
        passed.concat()
    }

    #[test]
    fn a_tar_that_begins_with_an_extended_header_gets_an_entry_before_it() {
        let begin = [block(b'x'), vec![7; 900]].concat();
        for size in [1, 500, 512, 4096] {
            let passed = passed(&begin, size);
            let (root, rest) = passed.split_at(BLOCK_BYTES);
            assert_eq!(rest, begin);
            let mut archive = tar::Archive::new(root);
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str(), Some("./"));
            assert!(entry.header().entry_type().is_dir());
        }
    }

    #[test]
    fn every_other_beginning_is_passed_on_as_it_is() {
        for begin in [block(b'0'), block(b'5'), b"FROM scratch\n".to_vec(), vec![0x1f, 0x8b], Vec::new()] {
            for size in [1, 512, 4096] {
                assert_eq!(passed(&begin, size), begin);
            }
        }
    }

    #[tokio::test]
    async fn a_tar_is_hashed_as_it_passes_and_read_once() {
        let (tar, pieces) = Tar::new().unwrap();
        let path = tar.path.clone();
        assert!(tar.read("/other").is_err());
        let stream = tar.read(&path).unwrap();
        assert!(tar.read(&path).is_err());
        pieces.send(Ok(Bytes::from_static(b"ab"))).await.unwrap();
        pieces.send(Ok(Bytes::from_static(b"c"))).await.unwrap();
        drop(pieces);
        assert_eq!(tar.digest(), None);
        let read: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(read.concat(), b"abc");
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(tar.digest(), Some(abc));
    }

    #[tokio::test]
    async fn a_tar_that_breaks_off_has_no_digest() {
        let (tar, pieces) = Tar::new().unwrap();
        let stream = tar.read(&tar.path).unwrap();
        pieces.send(Err(Status::cancelled("gone"))).await.unwrap();
        drop(pieces);
        assert!(stream.try_collect::<Vec<_>>().await.is_err());
        assert_eq!(tar.digest(), None);
    }
}

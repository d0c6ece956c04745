//! A context that comes as a tar: read once, hashed as it passes, held nowhere.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

use super::session::random_id;
use crate::{engine::session::Messages, fault::Fault};

/// Pieces on their way to BuildKit. Each is at most 1 MiB, and usually far less.
const PIECES: usize = 2;

/// A tar that BuildKit fetches under a URL of its own.
#[derive(Debug)]
pub struct Tar {
    path: String,
    pieces: Mutex<Option<mpsc::Receiver<Result<Bytes, Status>>>>,
    digest: Arc<OnceLock<String>>,
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
        self.digest.get().map(String::as_str)
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
                        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                        // Set once: the pieces can be taken once.
                        let _ = digest.set(format!("sha256:{hex}"));
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

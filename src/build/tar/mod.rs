//! A context that comes as a tar: read once, judged and hashed as it passes, stored nowhere.

pub(super) mod entry;
mod found;
mod judge;
pub(super) mod unpack;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

pub use found::Findings;
use judge::Judge;
use unpack::Unpack;

use super::{add::SESSION_HOST, dockerfile, packets::READ_BYTES_MAX};
use crate::{
    buildkit::session::Messages,
    fault::Fault,
    names::{random_id, reference::Digest},
};

/// How many pieces may wait for BuildKit. Each has a few MiB at most, and usually far less.
const PIECES: usize = 2;

/// After this number of bytes that are not passed on, others get their turn.
const PASSED_BYTES: usize = 1 << 20;

/// The number of bytes that distinguish a tar from a Dockerfile: its first header.
const BEGIN_BYTES: usize = entry::BLOCK_BYTES;

/// A client's upload of a context, judged and written again as it passes.
///
/// The upload is a tar, possibly compressed, or a lone Dockerfile. BuildKit would unpack a tar that contains
/// the node's own devices, and read them.
pub struct Passage {
    dockerfile: String,
    texts: Arc<dockerfile::Judge>,
    found: Arc<Findings>,
    /// Received bytes that have not been judged yet.
    input: Bytes,
    state: State,
}

enum State {
    /// Collects the beginning until its type is known.
    Begin(BytesMut),
    /// A lone Dockerfile, as far as it has come.
    Text(BytesMut),
    Tar(Box<(Unpack, Judge)>),
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passage")
    }
}

impl Passage {
    /// For a context with this path of its Dockerfile, which `texts` takes, to judge it before the bytes that have
    /// passed go on. The archives in it that cannot be unpacked go into `found`.
    pub fn new(dockerfile: &str, texts: Arc<dockerfile::Judge>, found: Arc<Findings>) -> Self {
        let dockerfile = dockerfile.to_owned();
        Self { dockerfile, texts, found, input: Bytes::new(), state: State::Begin(BytesMut::new()) }
    }

    /// Adds the next piece, once [`Self::passed`] has returned everything of the last one.
    pub fn take(&mut self, piece: Bytes) {
        self.found.sent(piece.len());
        self.input = piece;
    }

    /// The next bytes for the builder, at most a few MiB, or none yet after a MiB of a tar that has nothing for it, so
    /// that the caller can let others work; `None` if more input is needed first.
    ///
    /// # Errors
    /// When the builder may not have the bytes.
    pub fn passed(&mut self) -> Result<Option<Bytes>, Status> {
        let (mut out, mut judged) = (BytesMut::new(), 0);
        while out.is_empty() && !self.input.is_empty() {
            if judged > PASSED_BYTES {
                return Ok(Some(Bytes::new()));
            }
            match &mut self.state {
                State::Begin(gathered) => {
                    let missing = BEGIN_BYTES.saturating_sub(gathered.len());
                    gathered.extend_from_slice(&self.input.split_to(missing.min(self.input.len())));
                    if gathered.len() == BEGIN_BYTES {
                        let begin = gathered.split().freeze();
                        self.begin(&begin, &mut out)?;
                        self.input = [begin, std::mem::take(&mut self.input)].concat().into();
                    }
                }
                State::Text(text) => {
                    text.extend_from_slice(&std::mem::take(&mut self.input));
                    if text.len() as u64 > READ_BYTES_MAX {
                        let text = "the context is not a tar archive, and too large for a Dockerfile";
                        return Err(refused(format!("{text} of at most {} MiB", READ_BYTES_MAX >> 20)));
                    }
                }
                State::Tar(tar) => {
                    let (unpack, judge) = tar.as_mut();
                    let bytes = self.input.split_to(unpack.takes().min(self.input.len()));
                    let bytes = unpack.pass(&bytes)?.map_or(bytes, Bytes::from);
                    judged += bytes.len();
                    judge.pass(bytes, &mut out)?;
                }
            }
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    /// The last bytes for the builder, after the last piece.
    ///
    /// # Errors
    /// When the upload ends too early, or the builder may not have the bytes.
    pub fn end(mut self) -> Result<Bytes, Status> {
        let mut out = BytesMut::new();
        if let State::Begin(gathered) = &mut self.state {
            let begin = gathered.split().freeze();
            self.begin(&begin, &mut out)?;
            self.input = begin;
            while let Some(more) = self.passed()? {
                out.extend_from_slice(&more);
            }
        }
        match self.state {
            State::Begin(_) => {}
            State::Text(text) => {
                if text.contains(&0) {
                    return Err(refused("the context is neither a tar archive nor a Dockerfile"));
                }
                self.texts.take(&self.dockerfile, text.to_vec());
                out.extend_from_slice(&text);
            }
            State::Tar(mut tar) => {
                let (unpack, judge) = tar.as_mut();
                judge.pass(unpack.end()?.into(), &mut out)?;
                judge.end(&mut out)?;
            }
        }
        Ok(out.freeze())
    }

    /// Recognises the upload's type by its beginning.
    fn begin(&mut self, begin: &[u8], out: &mut BytesMut) -> Result<(), Status> {
        let unpack = match Unpack::of(begin)? {
            Some(unpack) => Some(unpack),
            // An empty tar is also a tar.
            None if entry::is_header(begin) || is_empty_tar(begin) => Some(Unpack::plain()),
            None => None,
        };
        self.state = match unpack {
            Some(unpack) => State::Tar(Box::new((
                unpack,
                Judge::new(&self.dockerfile, Arc::clone(&self.texts), Arc::clone(&self.found), out),
            ))),
            None => State::Text(BytesMut::new()),
        };
        Ok(())
    }
}

fn is_empty_tar(begin: &[u8]) -> bool {
    begin.len() == BEGIN_BYTES && begin.iter().all(|byte| *byte == 0)
}

fn refused(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

/// A tar that BuildKit fetches from a URL.
#[derive(Debug)]
pub struct Tar {
    path: String,
    pieces: Mutex<Option<mpsc::Receiver<Result<Bytes, Status>>>>,
    digest: Arc<OnceLock<Digest>>,
    found: Arc<Findings>,
}

impl Tar {
    /// A tar with what is found in it, and the sender for its pieces. Dropping the sender ends the tar, so send an error first to
    /// break it off.
    pub fn new(found: Arc<Findings>) -> Result<(Self, mpsc::Sender<Result<Bytes, Status>>), Fault> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let path = format!("/{}", random_id()?);
        let (pieces, digest) = (Mutex::new(Some(receiver)), Arc::default());
        Ok((Self { path, pieces, digest, found }, sender))
    }

    /// A tar at this path, which has no pieces.
    #[cfg(test)]
    pub(super) fn at(path: &str) -> Self {
        let found = Arc::new(Findings::new(true));
        found.refuse("bad.tar", "is bad".to_owned());
        Self { path: path.to_owned(), pieces: Mutex::default(), digest: Arc::default(), found }
    }

    /// The URL that BuildKit requests from the session (`session/upload` in BuildKit).
    pub fn url(&self) -> String {
        format!("http://{SESSION_HOST}{}", self.path)
    }

    /// Whether this is the path of its URL.
    pub(super) fn is_at(&self, path: &str) -> bool {
        self.path == path
    }

    /// The findings in it, once it has been read.
    pub fn found(&self) -> &Findings {
        &self.found
    }

    /// The tar's digest, once the tar has been read: `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.get().map(Digest::as_str)
    }

    /// The tar's pieces, for the path of its URL. They can be read once.
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
                        // Set only once, since the pieces can be read only once.
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
mod tests;

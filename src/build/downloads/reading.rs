//! The content of a file, as BuildKit reads it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::SetOnce;
use tonic::Status;

use super::{Download, KnownFile, NotFetched, Shared, lock};
use crate::{
    build::limits::Used,
    names::reference::Digest,
    registry::{File, Got},
    shares::Place,
};

/// A content that BuildKit reads. It may read it again, and the server is asked again.
pub(super) struct Reading {
    download: Arc<Download>,
    shared: Arc<Shared>,
    used: Arc<Used>,
    open: Option<(Box<File>, Place)>,
    hasher: Sha256,
}

impl Reading {
    pub(super) fn new(download: Arc<Download>, shared: Arc<Shared>, used: Arc<Used>) -> Self {
        Self { download, shared, used, open: None, hasher: Sha256::new() }
    }

    /// The pieces, until all are there, one of them is not, or everything is over.
    pub(super) fn messages(
        self,
        failed: Arc<SetOnce<NotFetched>>,
        over: Arc<SetOnce<()>>,
    ) -> impl Stream<Item = Result<Bytes, Status>> {
        stream::unfold(Some(self), move |reading| {
            let (failed, over) = (Arc::clone(&failed), Arc::clone(&over));
            async move {
                let mut reading = reading?;
                let piece = tokio::select! {
                    piece = reading.next() => piece,
                    _ = over.wait() => return Some((Err(Status::aborted("the build is over")), None)),
                };
                match piece {
                    Ok(piece) => piece.map(|piece| (Ok(piece), Some(reading))),
                    Err(not) => {
                        // The first reason counts.
                        let _ = failed.set(not);
                        Some((Err(Status::aborted("the file of a URL was not fetched")), None))
                    }
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, NotFetched> {
        let piece = match &mut self.open {
            None => self.begin().await?,
            Some((file, _)) => file.next().await.map_err(|error| self.download.not_got(error))?,
        };
        match piece {
            Some(piece) => {
                // The limit itself ends the build.
                if !self.used.fetched(piece.len()) {
                    return Err(NotFetched::Failed(self.download.told("it is too large")));
                }
                self.hasher.update(&piece);
                Ok(Some(piece))
            }
            None => self.end().map(|()| None),
        }
    }

    /// Opens it, and returns its first piece.
    async fn begin(&mut self) -> Result<Option<Bytes>, NotFetched> {
        let download = &self.download;
        let place = self.shared.running.take(&download.caller).await;
        let held = lock(&download.held).take();
        if let Some((mut file, _held)) = held {
            match file.next().await {
                Ok(piece) => {
                    self.open = Some((file, place));
                    return Ok(piece);
                }
                // A server does not wait for ever.
                Err(error) => {
                    tracing::debug!(error = error.to_string(), "a server has not waited: it is asked again");
                }
            }
        }
        let Got::File(mut file) = download.get(None).await? else {
            return Err(download.error("its server does not send it", None));
        };
        let piece = file.next().await.map_err(|error| download.not_got(error))?;
        self.open = Some((file, place));
        Ok(piece)
    }

    /// Checks and remembers it, once all of it has come.
    fn end(&mut self) -> Result<(), NotFetched> {
        let digest = Digest::from_sha256(std::mem::take(&mut self.hasher).finalize().into());
        let Some((file, _)) = self.open.take() else { return Ok(()) };
        let Download { caller, name, needed, .. } = &*self.download;
        if self.download.digest().is_some_and(|expected| expected != digest.as_str()) {
            self.shared.known.forget(name);
            return Err(self.download.error("it has changed meanwhile", None));
        }
        let validators = file.validators().clone();
        self.shared.known.remember(caller, name, KnownFile { validators, digest: digest.clone() });
        if needed.is_none_of(digest.as_str()) {
            let expected: Vec<&str> = needed.checksums.iter().map(String::as_str).collect();
            let why = format!("its checksum is {digest}, and not {}", expected.join(" or "));
            return Err(NotFetched::Failed(self.download.told(&why)));
        }
        Ok(())
    }
}

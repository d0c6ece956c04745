//! A blob that is being fetched. If its connection breaks, as behind a proxy that ends long answers, the rest is asked
//! for (RFC 9110, 14.2), like the engine's own pulls do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::{answer::Answer, error::Error, meter::Meter, server::Server};
use crate::names::reference::Digest;

/// A connection that broke must have brought so much for another to follow: a registry does not keep wharfd connecting.
const PROGRESS_MIN: u64 = 1 << 20;
/// The time before the next connection.
const CONNECT_AFTER: Duration = Duration::from_millis(200);

/// A blob that is being fetched.
pub struct Blob {
    server: Server,
    /// Its path in the repository.
    path: String,
    answer: Answer,
    length: Option<u64>,
    /// How many bytes have come, and how many when the current connection began.
    received: u64,
    before: u64,
    expected: Digest,
    hasher: Sha256,
    meter: Arc<Meter>,
}

impl Blob {
    pub(super) fn new(
        server: Server,
        path: String,
        answer: Answer,
        expected: Digest,
        meter: Arc<Meter>,
    ) -> Self {
        let length =
            answer.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let hasher = Sha256::new();
        Self { server, path, answer, length, received: 0, before: 0, expected, hasher, meter }
    }

    /// The requested digest.
    pub(super) fn digest(&self) -> &Digest {
        &self.expected
    }

    /// The blob's length, if the registry states it.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; `None` at the end, once the bytes have matched the digest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let meter = Arc::clone(&self.meter);
        let wait = meter.wait();
        let piece = loop {
            match self.answer.next().await {
                Ok(piece) => break piece,
                Err(broken) => self.resume(broken).await?,
            }
        };
        drop(wait);
        if let Some(piece) = piece {
            self.received += piece.len() as u64;
            meter.moved(piece.len());
            self.hasher.update(&piece);
            return Ok(Some(piece));
        }
        let digest = Digest::from_sha256(std::mem::take(&mut self.hasher).finalize().into());
        if digest == self.expected { Ok(None) } else { Err(Error::wrong_digest("blob")) }
    }

    /// Asks for the rest after a connection that broke, or returns that error.
    async fn resume(&mut self, broken: Error) -> Result<(), Error> {
        if !self.answer.is_broken() || self.received - self.before < PROGRESS_MIN {
            return Err(broken);
        }
        tokio::time::sleep(CONNECT_AFTER).await;
        let Ok(answer) = self.server.get_from(&self.path, self.received).await else { return Err(broken) };
        let range = answer.headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let is_rest = range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.received)));
        if answer.status != StatusCode::PARTIAL_CONTENT || !is_rest {
            return Err(broken);
        }
        tracing::debug!(received = self.received, cause = broken.to_string(), "a blob is resumed");
        self.answer = answer;
        self.before = self.received;
        Ok(())
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("digest", &self.expected).finish_non_exhaustive()
    }
}

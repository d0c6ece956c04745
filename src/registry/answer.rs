//! One request and its answer on a connection of their own, read at the consumer's pace.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::{
    auth,
    connect::Io,
    error::{Error, Kind},
};
use crate::names::{Login, Secret};

/// How long a server may take to begin its answer.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may accept nothing of a blob's upload, or process a complete blob without an answer: it
/// may have to hash and move the blob.
const SENDING_TIMEOUT: Duration = Duration::from_secs(180);
/// A server that sends less than this in `PACE_TIME` is too slow.
const PACE_BYTES: u64 = 64 << 10;
const PACE_TIME: Duration = Duration::from_secs(30);
/// The largest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How much of an error's body is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(Into::into).boxed_unsync()
}

/// A body in memory.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(Into::into).boxed_unsync()
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An answer whose body has not been read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// The secrets in the request. A server, or a proxy before it, may repeat them when it refuses the request.
    secrets: Vec<Secret<String>>,
    /// The connection; `None` once it has ended.
    driver: Option<Driver>,
    pace: Pace,
    /// Whether the connection broke before the body's end.
    is_broken: bool,
}

/// Sends `request`, and waits for the head of the answer until the time limit, or while `moving` says that
/// the request is still being sent.
pub(super) async fn exchange(
    link: Box<dyn Io>,
    request: Request<Body>,
    moving: Option<&Moving>,
    login: Option<&Login>,
) -> Result<Answer, Error> {
    let secrets = auth::secrets(login, request.headers());
    let exchanging = async {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(link))
            .await?;
        let mut driver: Driver = Box::pin(connection);
        let mut asking = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            biased;
            answer = &mut asking => return Ok((answer?, Some(driver))),
            ended = driver.as_mut() => {
                // The connection has already passed on everything that it read.
                let answer = asking.await;
                ended?;
                answer?
            }
        };
        hyper::Result::Ok((answer, None))
    };
    let exchanged = match moving {
        None => timeout(FIRST_BYTE_TIMEOUT, exchanging).await.map_err(|_| Error::stalled())?,
        Some(moving) => tokio::select! {
            biased;
            exchanged = exchanging => exchanged,
            () = moving.stopped() => return Err(Error::stalled()),
        },
    };
    let (answer, driver) = exchanged.map_err(unread)?;
    let (head, body) = answer.into_parts();
    let (status, headers, pace) = (head.status, head.headers, Pace::default());
    Ok(Answer { status, headers, body, secrets, driver, pace, is_broken: false })
}

/// The error of an answer without a head that can be read.
fn unread(cause: hyper::Error) -> Error {
    if cause.is_parse_too_large() {
        let text = format!("the head of its answer is larger than {} KiB", HEAD_BYTES_MAX >> 10);
        return Error::new(Kind::Unsupported, text).caused_by(cause);
    }
    Error::broken(cause)
}

/// The time at which the body of a request last moved.
#[derive(Clone, Debug)]
pub(super) struct Moving(Arc<Mutex<Instant>>);

impl Moving {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns once the body has not moved for too long.
    async fn stopped(&self) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let end = last + SENDING_TIMEOUT;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            // Measure the time spent waiting for the server, not the time that the consumer takes.
            let begun = Instant::now();
            let frame = timeout(self.pace.left(), self.frame());
            let Some(frame) = frame.await.map_err(|_| Error::stalled())? else { return Ok(None) };
            let frame = frame.inspect_err(|_| self.is_broken = true).map_err(Error::broken)?;
            let Ok(data) = frame.into_data() else { continue };
            if !self.pace.passed(data.len(), begun.elapsed()) {
                return Err(Error::stalled());
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// Whether the connection broke before the body's end.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    async fn frame(&mut self) -> Option<hyper::Result<hyper::body::Frame<Bytes>>> {
        let Some(driver) = &mut self.driver else { return self.body.frame().await };
        tokio::select! {
            biased;
            frame = self.body.frame() => return frame,
            _ = driver.as_mut() => {}
        }
        self.driver = None;
        // The body reports whether the connection broke.
        self.body.frame().await
    }

    /// The whole body, at most `max` bytes; errors call it `what`.
    pub(super) async fn read(mut self, what: &str, max: usize) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if bytes.len() + piece.len() > max {
                return Err(Error::too_large(what, max));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The answer if its status is 200, or 203 from a proxy that has changed its headers, else an error.
    pub(super) async fn ok(self) -> Result<Self, Error> {
        let is_ok = matches!(self.status, StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION);
        if is_ok { Ok(self) } else { Err(self.refusal().await) }
    }

    /// The error for an answer that is not a success.
    pub(super) async fn refusal(mut self) -> Error {
        let mut said = Vec::new();
        let reading = async {
            while let Ok(Some(piece)) = self.next().await {
                if said.len() + piece.len() > REFUSAL_BYTES_MAX {
                    break;
                }
                said.extend_from_slice(&piece);
            }
        };
        // If the body does not come in time, the status is enough.
        let _ = timeout(REFUSAL_TIMEOUT, reading).await;
        Error::of_status(self.status, &said, &self.secrets)
    }
}

/// Bytes received during the time spent waiting for a server, in windows.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// How much longer to wait for the server if nothing comes.
    fn left(&self) -> Duration {
        PACE_TIME.saturating_sub(self.waited)
    }

    /// Whether the server is fast enough, given the bytes that it has now sent and the time that it took.
    fn passed(&mut self, bytes: usize, waited: Duration) -> bool {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.bytes >= PACE_BYTES {
            *self = Self::default();
            return true;
        }
        self.waited < PACE_TIME
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_drip_is_no_stream() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        for _ in 1..30 {
            assert!(pace.passed(1, second));
        }
        assert!(!pace.passed(1, second));
        let mut pace = Pace::default();
        for _ in 1..30 {
            assert!(pace.passed(100 << 10, 25 * second));
        }
        // A slow consumer does not make the server slow.
        for _ in 1..1000 {
            assert!(pace.passed(1 << 10, Duration::ZERO));
        }
    }
}

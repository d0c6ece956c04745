//! Calls whose answers are lines of JSON; bollard's types drop too much of them.

use std::{fmt, path::PathBuf, time::Duration};

use bollard::{auth::DockerCredentials, errors::Error};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{self, AsyncBufReadExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};
use tokio_util::io::StreamReader;

use crate::{go_json::zero, tasks::Group};

/// The longest error text that is read; the engine's have some hundred bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A line of a push's progress.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Line {
    /// The layer that the line is about.
    pub(crate) id: Option<String>,
    /// The current step, in words.
    pub(crate) status: Option<String>,
    /// How far the step is.
    #[serde(rename = "progressDetail", default, deserialize_with = "zero")]
    pub(crate) progress: Progress,
    error: Option<String>,
}

/// The progress of a step.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Progress {
    /// Bytes so far; may exceed the total, which can be an estimate.
    #[serde(default, deserialize_with = "zero")]
    pub(crate) current: u64,
    /// Bytes in all; 0 if unknown.
    #[serde(default, deserialize_with = "zero")]
    pub(crate) total: u64,
}

/// The body of an answer. Dropping it ends the call.
pub(crate) type Body =
    StreamReader<std::pin::Pin<Box<dyn futures_util::Stream<Item = std::io::Result<Bytes>> + Send>>, Bytes>;

fn body(response: Response<Incoming>) -> Body {
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    StreamReader::new(Box::pin(body))
}

/// A body that fails if a piece does not come for `silence_max`. The time in which nobody reads does not count.
pub(crate) fn never_silent(
    pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    silence_max: Duration,
) -> Body {
    let pieces = stream::unfold(Box::pin(pieces), move |mut pieces| async move {
        let piece = timeout(silence_max, pieces.next()).await;
        let silent = |_| Some(Err(std::io::Error::other("the engine stopped in the middle of its answer")));
        Some((piece.unwrap_or_else(silent)?, pieces))
    });
    StreamReader::new(Box::pin(pieces))
}

/// The lines of an answer. Dropping it ends the call.
pub(crate) struct Answer {
    lines: io::Lines<BufReader<Body>>,
}

impl Answer {
    /// The next line. A line that reports an error is returned as an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            let Some(line) = self.lines.next_line().await? else { return Ok(None) };
            if line.trim().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_str(&line)?;
            return match line.error {
                Some(error) => Err(Error::DockerStreamError { error }),
                None => Ok(Some(line)),
            };
        }
    }
}

/// Makes calls to an engine, each on a connection of its own.
pub(crate) struct Lines {
    socket: PathBuf,
    tasks: Group,
}

impl Lines {
    /// For the engine at `socket`; `tasks` owns the connections.
    pub(crate) fn new(socket: PathBuf, tasks: Group) -> Self {
        Self { socket, tasks }
    }

    /// The group that owns the connections.
    pub(crate) fn tasks(&self) -> &Group {
        &self.tasks
    }

    /// Posts to `path`, which includes the query, in this version of the API, and reads lines.
    pub(crate) async fn post(
        &self,
        version: impl fmt::Display,
        path: &str,
        login: &DockerCredentials,
    ) -> Result<Answer, Error> {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE};

        let mut login = http::HeaderValue::try_from(URL_SAFE.encode(serde_json::to_vec(login)?))
            .map_err(http::Error::from)?;
        login.set_sensitive(true);
        let request = Request::post(format!("/v{version}{path}"))
            .header("x-registry-auth", login)
            .body(Empty::<Bytes>::new())?;
        Ok(Answer { lines: BufReader::new(body(self.ask(request).await?)).lines() })
    }

    /// Gets the body at `path` in this version of the API. An engine that is silent for `silence_max` has failed: before
    /// the body, or in the middle of it.
    pub(crate) async fn get(
        &self,
        version: impl fmt::Display,
        path: &str,
        silence_max: Duration,
    ) -> Result<Body, Error> {
        let request = Request::get(format!("/v{version}{path}")).body(Empty::new())?;
        let response = timeout(silence_max, self.ask(request)).await;
        let response = response.map_err(|_| Error::RequestTimeoutError)??;
        let pieces = response.into_body().into_data_stream().map_err(std::io::Error::other);
        Ok(never_silent(pieces, silence_max))
    }

    /// Sends a request on a connection of its own, and waits for the head of a successful answer.
    pub(super) async fn ask(&self, mut request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Error> {
        request.headers_mut().insert(header::HOST, http::HeaderValue::from_static("docker"));
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection ends when its answer is dropped.
        drop(self.tasks.spawn("connection", connection));
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status != StatusCode::OK {
            #[derive(Default, Deserialize)]
            struct Refusal {
                #[serde(default, deserialize_with = "zero")]
                message: String,
            }
            let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let Refusal { message } = serde_json::from_slice(&body).unwrap_or_default();
            return Err(Error::DockerResponseServerError { status_code: status.as_u16(), message });
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process};

    use tokio::{
        io::AsyncReadExt as _,
        net::UnixListener,
        time::{Instant, sleep},
    };

    use super::*;

    const SILENCE_MAX: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn an_engine_that_never_answers_has_failed() {
        let socket = std::env::temp_dir().join(format!("wharf-lines-{}.sock", process::id()));
        let _ = fs::remove_file(&socket);
        let _listener = UnixListener::bind(&socket).unwrap();
        let begun = Instant::now();
        let lines = Lines::new(socket.clone(), Group::root());
        let got = lines.get("1.45", "/images/x/get", SILENCE_MAX).await;
        fs::remove_file(&socket).unwrap();
        assert!(matches!(got, Err(Error::RequestTimeoutError)));
        assert!(begun.elapsed() >= SILENCE_MAX);
    }

    #[tokio::test]
    async fn the_engines_silence_counts_and_not_the_readers() {
        let pieces = ["first", "last"].map(|text| Ok(Bytes::from_static(text.as_bytes())));
        let mut body = never_silent(stream::iter(pieces).chain(stream::pending()), SILENCE_MAX);
        let mut read = [0; 64];
        for expected in ["first", "last"] {
            sleep(SILENCE_MAX * 2).await;
            let bytes = body.read(&mut read).await.unwrap();
            assert_eq!(&read[..bytes], expected.as_bytes());
        }
        let begun = Instant::now();
        let error = body.read(&mut read).await.unwrap_err();
        assert_eq!(error.to_string(), "the engine stopped in the middle of its answer");
        assert!(begun.elapsed() >= SILENCE_MAX);
    }
}

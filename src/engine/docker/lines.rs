//! Calls whose answers are lines of JSON; bollard's types drop too much of them.

use std::{fmt, path::PathBuf};

use bollard::{auth::DockerCredentials, errors::Error};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{self, AsyncBufReadExt as _, BufReader},
    net::UnixStream,
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

    /// Gets the body at `path` in this version of the API.
    pub(crate) async fn get(&self, version: impl fmt::Display, path: &str) -> Result<Body, Error> {
        let request = Request::get(format!("/v{version}{path}")).body(Empty::new())?;
        Ok(body(self.ask(request).await?))
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

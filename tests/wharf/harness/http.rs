//! A plain HTTP/1.1 client, for registries on loopback and the engine's socket.

use std::{fmt, path::PathBuf};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// The target of requests.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    Tcp(String),
    Unix(PathBuf),
}

/// A request to send.
#[derive(Debug)]
pub(crate) struct Call {
    server: Server,
    what: String,
    request: http::request::Builder,
    body: Bytes,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    what: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Server {
    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let host = match self {
            Self::Tcp(host) => host,
            Self::Unix(_) => "localhost",
        };
        let what = format!("{method} {path}");
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        Call { server: self.clone(), what, request, body: Bytes::new() }
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }
}

impl Call {
    pub(crate) fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.request = self.request.header(name.as_ref(), value.as_ref());
        self
    }

    pub(crate) fn login(self, login: Option<&(String, String)>) -> Self {
        use base64::Engine as _;
        match login {
            None => self,
            Some((user, password)) => {
                let value = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                self.header("authorization", format!("Basic {value}"))
            }
        }
    }

    pub(crate) fn body(mut self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(crate) async fn send(self) -> Answer {
        match &self.server {
            Server::Tcp(host) => {
                let stream = TcpStream::connect(host).await;
                let stream = stream.unwrap_or_else(|error| panic!("{host}: {error}"));
                self.over(stream).await
            }
            Server::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                self.over(stream).await
            }
        }
    }

    async fn over(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Answer {
        let what = self.what;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = self.request.body(Full::new(self.body)).unwrap();
        let answer = sender.send_request(request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap_or_else(|error| panic!("{what}: {error}")).to_bytes();
        connection.abort();
        Answer { what, status: head.status, headers: head.headers, body }
    }
}

impl Answer {
    /// The answer, which must be a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.is_success(), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name)?.to_str().ok().map(str::to_owned)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, self.status, self.text())
    }
}

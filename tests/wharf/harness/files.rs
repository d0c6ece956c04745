//! A server of files, whose answers a test scripts.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{lock, script::head};

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A status, headers (each with its end) and a body.
    Whole(&'static str, String, Vec<u8>),
    /// The same, but of its body only this many bytes come, and the connection stays.
    Part(String, Vec<u8>, usize),
    /// The same, and then the connection ends.
    Cut(String, Vec<u8>, usize),
    /// Nothing, and the connection stays.
    Never,
}

impl Answer {
    pub(crate) fn file(headers: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Whole("200 OK", headers.to_owned(), body.into())
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::Whole("302 Found", format!("location: {to}\r\n"), Vec::new())
    }

    pub(crate) fn status(status: &'static str) -> Self {
        Self::Whole(status, String::new(), Vec::new())
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct FileServer {
    host: String,
    task: tokio::task::JoinHandle<()>,
    /// The heads of the requests, in lower case.
    heard: Arc<Mutex<Vec<String>>>,
    /// How many connections have ended that stayed.
    left: Arc<Mutex<usize>>,
}

impl FileServer {
    /// Answers each request by its path and its whole head, which is in lower case.
    pub(crate) async fn start(script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (heard, left) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<usize>>::default());
        let (script, heard_there, left_there) = (Arc::new(script), Arc::clone(&heard), Arc::clone(&left));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (script, heard, left) =
                    (Arc::clone(&script), Arc::clone(&heard_there), Arc::clone(&left_there));
                open.spawn(async move {
                    let Ok(Some(head)) = head(&mut stream).await else { return };
                    let head = head.to_ascii_lowercase();
                    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
                    lock(&heard).push(head.clone());
                    let (bytes, stays) = match script(&path, &head) {
                        Answer::Whole(status, headers, body) => {
                            (whole(status, &headers, body.len(), &body), false)
                        }
                        Answer::Part(headers, body, part) => {
                            (whole("200 OK", &headers, body.len(), &body[..part]), true)
                        }
                        Answer::Cut(headers, body, part) => {
                            (whole("200 OK", &headers, body.len(), &body[..part]), false)
                        }
                        Answer::Never => (Vec::new(), true),
                    };
                    let _ = stream.write_all(&bytes).await;
                    if stays {
                        let _ = stream.read_u8().await;
                        *lock(&left) += 1;
                    }
                });
            }
        });
        Self { host, task, heard, left }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// The heads of the requests so far.
    pub(crate) fn heard(&self) -> Vec<String> {
        lock(&self.heard).clone()
    }

    /// The requests since then.
    pub(crate) fn heard_since(&self, before: usize) -> Vec<String> {
        self.heard().split_off(before)
    }

    /// How many connections that stayed have been closed by the other side.
    pub(crate) fn left(&self) -> usize {
        *lock(&self.left)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn whole(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

//! A registry whose answers a test scripts; it counts the bytes that it sends.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Engine, image::digest, lock};

/// An answer of a [`ScriptedRegistry`].
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status and a reason, headers, and a body (which a HEAD does not get).
    Whole(&'static str, Vec<(&'static str, String)>, Vec<u8>),
    /// A body that comes in pieces of so many KiB, ten a second.
    Drip(usize, Vec<u8>),
    /// A manifest that does not end before this many bytes.
    Endless(usize),
    /// No answer, however long the client waits.
    Never,
    /// The sent blob was accepted; its digest.
    Taken,
    /// The first for requests with a login, the second for requests without.
    ByLogin(Box<Reply>, Box<Reply>),
}

/// The registry. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct ScriptedRegistry {
    host: String,
    task: tokio::task::JoinHandle<()>,
    requests: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicUsize>,
}

type Script = dyn Fn(&str, &str) -> Reply + Send + Sync;

impl ScriptedRegistry {
    /// Answers each request with the reply of `script` for its method and path.
    pub(crate) async fn start(script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    /// Like [`start`](Self::start), at the address of an earlier registry.
    pub(crate) async fn start_at(
        address: &str,
        script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind(address).await.unwrap(), script)
    }

    /// Like [`start`](Self::start), on the loopback of a throw-away engine.
    pub(crate) fn start_in(
        engine: &Engine,
        script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let network = std::fs::File::open(engine.network()).unwrap();
        // A thread of its own: a socket stays in the network namespace where it was made.
        let listening = std::thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(network.as_fd(), kind).unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").unwrap()
        });
        let listener = listening.join().unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::on(TcpListener::from_std(listener).unwrap(), script)
    }

    fn on(listener: TcpListener, script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let host = listener.local_addr().unwrap().to_string();
        let (requests, sent) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let script: Arc<Script> = Arc::new(script);
        let (requests_there, sent_there) = (Arc::clone(&requests), Arc::clone(&sent));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, requests, sent) =
                    (Arc::clone(&script), Arc::clone(&requests_there), Arc::clone(&sent_there));
                open.spawn(async move {
                    let _ = serve(stream, &*script, &requests, &sent).await;
                });
            }
        });
        Self { host, task, requests, sent }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The requests: `GET /v2/x/manifests/1`, followed by the login, ` Basic …`, if there was one.
    pub(crate) fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }

    /// How many bytes of bodies it has sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    script: &Script,
    requests: &Mutex<Vec<String>>,
    sent: &AtomicUsize,
) -> std::io::Result<()> {
    let Some(head) = head(&mut stream).await? else { return Ok(()) };
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let login = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| format!(" {value}"))
    });
    let reply = match (script(method, path), &login) {
        (Reply::ByLogin(reply, _), Some(_)) | (Reply::ByLogin(_, reply), None) => *reply,
        (reply, _) => reply,
    };
    lock(requests).push(format!("{method} {path}{}", login.unwrap_or_default()));
    let body = body(&mut stream, &head.to_ascii_lowercase()).await?;
    match reply {
        Reply::ByLogin(..) => panic!("one reply by login in another"),
        Reply::Never => {
            let _ = stream.read_u8().await;
        }
        Reply::Taken => {
            let headers = format!(
                "docker-content-digest: {}\r\nlocation: {path}\r\nrange: 0-{}",
                digest(&body),
                body.len().max(1) - 1
            );
            let answer = format!(
                "HTTP/1.1 201 Created\r\n{headers}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        Reply::Whole(status, headers, body) => {
            let headers: String =
                headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
            if method != "HEAD" {
                stream.write_all(&body).await?;
                sent.fetch_add(length, Ordering::Relaxed);
            }
        }
        Reply::Drip(kib, body) => {
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(answer.as_bytes()).await?;
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
            for piece in body.chunks(kib << 10) {
                ticks.tick().await;
                stream.write_all(piece).await?;
                sent.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
        Reply::Endless(max) => {
            let kind = "application/vnd.docker.distribution.manifest.v2+json";
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{{");
            stream.write_all(answer.as_bytes()).await?;
            let piece = vec![b' '; 64 << 10];
            let mut done = 0;
            while method != "HEAD" && done < max {
                stream.write_all(&piece).await?;
                done += piece.len();
                sent.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
    }
    stream.shutdown().await
}

/// Reads the head of a request. TLS, which no such server speaks, is refused.
pub(super) async fn head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await? {
            0x16 if head.is_empty() => {
                return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.map(|()| None);
            }
            byte => head.push(byte),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// Reads the body of a request, as it comes. A request that is answered earlier is never read to its end.
async fn body(stream: &mut TcpStream, head: &str) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(stream.read_u8().await?);
            }
            let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            stream.read_exact(&mut chunk).await?;
            body.extend_from_slice(&chunk[..length]);
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        body.resize(length.trim().parse().unwrap(), 0);
        stream.read_exact(&mut body).await?;
    }
    Ok(body)
}

//! HTTP/2 through a real socket.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt as _;
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Notify,
};

use super::*;
use crate::{
    names::{CallerId, ListenAddress, SocketPath},
    tasks::Cause,
    transport::{Listener, Peer, Server, Standing, StandingOf},
};

/// Serves the user with this uid, and nobody else.
fn serves(uid: u32) -> StandingOf {
    Arc::new(move |peer| {
        if matches!(*peer, Peer::User { uid: peer, .. } if peer == uid) {
            Standing::Served(CallerId::Uid(uid))
        } else {
            Standing::Stranger
        }
    })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A socket on which `answer` serves.
struct Served {
    socket: SocketPath,
    connections: Group,
}

impl Served {
    fn new<F>(
        name: &str,
        limits: ConnectionLimits,
        answer: impl Fn(Peer) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self::with(name, limits, move |request| answer(request.extensions().get::<Peer>().unwrap().clone()))
    }

    fn with<F>(
        name: &str,
        limits: ConnectionLimits,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self::of(name, limits, serves(own_uid()), answer)
    }

    fn of<F>(
        name: &str,
        limits: ConnectionLimits,
        who: StandingOf,
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        let directory = std::env::temp_dir().join(format!("wharf-http2-{}-{name}", std::process::id()));
        let socket: SocketPath = format!("unix://{}/w.sock", directory.display()).parse().unwrap();
        let listener = Listener::bind(&ListenAddress::Unix(socket.clone()), 0o600, None, None)
            .now_or_never()
            .unwrap()
            .unwrap();
        let connections = Group::root().child("connections");
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let answer = answer(request);
            async { Ok(Response::new(Body::new(answer.await))) }
        });
        let protocol = Http2::new(service, limits);
        let serving = Server::new(who, limits, protocol).serve(vec![listener], connections.clone());
        drop(connections.spawn("serve", serving));
        Self { socket, connections }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket.as_path()).await.unwrap()
    }

    async fn client(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        drop(Group::root().spawn("client", connection));
        sender
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.socket.as_path().parent().unwrap());
    }
}

fn request() -> Request<Body> {
    Request::get("http://localhost/").body(Body::empty()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_carries_its_peer() {
    let served = Served::new("peer", ConnectionLimits::default(), |peer| async move { format!("{peer:?}") });
    let response = served.client().await.send_request(request()).await.unwrap();
    let peer = Peer::User { uid: own_uid(), pid: Some(std::process::id().try_into().unwrap()), beside: true };
    assert_eq!(text(response).await, format!("{peer:?}"));
}

#[tokio::test]
async fn a_user_with_too_many_connections_is_closed() {
    let served = Served::new(
        "many",
        ConnectionLimits { connections_per_caller: 1, ..ConnectionLimits::default() },
        |_| async { "answer".to_owned() },
    );
    let mut first = served.client().await;
    text(first.send_request(request()).await.unwrap()).await;
    assert_eq!(served.connect().await.read(&mut [0; 1]).await.unwrap(), 0, "closed");
    text(first.send_request(request()).await.unwrap()).await;
}

#[tokio::test]
async fn who_does_not_begin_loses_its_place() {
    let limits = ConnectionLimits { handshake: Duration::from_millis(50), ..ConnectionLimits::default() };
    let served = Served::new("handshake", limits, |_| async { "answer".to_owned() });
    let mut client = served.client().await;
    // One byte of the preface, and all but one.
    for begun in [1, PREFACE_BYTES - 1] {
        let mut stream = served.connect().await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(&preface[..begun]).await.unwrap();
        let mut said = Vec::new();
        // The server may send its settings before it closes.
        let _ = stream.read_to_end(&mut said).await;
    }
    // A client that has sent its preface stays, even when silent.
    assert_eq!(text(client.send_request(request()).await.unwrap()).await, "answer");
}

#[tokio::test]
async fn who_is_not_served_gets_little() {
    let limits = ConnectionLimits { connections_per_stranger: 2, ..ConnectionLimits::default() };
    // Each call is answered when its whole request has arrived.
    let served = Served::of("stranger", limits, serves(own_uid() + 1), |request| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        body.map_or_else(|error| error.to_string(), |body| body.to_bytes().len().to_string())
    });
    let mut first = served.client().await;
    let second = served.client().await;
    assert_eq!(text(first.send_request(request()).await.unwrap()).await, "0", "it is told something");
    assert_eq!(served.connect().await.read(&mut [0; 1]).await.unwrap(), 0, "closed");
    drop(second);

    // A served caller may send this frame; it is one byte larger than the smallest limit of HTTP/2.
    let mut stream = loop {
        // The place is free a moment after its connection has ended.
        let mut stream = served.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        if stream.read(&mut [0; 9]).await.is_ok_and(|read| read > 0) {
            break stream;
        }
    };
    // DATA of 16 KiB and a byte on a stream that is not open: the size error comes first.
    let _ = stream.write_all(&[&b"\0\x40\x01\0\0\0\0\0\x01"[..], &[0; 16385]].concat()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    // A GOAWAY with FRAME_SIZE_ERROR (RFC 9113, 6.8 and 7).
    let at = said.windows(9).position(|head| head[3..] == [7, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(said[at + 13..at + 17], [0, 0, 0, 6], "{said:?}");
}

#[tokio::test]
async fn who_proves_nothing_loses_its_place() {
    let limits = ConnectionLimits { handshake: Duration::from_millis(50), ..ConnectionLimits::default() };
    let served = Served::of("unproven", limits, Arc::new(|_| Standing::Unproven), |request| async move {
        if request.uri().path() == "/proven" {
            request.extensions().get::<Seat>().unwrap().prove(&CallerId::Uid(7));
        }
        "answer".to_owned()
    });
    let (mut proven, mut unproven) = (served.client().await, served.client().await);
    let proof = Request::get("http://localhost/proven").body(Body::empty()).unwrap();
    assert_eq!(text(proven.send_request(proof).await.unwrap()).await, "answer");
    while unproven.send_request(request()).await.is_ok() {}
    assert_eq!(text(proven.send_request(request()).await.unwrap()).await, "answer");
}

#[tokio::test]
async fn a_client_that_goes_ends_its_request() {
    let (started, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    struct Told(Arc<Notify>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (starts, drops) = (Arc::clone(&started), Arc::clone(&dropped));
    let served = Served::new("gone", ConnectionLimits::default(), move |_| {
        let (starts, told) = (Arc::clone(&starts), Told(Arc::clone(&drops)));
        async move {
            starts.notify_one();
            std::future::pending::<()>().await;
            drop(told);
            String::new()
        }
    });
    let mut client = served.client().await;
    {
        let asked = client.send_request(request());
        tokio::pin!(asked);
        tokio::select! {
            _ = &mut asked => panic!("it is never answered"),
            () = started.notified() => {}
        }
    }
    dropped.notified().await;
}

#[tokio::test]
async fn the_end_lets_a_request_finish_and_takes_no_more() {
    let (started, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (starts, finishes, counts) = (Arc::clone(&started), Arc::clone(&finish), Arc::clone(&asked));
    let served = Served::new("end", ConnectionLimits::default(), move |_| {
        let (starts, finishes) = (Arc::clone(&starts), Arc::clone(&finishes));
        counts.fetch_add(1, Ordering::SeqCst);
        async move {
            starts.notify_one();
            finishes.notified().await;
            "finished".to_owned()
        }
    });
    let mut client = served.client().await;
    let response = client.send_request(request());
    let ended = async {
        started.notified().await;
        served.connections.cancel(Cause::ShuttingDown);
        finish.notify_one();
        served.connections.close_and_wait().await;
    };
    let (response, ()) = tokio::join!(response, ended);
    assert_eq!(text(response.unwrap()).await, "finished");
    assert!(client.send_request(request()).await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(!served.socket.as_path().exists());
}

#[tokio::test]
async fn a_stream_that_is_not_read_stops_no_other() {
    let piece = bytes::Bytes::from(vec![0; 64 << 10]);
    let stuck = Arc::new(Notify::new());
    let reached = Arc::clone(&stuck);
    let served = Served::with("stalled", ConnectionLimits::default(), move |request: Request<Incoming>| {
        let reached = Arc::clone(&reached);
        async move {
            if request.uri().path() == "/stalled" {
                reached.notify_one();
                // The body is kept and never read.
                std::future::pending::<()>().await;
            }
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
            body.to_bytes().len().to_string()
        }
    });
    let mut client = served.client().await;
    let body = |pieces: usize| {
        let pieces = std::iter::repeat_n(piece.clone(), pieces).map(Ok::<_, Infallible>);
        let frames = futures_util::stream::iter(pieces.map(|piece| piece.map(hyper::body::Frame::data)));
        Body::new(http_body_util::StreamBody::new(frames))
    };
    // As many streams as a connection may have, less the running one; each fills its window.
    let stalled: Vec<_> = (1..Bounds::SERVED.streams)
        .map(|_| client.send_request(Request::post("http://localhost/stalled").body(body(64)).unwrap()))
        .collect();
    let stalled = futures_util::future::join_all(stalled);
    tokio::pin!(stalled);
    let running = async {
        stuck.notified().await;
        let request = Request::post("http://localhost/running").body(body(512)).unwrap();
        text(client.send_request(request).await.unwrap()).await
    };
    tokio::select! {
        _ = &mut stalled => panic!("they are never answered"),
        read = running => assert_eq!(read, (32 << 20).to_string()),
    }
}

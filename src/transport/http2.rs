//! HTTP/2 on accepted connections. Each is a task of a group, and carries its peer.

use std::{convert::Infallible, error::Error, io, pin::pin, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};
use tracing::Instrument as _;

use super::{
    Peer,
    limits::{Calls, Counts, LINE_EVERY, Limits},
    unix::Listener,
};
use crate::{fault::Fault, names::CallerId, tasks::Group, telemetry::Repeats};

/// What one stream may send unread: enough for a local socket at full speed, and little enough that a
/// client which fills every window of a connection costs some 16 MiB.
const STREAM_WINDOW: u32 = 256 << 10;
/// Streams of one connection: a session, its build, and an attach for each thing BuildKit asks for.
const STREAMS_MAX: u32 = 64;
/// More than all streams together, so that one that is not read never stops another.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (STREAMS_MAX + 1);
/// A piece of a file in one frame.
const FRAME_MAX: u32 = 256 << 10;
/// gRPC's own default for metadata.
const HEADERS_MAX: u32 = 16 << 10;
/// What may wait to be sent on one stream.
const SEND_BUFFER: usize = 1 << 20;
/// A client that is there says something at once: HTTP/2 begins with its preface.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// A client that is stopped, or whose machine is gone, is noticed after both.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may finish what it has begun when wharfd ends.
const GOODBYE: Duration = Duration::from_secs(2);
/// Backing off when the process has no more file descriptors.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Serves `service` on every connection to `listeners` until `connections` is cancelled. Each
/// request carries its [`Peer`] as an extension; what is beyond the limits is answered by `refuse`.
/// Returns when no connection is accepted any more; the connections themselves are waited for by
/// waiting for `connections`.
pub async fn serve<S>(
    listeners: Vec<Listener>,
    limits: Limits,
    connections: Group,
    service: S,
    refuse: fn(&Fault) -> Response<Body>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let counts = Counts::new(limits.connections_per_caller);
    let calls = Calls::new(limits.calls_per_caller, refuse);
    let loops: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let counts = (counts.clone(), calls.clone());
            let accepting = accept(listener, counts, connections.clone(), service.clone());
            connections.spawn("accept", accepting)
        })
        .collect();
    for accepting in loops {
        // A loop that panicked is in the log; the others go on.
        let _ = accepting.await;
    }
}

async fn accept<S>(listener: Listener, (counts, calls): (Counts, Calls), connections: Group, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut backoff = BACKOFF_MIN;
    let lines = Repeats::every(LINE_EVERY);
    loop {
        let stream = match connections.unless_cancelled(listener.accept()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_of_one_connection(&error) => continue,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                if connections.unless_cancelled(tokio::time::sleep(backoff)).await.is_err() {
                    return;
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            }
            Err(_) => return,
        };
        backoff = BACKOFF_MIN;
        let peer = match stream.peer_cred() {
            Ok(peer) => Peer::User { uid: peer.uid(), pid: peer.pid() },
            Err(error) => {
                tracing::warn!(%error, "a connection is closed: the kernel does not say whose it is");
                continue;
            }
        };
        let Peer::User { uid, pid } = peer;
        let Some(place) = counts.take(&CallerId::Uid(uid)) else {
            if let Some(said) = lines.may_say(CallerId::Uid(uid)) {
                let unlogged = said.unsaid();
                tracing::warn!(uid, unlogged, "a connection is closed: its user has too many");
            }
            continue;
        };
        let span = tracing::error_span!(parent: None, "connection", uid, pid);
        let (group, calls, service) = (connections.child("connection"), calls.clone(), service.clone());
        let serving = async move {
            connection(stream, peer, calls, group, service).await;
            drop(place);
        };
        drop(connections.spawn("connection", serving.instrument(span)));
    }
}

/// Errors of accept(2) that are about the connection that came, not about the socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO))
}

async fn connection<S>(stream: UnixStream, peer: Peer, calls: Calls, group: Group, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let spoke = group.unless_cancelled(tokio::time::timeout(FIRST_BYTES, stream.readable())).await;
    if !matches!(spoke, Ok(Ok(Ok(())))) {
        tracing::debug!("closed: it said nothing");
        return;
    }
    let answering = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let Peer::User { uid, .. } = peer;
        let (calls, service, caller) = (calls.clone(), service.clone(), CallerId::Uid(uid));
        async move {
            let Some(place) = calls.take(&caller) else {
                return Ok::<_, Infallible>(calls.refused(&caller));
            };
            let response = service.oneshot(request).await?;
            // The call runs as long as its answer does.
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _held = &place;
                    frame
                }))
            }))
        }
    });
    let serving = http2::Builder::new(group.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(HEADERS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answering);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = group.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(GOODBYE, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn Error, "a connection broke");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use hyper_util::rt::TokioExecutor;
    use tokio::{io::AsyncReadExt as _, sync::Notify};

    use super::*;
    use crate::{names::SocketPath, tasks::Cause};

    /// A socket that is served by `answer`.
    struct Served {
        socket: SocketPath,
        connections: Group,
    }

    impl Served {
        fn new<F>(name: &str, limits: Limits, answer: impl Fn(Peer) -> F + Clone + Send + 'static) -> Self
        where
            F: Future<Output = String> + Send + 'static,
        {
            Self::with(name, limits, move |request| {
                answer(request.extensions().get::<Peer>().unwrap().clone())
            })
        }

        fn with<F>(
            name: &str,
            limits: Limits,
            answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        ) -> Self
        where
            F: Future<Output = String> + Send + 'static,
        {
            let directory = std::env::temp_dir().join(format!("wharf-http2-{}-{name}", std::process::id()));
            let socket: SocketPath = format!("unix://{}/w.sock", directory.display()).parse().unwrap();
            let listener = Listener::bind(&socket, 0o600, None).unwrap();
            let connections = Group::root().child("connections");
            let service = tower::service_fn(move |request: Request<Incoming>| {
                let answer = answer(request);
                async { Ok(Response::new(Body::new(answer.await))) }
            });
            let refuse = |fault: &Fault| Response::new(Body::new(fault.text().to_owned()));
            let serving = serve(vec![listener], limits, connections.clone(), service, refuse);
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
        let served = Served::new("peer", Limits::default(), |peer| async move { format!("{peer:?}") });
        let response = served.client().await.send_request(request()).await.unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let peer = Peer::User { uid, pid: Some(std::process::id().try_into().unwrap()) };
        assert_eq!(text(response).await, format!("{peer:?}"));
    }

    #[tokio::test]
    async fn a_user_with_too_many_connections_is_closed() {
        let served =
            Served::new("many", Limits { connections_per_caller: 1, ..Limits::default() }, |_| async {
                "answer".to_owned()
            });
        let mut first = served.client().await;
        text(first.send_request(request()).await.unwrap()).await;
        assert_eq!(served.connect().await.read(&mut [0; 1]).await.unwrap(), 0, "closed");
        text(first.send_request(request()).await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_user_with_too_many_calls_is_refused_until_one_ends() {
        let (started, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (starts, finishes) = (Arc::clone(&started), Arc::clone(&finish));
        let limits = Limits { calls_per_caller: 1, ..Limits::default() };
        let served = Served::new("calls", limits, move |_| {
            let (starts, finishes) = (Arc::clone(&starts), Arc::clone(&finishes));
            async move {
                starts.notify_one();
                finishes.notified().await;
                "answer".to_owned()
            }
        });
        let first = served.client().await.send_request(request());
        let first = Group::root().spawn("first", first);
        started.notified().await;
        // On a connection of its own.
        let mut other = served.client().await;
        let refused = text(other.send_request(request()).await.unwrap()).await;
        assert!(refused.contains("1 calls that run at once"), "{refused}");

        finish.notify_one();
        assert_eq!(text(first.await.unwrap().unwrap()).await, "answer");
        finish.notify_one();
        // The place is free a moment after the answer's last byte.
        let answer = loop {
            let answer = text(other.send_request(request()).await.unwrap()).await;
            if answer != refused {
                break answer;
            }
        };
        assert_eq!(answer, "answer");
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
        let served = Served::new("gone", Limits::default(), move |_| {
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
        let served = Served::new("end", Limits::default(), move |_| {
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
        let served = Served::with("stalled", Limits::default(), move |request: Request<Incoming>| {
            let reached = Arc::clone(&reached);
            async move {
                if request.uri().path() == "/stalled" {
                    reached.notify_one();
                    // Its body is held, and never read.
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
        // As many as a connection may have, less the one that runs; each fills its window.
        let stalled: Vec<_> = (1..STREAMS_MAX)
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
}

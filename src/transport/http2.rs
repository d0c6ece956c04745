//! HTTP/2 on accepted connections. Each request carries its connection's [`Peer`](super::Peer) as an extension.

use std::{
    any::Any,
    convert::Infallible,
    error::Error,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::{
    accept::{Accepted, Protocol, Standing},
    begun::Begun,
    limits::ConnectionLimits,
    seat::Seat,
};
use crate::tasks::{Cause, Group};

/// The limits of one connection.
struct Bounds {
    /// The bytes that a client may send on one stream before they are read.
    stream_window: u32,
    streams: u32,
    frame: u32,
    headers: u32,
    /// The bytes that may wait to be sent on one stream.
    send_buffer: usize,
    /// How long the connection may last.
    life: Option<Duration>,
}

impl Bounds {
    /// The limits for callers that are served.
    const SERVED: Self = Self {
        // Enough for a local socket at full speed, and for 13 MB a second over 20 ms of network; so little that a client
        // that fills every window of a connection costs some 16 MiB.
        stream_window: 256 << 10,
        // A session, its build, and an `Attach` for each stream that BuildKit opens.
        streams: 64,
        // One frame takes a whole piece of a file.
        frame: 256 << 10,
        // gRPC's own default for metadata.
        headers: 16 << 10,
        send_buffer: 1 << 20,
        life: None,
    };
    /// The limits for strangers, which only need to be refused. The frame size is HTTP/2's smallest.
    const STRANGER: Self = Self {
        stream_window: 16 << 10,
        streams: 4,
        frame: 16 << 10,
        headers: 8 << 10,
        send_buffer: 16 << 10,
        life: Some(Duration::from_secs(10)),
    };

    /// More than all streams together, so that a stream that is not read never stops another.
    fn connection_window(&self) -> u32 {
        self.stream_window * (self.streams + 1)
    }
}

/// HTTP/2, which serves `service` on every connection.
#[derive(Clone)]
pub struct Http2<S> {
    service: S,
    /// How long a client may take to send its preface, and to prove its identity.
    handshake: Duration,
}

impl<S> Http2<S> {
    /// Serves `service`. A stranger's connection has narrow bounds.
    pub fn new(service: S, limits: ConnectionLimits) -> Self {
        Self { service, handshake: limits.handshake }
    }
}

impl<S> Protocol for Http2<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn serve(self, connection: Accepted, group: Group) {
        serve(connection, self, group).await;
    }
}

/// A response's extension: a value that is kept until the client has taken the whole answer or is gone.
#[derive(Clone)]
pub struct UntilTaken(pub Arc<dyn Any + Send + Sync>);

/// HTTP/2 begins with the client's preface (RFC 9113, 3.4). After the preface, pings tell whether the
/// client is alive.
const PREFACE_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// A client that is stopped, or whose machine is gone, is noticed after both times.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may finish its running calls when wharfd ends.
const GOODBYE: Duration = Duration::from_secs(2);

async fn serve<S>(connection: Accepted, protocol: Http2<S>, group: Group)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let Accepted { stream, peer, standing, seat } = connection;
    let Http2 { service, handshake } = protocol;
    let bounds = match standing {
        // The service refuses a call without proof before it reads the call's message.
        Standing::Served(_) | Standing::Unproven => Bounds::SERVED,
        Standing::Stranger => Bounds::STRANGER,
    };
    let own_seat = seat.clone();
    let answering = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(seat.clone());
        let service = service.clone();
        async move {
            let mut response = service.oneshot(request).await?;
            let held = response.extensions_mut().remove::<UntilTaken>();
            Ok::<_, Infallible>(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _held = &held;
                    frame
                }))
            }))
        }
    });
    let (stream, read) = Begun::new(stream, PREFACE_BYTES);
    let serving = http2::Builder::new(group.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window())
        .max_concurrent_streams(bounds.streams)
        .max_frame_size(bounds.frame)
        .max_header_list_size(bounds.headers)
        .max_send_buf_size(bounds.send_buffer)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answering);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = never_begins(&read, handshake) => {
            tracing::debug!("closed a connection: no HTTP/2 preface in time");
            return;
        }
        () = never_proves(&own_seat, &standing, handshake) => {
            tracing::debug!("closed a connection: no call has proven its caller in time");
            return;
        }
        () = over(&group, bounds.life) => {
            if group.cancelled_by() == Some(Cause::ClientGone) {
                // Another has its place already.
                return;
            }
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

/// Returns when the client's preface has not arrived in time; hyper itself waits for ever.
async fn never_begins(read: &AtomicUsize, handshake: Duration) {
    tokio::time::sleep(handshake).await;
    if read.load(Ordering::Relaxed) >= PREFACE_BYTES {
        std::future::pending::<()>().await;
    }
}

/// Returns when no call has proven who calls in time.
async fn never_proves(seat: &Seat, standing: &Standing, within: Duration) {
    if *standing != Standing::Unproven || tokio::time::timeout(within, seat.proven()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Returns when wharfd ends or the connection's lifetime is over.
async fn over(group: &Group, life: Option<Duration>) {
    let cancelled = group.cancelled();
    match life {
        None => drop(cancelled.await),
        Some(life) => drop(tokio::time::timeout(life, cancelled).await),
    }
}

#[cfg(test)]
mod tests;

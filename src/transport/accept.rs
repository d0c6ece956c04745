//! Accepting connections, whatever is spoken on them: whose each is, and whether there is a place for it.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use rustix::io::Errno;
use tokio::net::UnixStream;
use tonic::body::Body;
use tower::Service;
use tracing::Instrument as _;

use super::{
    Peer, beside,
    http2::{self, Bounds},
    limits::{Calls, Counts, LINE_EVERY, Limits, Place, STRANGERS_LINE_EVERY},
    unix::Listener,
};
use crate::{fault::Fault, names::CallerId, tasks::Group, telemetry::Repeats};

/// Backing off when the process has no more file descriptors.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Tells who a peer is; none for one that is not served.
pub type Who = Arc<dyn Fn(&Peer) -> Option<CallerId> + Send + Sync>;

/// Serves `service` on every connection to `listeners` until `connections` is cancelled. Each
/// request carries its [`Peer`] as an extension; what is beyond the limits is answered by `refuse`.
/// A peer that `who` does not know gets a few small connections, to be told so.
/// Returns when no connection is accepted any more; the connections themselves are waited for by
/// waiting for `connections`.
pub async fn serve<S>(
    listeners: Vec<Listener>,
    who: Who,
    limits: Limits,
    connections: Group,
    service: S,
    refuse: fn(&Fault) -> Response<Body>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let gate = Gate {
        who,
        limits,
        callers: Counts::new(limits.connections_per_caller),
        each_stranger: Counts::new(limits.connections_per_stranger),
        all_strangers: Counts::new(limits.connections_of_strangers),
        calls: Calls::new(limits.calls_per_caller, refuse),
        lines: Arc::new(Repeats::every(LINE_EVERY)),
        strangers_lines: Arc::new(Repeats::every(STRANGERS_LINE_EVERY)),
    };
    let loops: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let accepting = accept(listener, gate.clone(), connections.clone(), service.clone());
            connections.spawn("accept", accepting)
        })
        .collect();
    for accepting in loops {
        // A loop that panicked is in the log; the others go on.
        let _ = accepting.await;
    }
}

async fn accept<S>(listener: Listener, gate: Gate, connections: Group, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut backoff = BACKOFF_MIN;
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
        let Some((peer, places, connection)) = gate.admit(&stream) else { continue };
        let Peer::User { uid, pid, .. } = peer;
        // An error's level: no filter that leaves any line leaves it without its peer.
        let span = tracing::error_span!(parent: None, "connection", uid, pid);
        let (group, service) = (connections.child("connection"), service.clone());
        let serving = async move {
            http2::serve(stream, peer, connection, group, service).await;
            drop(places);
        };
        drop(connections.spawn("connection", serving.instrument(span)));
    }
}

/// Errors of accept(2) that are about the connection that came, not about the socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO))
}

/// Who gets in, and with how much room.
#[derive(Clone)]
struct Gate {
    who: Who,
    limits: Limits,
    callers: Counts<CallerId>,
    each_stranger: Counts<u32>,
    all_strangers: Counts<()>,
    calls: Calls,
    lines: Arc<Repeats<CallerId>>,
    strangers_lines: Arc<Repeats<()>>,
}

/// What a connection holds among the connections of its caller, or of those who are not served.
enum Places {
    Caller { _own: Place<CallerId> },
    Stranger { _own: Place<u32>, _all: Place<()> },
}

impl Gate {
    /// The peer of a connection that has a place, and what its protocol may take; none for one that is
    /// closed.
    fn admit(&self, stream: &UnixStream) -> Option<(Peer, Places, http2::Room)> {
        let peer = match stream.peer_cred() {
            Ok(peer) => {
                let uid = peer.uid();
                let may_be_operator = uid == 0 || uid == rustix::process::geteuid().as_raw();
                Peer::User { uid, pid: peer.pid(), beside: may_be_operator && beside::is_beside(stream) }
            }
            Err(error) => {
                if let Some(said) = self.strangers_lines.may_say(()) {
                    let unlogged = said.unsaid();
                    tracing::warn!(%error, unlogged, "a connection is closed: the kernel does not say whose it is");
                }
                return None;
            }
        };
        let Peer::User { uid, .. } = peer;
        let handshake = self.limits.handshake;
        let Some(caller) = (self.who)(&peer) else {
            let own = self.each_stranger.take(&uid);
            if let Some((own, all)) = own.and_then(|own| Some((own, self.all_strangers.take(&())?))) {
                let room = http2::Room { bounds: Bounds::STRANGER, handshake, calls: None };
                return Some((peer, Places::Stranger { _own: own, _all: all }, room));
            }
            if let Some(said) = self.strangers_lines.may_say(()) {
                let unlogged = said.unsaid();
                tracing::warn!(
                    uid,
                    unlogged,
                    "a connection is closed: nobody serves its user, who has several"
                );
            }
            return None;
        };
        let Some(own) = self.callers.take(&caller) else {
            if let Some(said) = self.lines.may_say(caller) {
                let unlogged = said.unsaid();
                tracing::warn!(uid, unlogged, "a connection is closed: its caller has too many");
            }
            return None;
        };
        let room =
            http2::Room { bounds: Bounds::SERVED, handshake, calls: Some((self.calls.clone(), caller)) };
        Some((peer, Places::Caller { _own: own }, room))
    }
}

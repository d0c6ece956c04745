//! Accepts connections of any protocol: finds out whose each is and whether there is room for it.

use std::{future::Future, io, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::net::UnixStream;
use tracing::Instrument as _;

use super::{
    Peer, beside,
    limits::{LINE_EVERY, Limits, STRANGERS_LINE_EVERY},
    seat::{Seat, Unproven},
    unix::Listener,
};
use crate::{
    names::CallerId,
    shares::Own,
    tasks::Group,
    telemetry::{Repeats, each_second},
};

/// The pauses when accepting fails, say because the process has no file descriptors left.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Tells how far a peer is served by what the kernel says about it.
pub type Who = Arc<dyn Fn(&Peer) -> Standing + Send + Sync>;

/// How far a peer is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is this caller, unless a call proves another.
    Served(CallerId),
    /// Each of its calls has to prove who calls.
    Unproven,
    /// It is a stranger: all its calls are refused.
    Stranger,
}

/// A protocol that is spoken on accepted connections.
pub trait Protocol: Clone + Send + 'static {
    /// Serves a connection until it ends or `group` is cancelled.
    fn serve(self, connection: Accepted, group: Group) -> impl Future<Output = ()> + Send;
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub stream: UnixStream,
    /// Its other end.
    pub peer: Peer,
    /// How far the other end is served.
    pub standing: Standing,
    /// Its place. The connection occupies it for as long as a clone lives.
    pub seat: Seat,
}

/// Speaks `protocol` on every connection to `listeners` until `connections` is cancelled. A stranger gets a few
/// connections on which it is refused. Returns when it has stopped accepting; wait for `connections` to wait for the
/// open connections too.
pub async fn serve(
    listeners: Vec<Listener>,
    who: Who,
    limits: Limits,
    connections: Group,
    protocol: impl Protocol,
) {
    let gate = Gate {
        who,
        callers: Arc::new(Own::new(limits.connections_per_caller)),
        unproven: Unproven::new(limits.connections_of_unproven_user, limits.connections_of_unproven),
        each_stranger: Arc::new(Own::new(limits.connections_per_stranger)),
        all_strangers: Arc::new(Own::new(limits.connections_of_strangers)),
        lines: Arc::new(Repeats::every(LINE_EVERY)),
        unproven_lines: Arc::new(Repeats::every(STRANGERS_LINE_EVERY)),
        strangers_lines: Arc::new(Repeats::every(STRANGERS_LINE_EVERY)),
    };
    let loops: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let accepting = accept(listener, gate.clone(), connections.clone(), protocol.clone());
            connections.spawn("accept", accepting)
        })
        .collect();
    for accepting in loops {
        // A panic is already in the log; the other loops go on.
        let _ = accepting.await;
    }
}

async fn accept(listener: Listener, gate: Gate, connections: Group, protocol: impl Protocol) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let stream = match connections.unless_cancelled(listener.accept()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_of_one_connection(&error) => continue,
            Ok(Err(error)) => {
                each_second!(warn, %error, "cannot accept connections; trying again");
                if connections.unless_cancelled(tokio::time::sleep(backoff)).await.is_err() {
                    return;
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            }
            Err(_) => return,
        };
        backoff = BACKOFF_MIN;
        let group = connections.child("connection");
        let Some(connection) = gate.admit(stream, &group) else { continue };
        let Peer::User { uid, pid, .. } = connection.peer;
        // The error level keeps the span under every filter, so that every line names its peer.
        let span = tracing::error_span!(parent: None, "connection", uid, pid);
        let serving = protocol.clone().serve(connection, group);
        drop(connections.spawn("connection", serving.instrument(span)));
    }
}

/// Whether an error of accept(2) concerns the incoming connection and not the socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO))
}

/// Decides which connections are served, within which limits.
#[derive(Clone)]
struct Gate {
    who: Who,
    callers: Arc<Own<CallerId>>,
    unproven: Unproven,
    each_stranger: Arc<Own<u32>>,
    all_strangers: Arc<Own<()>>,
    lines: Arc<Repeats<CallerId>>,
    unproven_lines: Arc<Repeats<u32>>,
    strangers_lines: Arc<Repeats<()>>,
}

impl Gate {
    /// Admits a connection, `group`, to its place. `None` means that the connection is closed.
    fn admit(&self, stream: UnixStream, group: &Group) -> Option<Accepted> {
        let peer = match stream.peer_cred() {
            Ok(peer) => {
                let uid = peer.uid();
                let may_be_operator = uid == 0 || uid == rustix::process::geteuid().as_raw();
                Peer::User { uid, pid: peer.pid(), beside: may_be_operator && beside::is_beside(&stream) }
            }
            Err(error) => {
                if let Some(said) = self.strangers_lines.may_say(()) {
                    let unlogged = said.unsaid();
                    tracing::warn!(%error, unlogged, "closed a connection: the kernel does not tell its peer");
                }
                return None;
            }
        };
        let Peer::User { uid, .. } = peer;
        let standing = (self.who)(&peer);
        let callers = &self.callers;
        let seat = match &standing {
            Standing::Served(caller) => callers.try_take(caller).map(|own| Seat::of_caller(own, callers)),
            Standing::Unproven => {
                let (own, ends_another) = self.unproven.take(uid, group);
                if ends_another {
                    self.say_closed(uid, standing.clone());
                }
                Some(Seat::unproven(own, callers))
            }
            Standing::Stranger => {
                let own = self.each_stranger.try_take(&uid);
                let all = own.is_some().then(|| self.all_strangers.try_take(&())).flatten();
                own.zip(all).map(|(own, all)| Seat::of_stranger(own, all, callers))
            }
        };
        let Some(seat) = seat else {
            self.say_closed(uid, standing);
            return None;
        };
        Some(Accepted { stream, peer, standing, seat })
    }

    /// Logs that a connection of `uid` was closed, since there are too many.
    fn say_closed(&self, uid: u32, standing: Standing) {
        let (said, whose) = match standing {
            Standing::Served(caller) => (self.lines.may_say(caller), "its caller"),
            Standing::Unproven => (self.unproven_lines.may_say(uid), "its user has proven nothing and"),
            Standing::Stranger => (self.strangers_lines.may_say(()), "its user is not served and"),
        };
        if let Some(said) = said {
            tracing::warn!(uid, unlogged = said.unsaid(), "closed a connection: {whose} has too many");
        }
    }
}

//! Accepts connections of any protocol: determines the owner of each, and whether there is room for it.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tracing::Instrument as _;

use super::{
    Peer, Presence, beside,
    limits::{ConnectionLimits, LINE_EVERY, STRANGERS_LINE_EVERY},
    listener::{Arrived, Listener},
    seat::{Seat, Unproven, Waiting, Whose},
    tls::Tls,
};
use crate::{
    metrics::{Connections, Open, Refused, Socket},
    names::{AddressBlock, CallerId, CertificateName, printable},
    shares::Own,
    tasks::Group,
    telemetry::{Repeats, each_second},
};

/// The pauses when accepting fails, say because the process has no file descriptors left.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Decides how far a peer is served, from the report of the kernel or TLS about it.
pub type StandingOf = Arc<dyn Fn(&Peer) -> Standing + Send + Sync>;

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

/// A connection's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An accepted connection.
pub struct Accepted {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// Its other end.
    pub peer: Peer,
    /// How far the other end is served.
    pub standing: Standing,
    /// Its place. The connection occupies it for as long as a clone lives.
    pub seat: Seat,
}

/// Speaks a protocol on connections. The limits are those of all sockets of one server together.
#[derive(Clone)]
pub struct Server<P> {
    gate: Gate,
    protocol: P,
}

impl<P: Protocol> Server<P> {
    /// Speaks `protocol` with those whom `who` serves, within `limits`.
    pub fn new(who: StandingOf, limits: ConnectionLimits, protocol: P) -> Self {
        Self { gate: Gate::new(who, limits), protocol }
    }

    /// The same, and counts its connections there.
    pub fn counted_by(mut self, metrics: &Connections) -> Self {
        self.gate.metrics = metrics.clone();
        self
    }

    /// Serves every connection to `listeners` until `connections` is cancelled. A stranger gets a few connections on
    /// which it is refused. Returns when it has stopped accepting; wait for `connections` to wait for the open
    /// connections too.
    pub async fn serve(self, listeners: Vec<Listener>, connections: Group) {
        let loops: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let gate = Gate { listener: listener.to_string().into(), ..self.gate.clone() };
                let accepting = accept(listener, gate, connections.clone(), self.protocol.clone());
                connections.spawn("accept", accepting)
            })
            .collect();
        for accepting in loops {
            // A panic is already in the log; the other loops continue.
            let _ = accepting.await;
        }
    }
}

impl Gate {
    fn new(who: StandingOf, limits: ConnectionLimits) -> Self {
        Self {
            who,
            callers: Arc::new(Own::new(limits.connections_per_caller)),
            unproven: Unproven::new(limits.connections_of_unproven_user, limits.connections_of_unproven),
            remote: Unproven::new(limits.connections_of_unproven_user, limits.connections_of_unproven),
            handshake: limits.handshake,
            each_stranger: Arc::new(Own::new(limits.connections_per_stranger)),
            all_strangers: Arc::new(Own::new(limits.connections_of_strangers)),
            lines: Arc::new(Repeats::every(LINE_EVERY)),
            // One person can be many users, and have many addresses.
            unproven_lines: Arc::new(Repeats::every(STRANGERS_LINE_EVERY).and_all_every(LINE_EVERY)),
            strangers_lines: Arc::new(Repeats::every(STRANGERS_LINE_EVERY)),
            handshake_lines: Arc::new(Repeats::every(STRANGERS_LINE_EVERY).and_all_every(LINE_EVERY)),
            metrics: Connections::default(),
            listener: Arc::default(),
        }
    }
}

async fn accept(listener: Listener, gate: Gate, connections: Group, protocol: impl Protocol) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let arrived = match connections.unless_cancelled(listener.accept()).await {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(error)) if is_of_one_connection(&error) => continue,
            Ok(Err(error)) => {
                each_second!(warn, %error, listener = &*gate.listener, "cannot accept connections; trying again");
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
        // The error level keeps the spans under every filter, so that every line names its peer.
        match arrived {
            Arrived::Unix(stream) => {
                let Some(connection) = gate.admit(stream, &group) else { continue };
                let (uid, pid) = match connection.peer {
                    Peer::User { uid, pid, .. } => (Some(uid), pid),
                    Peer::Pod(_) | Peer::Remote { .. } => (None, None),
                };
                let span = tracing::error_span!(parent: None, "connection", uid, pid);
                let serving =
                    counted(gate.metrics.open(Socket::Unix), protocol.clone().serve(connection, group));
                drop(connections.spawn("connection", serving.instrument(span)));
            }
            Arrived::Pod(stream, pod) => {
                let span = tracing::error_span!(parent: None, "connection", pod = %pod.pod());
                let admitted = span.in_scope(|| gate.admit_pod(stream, pod, &group));
                let Some(connection) = admitted else { continue };
                let serving =
                    counted(gate.metrics.open(Socket::Pod), protocol.clone().serve(connection, group));
                drop(connections.spawn("connection", serving.instrument(span)));
            }
            Arrived::Tcp(stream, address, tls) => {
                let place = gate.place(address, &group);
                let span = tracing::error_span!(parent: None, "connection", %address);
                let (open, gate, protocol) = (gate.metrics.open(Socket::Tcp), gate.clone(), protocol.clone());
                // The next connection does not wait for this one's handshake.
                let serving = async move {
                    let opened = gate.open(stream, address, tls.as_deref(), &group).await;
                    let Some((stream, certificate)) = opened else { return };
                    let peer = Peer::Remote { address, certificate };
                    if let Some(connection) = gate.admit_remote(stream, peer, place) {
                        protocol.serve(connection, group).await;
                    }
                };
                drop(connections.spawn("connection", counted(open, serving).instrument(span)));
            }
        }
    }
}

/// Serves a connection that is counted as open.
async fn counted(open: Open, serving: impl Future<Output = ()>) {
    serving.await;
    drop(open);
}

/// Whether an error of accept(2) concerns the incoming connection and not the socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    // Errors of the network, too: accept(2) reports them for TCP.
    matches!(
        errno,
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
        )
    )
}

/// Decides which connections are served, within which limits.
#[derive(Clone)]
struct Gate {
    who: StandingOf,
    callers: Arc<Own<CallerId>>,
    unproven: Unproven,
    /// Connections from the network whose other end has proven nothing yet, not even that it speaks TLS.
    remote: Unproven,
    handshake: Duration,
    each_stranger: Arc<Own<Whose>>,
    all_strangers: Arc<Own<()>>,
    lines: Arc<Repeats<CallerId>>,
    strangers_lines: Arc<Repeats<()>>,
    unproven_lines: Arc<Repeats<Whose>>,
    handshake_lines: Arc<Repeats<AddressBlock>>,
    metrics: Connections,
    /// The address that it guards, for the log: wharfd has several.
    listener: Arc<str>,
}

impl Gate {
    /// Admits a connection, `group`, to its place. `None` means that the connection is closed.
    fn admit(&self, stream: UnixStream, group: &Group) -> Option<Accepted> {
        let (uid, pid) = match stream.peer_cred() {
            Ok(peer) => (peer.uid(), peer.pid()),
            Err(error) => {
                if let Some(left_out) = self.strangers_lines.may_say(()) {
                    let (unlogged, listener) = (left_out.own(), &*self.listener);
                    tracing::warn!(%error, listener, unlogged, "closed a connection: the kernel does not identify its peer");
                }
                return None;
            }
        };
        let may_be_operator = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let peer = Peer::User { uid, pid, beside: may_be_operator && beside::is_beside(&stream) };
        self.seated(Box::new(stream), peer, Whose::User(uid), group)
    }

    /// The same for a connection to a pod's socket. Its process has a uid of the pod's choice, which proves nothing.
    fn admit_pod(&self, stream: UnixStream, pod: Presence, group: &Group) -> Option<Accepted> {
        let whose = Whose::Pod(pod.number());
        self.seated(Box::new(stream), Peer::Pod(pod), whose, group)
    }

    fn seated(&self, stream: Box<dyn Stream>, peer: Peer, whose: Whose, group: &Group) -> Option<Accepted> {
        let standing = (self.who)(&peer);
        let callers = &self.callers;
        let seat = match &standing {
            Standing::Served(caller) => callers.try_take(caller).map(|own| Seat::of_caller(own, callers)),
            Standing::Unproven => {
                let (own, ends_another) = self.unproven.take(whose, group);
                if ends_another {
                    self.say_closed(whose, standing.clone());
                }
                Some(Seat::unproven(own, callers))
            }
            Standing::Stranger => {
                let own = self.each_stranger.try_take(&whose);
                let all = own.is_some().then(|| self.all_strangers.try_take(&())).flatten();
                own.zip(all).map(|(own, all)| Seat::of_stranger(own, all, callers))
            }
        };
        let Some(seat) = seat else {
            self.say_closed(whose, standing);
            return None;
        };
        Some(Accepted { stream, peer, standing, seat })
    }

    /// A place for a connection from the network, `group`, until it has proven something.
    fn place(&self, address: SocketAddr, group: &Group) -> Waiting {
        let whose = Whose::Network(AddressBlock::of(address.ip()));
        let (place, ends_another) = self.remote.take(whose, group);
        if ends_another {
            self.say_closed(whose, Standing::Unproven);
        }
        place
    }

    /// Does the handshake of TLS, if there is one. `None` if it fails or takes too long.
    async fn open(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        tls: Option<&Tls>,
        group: &Group,
    ) -> Option<(Box<dyn Stream>, Option<Arc<[CertificateName]>>)> {
        let Some(tls) = tls else { return Some((Box::new(stream), None)) };
        let opening = tokio::time::timeout(self.handshake, tls.open(stream));
        match group.unless_cancelled(opening).await {
            Ok(Ok(Ok((stream, certificate)))) => Some((Box::new(stream), certificate)),
            Ok(Ok(Err(error))) => {
                self.metrics.refused(Socket::Tcp, Refused::Tls);
                if let Some(left_out) = self.handshake_lines.may_say(AddressBlock::of(address.ip())) {
                    tracing::info!(
                        listener = &*self.listener,
                        cause = printable(&error.to_string()),
                        unlogged = left_out.own(),
                        unlogged_of_others = left_out.of_others(),
                        "closed a connection: TLS failed"
                    );
                }
                None
            }
            Ok(Err(_)) => {
                self.metrics.refused(Socket::Tcp, Refused::Tls);
                tracing::debug!(listener = &*self.listener, "closed a connection: no TLS in time");
                None
            }
            Err(_) => None,
        }
    }

    /// Admits a connection from the network that has `place`.
    fn admit_remote(&self, stream: Box<dyn Stream>, peer: Peer, place: Waiting) -> Option<Accepted> {
        let (standing, seat) = ((self.who)(&peer), Seat::unproven(place, &self.callers));
        if let (Standing::Served(caller), Peer::Remote { address, .. }) = (&standing, &peer)
            && !seat.prove(caller)
        {
            self.say_closed(Whose::Network(AddressBlock::of(address.ip())), standing);
            return None;
        }
        Some(Accepted { stream, peer, standing, seat })
    }

    /// Logs and counts that a connection of `whose` was closed, since there are too many.
    fn say_closed(&self, whose: Whose, standing: Standing) {
        let socket = match whose {
            Whose::User(_) => Socket::Unix,
            Whose::Pod(_) => Socket::Pod,
            Whose::Network(_) => Socket::Tcp,
        };
        self.metrics.refused(socket, Refused::TooMany);
        let (left_out, owner) = match standing {
            Standing::Served(caller) => (self.lines.may_say(caller), "a caller"),
            Standing::Unproven => {
                let owner = match whose {
                    Whose::User(_) => "a user who has proven nothing",
                    Whose::Pod(_) => "a pod that has proven nothing",
                    Whose::Network(_) => "a source that has proven nothing",
                };
                (self.unproven_lines.may_say(whose), owner)
            }
            Standing::Stranger => (self.strangers_lines.may_say(()), "a user who is not served"),
        };
        let (uid, source) = match whose {
            Whose::User(uid) => (Some(uid), None),
            Whose::Pod(_) => (None, None),
            Whose::Network(source) => (None, Some(tracing::field::display(source))),
        };
        if let Some(left_out) = left_out {
            tracing::warn!(
                listener = &*self.listener,
                uid,
                source,
                owner,
                unlogged = left_out.own(),
                unlogged_of_others = left_out.of_others(),
                "closed a connection: its owner has too many"
            );
        }
    }
}

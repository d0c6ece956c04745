//! Sockets: the peer of each connection as the kernel or TLS reports it, limits on connections, and the protocols that
//! are spoken on them.

mod accept;
mod authority;
mod begun;
mod beside;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod http2;
mod huffman;
mod limits;
mod listener;
mod not_after;
pub mod pod;
mod seat;
mod tls;
pub mod unix;

use std::{net::SocketAddr, sync::Arc};

pub use accept::{Accepted, Protocol, Server, Standing, StandingOf};
pub use http2::{Http2, UntilTaken};
pub use limits::ConnectionLimits;
pub use listener::{BindError, Listener};
pub use pod::Presence;
pub use seat::Seat;
pub use tls::{Tls, TlsError};

use crate::names::CertificateName;

/// The other end of a connection, as verified when the connection was accepted. A request without a
/// peer did not come through one of wharfd's sockets. Each kind of socket brings a kind of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this node, as the kernel reports it (`SO_PEERCRED`, unix(7)).
    User {
        /// Its user.
        uid: u32,
        /// Its PID at that moment; another process may have it by now.
        pid: Option<i32>,
        /// Whether it is outside any container, with wharfd's own view of the node. Determined only for
        /// root and wharfd's own user.
        beside: bool,
    },
    /// The pod for which the socket was made, or a process that has got the socket from it.
    Pod(Presence),
    /// Somebody in the network.
    Remote {
        /// Where the connection comes from; another host may stand behind it. It proves nothing.
        address: SocketAddr,
        /// The names in the certificate whose key it has shown, which the clients' authorities vouch for;
        /// `None` without a certificate. A name may belong to nobody whom wharfd knows.
        certificate: Option<Arc<[CertificateName]>>,
    },
}

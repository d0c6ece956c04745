//! Sockets: the peer of each connection as the kernel reports it, limits on connections, and the protocols that
//! are spoken on them.

mod accept;
mod authority;
mod begun;
mod beside;
mod http2;
mod limits;
mod seat;
pub mod unix;

pub use accept::{Accepted, Protocol, Standing, Who, serve};
pub use http2::{Http2, UntilTaken};
pub use limits::Limits;
pub use seat::Seat;

/// The other end of a connection, as verified when the connection was accepted. A request without a
/// peer did not come through one of wharfd's sockets. Other kinds of sockets bring other kinds of
/// peers: a certificate chain, or the pod that a socket was made for.
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
}

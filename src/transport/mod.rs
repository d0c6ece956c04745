//! Sockets: who connects, as the kernel says, whether there is a place for it, and what is spoken.

mod accept;
mod begun;
mod beside;
mod http2;
mod limits;
pub mod unix;

pub use accept::{Who, serve};
pub use limits::Limits;

/// The other end of a connection, as it was vouched for when the connection was accepted. A request
/// without one was never accepted by a socket of ours. Other kinds of sockets bring other kinds of
/// peers: a certificate chain, the pod that a socket was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this node, as the kernel names it (`SO_PEERCRED`, unix(7)).
    User {
        /// Its user.
        uid: u32,
        /// Its number then; another process may have it since.
        pid: Option<i32>,
        /// Whether it is in no container: it has wharfd's own view of the node. Looked at for root and
        /// wharfd's own user alone.
        beside: bool,
    },
}

//! Sockets: who connects, as the kernel says, and HTTP/2 for them.

mod http2;
mod limits;
pub mod unix;

pub use http2::serve;
pub use limits::Limits;

/// The process at the other end of a connection, as the kernel named it when the connection was
/// accepted (`SO_PEERCRED`, unix(7)). A request without one was never accepted by a socket of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    uid: u32,
    /// Its process then; another one may have the number since.
    pid: Option<i32>,
}

impl Peer {
    /// Its user.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// A peer that no socket vouches for.
    #[cfg(test)]
    pub(crate) fn test(uid: u32) -> Self {
        Self { uid, pid: None }
    }
}

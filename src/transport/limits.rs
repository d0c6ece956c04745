//! Limits on the open connections and the calls of one caller.

use std::time::Duration;

/// How often the log says that a caller is beyond its limits.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(1);
/// How often it says so of all strangers together.
pub(super) const STRANGERS_LINE_EVERY: Duration = Duration::from_secs(60);

/// The limits of one caller.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections of one caller, over all sockets.
    pub connections_per_caller: usize,
    /// Calls of one caller that run at once, over all its connections. Each may cost a stream's window
    /// and an incomplete message.
    pub calls_per_caller: usize,
    /// Connections of one stranger: a user that is not served.
    pub connections_per_stranger: usize,
    /// Connections of all strangers: in a user namespace, one person can be many users.
    pub connections_of_strangers: usize,
    /// Connections of one user that have proven nothing yet, on a node with tokens. The same for one source in the
    /// network, from the moment at which its connections arrive.
    pub connections_of_unproven_user: usize,
    /// The same of all users, and of all sources.
    pub connections_of_unproven: usize,
    /// How long a client may take for its part of TLS, to send its preface, and to prove something, each. A live client
    /// does all of it at once.
    pub handshake: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        // Six calls for each of 150 builds, and some to spare.
        Self {
            connections_per_caller: 512,
            calls_per_caller: 1024,
            connections_per_stranger: 4,
            connections_of_strangers: 64,
            connections_of_unproven_user: 64,
            connections_of_unproven: 256,
            handshake: Duration::from_secs(10),
        }
    }
}

//! Notifications for systemd: sd_notify(3), for a unit of `Type=notify`.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use crate::config::env::{self, NOTIFY_SOCKET};

/// A state of the service.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// It serves.
    Ready,
    /// It is shutting down.
    Stopping,
}

/// Notifies the service manager, if there is one.
pub(super) fn notify(state: State) {
    let Some(socket) = env::value_os(NOTIFY_SOCKET) else { return };
    let text = match state {
        State::Ready => "READY=1",
        State::Stopping => "STOPPING=1",
    };
    let sent = address(socket.as_encoded_bytes())
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// The address from the variable: a path, or a name in the abstract namespace after an `@`.
fn address(socket: &[u8]) -> io::Result<SocketAddr> {
    match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(OsStr::from_bytes(socket)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        assert_eq!(address(b"/run/n").unwrap().as_pathname().unwrap().to_str(), Some("/run/n"));
        assert_eq!(address(b"@n").unwrap().as_abstract_name(), Some(&b"n"[..]));
    }
}

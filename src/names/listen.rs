//! An address to serve on.

use std::{fmt, net::SocketAddr, str::FromStr};

use super::{SocketPath, printable, socket::SocketPathError};

/// A Unix socket, `unix:///PATH`, or an address and a port, `tcp://IP:PORT`. Port 0 is one that the kernel chooses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum ListenAddress {
    /// A Unix socket.
    Unix(SocketPath),
    /// A port of one of the node's addresses, or of all.
    Tcp(SocketAddr),
}

/// The reason for refusing an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ListenError {
    #[error(transparent)]
    Unix(#[from] SocketPathError),
    #[error("`{0}` is not an address to serve on; write it as `unix:///PATH` or `tcp://IP:PORT`")]
    Shape(String),
    #[error(
        "`{0}` is not an IP address and a port; write it as `tcp://192.0.2.1:2376`, or `tcp://0.0.0.0:2376` for all \
         IPv4 addresses of the node"
    )]
    Tcp(String),
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            Some(("unix", _)) => Ok(Self::Unix(text.parse()?)),
            Some(("tcp", address)) => {
                address.parse().map(Self::Tcp).map_err(|_| ListenError::Tcp(printable(text)))
            }
            Some(_) | None => Err(ListenError::Shape(printable(text))),
        }
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = ListenError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(socket) => socket.fmt(f),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_or_a_port() {
        for address in ["unix:///run/w.sock", "tcp://127.0.0.1:2376", "tcp://[::]:2376", "tcp://10.0.0.1:0"] {
            assert_eq!(address.parse::<ListenAddress>().unwrap().to_string(), address);
        }
    }

    #[test]
    fn another_address_says_why() {
        let error = |text: &str| text.parse::<ListenAddress>().unwrap_err();
        assert!(matches!(error("unix://a"), ListenError::Unix(SocketPathError::Relative(_))));
        for shape in ["", "0.0.0.0:1", "http://0.0.0.0:1", "/run/w.sock"] {
            assert!(matches!(error(shape), ListenError::Shape(_)), "{shape}");
        }
        for tcp in
            ["tcp://", "tcp://localhost:1", "tcp://:1", "tcp://0.0.0.0", "tcp://0.0.0.0:65536", "tcp://::1:1"]
        {
            assert!(matches!(error(tcp), ListenError::Tcp(_)), "{tcp}");
        }
    }
}

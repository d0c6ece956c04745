//! The sockets that wharfd serves on.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::{
    pod::{self, Presence},
    tls::Tls,
    unix::{self, UnixBindError},
};
use crate::{names::ListenAddress, network};

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket; its file goes with it.
    Unix(unix::UnixSocket),
    /// The socket of a pod.
    Pod(pod::PodListener),
    /// A port of the network.
    Tcp {
        /// The socket.
        inner: TcpListener,
        /// Its address, with the port that the kernel has chosen if none was given.
        address: SocketAddr,
        /// `None` serves without TLS.
        tls: Option<Arc<Tls>>,
    },
}

/// A connection as it comes.
pub(super) enum Arrived {
    Unix(UnixStream),
    Pod(UnixStream, Presence),
    Tcp(TcpStream, SocketAddr, Option<Arc<Tls>>),
}

/// Why an address cannot be served on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BindError {
    #[error(transparent)]
    Unix(#[from] UnixBindError),
    #[error("tcp://{address}: cannot bind")]
    Tcp { address: SocketAddr, source: io::Error },
}

impl Listener {
    /// Listens on `address`. A Unix socket gets `mode` and, if given, `group`; a port speaks `tls`.
    ///
    /// # Errors
    /// If another process has the address, and as bind(2).
    pub async fn bind(
        address: &ListenAddress,
        mode: u32,
        group: Option<u32>,
        tls: Option<&Arc<Tls>>,
    ) -> Result<Self, BindError> {
        match address {
            ListenAddress::Unix(socket) => Ok(Self::Unix(unix::UnixSocket::bind(socket, mode, group).await?)),
            ListenAddress::Tcp(address) => {
                let failed = |source| BindError::Tcp { address: *address, source };
                let inner = TcpListener::bind(address).await.map_err(failed)?;
                // Once more: Tokio's own backlog is 128.
                rustix::net::listen(&inner, unix::BACKLOG).map_err(|error| failed(error.into()))?;
                let address = inner.local_addr().map_err(failed)?;
                Ok(Self::Tcp { inner, address, tls: tls.cloned() })
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Arrived> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(Arrived::Unix),
            Self::Pod(listener) => {
                listener.accept().await.map(|stream| Arrived::Pod(stream, listener.pod().clone()))
            }
            Self::Tcp { inner, tls, .. } => {
                let (stream, address) = inner.accept().await?;
                // A connection that is gone already fails soon enough.
                let _ = network::tune(&stream);
                Ok(Arrived::Tcp(stream, address, tls.clone()))
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(listener) => write!(f, "the socket of pod {}", listener.pod().pod()),
            Self::Unix(listener) => write!(f, "unix://{}", listener.path().display()),
            Self::Tcp { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

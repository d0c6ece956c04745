//! Connections to servers: TCP, proxy and TLS, each with a time limit.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    error::{Error, Kind},
    lookups::Resolver,
    proxy::Proxy,
    reach::Origin,
};
use crate::policy;

/// Longest attempt to connect to one of several addresses.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a server that answers TLS with something else.
const NOT_HTTPS: &str = "it does not speak HTTPS";
/// The largest answer of a proxy to CONNECT.
const PROXY_BYTES_MAX: usize = 16 << 10;

/// A connection that carries HTTP.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The network of an address. A server may send wharfd only to addresses that are no further inwards than its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Inwards {
    Public,
    /// The node's network.
    Private,
    /// The node itself.
    Loopback,
    /// Metadata services, and addresses that are not a host's. No server may send wharfd there.
    Never,
}

impl Inwards {
    pub(super) fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let private = match address {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                v4.is_private() || (a == 100 && (64..128).contains(&b))
            }
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        if policy::is_public(address) {
            Self::Public
        } else if policy::is_no_server(address) {
            Self::Never
        } else if address.is_loopback() {
            Self::Loopback
        } else if private {
            Self::Private
        } else {
            Self::Never
        }
    }

    /// Whether a registry in this network may send wharfd to `address`.
    pub(super) fn admits(self, address: IpAddr) -> bool {
        let there = Self::of(address);
        there == Self::Public || (there != Self::Never && there <= self)
    }
}

/// Connects to the first of `addresses` that answers.
pub(super) async fn tcp(addresses: &[IpAddr], port: u16) -> Result<(TcpStream, IpAddr), Error> {
    let connecting = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            let connected =
                timeout(ADDRESS_TIMEOUT, TcpStream::connect(SocketAddr::new(*address, port))).await;
            match connected {
                Ok(Ok(stream)) => return Ok((stream, *address)),
                Ok(Err(cause)) => last = cause,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    };
    let connected = timeout(CONNECT_TIMEOUT, connecting).await;
    let (stream, address) =
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(Error::unreachable)?;
    // Requests are short.
    let _ = stream.set_nodelay(true);
    Ok((stream, address))
}

/// Opens TLS to `host`.
pub(super) async fn tls(
    stream: impl Io + 'static,
    host: &str,
    config: ClientConfig,
) -> Result<Box<dyn Io>, Error> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::bad_address(host))?;
    let speaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match timeout(TLS_TIMEOUT, speaking).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(cause)) => Err(tls_error(cause)),
        Err(_) => Err(Error::new(Kind::Unreachable, "it does not answer in time")),
    }
}

/// The error of a registry that could have been reached without TLS.
pub(super) fn of_registry(error: Error) -> Error {
    if error.text() != NOT_HTTPS {
        return error;
    }
    let text = format!("{NOT_HTTPS}, and is not one of the engine's insecure registries");
    Error::new(error.kind(), text).caused_by(error)
}

fn tls_error(cause: io::Error) -> Error {
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match tls {
        Some(rustls::Error::InvalidCertificate(_)) => "its certificate is not trusted",
        Some(rustls::Error::InvalidMessage(_)) => NOT_HTTPS,
        Some(_) => "the TLS handshake failed",
        None => "it closed the connection",
    };
    Error::new(Kind::Unreachable, text).caused_by(cause)
}

/// Connects to a proxy; for TLS, then opens a tunnel through it to `origin`.
pub(super) async fn through(
    names: &Resolver,
    proxy: &Proxy,
    origin: &Origin,
    roots: ClientConfig,
) -> Result<Box<dyn Io>, Error> {
    let failed = |error: Error| {
        let text = format!("the proxy {} fails: {}", proxy.origin.authority(), error.text());
        Error::new(Kind::Unreachable, text).caused_by(error)
    };
    let connecting = async {
        let addresses = names.lookup(&proxy.origin.host).await?;
        let (stream, _) = tcp(&addresses, proxy.origin.port).await?;
        let mut stream: Box<dyn Io> = if proxy.origin.secure {
            tls(stream, &proxy.origin.host, roots).await?
        } else {
            Box::new(stream)
        };
        if origin.secure {
            let tunnelled = timeout(CONNECT_TIMEOUT, tunnel(&mut stream, proxy, origin)).await;
            tunnelled.unwrap_or_else(|_| Err(Error::stalled()))?;
        }
        Ok(stream)
    };
    connecting.await.map_err(failed)
}

/// Opens a tunnel by CONNECT (RFC 9110, 9.3.6).
async fn tunnel(stream: &mut Box<dyn Io>, proxy: &Proxy, origin: &Origin) -> Result<(), Error> {
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    let target = format!("{host}:{}", origin.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.map_err(Error::broken)?;
    let mut head = Vec::new();
    // Read byte by byte: the bytes after the head belong to the server.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_BYTES_MAX {
            return Err(Error::new(Kind::Unreachable, "its answer does not end"));
        }
        head.push(stream.read_u8().await.map_err(Error::broken)?);
    }
    let line = String::from_utf8_lossy(head.get(..head.len().min(64)).unwrap_or_default()).into_owned();
    match line.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(()),
        status => {
            let status = crate::names::printable(status.unwrap_or("nothing"));
            Err(Error::new(Kind::Unreachable, format!("it answers {status}")))
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn addresses_lead_inwards_in_steps() {
        let of = |text: &str| Inwards::of(text.parse().unwrap());
        assert_eq!(of("8.8.8.8"), Inwards::Public);
        for private in ["10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "fd00::1"] {
            assert_eq!(of(private), Inwards::Private, "{private}");
        }
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(loopback), Inwards::Loopback, "{loopback}");
        }
        for never in ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "64:ff9b::a9fe:a9fe"] {
            assert_eq!(of(never), Inwards::Never, "{never}");
        }
        assert!(Inwards::Public < Inwards::Private && Inwards::Private < Inwards::Loopback);
    }
}

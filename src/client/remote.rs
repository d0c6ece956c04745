//! A wharfd on the network: TCP, and TLS, in which each end shows a certificate.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use http::uri::Authority;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error as TlsError, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::AsyncBufReadExt as _,
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use super::{
    connect::Io,
    env::{self, Env, Variable},
    exit::{Exit, Failure},
};
use crate::{names::printable_url, network};

/// How long to wait for one of several addresses of a host: a network may swallow what goes to some of them.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// TLS to a wharfd at `tcp://`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TlsArgs {
    /// For `tcp://`: the authorities of wharfd's certificate [env: WHARF_TLSCACERT] [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// For `tcp://`: the client certificate that proves your identity [env: WHARF_TLSCERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// For `tcp://`: the certificate's key [env: WHARF_TLSKEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
    /// For `tcp://`: speak without TLS; anyone on the network path can read and change everything, the token
    /// included
    #[arg(long, global = true)]
    pub(crate) dangerous_plain_tcp: bool,
}

impl TlsArgs {
    /// Refuses the flags where they would do nothing.
    pub(crate) fn are_for_tcp(&self) -> Result<(), Failure> {
        match self.tls_flag().or(self.dangerous_plain_tcp.then_some("--dangerous-plain-tcp")) {
            Some(flag) => Err(Failure::usage(format!("{flag} is for `tcp://` alone"))
                .hint("leave it out, or name wharfd's address with --addr or WHARF_ADDR")),
            None => Ok(()),
        }
    }

    fn tls_flag(&self) -> Option<&'static str> {
        let flags =
            [(&self.tlscacert, "--tlscacert"), (&self.tlscert, "--tlscert"), (&self.tlskey, "--tlskey")];
        flags.into_iter().find_map(|(value, flag)| value.is_some().then_some(flag))
    }
}

/// Where such a wharfd listens, and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    authority: Authority,
    port: u16,
    /// `None` speaks without TLS.
    tls: Option<Tls>,
}

#[derive(Clone, Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    /// The name that wharfd's certificate must have.
    name: ServerName<'static>,
    shows_certificate: bool,
}

impl Remote {
    /// The address `tcp://AUTHORITY`.
    pub(crate) fn new(authority: &str, args: &TlsArgs, env: &Env) -> Result<Self, Failure> {
        let wrong = || {
            let shown = printable_url(&format!("tcp://{authority}"));
            Failure::usage(format!("`{shown}` is not a host and a port"))
                .hint("write it as `tcp://HOST:PORT`")
        };
        let authority: Authority = authority.parse().map_err(|_| wrong())?;
        let port = authority.port_u16().filter(|port| *port > 0).ok_or_else(wrong)?;
        let name = ServerName::try_from(host(&authority).to_owned()).map_err(|_| wrong())?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let tls = match (args.dangerous_plain_tcp, args.tls_flag()) {
            (true, Some(flag)) => {
                let text = format!("{flag} has no effect with --dangerous-plain-tcp");
                return Err(Failure::usage(text).hint("leave out one of them"));
            }
            (true, None) => None,
            (false, _) => {
                let (config, shows_certificate) = config(args, env)?;
                Some(Tls { config: Arc::new(config), name, shows_certificate })
            }
        };
        Ok(Self { authority, port, tls })
    }

    /// The URL of its calls.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    /// Connects to it.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Io>, Failure> {
        let stream = self.open().await.map_err(|error| self.unreachable(&error))?;
        // A connection that is gone already fails soon enough.
        let _ = network::tune(&stream);
        match &self.tls {
            Some(tls) => {
                let speaking = tls.speak(stream).await;
                Ok(Box::new(speaking.map_err(|error| self.unreachable(&error))?))
            }
            None => {
                // wharfd speaks first, and would not if it expected TLS.
                let begun = match stream.peek(&mut [0]).await {
                    Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    begun => begun,
                };
                begun.map_err(|error| self.unreachable(&error))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Connects to the first of the host's addresses that answers.
    async fn open(&self) -> io::Result<TcpStream> {
        let mut addresses = lookup_host((host(&self.authority), self.port)).await?.peekable();
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        while let Some(address) = addresses.next() {
            let connecting = TcpStream::connect(address);
            // The last one may take as long as there is.
            if addresses.peek().is_none() {
                return connecting.await;
            }
            match timeout(ADDRESS_TIMEOUT, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => {}
            }
        }
        Err(failed)
    }

    /// The failure to connect.
    pub(crate) fn unreachable(&self, error: &io::Error) -> Failure {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        let (why, hint) = match tls {
            Some(error) => self.tls_failure(error),
            None => match error.kind() {
                io::ErrorKind::ConnectionRefused => (
                    "nothing is listening there".to_owned(),
                    "check that wharfd runs with this address in its `listen`; a firewall may refuse the port as well",
                ),
                kind @ (io::ErrorKind::TimedOut
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset) => {
                    let (why, hint) = if kind == io::ErrorKind::TimedOut {
                        (
                            "it does not answer",
                            "wharfd may be stopped or overloaded, or a firewall may drop packets",
                        )
                    } else {
                        (
                            "it closed the connection",
                            "there may be too many connections: try again; if it persists, wharfd's log says \
                             more",
                        )
                    };
                    let is_plain = self.tls.is_none();
                    let expects = "wharfd may expect TLS there: leave out --dangerous-plain-tcp";
                    (why.to_owned(), if is_plain { expects } else { hint })
                }
                _ => (error.to_string(), "name wharfd's address with --addr or WHARF_ADDR"),
            },
        };
        Failure::new(Exit::NoDaemon, format!("cannot connect to wharfd at {self}: {why}")).hint(hint)
    }

    fn tls_failure(&self, error: &TlsError) -> (String, &'static str) {
        let host = host(&self.authority);
        match error {
            TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => (
                format!("its certificate is not for `{host}`"),
                "use a name that the certificate has, or have one made with this name in its SAN",
            ),
            // A signature is not right if two authorities have one name.
            TlsError::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => (
                "its certificate comes from an authority that is not trusted here".to_owned(),
                "name the file of its authority with --tlscacert or WHARF_TLSCACERT",
            ),
            TlsError::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => ("its certificate has expired".to_owned(), "wharfd's operator has to renew it"),
            TlsError::InvalidCertificate(error) => {
                (format!("its certificate is not valid: {error}"), "wharfd's operator has to replace it")
            }
            TlsError::InvalidMessage(_) => (
                "it does not speak TLS".to_owned(),
                "check that wharfd listens there with TLS: without it the connection is not safe",
            ),
            TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)
            | TlsError::NoApplicationProtocol => {
                ("it does not speak HTTP/2".to_owned(), "check that wharfd listens there")
            }
            TlsError::AlertReceived(
                alert @ (AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::CertificateRequired),
            ) if self.shows_certificate() => (
                format!("it refuses the client certificate: {alert:?}"),
                "the certificate must not have expired, must be for clients, and must come from an authority \
                 in wharfd's `client_ca`",
            ),
            error => (format!("TLS fails: {error}"), "wharfd's log says more"),
        }
    }

    /// Whether it speaks without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether it shows a certificate.
    pub(crate) fn shows_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.shows_certificate)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}", self.authority)
    }
}

impl Tls {
    async fn speak(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let speaking = TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream);
        let mut stream = speaking.await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other(TlsError::NoApplicationProtocol));
        }
        // In TLS 1.3 the client is done before wharfd has judged its certificate. wharfd speaks first after that; if the
        // client did, wharfd's answer to a bad certificate could be lost (a reset connection forgets it).
        if self.shows_certificate && stream.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(stream)
    }
}

/// The host without the brackets of an IPv6 address.
fn host(authority: &Authority) -> &str {
    let host = authority.host();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// How to speak TLS, and whether with a certificate.
fn config(args: &TlsArgs, env: &Env) -> Result<(ClientConfig, bool), Failure> {
    let authorities = Named::of(args.tlscacert.as_deref(), "--tlscacert", env::WHARF_TLSCACERT, env);
    let certificate = Named::of(args.tlscert.as_deref(), "--tlscert", env::WHARF_TLSCERT, env);
    let key = Named::of(args.tlskey.as_deref(), "--tlskey", env::WHARF_TLSKEY, env);
    let roots = match authorities {
        None => network::system_authorities(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in file.certificates()? {
                roots.add(authority).map_err(|error| file.wrong(&error))?;
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(network::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(Exit::Failed, format!("TLS cannot be used: {error}")))?
        .with_root_certificates(roots);
    let shows_certificate = certificate.is_some();
    let mut config = match (certificate, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(file), Some(key)) => {
            let (chain, secret) = (file.certificates()?, key.read()?);
            let secret = network::key(&secret).map_err(|error| key.wrong(&error))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| key.wrong(&error))?
        }
        (Some(file), None) | (None, Some(file)) => {
            return Err(Failure::usage(format!("{}: a certificate and its key belong together", file.flag))
                .hint("give --tlscert and --tlskey, or WHARF_TLSCERT and WHARF_TLSKEY"));
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, shows_certificate))
}

/// A file, and the flag or variable that names it.
struct Named {
    path: PathBuf,
    flag: &'static str,
}

impl Named {
    fn of(path: Option<&Path>, flag: &'static str, variable: Variable, env: &Env) -> Option<Self> {
        let of_variable = || Some(Self { path: env.path(variable)?, flag: variable.name });
        path.map(|path| Self { path: path.to_owned(), flag }).or_else(of_variable)
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        network::read(&self.path).map_err(|error| self.wrong(&error))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Failure> {
        network::some_certificates(&self.read()?).map_err(|error| self.wrong(&error))
    }

    fn wrong(&self, why: &dyn fmt::Display) -> Failure {
        Failure::usage(format!("{} {}: cannot be used: {why}", self.flag, self.path.display()))
    }
}

#[cfg(test)]
mod tests;

//! The connection to wharfd: one HTTP/2 connection over its Unix socket, or over the network.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time,
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use super::{
    env::{self, Env},
    exit::{Exit, Failure},
    remote::{Remote, TlsArgs},
    token::Token,
};

/// A connection to wharfd, whose calls carry the token.
pub(crate) type Connection = InterceptedService<Channel, Token>;

/// Where wharfd listens by default.
const DEFAULT_ADDRESS: &str = "unix:///run/wharf/wharf.sock";

/// The hint for a wharfd that does not answer.
pub(crate) const NO_ANSWER: &str = "wharfd may be stopped or overloaded: its log may say";

/// The largest message that either side may send. Context sync messages and answers are smaller.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How many streams wharfd may have open to us at once.
pub(crate) const STREAMS_MAX: usize = 60;

/// HTTP/2 windows: the connection's exceeds the sum of its streams', so that a stream which nobody
/// reads cannot stop the others.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const _: () = assert!(CONNECTION_WINDOW as usize > (STREAMS_MAX + 2) * STREAM_WINDOW as usize);

/// A running wharfd accepts at once; a stopped or stuck wharfd never accepts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between attempts to connect to a socket whose backlog is full.
const AGAIN: Duration = Duration::from_millis(20);
/// A wharfd that exits closes the connection, so these limits only detect one that hangs. A wharfd on a node
/// under load may be silent for a while.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// The address of a wharfd.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// A Unix socket.
    Socket(Socket),
    /// A port in the network.
    Remote(Box<Remote>),
}

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket(PathBuf);

/// The bytes of a connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Address {
    /// The address that `flag` names, else WHARF_ADDR, else the default.
    pub(crate) fn resolve(flag: Option<&str>, tls: &TlsArgs, env: &Env) -> Result<Self, Failure> {
        match flag {
            Some(url) => Self::parse(url, tls, env),
            None => Self::parse(env.get(env::WHARF_ADDR)?.as_deref().unwrap_or(DEFAULT_ADDRESS), tls, env),
        }
    }

    fn parse(url: &str, tls: &TlsArgs, env: &Env) -> Result<Self, Failure> {
        let wrong = |text: String| {
            Failure::usage(text).hint("write it as `unix:///PATH`, an absolute path, or `tcp://HOST:PORT`")
        };
        match url.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') && !path.contains('\0') => {
                tls.are_for_tcp()?;
                Ok(Self::Socket(Socket(path.into())))
            }
            Some(("unix", _)) => Err(wrong(format!("`{url}` has no absolute path"))),
            Some(("tcp", authority)) => Ok(Self::Remote(Box::new(Remote::new(authority, tls, env)?))),
            Some((scheme, _)) => Err(wrong(format!("wharfd cannot be reached over `{scheme}://`"))),
            None => Err(wrong(format!("`{url}` is not an address of wharfd"))),
        }
    }

    /// Whether it is the socket of a pod, which wharfd has put into a volume with the name of the pod's namespace.
    pub(crate) fn is_of_pod(&self) -> bool {
        match self {
            Self::Socket(Socket(path)) => path.with_file_name("namespace").is_file(),
            Self::Remote(_) => false,
        }
    }

    /// Connects to wharfd.
    pub(crate) async fn connect(&self, token: Token) -> Result<Connection, Failure> {
        let stream = time::timeout(CONNECT_TIMEOUT, self.stream())
            .await
            .unwrap_or_else(|_| Err(self.unreachable(&io::ErrorKind::TimedOut.into())))?;
        // One connection per command: losing it cancels the build, so a second connection would have
        // nothing to resume.
        let once = Mutex::new(Some(stream));
        let connector = service_fn(move |_: Uri| {
            let stream = once.lock().ok().and_then(|mut once| once.take());
            async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        let endpoint = match self {
            Self::Socket(_) => Endpoint::from_static("http://localhost"),
            Self::Remote(remote) => Endpoint::from_shared(remote.origin())
                .map_err(|error| self.unreachable(&io::Error::other(error)))?,
        };
        endpoint
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map(|channel| InterceptedService::new(channel, token))
            .map_err(|error| self.unreachable(&io::Error::other(error)))
    }

    async fn stream(&self) -> Result<Box<dyn Io>, Failure> {
        match self {
            Self::Socket(socket) => match socket.connected().await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(socket.unreachable(&error)),
            },
            Self::Remote(remote) => remote.connect().await,
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        match self {
            Self::Socket(socket) => socket.unreachable(error),
            Self::Remote(remote) => remote.unreachable(error),
        }
    }
}

impl Socket {
    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Connects to the socket, and waits while its backlog is full (unix(7): EAGAIN): many jobs may start
    /// together, and wharfd accepts their connections shortly.
    async fn connected(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.0).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => time::sleep(AGAIN).await,
                connected => return connected,
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "ErrorKind may grow; other kinds are reported as they are"
    )]
    fn unreachable(&self, error: &io::Error) -> Failure {
        let at = self;
        let failure = |text: String, hint: &str| Failure::new(Exit::NoDaemon, text).hint(hint);
        match error.kind() {
            io::ErrorKind::NotFound => failure(
                format!("cannot connect to wharfd at {at}: there is no such socket"),
                "start wharfd, mount its socket's directory into this container, or name the socket with \
                 --addr or WHARF_ADDR",
            ),
            io::ErrorKind::ConnectionRefused if is_socket(&self.0) => failure(
                format!("cannot connect to wharfd at {at}: nothing is listening"),
                "start wharfd; if the socket itself is mounted, it goes stale when wharfd restarts: mount its directory instead",
            ),
            io::ErrorKind::ConnectionRefused => failure(
                format!("cannot connect to wharfd at {at}: that is not a socket"),
                "name wharfd's socket with --addr or WHARF_ADDR",
            ),
            io::ErrorKind::PermissionDenied => failure(
                format!("cannot connect to wharfd at {at}: permission denied for {}", whoami()),
                "wharfd's --listen-mode and --listen-group decide who may open its socket",
            ),
            io::ErrorKind::TimedOut => {
                failure(format!("cannot connect to wharfd at {at}: it does not answer"), NO_ANSWER)
            }
            _ => failure(
                format!("cannot connect to wharfd at {at}: {error}"),
                "name wharfd's socket with --addr or WHARF_ADDR",
            ),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.fmt(f),
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// This user, as the kernel shows it to wharfd.
pub(crate) fn whoami() -> String {
    format!("uid {}, gid {}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Address::parse(url, &TlsArgs::default(), &Env::of(&[])).unwrap_err().text
    }

    #[test]
    fn an_address_is_a_socket() {
        assert!(refused("http://127.0.0.1:1").contains("http://"));
        assert!(refused("unix://a").contains("absolute"));
        assert!(refused("/run/x").contains("not an address"));
        let shown = |flag, env: &[(&str, &str)]| {
            Address::resolve(flag, &TlsArgs::default(), &Env::of(env)).unwrap().to_string()
        };
        let env = [("WHARF_ADDR", "unix:///env")];
        assert_eq!(shown(None, &env), "unix:///env");
        assert_eq!(shown(Some("unix:///flag"), &env), "unix:///flag");
        assert_eq!(shown(None, &[("WHARF_ADDR", "")]), "unix:///run/wharf/wharf.sock");
        assert_eq!(shown(Some("tcp://127.0.0.1:1"), &env), "tcp://127.0.0.1:1");
    }

    #[tokio::test]
    async fn a_socket_that_is_full_is_tried_again() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
        let directory = std::env::temp_dir().join(format!("wharf-full-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("full");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&socket).await {
            waiting.push(stream);
        }
        let address = Socket(socket);
        let mut connecting = std::pin::pin!(address.connected());
        assert!(futures_util::poll!(connecting.as_mut()).is_pending(), "it waits");
        rustix::net::accept(&listener).unwrap();
        connecting.await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn each_way_of_not_answering_is_told_apart() {
        let directory = std::env::temp_dir().join(format!("wharf-connect-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let said = async |name: &str| {
            let failure =
                Address::Socket(Socket(directory.join(name))).connect(Token::default()).await.unwrap_err();
            assert_eq!(failure.exit, Exit::NoDaemon);
            failure.text
        };
        assert!(said("absent").await.contains("no such socket"));
        drop(std::os::unix::net::UnixListener::bind(directory.join("stale")).unwrap());
        assert!(said("stale").await.contains("nothing is listening"));
        std::fs::write(directory.join("file"), "").unwrap();
        assert!(said("file").await.contains("not a socket"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

//! Unix sockets: binding never takes a live daemon's place, and dropping removes the file.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

use crate::names::SocketPath;

/// Connections that wait to be accepted; the kernel caps this at net.core.somaxconn.
pub(super) const BACKLOG: i32 = 1024;
/// The lock is held only to bind or remove a socket, which takes no time.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A listening socket. Dropping it removes its file, unless another socket has taken its place.
#[derive(Debug)]
pub struct UnixSocket {
    inner: UnixListener,
    path: PathBuf,
    /// The device and inode of this listener's file.
    file: (u64, u64),
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UnixBindError {
    #[error("{}: another process answers on this socket", .0.display())]
    InUse(PathBuf),
    #[error("{}: this file is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("{}: another process has locked this file; stop the other wharfd", .0.display())]
    Locked(PathBuf),
    #[error("{}: this file does not belong to wharfd; remove it", .0.display())]
    ForeignLock(PathBuf),
    #[error("{}: cannot {what}", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

impl UnixSocket {
    /// Binds `socket` with `mode` and, if given, `group`. Makes its directory if it is missing, and
    /// replaces the socket of a dead daemon; the socket of a live daemon is an error.
    pub async fn bind(socket: &SocketPath, mode: u32, group: Option<u32>) -> Result<Self, UnixBindError> {
        let path = socket.as_path();
        let failed =
            |what| move |source: io::Error| UnixBindError::Io { path: path.to_owned(), what, source };
        let errno = |what| move |error: Errno| failed(what)(error.into());

        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(failed("make its directory"))?;
        let _lock = lock(path).await?;
        remove_dead(path)?;

        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(errno("make a socket"))?;
        // Bind under a private name first: nobody must find the socket before its mode and group are
        // right and it listens.
        let fresh = fresh_name(path);
        let address = SocketAddrUnix::new(&fresh).map_err(errno("bind: its path is too long"))?;
        let _ = fs::remove_file(&fresh);
        rustix::net::bind(&fd, &address).map_err(errno("bind"))?;
        let ready = ready(&fd, &fresh, mode, group).map_err(errno("set its mode and group"));
        let placed = ready.and_then(|()| {
            rustix::fs::renameat_with(CWD, &fresh, CWD, path, RenameFlags::NOREPLACE)
                .map_err(errno("name it"))
        });
        if placed.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        placed?;
        let file = identity(path).map_err(failed("look at it"))?;
        let inner = UnixListener::from_std(fd.into()).map_err(failed("watch it"))?;
        Ok(Self { inner, path: path.to_owned(), file })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.inner.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Without the lock, another wharfd is binding: it replaces the file or finds that nobody answers there.
        let Ok(Some(_lock)) = open_lock(&self.path).and_then(|fd| try_lock(fd, &self.path)) else { return };
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn ready(fd: &OwnedFd, fresh: &Path, mode: u32, group: Option<u32>) -> Result<(), Errno> {
    if let Some(group) = group {
        rustix::fs::chownat(CWD, fresh, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::chmod(fresh, Mode::from_raw_mode(mode))?;
    rustix::net::listen(fd, BACKLOG)
}

/// `.wharf.sock.PID`, beside `path`.
fn fresh_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// `.wharf.sock.lock`, beside `path`.
fn lock_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    path.with_file_name(name)
}

/// Takes the lock that is needed to bind or remove a socket. Without it, another daemon could bind its socket
/// between the check of a dead socket and its removal. The lock is a file that nobody else can open: every
/// process that can open a file can lock it, and everybody can open the socket's directory. It is never
/// removed: otherwise two daemons could each lock a file of that name.
async fn lock(path: &Path) -> Result<OwnedFd, UnixBindError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(held) = try_lock(open_lock(path)?, path)? {
            return Ok(held);
        }
        if Instant::now() >= deadline {
            return Err(UnixBindError::Locked(lock_name(path)));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn open_lock(path: &Path) -> Result<OwnedFd, UnixBindError> {
    let name = lock_name(path);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let failed = |error: Errno| UnixBindError::Io {
        path: name.clone(),
        what: "open this lock file",
        source: error.into(),
    };
    let fd = rustix::fs::open(&name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let file = rustix::fs::fstat(&fd).map_err(failed)?;
    let own = file.st_uid == rustix::process::geteuid().as_raw()
        && FileType::from_raw_mode(file.st_mode).is_file()
        && file.st_mode & 0o077 == 0;
    if own { Ok(fd) } else { Err(UnixBindError::ForeignLock(name)) }
}

/// Locks the file; `None` while another process has the lock.
fn try_lock(fd: OwnedFd, path: &Path) -> Result<Option<OwnedFd>, UnixBindError> {
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => {
            Err(UnixBindError::Io { path: lock_name(path), what: "lock this file", source: error.into() })
        }
    }
}

/// Removes the socket of a dead daemon: nobody answers on it.
fn remove_dead(path: &Path) -> Result<(), UnixBindError> {
    let failed = |what| move |source| UnixBindError::Io { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at it")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(UnixBindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match connect(path) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed("remove a dead daemon's socket")),
        // Any other outcome, such as a full backlog or a lack of permission: somebody may be there.
        Ok(_) | Err(_) => Err(UnixBindError::InUse(path.to_owned())),
    }
}

/// Connects without waiting: a process that accepts nothing may keep its backlog full for ever.
fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixStream};

    use super::*;

    /// A directory that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-unix-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn socket(&self) -> SocketPath {
            format!("unix://{}/w.sock", self.0.display()).parse().unwrap()
        }

        fn entries(&self) -> usize {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name != ".w.sock.lock").count()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_when_it_ends() {
        let dir = Dir::new("mode");
        let listener = UnixSocket::bind(&dir.socket(), 0o606, None).await.unwrap();
        let mode = fs::metadata(listener.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o606);
        UnixStream::connect(listener.path()).unwrap();
        drop(listener);
        assert_eq!(dir.entries(), 0);
    }

    #[tokio::test]
    async fn a_live_daemon_keeps_its_socket() {
        let dir = Dir::new("live");
        let _listener = UnixSocket::bind(&dir.socket(), 0o600, None).await.unwrap();
        assert!(matches!(UnixSocket::bind(&dir.socket(), 0o600, None).await, Err(UnixBindError::InUse(_))));
        assert_eq!(dir.entries(), 1);
    }

    #[tokio::test]
    async fn a_full_backlog_holds_nobody_up() {
        let dir = Dir::new("full");
        fs::create_dir_all(&dir.0).unwrap();
        let socket = dir.socket();
        let deaf = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&deaf, &SocketAddrUnix::new(socket.as_path()).unwrap()).unwrap();
        rustix::net::listen(&deaf, 0).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match connect(socket.as_path()) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Errno::AGAIN);
        assert!(matches!(UnixSocket::bind(&socket, 0o600, None).await, Err(UnixBindError::InUse(_))));
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced() {
        let dir = Dir::new("dead");
        fs::create_dir_all(&dir.0).unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.socket().as_path()).unwrap());
        assert_eq!(dir.entries(), 1, "std leaves the file behind");
        let listener = UnixSocket::bind(&dir.socket(), 0o600, None).await.unwrap();
        UnixStream::connect(listener.path()).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_stays() {
        let dir = Dir::new("file");
        fs::create_dir_all(&dir.0).unwrap();
        fs::write(dir.socket().as_path(), "mine").unwrap();
        assert!(matches!(
            UnixSocket::bind(&dir.socket(), 0o600, None).await,
            Err(UnixBindError::NotASocket(_))
        ));
        assert_eq!(fs::read_to_string(dir.socket().as_path()).unwrap(), "mine");
    }

    #[tokio::test]
    async fn of_many_that_bind_at_once_one_wins() {
        let dir = Dir::new("race");
        fs::create_dir_all(&dir.0).unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.socket().as_path()).unwrap());
        let socket = dir.socket();
        let binding = (0..8).map(|_| UnixSocket::bind(&socket, 0o600, None));
        let bound = futures_util::future::join_all(binding).await;
        let bound: Vec<_> = bound.into_iter().filter_map(Result::ok).collect();
        assert_eq!(bound.len(), 1);
        UnixStream::connect(bound[0].path()).unwrap();
        assert_eq!(dir.entries(), 1);
    }

    #[tokio::test]
    async fn another_ones_socket_is_not_removed() {
        let dir = Dir::new("other");
        let first = UnixSocket::bind(&dir.socket(), 0o600, None).await.unwrap();
        fs::remove_file(first.path()).unwrap();
        let second = UnixSocket::bind(&dir.socket(), 0o600, None).await.unwrap();
        drop(first);
        UnixStream::connect(second.path()).unwrap();
    }

    #[tokio::test]
    async fn who_reads_the_directory_locks_nobody_out() {
        let dir = Dir::new("locked");
        fs::create_dir_all(&dir.0).unwrap();
        let directory = fs::File::open(&dir.0).unwrap();
        rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).unwrap();
        let listener = UnixSocket::bind(&dir.socket(), 0o606, None).await.unwrap();
        let lock = fs::metadata(lock_name(listener.path())).unwrap().permissions().mode();
        assert_eq!(lock & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_lock_file_that_others_can_open_is_refused() {
        let dir = Dir::new("foreign");
        fs::create_dir_all(&dir.0).unwrap();
        let lock = lock_name(dir.socket().as_path());
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = UnixSocket::bind(&dir.socket(), 0o600, None).await.unwrap_err();
        assert!(matches!(refused, UnixBindError::ForeignLock(named) if named == lock));
    }

    #[tokio::test]
    async fn a_lock_that_is_free_again_lets_who_waits_in() {
        let dir = Dir::new("waits");
        fs::create_dir_all(&dir.0).unwrap();
        let held = try_lock(open_lock(dir.socket().as_path()).unwrap(), dir.socket().as_path()).unwrap();
        let socket = dir.socket();
        let mut binding = std::pin::pin!(UnixSocket::bind(&socket, 0o600, None));
        assert!(futures_util::poll!(binding.as_mut()).is_pending(), "the runtime is not held up");
        drop(held);
        binding.await.unwrap();
    }
}

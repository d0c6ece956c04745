//! The socket of one pod, in a directory that the pod sees.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

use super::unix::BACKLOG;
use crate::names::Pod;

/// The socket's name.
pub const SOCKET: &str = "wharf.sock";
/// Its name until it has its mode and listens.
const FRESH: &str = ".wharf.sock.new";
/// For every uid of the pod's containers.
const MODE: u32 = 0o666;

/// A pod for as long as it has a socket. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Presence {
    pod: Arc<Pod>,
    has_ended: Arc<AtomicBool>,
}

impl Presence {
    /// The pod is here.
    pub fn new(pod: Pod) -> Self {
        Self { pod: Arc::new(pod), has_ended: Arc::default() }
    }

    /// The pod.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// From now on the pod proves nothing.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// A number that no other pod has meanwhile.
    pub(super) fn number(&self) -> usize {
        Arc::as_ptr(&self.has_ended).addr()
    }
}

impl PartialEq for Presence {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.has_ended, &other.has_ended)
    }
}

impl Eq for Presence {}

/// A listening socket in a pod's directory. Its file stays until the directory is removed.
pub struct PodListener {
    inner: UnixListener,
    pod: Presence,
}

impl PodListener {
    /// Binds the socket of `pod` in `directory`, in the place of one that is there, and listens.
    ///
    /// # Errors
    /// As bind(2) and rename(2).
    pub fn bind(directory: BorrowedFd<'_>, pod: Presence) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::fs::unlinkat(directory, FRESH, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        // The directory's own path can be longer than a socket's address, and could lead elsewhere meanwhile.
        let fresh = within(directory, FRESH);
        rustix::net::bind(&fd, &SocketAddrUnix::new(&fresh)?)?;
        let placed = place(&fd, directory);
        if placed.is_err() {
            let _ = rustix::fs::unlinkat(directory, FRESH, AtFlags::empty());
        }
        placed?;
        Ok(Self { inner: UnixListener::from_std(fd.into())?, pod })
    }

    /// The pod.
    pub(super) fn pod(&self) -> &Presence {
        &self.pod
    }

    pub(super) async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.inner.accept().await.map(|(stream, _)| stream)
    }
}

impl fmt::Debug for PodListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodListener").field("pod", &self.pod).finish_non_exhaustive()
    }
}

/// A short path to `name` in an open directory.
fn within(directory: BorrowedFd<'_>, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Sets the mode of the fresh socket, listens, and gives it its name.
fn place(fd: &OwnedFd, directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, FRESH, flags, Mode::empty())?;
    // Another file may have its name by now: never change the mode of that.
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("another file has taken the socket's place"));
    }
    let itself = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::chmodat(CWD, itself, Mode::from_raw_mode(MODE), AtFlags::empty())?;
    rustix::net::listen(fd, BACKLOG)?;
    rustix::fs::renameat(directory, FRESH, directory, SOCKET)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::PermissionsExt as _, net::UnixStream},
    };

    use super::*;

    #[tokio::test]
    async fn a_socket_is_bound_below_a_long_path_and_again_over_a_dead_one() {
        let path = std::env::temp_dir().join(format!("wharf-pod-{}-{}", std::process::id(), "d".repeat(120)));
        fs::create_dir_all(&path).unwrap();
        let directory = fs::File::open(&path).unwrap();
        let pod = || Presence::new(Pod::new("a", "1").unwrap());
        let connect = || UnixStream::connect(within(directory.as_fd(), SOCKET));
        let first = PodListener::bind(directory.as_fd(), pod()).unwrap();
        assert_eq!(fs::metadata(path.join(SOCKET)).unwrap().permissions().mode() & 0o777, MODE);
        connect().unwrap();
        drop(first);
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "it stays, dead");
        // A leftover of a start that was killed.
        fs::write(path.join(FRESH), "").unwrap();
        let _second = PodListener::bind(directory.as_fd(), pod()).unwrap();
        connect().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::remove_dir_all(path).unwrap();
    }
}

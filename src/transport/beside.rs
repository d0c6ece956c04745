//! Whether a peer runs outside any container: where wharfd runs, or where the node's own processes run.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use tokio::net::UnixStream;

/// Whether the process that connected `stream` is in wharfd's own PID and user namespaces and sees the same
/// files as wharfd or as the node's first process. False if the kernel does not say: before Linux 6.5, for a
/// process of another PID namespace, and if wharfd lacks the permission to look.
pub(super) fn is_beside(stream: &UnixStream) -> bool {
    look(stream).unwrap_or(false)
}

fn look(stream: &UnixStream) -> Option<bool> {
    let peer = getsockopt(stream, PeerPidfd).ok()?;
    let pid = pid_of(&peer)?;
    let [same_pid, same_user, same_files] =
        ["pid", "user", "mnt"].map(|kind| Some(namespace(&pid, kind)? == namespace("self", kind)?));
    let as_first = || Some(namespace(&pid, "mnt")? == namespace("1", "mnt")?);
    let is_beside = same_pid? && same_user? && (same_files? || as_first().unwrap_or(false));
    // Another process can get the number only after the peer is gone.
    Some(is_beside && pid_of(&peer)? == pid)
}

/// The PID of a live process as wharfd sees it (`fdinfo` of a pidfd: proc(5)).
fn pid_of(process: &OwnedFd) -> Option<String> {
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    let pid = said.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    // -1: the process has ended; 0: it is in another PID namespace.
    pid.parse::<u32>().ok().filter(|pid| *pid > 0).map(|pid| pid.to_string())
}

/// `mnt:[4026531841]`.
fn namespace(pid: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_beside_itself() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(look(&one), Some(true), "Linux 6.5 or later");
    }
}

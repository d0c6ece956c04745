//! The entry point for `fuzz/`: a tree as a builder may send it.
#![expect(clippy::unwrap_used, reason = "a fuzzer ends at what must not be")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use tokio::sync::mpsc;

use super::{flag, receive, tree::Destination};
use crate::client::checkouts::Checkouts;

/// The names in a directory.
fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Removes a tree, whose directories may have modes that shut out a caller who is not root.
fn remove(tree: &Path) {
    fn unlock(directory: &Path) {
        fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                unlock(&entry.path());
            }
        }
    }
    unlock(tree);
    fs::remove_dir_all(tree).unwrap();
}

/// Receives packets, each behind its length in one byte, into a directory with links that lead out. Nothing outside
/// changes.
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = flag::output(text);
    }
    let root = std::env::temp_dir().join(format!("wharf-fuzz-{}", std::process::id()));
    // A fuzzer that was killed may have had this process's number.
    if root.exists() {
        remove(&root);
    }
    let (out, outside) = (root.join("out"), root.join("outside"));
    fs::create_dir_all(&out).unwrap();
    fs::create_dir_all(&outside).unwrap();
    let kept = outside.join("f");
    fs::write(&kept, "keep").unwrap();
    let mode = || fs::metadata(&kept).unwrap().permissions().mode();
    let mode_before = mode();
    for name in ["a", "b"] {
        std::os::unix::fs::symlink("../outside", out.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("../outside/f", out.join("f")).unwrap();

    let (sender, packets) = mpsc::channel(data.len().max(1));
    let mut rest = data;
    while let Some((length, after)) = rest.split_first() {
        let (packet, after) = after.split_at_checked(usize::from(*length)).unwrap_or((after, &[]));
        sender.try_send(packet.to_vec().into()).unwrap();
        rest = after;
    }
    drop(sender);
    let (said, _heard) = mpsc::channel(data.len() + receive::SAID_MAX);
    let _ = receive::receive(&Destination::new(out.clone(), &Checkouts::default()), packets, &said);

    assert_eq!(names(&root), ["out", "outside"]);
    assert_eq!(names(&outside), ["f"]);
    assert_eq!(fs::read(&kept).unwrap(), b"keep");
    assert_eq!(mode(), mode_before);
    assert!(names(&out).iter().all(|name| !name.to_string_lossy().starts_with(".wharf-")));
    remove(&root);
}

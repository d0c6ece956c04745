//! The entry point for `fuzz/`: a tree as a builder may send it.
#![expect(clippy::unwrap_used, reason = "a fuzzer ends at what must not be")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

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

/// Receives packets, each behind its length in one byte, into a directory with links that lead out. Nothing outside
/// changes.
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = flag::output(text);
    }
    let root = std::env::temp_dir().join(format!("wharf-fuzz-{}", std::process::id()));
    let (out, outside) = (root.join("out"), root.join("outside"));
    fs::create_dir_all(&out).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("f"), "keep").unwrap();
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
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"keep");
    assert_eq!(fs::metadata(outside.join("f")).unwrap().permissions().mode() & 0o7777, 0o644);
    assert!(names(&out).iter().all(|name| !name.to_string_lossy().starts_with(".wharf-")));
    fs::remove_dir_all(&root).unwrap();
}

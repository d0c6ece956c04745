//! Listings of directories. The walk for a context's state keeps its own, so that the sync, which follows at once,
//! does not read all of them again.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How long listings are used: a build that had to wait, for its turn or for an image, reads the directories as they are
/// then. A sync of many files takes longer than this between a file's announcement and its content, too.
const FRESH: Duration = Duration::from_millis(500);
/// How many entries are kept, each of about 300 bytes.
const ENTRIES_MAX: usize = 100_000;

/// An entry of a directory.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) name: OsString,
    pub(super) is_dir: bool,
    /// The part of it that the walk for the state has read.
    pub(super) metadata: Option<Metadata>,
}

/// The entries of a directory, in any order.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Child>> {
    fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            Ok(Child { is_dir: entry.file_type()?.is_dir(), name: entry.file_name(), metadata: None })
        })
        .collect()
}

/// The order in which a sync announces the entries of a directory: by the bytes of their names.
pub(super) fn sort(children: &mut [Child]) {
    children.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
}

/// The room for listings.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(ENTRIES_MAX))
    }

    /// Whether there is room for `entries` more, which then is taken.
    pub(super) fn take(&self, entries: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(entries)).is_ok()
    }
}

/// Listings by the path of their directory, relative to the context. Each is used once.
#[derive(Debug, Default)]
pub(super) struct Listings {
    /// When the first of them was read.
    read: Option<Instant>,
    listed: Mutex<HashMap<String, Vec<Child>>>,
}

impl Listings {
    /// The listings; the first was read at `read`.
    pub(super) fn new(read: Instant, listed: HashMap<String, Vec<Child>>) -> Self {
        Self { read: Some(read), listed: Mutex::new(listed) }
    }

    /// The entries of a directory, if they have been read, a moment ago.
    pub(super) fn take(&self, directory: &str) -> Option<Vec<Child>> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.read.is_none_or(|read| read.elapsed() > FRESH) {
            *listed = HashMap::new();
        }
        listed.remove(directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listings(read: Instant) -> Listings {
        let child = Child { name: "f".into(), is_dir: false, metadata: None };
        Listings::new(read, [("d".to_owned(), vec![child])].into())
    }

    #[test]
    fn a_listing_is_used_once_and_only_at_once() {
        let fresh = listings(Instant::now());
        assert!(fresh.take("other").is_none());
        assert_eq!(fresh.take("d").unwrap().len(), 1);
        assert!(fresh.take("d").is_none());
        let old = listings(Instant::now().checked_sub(2 * FRESH).unwrap());
        assert!(old.take("d").is_none());
    }

    #[test]
    fn the_room_is_bounded() {
        let room = Room::new();
        assert!(room.take(ENTRIES_MAX - 1));
        assert!(!room.take(2));
        assert!(room.take(1));
        assert!(!room.take(1));
    }
}

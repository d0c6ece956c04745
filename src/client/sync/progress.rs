//! How far a sync is, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::context::Entry;

/// Counters that the sync moves and anyone may read; several syncs may share them.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    announced: AtomicU64,
    asked: AtomicU64,
    sent: AtomicU64,
    files: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Entries announced.
    pub entries: u64,
    /// Bytes of the files announced: the context's size.
    pub announced: u64,
    /// Bytes of the files that the receiver did not have.
    pub asked: u64,
    /// Bytes of those that went out.
    pub sent: u64,
    /// Files that went out whole.
    pub files: u64,
}

impl Progress {
    /// Where it stands.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            entries: load(&self.entries),
            announced: load(&self.announced),
            asked: load(&self.asked),
            sent: load(&self.sent),
            files: load(&self.files),
        }
    }

    pub(crate) fn announce(&self, entry: &Entry) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        // A further name of a file has no bytes of its own to send.
        if entry.is_file() && entry.stat.linkname.is_empty() {
            self.announced.fetch_add(entry.size(), Ordering::Relaxed);
        }
    }

    pub(crate) fn ask(&self, bytes: u64) {
        self.asked.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn send(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}

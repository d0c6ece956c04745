//! The work that the archives of one context are together, for wharfd and the engine.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::costs::{is_too_dense, too_dense};

/// How many compressed archives of one context are judged.
pub(super) const ARCHIVES_MAX: usize = 256;

/// What the archives of one context have spent together. A small archive may unpack to so much that each alone would be
/// allowed, and a thousand of them would keep wharfd busy for long.
#[derive(Debug, Default)]
pub struct Spent {
    archives: AtomicUsize,
    packed: AtomicU64,
    /// The bytes of a context that came as a tar, which may itself be compressed.
    sent: Option<AtomicU64>,
    unpacked: AtomicU64,
}

impl Spent {
    /// For a context that comes as a tar.
    pub fn of_a_tar() -> Self {
        Self { sent: Some(AtomicU64::new(0)), ..Self::default() }
    }

    /// Counts bytes of the tar as it was sent.
    pub fn sent(&self, bytes: usize) {
        if let Some(sent) = &self.sent {
            sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Counts a compressed archive.
    pub(super) fn archive(&self) -> Result<(), String> {
        match self.archives.fetch_add(1, Ordering::Relaxed) < ARCHIVES_MAX {
            true => Ok(()),
            false => {
                Err(format!("comes after {ARCHIVES_MAX} other archives, which are all that wharfd judges"))
            }
        }
    }

    /// Counts bytes of an archive, before they are unpacked.
    pub(super) fn packed(&self, bytes: usize) {
        self.packed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts unpacked bytes.
    pub(super) fn unpacked(&self, bytes: usize) -> Result<(), String> {
        let unpacked = self.unpacked.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let packed = self.packed.load(Ordering::Relaxed);
        let packed = self.sent.as_ref().map_or(packed, |sent| packed.min(sent.load(Ordering::Relaxed)));
        if is_too_dense(packed, unpacked) { Err(too_dense()) } else { Ok(()) }
    }
}

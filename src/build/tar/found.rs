//! The archives in a tar that BuildKit may not unpack. Only the graph says whether it would.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::build::archives::{Archive, Limits, Unpacked};

/// The copies for which the archives of a tar are judged. With more of them, an archive may need too much.
const COPIES: usize = 16;
/// The most archives that are remembered.
const ARCHIVES_MAX: usize = 64;

/// The findings in a tar.
#[derive(Debug)]
pub struct Found {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the reason.
    refused: Vec<(String, String)>,
    /// Whether one of them may have another name: there are links, or more of them than are remembered.
    others: bool,
    /// An archive that takes memory to unpack.
    compressed: Option<String>,
}

impl Found {
    /// Nothing yet, of a tar for an engine that may unpack Zstandard, or not.
    pub fn new(zstd: bool) -> Self {
        Self { limits: Limits::of(COPIES, zstd), state: Mutex::default() }
    }

    /// A file that begins.
    pub(super) fn archive(&self) -> Archive {
        Archive::new(self.limits)
    }

    /// There is a link.
    pub(super) fn link(&self) {
        self.lock().others = true;
    }

    /// An archive has passed.
    pub(super) fn pass(&self, path: &str, archive: &Archive) {
        if archive.has_window() {
            self.lock().compressed.get_or_insert_with(|| path.to_owned());
        }
    }

    /// An archive may not be unpacked.
    pub(super) fn refuse(&self, path: &str, why: String) {
        let mut state = self.lock();
        if state.refused.len() < ARCHIVES_MAX {
            state.refused.push((path.to_owned(), why));
        } else {
            state.others = true;
        }
    }

    /// An archive that the copies may unpack, but BuildKit may not, and why.
    pub fn refused(&self, unpacked: &Unpacked) -> Option<(String, String)> {
        let state = self.lock();
        let mut refused = state.refused.iter();
        let found = refused.find(|(path, _)| state.others || unpacked.contains(path)).cloned();
        let too_many = || {
            let path = state.compressed.clone().filter(|_| unpacked.limits().window < self.limits.window)?;
            Some((
                path,
                format!("needs memory, beside more than {COPIES} `ADD`s: use `COPY` for plain files"),
            ))
        };
        found.or_else(too_many)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

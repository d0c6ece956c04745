//! The archives in a tar that BuildKit may not unpack. Only the graph says whether it would.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::build::archives::{Archive, Limits, Spent, Unpacked, too_deep, too_large, too_much};

/// The copies for which the archives of a tar are judged. With more of them, an archive may need too much.
const COPIES: usize = 16;
/// The most archives that are remembered.
const ARCHIVES_MAX: usize = 64;
/// What any number of copies may take of one archive, which need not be remembered.
const CHEAP: Costly = Costly { path: String::new(), steps: 1 << 10, blocks: 8 << 20, headers: 4 << 20 };

/// The findings in a tar.
#[derive(Debug)]
pub struct Found {
    limits: Limits,
    spent: Arc<Spent>,
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
    /// The archives that take much of the engine.
    costly: Vec<Costly>,
    /// More of them, under no name.
    further: Costly,
}

/// What an archive takes of the engine to unpack it.
#[derive(Debug, Default)]
struct Costly {
    path: String,
    steps: u64,
    blocks: u64,
    headers: u64,
}

impl Found {
    /// Nothing yet, of a tar for an engine that may unpack Zstandard, or not.
    pub fn new(zstd: bool) -> Self {
        // The rest is known only with the graph.
        let limits = Limits { window: Limits::of(COPIES, zstd).window, ..Limits::of(1, zstd) };
        Self { limits, spent: Arc::default(), state: Mutex::default() }
    }

    /// A file that begins.
    pub(super) fn archive(&self) -> Archive {
        Archive::new(self.limits, Arc::clone(&self.spent))
    }

    /// There is a link.
    pub(super) fn link(&self) {
        self.lock().others = true;
    }

    /// An archive has passed.
    pub(super) fn pass(&self, path: &str, archive: &Archive) {
        let mut state = self.lock();
        if archive.has_window() {
            state.compressed.get_or_insert_with(|| path.to_owned());
        }
        let (steps, blocks, headers) = (archive.steps(), archive.blocks(), archive.headers());
        if steps <= CHEAP.steps && blocks <= CHEAP.blocks && headers <= CHEAP.headers {
            return;
        }
        if state.costly.len() < ARCHIVES_MAX {
            state.costly.push(Costly { path: path.to_owned(), steps, blocks, headers });
        } else {
            let further = &mut state.further;
            further.steps = further.steps.saturating_add(steps);
            further.blocks = further.blocks.max(blocks);
            further.headers = further.headers.max(headers);
            path.clone_into(&mut further.path);
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
        found.or_else(too_many).or_else(|| state.costs(unpacked))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An archive with which the copies take too much of the engine, and why.
    fn costs(&self, unpacked: &Unpacked) -> Option<(String, String)> {
        let (limits, mut steps) = (unpacked.limits(), 0_u64);
        let unpacks = |path: &str| self.others || unpacked.contains(path);
        let costly = self.costly.iter().filter(|costly| unpacks(&costly.path)).chain([&self.further]);
        for costly in costly {
            steps = steps.saturating_add(costly.steps);
            let why = match costly {
                _ if steps > limits.steps => too_deep(limits),
                _ if costly.blocks > limits.blocks => too_large(limits.blocks),
                _ if costly.headers > limits.headers => too_much(limits),
                _ => continue,
            };
            return Some((costly.path.clone(), why));
        }
        None
    }
}

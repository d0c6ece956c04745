//! The archives in a tar that BuildKit may unpack. Only the graph says which ones it does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::build::{
    archives::{Archive, ArchiveLimits, Costs, Spent, Unpacked},
    gate::Matching,
};

/// The copies for which the windows of a tar's archives are judged. With more of them, a window may need too much.
const COPIES: usize = 16;
/// The most bytes that are remembered of archives and links.
const REMEMBERED_BYTES: usize = 4 << 20;
/// What an archive or a link takes beside its texts.
const EACH_BYTES: usize = 96;

/// The findings in a tar.
#[derive(Debug)]
pub struct Findings {
    limits: ArchiveLimits,
    spent: Arc<Spent>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    archives: Vec<Seen>,
    links: Vec<Link>,
    /// The bytes of these.
    bytes: usize,
    /// There are more of them than are remembered.
    is_full: bool,
    /// All entries.
    entries: usize,
    /// The bytes of their paths.
    paths: usize,
}

/// A link.
#[derive(Debug)]
struct Link {
    path: String,
    /// Of a hard link, the path of its file.
    of: Option<String>,
}

/// An archive that has passed.
#[derive(Debug)]
struct Seen {
    path: String,
    /// Whether it takes a window to unpack it.
    has_window: bool,
    /// What it takes of the engine, or why it may not be unpacked.
    judged: Result<Costs, String>,
}

impl Findings {
    /// Nothing yet, of a tar for an engine that may unpack Zstandard, or not.
    pub fn new(zstd: bool) -> Self {
        // The rest is known only with the graph.
        let limits =
            ArchiveLimits { window: ArchiveLimits::of(COPIES, zstd).window, ..ArchiveLimits::of(1, zstd) };
        Self { limits, spent: Arc::new(Spent::of_a_tar()), state: Mutex::default() }
    }

    /// Bytes of the tar have come, as they were sent.
    pub(super) fn sent(&self, bytes: usize) {
        self.spent.sent(bytes);
    }

    /// An entry with this path has come.
    pub(super) fn entry(&self, path: &str) {
        let mut state = self.lock();
        state.entries += 1;
        state.paths += path.len();
    }

    /// Why the tar has too many entries for the copies from it, if it does.
    pub fn too_many_for(&self, matching: Matching) -> Option<&'static str> {
        let state = self.lock();
        matching.refuses(state.entries, state.paths)
    }

    /// A file that begins.
    pub(super) fn archive(&self) -> Archive {
        Archive::new(self.limits, Arc::clone(&self.spent))
    }

    /// There is a link at this path; `of` is the path of a hard link's file.
    pub(super) fn link(&self, path: &str, of: Option<&str>) {
        let mut state = self.lock();
        if state.has_room(path.len() + of.map_or(0, str::len)) {
            state.links.push(Link { path: path.to_owned(), of: of.map(str::to_owned) });
        }
    }

    /// A file has passed.
    pub(super) fn pass(&self, path: &str, archive: &Archive) {
        let has_window = archive.has_window();
        if has_window || archive.is_tar() {
            self.lock().see(path, has_window, Ok(archive.costs()));
        }
    }

    /// An archive may not be unpacked.
    pub(super) fn refuse(&self, path: &str, why: String) {
        self.lock().see(path, false, Err(why));
    }

    /// An archive that the copies may unpack, but BuildKit may not, and why.
    pub fn refused(&self, unpacked: &Unpacked) -> Option<(String, String)> {
        let state = self.lock();
        if state.is_full {
            let why =
                "has links and archives of more names than wharfd remembers: use `COPY`, which never unpacks";
            return Some(("the context".to_owned(), why.to_owned()));
        }
        // Behind a link may be any of them.
        let others = state.links.iter().any(|link| unpacked.leads(&link.path));
        let mut all = Costs::default();
        for seen in &state.archives {
            let copies = if others { unpacked.all() } else { unpacked.copies(&seen.path) };
            if copies == 0 {
                continue;
            }
            let judged = match &seen.judged {
                Err(why) => Err(why.clone()),
                Ok(_) if seen.has_window && unpacked.limits().window < self.limits.window => Err(format!(
                    "needs too much memory in a build with more than {COPIES} `ADD`s: use `COPY` for files that need not be unpacked"
                )),
                Ok(costs) => all.add(*costs, copies),
            };
            if let Err(why) = judged {
                return Some((seen.path.clone(), why));
            }
        }
        state.add_links(unpacked, &mut all).err()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds what is unpacked by the names of links, each of which is unpacked once more.
    fn add_links(&self, unpacked: &Unpacked, all: &mut Costs) -> Result<(), (String, String)> {
        let mut archives: HashMap<&str, Vec<Costs>> = HashMap::new();
        for seen in &self.archives {
            archives.entry(&seen.path).or_default().extend(seen.judged.as_ref().ok());
        }
        let links: HashSet<&str> = self.links.iter().map(|link| link.path.as_str()).collect();
        for link in &self.links {
            let copies = unpacked.copies(&link.path);
            if copies == 0 {
                continue;
            }
            let add = |of: &Vec<Costs>| of.iter().try_for_each(|costs| all.add(*costs, copies));
            // Behind a symlink, or behind the name of another link, may be any of them.
            let added = match link.of.as_deref().filter(|of| !links.contains(of)) {
                Some(of) => archives.get(of).map_or(Ok(()), add),
                None => archives.values().try_for_each(add),
            };
            added.map_err(|why| (link.path.clone(), why))?;
        }
        Ok(())
    }

    /// Whether so many more bytes can be remembered.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.bytes += bytes + EACH_BYTES;
        self.is_full |= self.bytes > REMEMBERED_BYTES;
        !self.is_full
    }

    fn see(&mut self, path: &str, has_window: bool, judged: Result<Costs, String>) {
        if self.has_room(path.len() + judged.as_ref().err().map_or(0, String::len)) {
            self.archives.push(Seen { path: path.to_owned(), has_window, judged });
        }
    }
}

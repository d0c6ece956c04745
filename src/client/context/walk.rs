//! Walks the entries of a directory that a build may see, in the sync's order.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use super::{
    Error, Filter,
    entry::{Entry, Scratch},
    links::is_absent,
    listing::{self, Child, Listings},
    patterns::Matched,
};

/// Walks a directory: yields each entry that the filter accepts, after its parent directories, siblings
/// sorted by the bytes of their names. Symlinks are entries and never followed. Entries that vanish
/// during the walk are left out.
///
/// The walk reads the disk as it goes, if nothing has been read before, and holds one listing per open directory.
pub struct Walk {
    root: PathBuf,
    /// The listings that have been read already.
    listings: Arc<Listings>,
    filter: Filter,
    levels: Vec<Level>,
    ready: VecDeque<Result<Entry, Error>>,
    /// The first path of each file that has several hard links.
    links: HashMap<(u64, u64), String>,
    scratch: Scratch,
}

/// A directory that is being walked.
struct Level {
    /// Relative to the root; empty for the root.
    path: String,
    children: vec::IntoIter<Child>,
    include: Matched,
    exclude: Matched,
    /// Whether the directory itself has been yielded. A directory that does not match is yielded only if
    /// something in it matches.
    yielded: bool,
}

impl Walk {
    /// Starts at `root`, which must be a directory; some of its listings may have been read already.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub(super) fn new(root: &Path, filter: Filter, listings: Arc<Listings>) -> Result<Self, Error> {
        let children =
            children(root, "", &listings).map_err(|source| Error::Read { path: root.into(), source })?;
        let top = Level {
            path: String::new(),
            children,
            include: Matched::default(),
            exclude: Matched::default(),
            yielded: true,
        };
        Ok(Self {
            root: root.to_owned(),
            listings,
            filter,
            levels: vec![top],
            ready: VecDeque::new(),
            links: HashMap::new(),
            scratch: Scratch::new(),
        })
    }

    /// Takes the next child of the innermost directory; `false` when the walk is over.
    fn step(&mut self) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        let Some(child) = level.children.next() else {
            self.levels.pop();
            return true;
        };
        if let Err(error) = self.visit(child) {
            self.ready.push_back(Err(error));
            self.levels.clear();
        }
        true
    }

    fn visit(&mut self, child: Child) -> Result<(), Error> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        // A name that is not UTF-8 matters only if it must be sent.
        let name = child.name.to_string_lossy();
        let path = if level.path.is_empty() { name.into_owned() } else { format!("{}/{name}", level.path) };
        let (include, exclude) = (&level.include, &level.exclude);
        let Some(verdict) = self.filter.judge(&path, child.is_dir, include, exclude)? else { return Ok(()) };

        let file = self.root.join(&level.path).join(&child.name);
        let mut is_dir = child.is_dir;
        if verdict.wanted {
            if child.name.to_str().is_none() {
                return Err(Error::NameNotUtf8(file));
            }
            let Some((entry, metadata)) = self.entry(&file, path.clone(), child.metadata)? else {
                return Ok(());
            };
            if !self.yield_parents()? {
                return Ok(());
            }
            is_dir = metadata.is_dir();
            let entry = self.linked(entry, &metadata);
            self.ready.push_back(Ok(entry));
        }
        if !is_dir {
            return Ok(());
        }
        let children = match children(&file, &path, &self.listings) {
            Ok(children) => children,
            Err(error) if is_absent(&error) => return Ok(()),
            // The unreadable directory was not requested.
            Err(error) if !verdict.wanted && error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(());
            }
            Err(source) => return Err(Error::Read { path: file, source }),
        };
        let yielded = verdict.wanted;
        self.levels.push(Level {
            path,
            children,
            include: verdict.include,
            exclude: verdict.exclude,
            yielded,
        });
        Ok(())
    }

    /// Yields the parent directories that are still missing; `false` if one of them is gone.
    fn yield_parents(&mut self) -> Result<bool, Error> {
        for at in 0..self.levels.len() {
            let Some(Level { path, yielded: false, .. }) = self.levels.get(at) else { continue };
            let file = self.root.join(path);
            match self.entry(&file, path.clone(), None)? {
                Some((entry, metadata)) if metadata.is_dir() => self.ready.push_back(Ok(entry)),
                _ => return Ok(false),
            }
            if let Some(level) = self.levels.get_mut(at) {
                level.yielded = true;
            }
        }
        Ok(true)
    }

    /// Describes `file`, whose `metadata` may have been read; `None` when it is gone.
    fn entry(
        &mut self,
        file: &Path,
        path: String,
        metadata: Option<Metadata>,
    ) -> Result<Option<(Entry, Metadata)>, Error> {
        let described = metadata
            .map_or_else(|| fs::symlink_metadata(file), Ok)
            .map_err(|error| Error::read(&path, error))
            .and_then(|metadata| Ok((Entry::of(file, &path, &metadata, &mut self.scratch)?, metadata)));
        match described {
            Err(Error::Read { source, .. }) if is_absent(&source) => Ok(None),
            described => described.map(Some),
        }
    }

    /// Turns a second or later name of a yielded file into a hard link to the first name.
    fn linked(&mut self, mut entry: Entry, metadata: &Metadata) -> Entry {
        if metadata.nlink() > 1 && !metadata.is_dir() && !metadata.is_symlink() {
            let file = (metadata.dev(), metadata.ino());
            match self.links.get(&file) {
                Some(first) => entry.stat.linkname.clone_from(first),
                None => {
                    self.links.insert(file, entry.stat.path.clone());
                }
            }
        }
        entry
    }
}

impl Iterator for Walk {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(entry);
            }
            if !self.step() {
                return None;
            }
        }
    }
}

/// The entries of a directory, in the sync's order.
fn children(directory: &Path, path: &str, listings: &Listings) -> io::Result<vec::IntoIter<Child>> {
    let mut children = listings.take(path).map_or_else(|| listing::list(directory), Ok)?;
    listing::sort(&mut children);
    Ok(children.into_iter())
}

#[cfg(test)]
mod tests;

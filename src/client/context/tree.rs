//! A directory that a session offers, on disk or in memory.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use bollard_buildkit_proto::fsutil::types::Stat;
use bytes::{Buf as _, Bytes};
use rustix::fs::OFlags;

use super::{
    Entry, Error, Filter, Walk, dockerfile::IGNORE, links::is_absent, listing::Listings, patterns::Matched,
};
use crate::wire::v1::FileSync;

/// Entries in the order of the sync.
pub type Entries = Box<dyn Iterator<Item = Result<Entry, Error>> + Send>;

/// A directory of the session.
#[derive(Debug)]
pub struct Tree(Content);

#[derive(Debug)]
enum Content {
    Directory { root: PathBuf, ignore: Option<Arc<Tree>>, listings: Arc<Listings> },
    Files { files: Vec<(String, Bytes)>, mod_time: i64 },
}

impl Tree {
    /// A directory on disk with everything in it.
    pub fn directory(root: impl Into<PathBuf>) -> Self {
        Self(Content::Directory { root: root.into(), ignore: None, listings: Arc::default() })
    }

    /// The same directory; some of its listings have just been read.
    #[must_use]
    pub(super) fn with_listings(self, listings: Listings) -> Self {
        match self.0 {
            Content::Directory { root, ignore, .. } => {
                Self(Content::Directory { root, ignore, listings: listings.into() })
            }
            files @ Content::Files { .. } => Self(files),
        }
    }

    /// The same directory with a fixed `.dockerignore`: BuildKit gets this one, even if the file on disk
    /// changes.
    #[must_use]
    pub(crate) fn with_ignore_file(self, bytes: Bytes) -> Self {
        let own = Arc::new(Self::files([(IGNORE.to_owned(), bytes)]));
        match self.0 {
            Content::Directory { root, listings, .. } => {
                Self(Content::Directory { root, ignore: Some(own), listings })
            }
            files @ Content::Files { .. } => Self(files),
        }
    }

    /// Plain files in memory. Their modification time is the current time, since BuildKit assumes that files
    /// with the same path, size and time are equal.
    pub fn files(files: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mod_time = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let mut files: Vec<_> = files.into_iter().collect();
        files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Self(Content::Files { files, mod_time })
    }

    /// A tree without files.
    pub fn empty() -> Self {
        Self::files([])
    }

    /// The tree that answers `request`: this tree, or the fixed `.dockerignore` if BuildKit asks only for
    /// that.
    pub(crate) fn answering(self: &Arc<Self>, request: &FileSync) -> Arc<Self> {
        let mut asked = request.include_patterns.iter().chain(&request.follow_paths).peekable();
        let only = asked.peek().is_some() && asked.all(|path| path == IGNORE);
        match &self.0 {
            Content::Directory { ignore: Some(ignore), .. } if only => Arc::clone(ignore),
            Content::Directory { .. } | Content::Files { .. } => Arc::clone(self),
        }
    }

    /// The entries that `request` asks for.
    ///
    /// # Errors
    /// When the directory cannot be read, or a pattern is malformed.
    pub fn entries(&self, request: &FileSync) -> Result<Entries, Error> {
        match &self.0 {
            Content::Directory { root, listings, .. } => {
                let filter = Filter::new(request, Some(root))?;
                Ok(Box::new(Walk::new(root, filter, Arc::clone(listings))?))
            }
            Content::Files { files, mod_time } => {
                let filter = Filter::new(request, None)?;
                let none = Matched::default();
                let mut entries = Vec::with_capacity(files.len());
                for (name, bytes) in files {
                    if filter.judge(name, false, &none, &none)?.is_none() {
                        continue;
                    }
                    let stat = Stat {
                        path: name.clone(),
                        mode: 0o644,
                        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
                        mod_time: *mod_time,
                        ..Stat::default()
                    };
                    entries.push(Ok(Entry { stat }));
                }
                Ok(Box::new(entries.into_iter()))
            }
        }
    }

    /// Opens an announced regular file.
    ///
    /// # Errors
    /// When the file is gone, or is no longer a regular file.
    pub(crate) fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        match &self.0 {
            Content::Directory { root, .. } => open_regular(&root.join(path), path),
            Content::Files { files, .. } => match files.iter().find(|(name, _)| name == path) {
                Some((_, bytes)) => Ok(Box::new(bytes.clone().reader())),
                None => Err(Error::Changed(path.into())),
            },
        }
    }
}

fn open_regular(file: &Path, path: &str) -> Result<Box<dyn Read + Send>, Error> {
    // The file may have been replaced: opening it must not block or follow a link.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(file);
    let regular = opened.and_then(|opened| Ok((opened.metadata()?.is_file(), opened)));
    match regular {
        Ok((true, opened)) => Ok(Box::new(opened)),
        Ok((false, _)) => Err(Error::Changed(path.into())),
        Err(error) if is_absent(&error) || is_symlink(file) => Err(Error::Changed(path.into())),
        Err(error) => Err(Error::read(path, error)),
    }
}

fn is_symlink(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_symlink())
}

//! A directory that a session offers: on the disk, or one file that came from elsewhere.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bollard_buildkit_proto::fsutil::types::Stat;
use bytes::{Buf as _, Bytes};
use rustix::fs::OFlags;

use super::{Entry, Error, Filter, Walk, links::is_absent, patterns::Matched};
use crate::wire::v1::FileSync;

/// Entries in the order of the sync.
pub type Entries = Box<dyn Iterator<Item = Result<Entry, Error>> + Send>;

/// A directory of the session.
#[derive(Debug)]
pub struct Tree(Content);

#[derive(Debug)]
enum Content {
    Directory { root: PathBuf, only: Vec<String> },
    File { name: String, bytes: Bytes, mod_time: i64 },
    Empty,
}

impl Tree {
    /// A directory on the disk, with all that is in it.
    pub fn directory(root: impl Into<PathBuf>) -> Self {
        Self(Content::Directory { root: root.into(), only: Vec::new() })
    }

    /// A directory on the disk of which no more than the files of these names can be had, and what
    /// they link to in it.
    pub(crate) fn only(root: impl Into<PathBuf>, names: Vec<String>) -> Self {
        Self(Content::Directory { root: root.into(), only: names })
    }

    /// One file that is not on the disk. Its time is now: BuildKit takes two files of equal path,
    /// size and time for one.
    pub fn file(name: impl Into<String>, bytes: Bytes) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mod_time = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        Self(Content::File { name: name.into(), bytes, mod_time })
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self(Content::Empty)
    }

    /// The entries that `request` asks for.
    ///
    /// # Errors
    /// When the directory cannot be read, or a pattern is not well-formed.
    pub fn entries(&self, request: &FileSync) -> Result<Entries, Error> {
        match &self.0 {
            Content::Empty => Ok(Box::new(std::iter::empty())),
            Content::Directory { root, only } if only.is_empty() => {
                Ok(Box::new(Walk::new(root, Filter::new(request, Some(root))?)?))
            }
            Content::Directory { root, only } => {
                let mut request = request.clone();
                request.include_patterns.clear();
                if request.follow_paths.is_empty() {
                    request.follow_paths.clone_from(only);
                }
                request.follow_paths.retain(|path| only.contains(path));
                if request.follow_paths.is_empty() {
                    return Ok(Box::new(std::iter::empty()));
                }
                Ok(Box::new(Walk::new(root, Filter::new(&request, Some(root))?)?))
            }
            Content::File { name, bytes, mod_time } => {
                let none = Matched::default();
                let verdict = Filter::new(request, None)?.judge(name, false, &none, &none)?;
                let stat = Stat {
                    path: name.clone(),
                    mode: 0o644,
                    size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
                    mod_time: *mod_time,
                    ..Stat::default()
                };
                Ok(Box::new(verdict.map(|_| Ok(Entry { stat })).into_iter()))
            }
        }
    }

    /// Opens a regular file that has been announced.
    ///
    /// # Errors
    /// When it is gone, or is something else by now.
    pub(crate) fn open(&self, path: &str) -> Result<Box<dyn Read + Send>, Error> {
        match &self.0 {
            Content::Directory { root, .. } => open_regular(&root.join(path), path),
            Content::File { name, bytes, .. } if name == path => Ok(Box::new(bytes.clone().reader())),
            Content::File { .. } | Content::Empty => Err(Error::Changed(path.into())),
        }
    }
}

fn open_regular(file: &Path, path: &str) -> Result<Box<dyn Read + Send>, Error> {
    // Whatever stands there by now, opening it must neither block nor follow it.
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

//! The job's files that a build may read: the directories of its session, filtered.

mod archive;
mod areas;
mod dockerfile;
mod entry;
mod filter;
mod glob;
mod links;
mod listing;
mod path;
mod patterns;
mod regexp;
mod resolve;
mod source;
mod state;
mod tree;
mod walk;

use std::{io, path::PathBuf};

pub(crate) use areas::{Areas, stay_with};
pub use entry::Entry;
pub use filter::Filter;
pub use patterns::{IgnoreError, Matched, Patterns};
pub use source::{BuildFiles, SourceError, Tar};
pub use tree::{Entries, Tree};
pub use walk::Walk;

/// The reason why the files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory that the build needs cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// Relative to the context's directory, if known.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file name is not UTF-8, as the sync requires.
    #[error("{0:?}: the name is not UTF-8; rename the file or exclude it in .dockerignore")]
    NameNotUtf8(PathBuf),
    /// A symlink's target is not UTF-8, as the sync requires.
    #[error("{0:?}: the symlink's target is not UTF-8; change it or exclude it in .dockerignore")]
    LinkNotUtf8(PathBuf),
    /// A file has changed since it was announced.
    #[error("{0:?} changed while the build was reading it")]
    Changed(PathBuf),
    /// A pattern of .dockerignore, or a path of the Dockerfile, is malformed.
    #[error(transparent)]
    Pattern(IgnoreError),
}

impl Error {
    pub(crate) fn read(path: &str, source: io::Error) -> Self {
        Self::Read { path: path.into(), source }
    }
}

//! The directory that an output is written into.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::client::{
    checkouts::{Checkouts, End, Problem},
    exit::Failure,
};

/// Where an output is to be written.
#[derive(Clone, Debug)]
pub(in crate::client::output) struct Destination {
    path: PathBuf,
    checkouts: Checkouts,
}

/// The open directory.
pub(in crate::client::output) struct Root {
    path: PathBuf,
    directory: Arc<OwnedFd>,
}

impl Destination {
    pub(in crate::client::output) fn new(path: PathBuf, checkouts: &Checkouts) -> Self {
        Self { path, checkouts: checkouts.clone() }
    }

    /// Checks that an output can be written here later.
    pub(in crate::client::output) fn look(&self) -> Result<(), Failure> {
        match self.checkouts.open(&self.path, End::IsThere) {
            Ok(_) | Err(Problem::Absent) => Ok(()),
            Err(problem) => Err(problem.failure(&self.path)),
        }
    }

    /// Opens the directory; makes it, and those above it, if they do not exist. It is no link, wherever it is: an
    /// earlier build may have made one there.
    pub(in crate::client::output) fn open(&self) -> Result<Root, Failure> {
        match self.checkouts.open(&self.path, End::Made) {
            Ok(directory) => Ok(Root { path: self.path.clone(), directory: Arc::new(directory) }),
            Err(problem) => Err(problem.failure(&self.path)),
        }
    }
}

impl Root {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.directory)
    }
}

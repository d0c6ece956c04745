//! What is known of files that were fetched: the digest of the content, and by what the server tells whether it has
//! changed. Forgetting costs a download.

use std::sync::Mutex;

use sha2::{Digest as _, Sha256};

use super::lock;
use crate::{
    names::{CallerId, reference::Digest},
    registry::Validators,
    shares::Recent,
};

/// How many files are remembered: each takes some 700 bytes.
const KNOWN_MAX: usize = 4096;

/// A file, as it was fetched last.
#[derive(Clone, Debug)]
pub(super) struct KnownFile {
    pub(super) validators: Validators,
    pub(super) digest: Digest,
}

/// The remembered files.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Recent<[u8; 32], KnownFile>>);

impl Known {
    /// The file of this name.
    pub(super) fn of(&self, name: &str) -> Option<KnownFile> {
        lock(&self.0).get(&key(name))
    }

    /// Remembers a file that `caller` has fetched.
    pub(super) fn remember(&self, caller: &CallerId, name: &str, file: KnownFile) {
        lock(&self.0).insert(caller, key(name), file, KNOWN_MAX);
    }

    /// Forgets a file.
    pub(super) fn forget(&self, name: &str) {
        lock(&self.0).remove(&key(name));
    }
}

fn key(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

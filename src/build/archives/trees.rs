//! The trees of contexts with archives, which an engine keeps from sync to sync.
//!
//! BuildKit asks only for files that it does not have from an earlier sync with the same key, by what its disk says of
//! them: and that need not be what was announced, since a file system may not keep a time, and a hard link sets the times
//! of all names of its file. So wharfd remembers, for each path, the worst of all that has ever come there with a key,
//! whatever was announced. It makes another key as soon as it has forgotten a path: so an engine unpacks nothing that
//! wharfd does not count. A wharfd that starts again makes other keys, too.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Costs, Unpacked};
use crate::{
    fault::Fault,
    names::{CallerId, random_id},
    shares::Recent,
};

/// How many trees are remembered: each may take some 40 kB.
const TREES_MAX: usize = 512;
/// With how many paths a tree is forgotten, and sent anew by the next build. A sync has 256 at most.
const FILES_MAX: usize = 512;

/// The remembered trees of all engines, by all that decides which files come with a tree, and how they are judged.
#[derive(Debug, Default)]
pub struct Trees(Mutex<Recent<String, Arc<Tree>>>);

/// The files that have come with one key.
#[derive(Debug)]
pub struct Tree {
    key: String,
    hasher: RandomState,
    /// By the hashes of paths.
    files: Mutex<HashMap<u64, Costs>>,
    /// Whether the next build makes another key.
    is_over: AtomicBool,
}

/// The trees of the context of one build.
#[derive(Clone, Debug)]
pub struct TreesOf<'a> {
    /// All trees.
    pub trees: &'a Trees,
    /// Who builds.
    pub caller: &'a CallerId,
    /// The context's directory, and the engine.
    pub context: String,
}

/// The archives that a build unpacks from its context's directory, and the tree with which they come.
#[derive(Debug)]
pub struct Awaited {
    /// The archives.
    pub unpacked: Unpacked,
    /// The tree.
    pub tree: Arc<Tree>,
}

impl TreesOf<'_> {
    /// The tree with which the archives come.
    pub fn await_these(&self, unpacked: Unpacked) -> Result<Awaited, Fault> {
        let name = format!("{} {}", self.context, unpacked.key());
        Ok(Awaited { tree: self.trees.tree(self.caller, name)?, unpacked })
    }
}

impl Trees {
    /// The tree of this name.
    fn tree(&self, caller: &CallerId, name: String) -> Result<Arc<Tree>, Fault> {
        let mut trees = lock(&self.0);
        if let Some(tree) = trees.get(&name).filter(|tree| !tree.is_over()) {
            return Ok(tree);
        }
        let tree = Arc::new(Tree::new()?);
        trees.insert(caller, name, Arc::clone(&tree), TREES_MAX);
        Ok(tree)
    }
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Result<Self, Fault> {
        Ok(Self {
            key: random_id()?,
            hasher: RandomState::new(),
            files: Mutex::default(),
            is_over: AtomicBool::new(false),
        })
    }

    /// Distinguishes it from all other trees.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Remembers what a file takes that has come to a path, beside those that have come there before: BuildKit may have
    /// any of them there, or build another of them at the same time.
    pub(super) fn remember(&self, path: &str, costs: Costs) {
        let mut files = lock(&self.files);
        files.entry(self.hasher.hash_one(path)).and_modify(|kept| *kept = kept.most(costs)).or_insert(costs);
        if files.len() > FILES_MAX {
            self.end();
        }
    }

    /// What a file at a path takes at most; `None` if none is known.
    pub(super) fn costs(&self, path: &str) -> Option<Costs> {
        lock(&self.files).get(&self.hasher.hash_one(path)).copied()
    }

    /// Whether nothing has come yet.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.files).is_empty()
    }

    /// The next build makes another key.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_with_the_most_trees_loses_one() {
        let trees = Trees::default();
        let key = |uid, name: &str| trees.tree(&CallerId::Uid(uid), name.to_owned()).unwrap().key.clone();
        let (one, other) = (key(1, "one"), key(2, "other 0"));
        for number in 1..TREES_MAX - 1 {
            key(2, &format!("other {number}"));
        }
        assert_eq!((key(1, "one"), key(2, "other 0")), (one.clone(), other.clone()));
        // The oldest is now another one.
        key(3, "third");
        assert_eq!((key(1, "one"), key(2, "other 0")), (one, other));
        assert_eq!(lock(&trees.0).len(), TREES_MAX);
        assert!(lock(&trees.0).get("other 1").is_none());
    }

    #[test]
    fn a_tree_with_too_many_files_ends() {
        let trees = Trees::default();
        let tree = || trees.tree(&CallerId::Uid(1), "name".to_owned()).unwrap();
        let first = tree();
        for file in 0..FILES_MAX {
            first.remember(&file.to_string(), Costs::default());
        }
        assert_eq!(tree().key, first.key);
        first.remember("last", Costs::default());
        assert_ne!(tree().key, first.key);
        // A build that has begun still knows all.
        assert!(first.costs("0").is_some() && first.costs("last").is_some());
        assert!(tree().costs("0").is_none());
    }
}

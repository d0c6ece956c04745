//! The work of reaching the paths of an archive, in the file system that the steps before have made.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use super::{
    super::{STRAYS_MAX, clean, costs},
    NAMES_MAX, Scan,
};
use crate::names::printable;

/// The steps for an entry, apart from its path, and how often its path is walked: to look, make, own, and set modes
/// and times.
const STEPS_OF_ENTRY: usize = 16;
const WALKS: usize = 8;

impl Scan {
    /// Counts the work of reaching a path below the archive's root, with the directories on the way that no entry has
    /// made. Returns the path's hash.
    ///
    /// No path may lead through a symlink of the same archive, as none does that a program finds in a file system: links
    /// lead from one to the next, and behind one nobody knows by its path what is there already.
    pub(super) fn reach(&mut self, path: &[u8]) -> Result<u64, String> {
        let names = clean(path.split(|byte| *byte == b'/'));
        if names.len() > NAMES_MAX {
            return Err(format!("has a path or a link of more than {NAMES_MAX} names"));
        }
        let mut hasher = self.hasher.build_hasher();
        let (mut depth, mut length, mut is_stray) = (0, 0, false);
        let mut steps = STEPS_OF_ENTRY + WALKS * names.len();
        for name in &names {
            let hash = hasher.finish();
            if self.links.contains(&hash) {
                let shown = printable(&String::from_utf8_lossy(path.get(..200).unwrap_or(path)));
                return Err(format!(
                    "has an entry `{shown}` behind a symlink of its own: make the archive from the files as they are \
                     in a directory"
                ));
            }
            if depth > 0 && self.directories.insert(hash) {
                self.implied.insert(hash);
                steps += STEPS_OF_ENTRY + WALKS * depth;
                self.entries += 1;
                self.say(length)?;
            }
            is_stray |= self.implied.contains(&hash);
            name.hash(&mut hasher);
            depth += 1;
            length += name.len() + 1;
        }
        self.steps += steps as u64;
        if self.steps > self.limits.steps {
            return Err(costs::too_deep(self.limits.steps));
        }
        self.strays += u64::from(is_stray);
        if self.strays > STRAYS_MAX {
            return Err(costs::too_stray());
        }
        Ok(hasher.finish())
    }
}

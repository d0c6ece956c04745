//! The order of a tree's entries.

/// Checks that entries come as a walk finds them: below directories that have come, each later than the one before. So
/// no path comes twice, and none leads out of the tree.
#[derive(Debug)]
pub(super) struct WalkOrder {
    /// The directories from the root to the entry that came last; each with the name that came last in it.
    levels: Vec<Level>,
}

#[derive(Debug, Default)]
struct Level {
    directory: Vec<u8>,
    last: Vec<u8>,
}

impl Default for WalkOrder {
    fn default() -> Self {
        Self { levels: vec![Level::default()] }
    }
}

impl WalkOrder {
    /// Whether this entry may come next; if so, it has come.
    pub(super) fn is_next(&mut self, path: &[u8], is_directory: bool) -> bool {
        let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        if !path.split(|byte| *byte == b'/').all(is_name) {
            return false;
        }
        let (directory, name) = (super::parent(path), super::base(path));
        let Some(at) = self.levels.iter().rposition(|level| level.directory == directory) else {
            return false;
        };
        self.levels.truncate(at + 1);
        let Some(level) = self.levels.last_mut().filter(|level| level.last.as_slice() < name) else {
            return false;
        };
        level.last = name.to_vec();
        if is_directory {
            self.levels.push(Level { directory: path.to_vec(), last: Vec::new() });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(paths: &[&str]) -> bool {
        let mut order = WalkOrder::default();
        paths.iter().all(|path| {
            let (path, is_directory) = path.strip_suffix('/').map_or((*path, false), |path| (path, true));
            order.is_next(path.as_bytes(), is_directory)
        })
    }

    #[test]
    fn a_walks_order_is_accepted() {
        assert!(all(&["a/", "a/b/", "a/b/c", "a/d", "a-", "b/", "b/a", "c"]));
    }

    #[test]
    fn paths_that_lead_out_or_come_again_are_not() {
        for paths in [
            &["../a"][..],
            &[".."],
            &["/a"],
            &["a/", "a/../../b"],
            &["a/", "a//b"],
            &["a/", "a/./b"],
            &["a/", "a/b/c"],
            &["a", "a/b"],
            &["a/", "b", "a/c"],
            &["a/", "a/"],
            &["b", "a"],
            &[""],
            &["a\0b"],
        ] {
            assert!(!all(paths), "{paths:?}");
        }
    }
}

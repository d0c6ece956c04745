//! The announced files, by the ids with which the receiver requests them.

use std::collections::HashSet;

use crate::client::context::Entry;

/// A file that has been requested.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) id: u32,
    pub(crate) path: String,
    pub(crate) size: u64,
}

/// The regular files of a sync. All paths share one allocation: a context may have a million.
#[derive(Debug, Default)]
pub(crate) struct Files {
    announced: u32,
    records: Vec<Record>,
    paths: String,
    asked: HashSet<u32>,
}

#[derive(Debug)]
struct Record {
    id: u32,
    /// The end of the file's path in `paths`; the path begins at the end of the previous one.
    end: usize,
    size: u64,
}

impl Files {
    /// Records an entry that the caller announces next.
    pub(crate) fn announce(&mut self, entry: &Entry) {
        if entry.is_file() {
            self.paths.push_str(&entry.stat.path);
            self.records.push(Record { id: self.announced, end: self.paths.len(), size: entry.size() });
        }
        self.announced += 1;
    }

    /// The announced file with this id; each file can be requested once.
    pub(crate) fn ask(&mut self, id: u32) -> Option<File> {
        let at = self.records.binary_search_by_key(&id, |record| record.id).ok()?;
        let record = self.records.get(at)?;
        let start =
            at.checked_sub(1).and_then(|before| self.records.get(before)).map_or(0, |before| before.end);
        let path = self.paths.get(start..record.end)?.to_owned();
        self.asked.insert(id).then_some(File { id, path, size: record.size })
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::fsutil::types::Stat;

    use super::*;

    #[test]
    fn only_announced_files_and_each_once() {
        let mut files = Files::default();
        let entry = |path: &str, mode, size| Entry {
            stat: Stat { path: path.into(), mode, size, ..Stat::default() },
        };
        files.announce(&entry("a", 1 << 31, 0));
        files.announce(&entry("a/é", 0o644, 7));
        files.announce(&entry("b", 1 << 27, 3));
        files.announce(&entry("c", 0o600, 1));
        assert_eq!(files.ask(0), None);
        assert_eq!(files.ask(3), Some(File { id: 3, path: "c".into(), size: 1 }));
        assert_eq!(files.ask(1), Some(File { id: 1, path: "a/é".into(), size: 7 }));
        assert_eq!((files.ask(1), files.ask(2), files.ask(4)), (None, None, None));
    }
}

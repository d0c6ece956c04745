//! File trees, in directories and in tars, as tests compare them.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr};

/// What is compared of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    /// The content, the target of a link, or the numbers of a device.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// Of entries whose time does not depend on the build.
    pub(crate) time: Option<i64>,
}

/// The entries of a tree, by their paths.
pub(crate) type Entries = BTreeMap<PathBuf, Entry>;

fn time(path: &Path, time: i64) -> Option<i64> {
    path.starts_with("tree").then_some(time)
}

/// The entries below a directory.
pub(crate) fn tree(root: &Path) -> Entries {
    let mut entries = Entries::new();
    let mut waiting = vec![PathBuf::new()];
    let mut inodes = BTreeMap::new();
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(root.join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            let full = root.join(&path);
            let found = fs::symlink_metadata(&full).unwrap();
            let kind = found.file_type();
            let (kind, content) = match () {
                () if kind.is_dir() => {
                    waiting.push(path.clone());
                    ("directory".to_owned(), Vec::new())
                }
                () if kind.is_symlink() => {
                    ("link".to_owned(), fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes())
                }
                () if kind.is_file() => ("file".to_owned(), fs::read(&full).unwrap()),
                () => {
                    let name = if kind.is_fifo() { "pipe" } else { "device" };
                    let name = format!("{name} {} {}", kind.is_block_device(), found.rdev());
                    (name, Vec::new())
                }
            };
            if found.is_file() && found.nlink() > 1 {
                inodes.entry(found.ino()).or_insert_with(Vec::new).push(path.clone());
            }
            let entry = Entry {
                kind,
                mode: found.mode() & 0o7777,
                owner: (found.uid().into(), found.gid().into()),
                content,
                xattrs: xattrs(&full),
                time: time(&path, found.mtime()),
            };
            entries.insert(path, entry);
        }
    }
    // Hard links are to the same files.
    for mut paths in inodes.into_values() {
        paths.sort();
        let all = format!("{paths:?}");
        for path in paths {
            entries.get_mut(&path).unwrap().kind.push_str(&all);
        }
    }
    entries
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect()
}

/// The entries of a tar.
pub(crate) fn tar(archive: &[u8]) -> Entries {
    let mut archive = tar::Archive::new(archive);
    let mut entries = Entries::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut xattrs = BTreeMap::new();
        if let Some(records) = entry.pax_extensions().unwrap() {
            for record in records {
                let record = record.unwrap();
                xattrs.insert(record.key().unwrap().to_owned(), record.value_bytes().to_vec());
            }
        }
        let header = entry.header().clone();
        let path = entry.path().unwrap().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        content.extend(entry.link_name_bytes().iter().flat_map(|name| name.iter()));
        // A header of GNU tar has no numbers there.
        let device = header.device_major().ok().flatten().zip(header.device_minor().ok().flatten());
        // Records of times are those of the entries.
        xattrs.retain(|key, _| !key.ends_with("time") || path.starts_with("tree"));
        let entry = Entry {
            kind: format!("{:?} {device:?}", header.entry_type()),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            content,
            xattrs,
            time: time(&path, header.mtime().unwrap().cast_signed()),
        };
        entries.insert(path, entry);
    }
    entries
}

/// Checks that two trees are the same.
pub(crate) fn same(expected: &Entries, written: &Entries) {
    for (path, entry) in expected {
        assert_eq!(Some(entry), written.get(path), "{}", path.display());
    }
    let more: Vec<_> = written.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:?}");
}

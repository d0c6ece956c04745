//! Writes a directory tree whose names, links and modes anyone may have made, and nothing outside its root.
//!
//! Every directory is opened from its parent, never through a link, and every entry is made there under a name that
//! cannot be guessed before it gets its own. So a link that the tree has, that an earlier build has left, or that
//! somebody puts there meanwhile, leads nowhere.

mod order;
mod place;
mod root;

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fsetxattr, mknodat, openat, symlinkat},
    fs::{Timespec, Timestamps, XattrFlags, chownat, futimens, linkat, makedev, utimensat},
    process::{getgid, getuid},
};

use super::{
    receive::{Stat, Xattr},
    sinks::Unwritten,
};
use crate::{
    client::{
        checkouts::cannot_write,
        exit::{Exit, Failure},
        temporary::Temporary,
    },
    go_mode as mode,
    names::printable,
};
use order::WalkOrder;
use place::{make_directory, open_directory, place, set_mode};
pub(super) use root::Destination;
use root::Root;

/// How many directories stay open: BuildKit sends four files at a time, while it announces others.
const OPEN_MAX: usize = 8;

/// The limit on the memory for a tree's entries: some 700,000 files that wait for their content, and ten times as many
/// that have it. `type=tar` has no such limit.
const HELD_BYTES_MAX: usize = 256 << 20;
/// The memory for a complete file: its hash, with the overhead of the set.
const HASH_BYTES: usize = 32;
/// The memory for any other entry, apart from its texts.
const ENTRY_BYTES: usize = 256;

/// A tree that is being written.
pub(super) struct Tree {
    root: Root,
    /// The owner of everything in it, as with buildx: the user who calls.
    owner: (Uid, Gid),
    order: WalkOrder,
    /// Directories that were used last, by their paths.
    open: VecDeque<(Vec<u8>, Arc<OwnedFd>)>,
    /// Hashes of the entries to which a hard link may lead: those of this tree, and no file that was there before.
    files: HashSet<u64>,
    hasher: RandomState,
    /// How many bytes are held for entries, whether they wait for their content or for the end.
    held: usize,
    /// Their targets are complete only at the end.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// A directory gets its mode and its time at the end: what comes into it changes its time, and needs its mode.
    directories: Vec<(Vec<u8>, Mode, Timestamps)>,
}

/// A regular file whose content comes later.
pub(super) struct Pending {
    stat: Stat,
    open: Option<(Temporary, File)>,
}

impl Tree {
    /// Opens a tree at its destination, which is made if it does not exist.
    pub(super) fn open(destination: &Destination) -> Result<Self, Failure> {
        let root = destination.open()?;
        Ok(Self {
            root,
            owner: (getuid(), getgid()),
            order: WalkOrder::default(),
            open: VecDeque::new(),
            files: HashSet::new(),
            hasher: RandomState::new(),
            held: 0,
            links: Vec::new(),
            directories: Vec::new(),
        })
    }

    /// Makes the next entry; returns it if it is a file whose content comes later.
    pub(super) fn enter(&mut self, stat: Stat) -> Result<Option<Pending>, Unwritten> {
        if !self.order.is_next(&stat.path, stat.mode & mode::DIR != 0) {
            let path = printable(&String::from_utf8_lossy(&stat.path));
            let text =
                format!("cannot receive the output: `{path}` is not a path that may come next in a tree");
            return Err(Failure::new(Exit::Failed, text).into());
        }
        self.held += weight(&stat);
        if self.held > HELD_BYTES_MAX {
            let text = "cannot receive the output: it has too many files for a directory";
            return Err(Failure::new(Exit::Failed, text).hint("use `type=tar`, and unpack that").into());
        }
        match self.make(&stat) {
            Ok(true) => Ok(Some(Pending { stat, open: None })),
            Ok(false) => Ok(None),
            Err(error) => Err(self.failed(&stat.path, &error)),
        }
    }

    /// Makes an entry; true if it is a file, which is made when its content comes.
    fn make(&mut self, stat: &Stat) -> io::Result<bool> {
        let kind = stat.mode & mode::TYPE;
        if kind == mode::DIR {
            self.make_directory(stat)?;
            return Ok(false);
        }
        if kind == mode::SYMLINK {
            let made = |at: &OwnedFd, name: &str| Ok(symlinkat(stat.linkname.as_slice(), at, name)?);
            let (entry, ()) = self.temporary(&stat.path, made)?;
            self.describe(&entry, stat, None)?;
            place(entry, base(&stat.path))?;
            return Ok(false);
        }
        let is_regular = kind == 0;
        if is_regular && !stat.linkname.is_empty() {
            if !self.files.contains(&self.hasher.hash_one(&stat.linkname)) {
                return Err(io::Error::other("it is a hard link to a file that is not in the output"));
            }
            self.links.push((stat.path.clone(), stat.linkname.clone()));
            return Ok(false);
        }
        if !is_regular {
            let special = match kind {
                mode::NAMED_PIPE => FileType::Fifo,
                mode::DEVICE => FileType::BlockDevice,
                kind if kind == mode::DEVICE | mode::CHAR_DEVICE => FileType::CharacterDevice,
                _ => return Err(io::Error::other("it is of a kind that is not known")),
            };
            self.make_special(stat, special)?;
        }
        self.files.insert(self.hasher.hash_one(&stat.path));
        Ok(is_regular)
    }

    fn make_directory(&mut self, stat: &Stat) -> io::Result<()> {
        let parent = self.directory(parent(&stat.path))?;
        let made = make_directory(&parent, base(&stat.path))?;
        set_attributes(&made, &stat.xattrs);
        fchown(&made, Some(self.owner.0), Some(self.owner.1))?;
        let mode = permissions(stat.mode);
        // Until the end the caller has to write into it.
        fchmod(&made, mode | Mode::RWXU)?;
        self.remember(stat.path.clone(), Arc::new(made));
        self.directories.push((stat.path.clone(), mode, times(stat.mod_time)));
        Ok(())
    }

    /// A device or a pipe. Only root may make a device.
    fn make_special(&mut self, stat: &Stat, kind: FileType) -> io::Result<()> {
        let number =
            |number: i64| u32::try_from(number).map_err(|_| io::Error::other("its device number is not one"));
        let device = makedev(number(stat.devmajor)?, number(stat.devminor)?);
        let made = |at: &OwnedFd, name: &str| Ok(mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, device)?);
        let (entry, ()) = self.temporary(&stat.path, made)?;
        self.describe(&entry, stat, Some(permissions(stat.mode)))?;
        place(entry, base(&stat.path))
    }

    /// Sets the owner, the mode and the times of an entry that cannot be opened. Nobody knows its name.
    fn describe(&self, entry: &Temporary, stat: &Stat, mode: Option<Mode>) -> io::Result<()> {
        let (parent, name) = (entry.directory(), entry.name());
        let (user, group) = self.owner;
        chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(mode) = mode {
            set_mode(parent, name, |_| mode)?;
        }
        utimensat(parent, name, &times(stat.mod_time), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Writes a file's next bytes.
    pub(super) fn write(&mut self, file: &mut Pending, bytes: &[u8]) -> Result<(), Unwritten> {
        let written = self.opened(file).and_then(|file| file.write_all(bytes));
        written.map_err(|error| self.failed(&file.stat.path, &error))
    }

    fn opened<'a>(&mut self, file: &'a mut Pending) -> io::Result<&'a mut File> {
        if file.open.is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = |at: &OwnedFd, name: &str| Ok(openat(at, name, flags, Mode::RUSR | Mode::WUSR)?);
            let (entry, made) = self.temporary(&file.stat.path, made)?;
            file.open = Some((entry, made.into()));
        }
        let open = file.open.as_mut().map(|(_, file)| file);
        open.ok_or_else(|| io::Error::other("the file is not open"))
    }

    /// Gives a file that has all of its bytes its mode, its times and its name.
    pub(super) fn complete(&mut self, mut file: Pending) -> Result<(), Unwritten> {
        let completed = self.opened(&mut file).map(drop).and_then(|()| {
            let Some((entry, open)) = file.open.take() else { return Ok(()) };
            // In buildx's order: an owner that is set takes a file's capabilities away, and its set-id bits.
            set_attributes(&open, &file.stat.xattrs);
            fchown(&open, Some(self.owner.0), Some(self.owner.1))?;
            fchmod(&open, permissions(file.stat.mode))?;
            futimens(&open, &times(file.stat.mod_time))?;
            place(entry, base(&file.stat.path))
        });
        self.held = self.held.saturating_sub(weight(&file.stat) - HASH_BYTES);
        completed.map_err(|error| self.failed(&file.stat.path, &error))
    }

    /// Makes the hard links, and gives the directories their modes and times.
    pub(super) fn finish(mut self) -> Result<(), Unwritten> {
        for (path, target) in std::mem::take(&mut self.links) {
            self.link(&path, &target).map_err(|error| self.failed(&path, &error))?;
        }
        // The deepest first: a directory's mode may shut its caller out.
        for (path, mode, times) in std::mem::take(&mut self.directories).into_iter().rev() {
            let described = self.directory(&path).and_then(|directory| {
                futimens(&directory, &times)?;
                Ok(fchmod(&directory, mode)?)
            });
            described.map_err(|error| self.failed(&path, &error))?;
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let from = self.directory(parent(target))?;
        let made = |at: &OwnedFd, name: &str| Ok(linkat(&from, base(target), at, name, AtFlags::empty())?);
        let (entry, ()) = self.temporary(path, made)?;
        place(entry, base(path))
    }

    /// Has `make` make an entry under a name that nobody can guess, beside `path`.
    fn temporary<T>(
        &mut self,
        path: &[u8],
        make: impl FnOnce(&OwnedFd, &str) -> io::Result<T>,
    ) -> io::Result<(Temporary, T)> {
        Temporary::new(&self.directory(parent(path))?, make)
    }

    /// The directory at `path`, opened from the root, step by step.
    fn directory(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.directory());
        }
        if let Some((_, open)) = self.open.iter().find(|(at, _)| at == path) {
            return Ok(Arc::clone(open));
        }
        let parent = self.directory_above(path)?;
        let open = Arc::new(open_directory(&parent, base(path))?);
        self.remember(path.to_vec(), Arc::clone(&open));
        Ok(open)
    }

    /// The parent of the directory at `path`. Not by recursion: a tree is as deep as its maker likes.
    fn directory_above(&self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        let mut open = self.root.directory();
        let above = parent(path);
        for name in above.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            open = Arc::new(open_directory(&open, name)?);
        }
        Ok(open)
    }

    fn remember(&mut self, path: Vec<u8>, open: Arc<OwnedFd>) {
        self.open.truncate(OPEN_MAX - 1);
        self.open.push_front((path, open));
    }

    fn failed(&self, path: &[u8], error: &io::Error) -> Unwritten {
        let path = String::from_utf8_lossy(path).into_owned();
        cannot_write(&self.root.path().join(path), error).into()
    }
}

/// The path of the directory that contains `path`; empty for the root.
fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default()
}

/// The last name of `path`.
fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// How many bytes are held for an entry until it is complete.
fn weight(stat: &Stat) -> usize {
    let attributes = stat.xattrs.iter().map(|Xattr { key, value }| key.len() + value.len() + ENTRY_BYTES);
    ENTRY_BYTES + stat.path.len() + stat.linkname.len() + attributes.sum::<usize>()
}

/// Sets extended attributes. Like buildx, it leaves out those that the file system or the caller's rights do not allow.
fn set_attributes(file: impl std::os::fd::AsFd, attributes: &[Xattr]) {
    for Xattr { key, value } in attributes {
        let _ = fsetxattr(&file, key.as_slice(), value, XattrFlags::empty());
    }
}

/// The permissions in Go's mode, with the set-id bits and the sticky one, as buildx has it.
fn permissions(go: u32) -> Mode {
    Mode::from_raw_mode(mode::permissions(go))
}

/// Both times of a file.
fn times(nanoseconds: i64) -> Timestamps {
    const SECOND: i64 = 1_000_000_000;
    let (tv_sec, tv_nsec) = (nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND));
    let time = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{checkouts::Checkouts, exit::Stop};

    #[test]
    fn what_is_held_for_entries_is_limited() {
        let path = std::env::temp_dir().join(format!("wharf-held-{}", std::process::id()));
        let mut tree = Tree::open(&Destination::new(path.clone(), &Checkouts::default())).unwrap();
        let file = |path: &str| Stat { path: path.into(), mode: 0o644, ..Stat::default() };
        let pending = tree.enter(file("a")).unwrap().unwrap();
        assert!(tree.held > ENTRY_BYTES);
        tree.complete(pending).unwrap();
        assert_eq!(tree.held, HASH_BYTES);
        tree.held = HELD_BYTES_MAX - ENTRY_BYTES;
        match tree.enter(file("b")) {
            Err(Unwritten::Here(Stop::Failed(failure))) => {
                assert!(failure.text.contains("too many files"), "{failure}");
            }
            _ => panic!("the entry is held"),
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}

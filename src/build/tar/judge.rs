//! Judges a tar entry by entry as it passes, and writes it again.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tonic::Status;

use super::{
    entry::{self, BLOCK_BYTES, Entry, Extensions, Kind, at_most, is_header, padding},
    found::Findings,
    refused,
};
use crate::{
    build::{
        archives::Archive,
        dockerfile,
        packets::{ENTRIES_BYTES_MAX, ENTRIES_MAX, read_max, too_much},
    },
    names::printable,
};

/// An extended header contains a path and attributes of at most 64 KiB each.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// The limit on remembered links, which take eight bytes each.
const LINKS_MAX: usize = 1 << 20;

/// The next part of the tar.
#[derive(Debug)]
enum State {
    Header,
    /// An extension of that type, the number of its bytes still to come, and its padding.
    Extension(u8, usize, usize),
    /// A file's bytes.
    File {
        left: u64,
        padding: usize,
        path: String,
        /// Judges it as an archive, until it is refused.
        archive: Option<Box<Archive>>,
    },
    /// Bytes to ignore.
    Skip(u64),
    /// One empty block: a second one ends the tar.
    Empty,
    End,
}

/// The judge of a tar's entries.
#[derive(Debug)]
pub(super) struct Judge {
    state: State,
    gathered: BytesMut,
    extensions: Extensions,
    /// The size of the extended headers before the next entry.
    extended: u64,
    entries: usize,
    /// Bytes of what they say.
    entries_bytes: usize,
    /// The hashes of the paths that are symlinks.
    links: HashSet<u64>,
    hasher: RandomState,
    /// The Dockerfile, and the file that the builder reads if that does not exist.
    dockerfiles: Vec<String>,
    ignore_file: String,
    /// The Dockerfile's text, while it comes.
    text: Option<Vec<u8>>,
    texts: Arc<dockerfile::Judge>,
    found: Arc<Findings>,
}

impl Judge {
    /// A judge for a tar whose Dockerfile has this path. Writes the root directory first: BuildKit treats the
    /// bytes as a tar, and not as a Dockerfile, only if the first 1024 bytes contain an entry
    /// (`frontend/dockerui`, `isArchive`), and an extended header may take up more.
    pub(super) fn new(
        dockerfile: &str,
        texts: Arc<dockerfile::Judge>,
        found: Arc<Findings>,
        out: &mut BytesMut,
    ) -> Self {
        Entry::root().write(out);
        let names: Vec<&str> = dockerfile.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        let dockerfile = names.join("/");
        let ignore_file = format!("{dockerfile}.dockerignore");
        // `Dockerfile` may also be lower-case (`frontend/dockerui`, `ReadEntrypoint`).
        let small = match names.split_last() {
            Some((&"Dockerfile", directory)) => Some([directory, &["dockerfile"]].concat().join("/")),
            _ => None,
        };
        Self {
            state: State::Header,
            gathered: BytesMut::new(),
            extensions: Extensions::default(),
            extended: 0,
            entries: 0,
            entries_bytes: 0,
            links: HashSet::new(),
            hasher: RandomState::new(),
            dockerfiles: std::iter::once(dockerfile).chain(small).collect(),
            ignore_file,
            text: None,
            texts,
            found,
        }
    }

    /// Reads `bytes`, and writes the result for the builder to `out`.
    pub(super) fn pass(&mut self, mut bytes: Bytes, out: &mut BytesMut) -> Result<(), Status> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header | State::Empty => {
                    if let Some(block) = self.gather(&mut bytes, BLOCK_BYTES) {
                        self.header(&block, out)?;
                    }
                }
                State::Extension(kind, length, padding) => {
                    let (kind, length, padding) = (*kind, *length, *padding);
                    if let Some(body) = self.gather(&mut bytes, length + padding) {
                        let body = body.get(..length).unwrap_or_default();
                        match kind {
                            b'x' => self.extensions.records(body)?,
                            kind => self.extensions.long(kind, body),
                        }
                        self.state = State::Header;
                    }
                }
                State::File { left, padding, path, archive } => {
                    let now = bytes.split_to(at_most(*left, bytes.len()));
                    *left -= now.len() as u64;
                    out.put_slice(&now);
                    if let Some(judge) = archive {
                        let ends = *left == 0;
                        let judged = judge.pass(&now).and_then(|()| if ends { judge.end() } else { Ok(()) });
                        match judged {
                            Ok(()) if ends => self.found.pass(path, judge),
                            Ok(()) => {}
                            Err(why) => {
                                self.found.refuse(path, why);
                                *archive = None;
                            }
                        }
                    }
                    if let Some(text) = &mut self.text {
                        text.extend_from_slice(&now);
                    }
                    if *left == 0 {
                        if let Some(text) = self.text.take() {
                            self.texts.take(path, text);
                        }
                        out.put_bytes(0, *padding);
                        self.state = State::Skip(*padding as u64);
                    }
                }
                State::Skip(left) => {
                    let now = at_most(*left, bytes.len());
                    *left -= now as u64;
                    bytes.advance(now);
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::End => return Ok(()),
            }
            if matches!(self.state, State::Skip(0)) {
                self.state = State::Header;
            }
        }
        Ok(())
    }

    /// Ends the tar, once all has come.
    pub(super) fn end(&self, out: &mut BytesMut) -> Result<(), Status> {
        match &self.state {
            State::Header | State::Empty | State::End if self.gathered.is_empty() => {
                out.put_bytes(0, 2 * BLOCK_BYTES);
                Ok(())
            }
            State::File { path, .. } => {
                Err(refused(format!("the tar ends in the middle of `{}`", printable(path))))
            }
            _ => Err(refused("the tar ends in the middle of an entry")),
        }
    }

    /// The next `length` bytes, once they have come.
    fn gather(&mut self, bytes: &mut Bytes, length: usize) -> Option<Bytes> {
        if self.gathered.is_empty() && bytes.len() >= length {
            return Some(bytes.split_to(length));
        }
        let missing = length - self.gathered.len();
        self.gathered.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
        (self.gathered.len() == length).then(|| self.gathered.split().freeze())
    }

    fn header(&mut self, block: &[u8], out: &mut BytesMut) -> Result<(), Status> {
        if block.iter().all(|byte| *byte == 0) {
            // Bytes after the end of a tar are ignored.
            self.state = if matches!(self.state, State::Empty) { State::End } else { State::Empty };
            return Ok(());
        }
        if matches!(self.state, State::Empty) || !is_header(block) {
            return Err(refused(format!("the tar is broken after {} entries", self.entries)));
        }
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(refused(format!("the tar has more than {ENTRIES_MAX} entries")));
        }
        let shown = || printable(&String::from_utf8_lossy(entry::name(block)));
        let kind = match block.get(156).copied().unwrap_or_default() {
            kind @ (b'x' | b'L' | b'K') => {
                let size = entry::size(block).filter(|size| *size <= EXTENSION_BYTES_MAX);
                // Several extensions before one entry count together.
                let all = size.map(|size| self.extended.saturating_add(size));
                self.extended = all.filter(|all| *all <= EXTENSION_BYTES_MAX).ok_or_else(|| {
                    refused(format!("the tar has extended headers of more than {EXTENSION_BYTES_MAX} bytes"))
                })?;
                let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
                self.state = State::Extension(kind, size, padding(size as u64));
                return Ok(());
            }
            // A global header applies to all later entries; Go, and so the engine, ignores it.
            b'g' => {
                let size = entry::size(block).filter(|size| *size <= EXTENSION_BYTES_MAX);
                let size = size.ok_or_else(|| refused("the tar has a global header that is too large"))?;
                self.state = State::Skip(size + padding(size) as u64);
                return Ok(());
            }
            // The oldest tars have no type for directories.
            0 if entry::name(block).ends_with(b"/") => Kind::Directory,
            0 | b'0' => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'5' => Kind::Directory,
            b'S' => return Err(entry::sparse()),
            // The engine would create the node's own device, which may be a disk or endless, and read it.
            b'3' | b'4' => {
                return Err(refused(format!("`{}` is a device: leave it out of the tar", shown())));
            }
            // Opening a pipe waits for ever.
            b'6' => return Err(refused(format!("`{}` is a pipe: leave it out of the tar", shown()))),
            _ => return Err(refused(format!("`{}` has a type that cannot be built from", shown()))),
        };
        self.extended = 0;
        let entry = Entry::read(kind, block, std::mem::take(&mut self.extensions))?;
        // The engine keeps all that is said of directories until the tar has ended.
        self.entries_bytes += entry.bytes();
        if self.entries_bytes > ENTRIES_BYTES_MAX {
            return Err(too_much());
        }
        self.judge(&entry)?;
        self.found.entry(&entry.path);
        entry.write(out);
        // At most as large as the builder may read.
        self.text = (entry.size > 0 && self.dockerfiles.contains(&entry.path)).then(Vec::new);
        let padding = padding(entry.size);
        self.state = match entry.size {
            0 => State::Header,
            left => {
                let archive = Some(Box::new(self.found.archive()));
                State::File { left, padding, path: entry.path, archive }
            }
        };
        Ok(())
    }

    fn judge(&mut self, entry: &Entry) -> Result<(), Status> {
        let shown = || printable(&entry.path);
        if entry.path.is_empty() && entry.kind != Kind::Directory {
            return Err(refused("the tar's root is not a directory"));
        }
        if entry.kind == Kind::Symlink && (entry.target.is_empty() || entry.target.contains('\0')) {
            return Err(refused(format!("`{}` is a link that points nowhere", shown())));
        }
        if entry.kind == Kind::Link && entry.target.is_empty() {
            return Err(refused(format!("`{}` is a hard link without a target", shown())));
        }
        self.judge_parents(&entry.path)?;
        if entry.kind == Kind::Link {
            self.judge_parents(&entry.target)?;
        }
        for read in self.dockerfiles.iter().chain([&self.ignore_file]) {
            self.judge_read(read, entry)?;
        }
        if matches!(entry.kind, Kind::Symlink | Kind::Link) {
            let of = (entry.kind == Kind::Link).then_some(entry.target.as_str());
            self.found.link(&entry.path, of);
        }
        let path = self.hash(&entry.path);
        // A hard link to a symlink is a symlink, too.
        let is_link = match entry.kind {
            Kind::Symlink => true,
            Kind::Link => self.links.contains(&self.hash(&entry.target)),
            Kind::File | Kind::Directory => false,
        };
        if !is_link {
            self.links.remove(&path);
        } else if self.links.insert(path) && self.links.len() > LINKS_MAX {
            return Err(refused(format!("the tar has more than {LINKS_MAX} links")));
        }
        Ok(())
    }

    /// The hashes of `path` and of all directories on the way to it, from the first directory on, each with
    /// the length of its path. A path has up to 2048 of them, so each continues from the one before.
    fn hashes(&self, path: &str) -> impl Iterator<Item = (usize, u64)> {
        let mut hasher = self.hasher.build_hasher();
        let mut end = 0;
        path.split_inclusive('/').map(move |name| {
            hasher.write(name.trim_end_matches('/').as_bytes());
            let hash = hasher.finish();
            hasher.write(b"/");
            end += name.len();
            (end, hash)
        })
    }

    fn hash(&self, path: &str) -> u64 {
        self.hashes(path).last().map_or(0, |(_, hash)| hash)
    }

    /// Judges the directories on the way to `path`.
    fn judge_parents(&self, path: &str) -> Result<(), Status> {
        for (end, hash) in self.hashes(path) {
            let Some(parent) = path.get(..end).and_then(|parent| parent.strip_suffix('/')) else { break };
            if self.links.contains(&hash) {
                let text = format!("`{}` is below the link `{}`", printable(path), printable(parent));
                return Err(refused(format!("{text}: give it the path that the link leads to")));
            }
        }
        Ok(())
    }

    /// Judges an entry that may affect `read`, a file that the builder reads.
    fn judge_read(&self, read: &str, entry: &Entry) -> Result<(), Status> {
        let is_link = matches!(entry.kind, Kind::Symlink | Kind::Link);
        let shown = || printable(&entry.path);
        if is_link
            && (entry.path == read
                || read.strip_prefix(&entry.path).is_some_and(|rest| rest.starts_with('/')))
        {
            let text = format!("`{}` is a link, and the builder reads `{}`", shown(), printable(read));
            return Err(refused(format!("{text}: name the file itself with `-f`")));
        }
        if entry.path == read && entry.size > read_max(read) {
            return Err(too_large(read));
        }
        Ok(())
    }
}

/// The error for a file that the builder reads whole.
pub(super) fn too_large(path: &str) -> Status {
    refused(format!("`{}` has more than {} MiB", printable(path), read_max(path) >> 20))
}

//! Reads a tar as Go's `archive/tar` does, which BuildKit uses, and refuses everything that BuildKit should
//! not unpack.

mod reach;

use std::{
    collections::HashSet,
    hash::RandomState,
    io::{self, Write},
    sync::Arc,
};

use super::{
    ArchiveLimits, Spent,
    extensions::{Extensions, sparse},
};
use crate::{
    build::{
        packets::ENTRIES_MAX,
        spec::PATH_BYTES_MAX,
        tar::entry::{self, BLOCK_BYTES, at_most, is_header, padding},
    },
    names::printable,
};

/// The limit of Go's reader on an extended header.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// The memory for a record of an extended header, apart from its bytes: Go keeps records in a map.
const RECORD_BYTES: usize = 256;
/// The memory for a directory's header: the engine keeps it until it has unpacked the whole archive.
const DIRECTORY_BYTES: usize = 512;
/// The most names of a path or a link's target: each is opened name by name, and so is each directory on the way.
const NAMES_MAX: usize = 256;

/// The next part of the tar.
#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    /// An extension of that type, with its length.
    Extension(u8, usize),
    Skip(u64),
    /// One empty block: a second one ends the tar.
    Empty,
    End,
    /// It is not a tar.
    Not,
}

/// The judge of a tar that passes.
#[derive(Debug)]
pub(super) struct Scan {
    state: State,
    gathered: Vec<u8>,
    extensions: Extensions,
    limits: ArchiveLimits,
    /// For a compressed archive.
    spent: Option<Arc<Spent>>,
    /// The bytes of a compressed archive, and those that have come of it.
    sizes: (u64, u64),
    entries: usize,
    /// Bytes of paths, links and extensions.
    said: usize,
    /// The hashes of paths with files.
    files: HashSet<u64>,
    /// How many names of paths the engine opens.
    steps: u64,
    /// The hashes of the directories that are there, with or without an entry.
    directories: HashSet<u64>,
    /// Those without: the engine leaves what is there.
    implied: HashSet<u64>,
    /// How many entries lie behind one of these.
    strays: u64,
    /// The hashes of symlinks.
    links: HashSet<u64>,
    hasher: RandomState,
    /// The longest target that a hard link can lead to.
    longest: usize,
    refused: Option<String>,
}

impl Scan {
    /// A tar that begins. A compressed one has a part in what all of a context have `spent`.
    pub(super) fn new(limits: ArchiveLimits, spent: Option<Arc<Spent>>) -> Self {
        Self {
            limits,
            spent,
            sizes: (0, 0),
            state: State::Header,
            gathered: Vec::new(),
            extensions: Extensions::default(),
            entries: 0,
            said: 0,
            files: HashSet::new(),
            steps: 0,
            directories: HashSet::new(),
            implied: HashSet::new(),
            strays: 0,
            links: HashSet::new(),
            hasher: RandomState::new(),
            longest: 0,
            refused: None,
        }
    }

    /// Counts bytes of the archive, before they are unpacked.
    pub(super) fn packed(&mut self, bytes: usize) {
        if let Some(spent) = &self.spent {
            spent.packed(bytes);
            self.sizes.0 += bytes as u64;
        }
    }

    /// How many names of paths the engine opens to unpack it.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// How many entries lie behind a directory that the archive does not make itself.
    pub(super) fn strays(&self) -> u64 {
        self.strays
    }

    /// How many bytes the engine keeps of its headers.
    pub(super) fn headers(&self) -> u64 {
        self.said as u64
    }

    /// How many bytes a compressed archive has, and how many it unpacks to.
    pub(super) fn sizes(&self) -> (u64, u64) {
        self.sizes
    }

    /// Why it is refused.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.clone()
    }

    /// Whether it is a tar, as far as that is known.
    pub(super) fn is_tar(&self) -> Option<bool> {
        match self.state {
            State::Not => Some(false),
            _ => (self.entries > 0).then_some(true),
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        if let Some(spent) = &self.spent {
            self.sizes.1 += bytes.len() as u64;
            spent.unpacked(bytes.len())?;
        }
        while !bytes.is_empty() {
            let wanted = match &mut self.state {
                // BuildKit reads the rest, if anything, only to have read it.
                State::End | State::Not => return Ok(()),
                State::Skip(left) => {
                    let now = at_most(*left, bytes.len());
                    bytes = bytes.get(now..).unwrap_or_default();
                    *left -= now as u64;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                    continue;
                }
                State::Header | State::Empty => BLOCK_BYTES,
                State::Extension(_, length) => *length + padding(*length as u64),
            };
            let missing = wanted.saturating_sub(self.gathered.len());
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.gathered.extend_from_slice(now);
            bytes = rest;
            if self.gathered.len() == wanted {
                let mut whole = std::mem::take(&mut self.gathered);
                match self.state {
                    State::Extension(kind, length) => {
                        self.state = State::Header;
                        self.extension(kind, whole.get(..length).unwrap_or_default())?;
                    }
                    _ => self.header(&whole)?,
                }
                whole.clear();
                self.gathered = whole;
            }
        }
        Ok(())
    }

    fn header(&mut self, block: &[u8]) -> Result<(), String> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = match self.state {
                _ if self.entries == 0 => State::Not,
                State::Empty => State::End,
                _ => State::Empty,
            };
            return Ok(());
        }
        if matches!(self.state, State::Empty) || !is_header(block) {
            if self.entries == 0 {
                self.state = State::Not;
                return Ok(());
            }
            return Err(format!("is broken after {} entries", self.entries));
        }
        if self.entries == 0
            && let Some(spent) = &self.spent
        {
            spent.archive()?;
        }
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(format!("has more than {ENTRIES_MAX} entries"));
        }
        let kind = block.get(156).copied().unwrap_or_default();
        if matches!(kind, b'x' | b'L' | b'K' | b'g') {
            return self.begin_extension(kind, block);
        }
        self.entry(kind, block)
    }

    /// Go forgets PAX records before a second list of them, and all extensions before a global header.
    fn begin_extension(&mut self, kind: u8, block: &[u8]) -> Result<(), String> {
        let size = entry::size(block).filter(|size| *size <= EXTENSION_BYTES_MAX);
        let size = size.ok_or("has an extended header of more than 1 MiB")?;
        let had = &self.extensions;
        let is_second = match kind {
            b'x' => had.records > 0,
            b'L' => had.long_path.is_some(),
            b'K' => had.long_target.is_some(),
            _ => had.records > 0 || had.long_path.is_some() || had.long_target.is_some(),
        };
        if is_second {
            return Err(
                "has several extended headers before one entry: make it with another program".to_owned()
            );
        }
        let length = usize::try_from(size).unwrap_or_default();
        self.say(length)?;
        // A global one is forgotten at once.
        if kind == b'g' {
            self.state = match size + padding(size) as u64 {
                0 => State::Header,
                left => State::Skip(left),
            };
            return Ok(());
        }
        if length == 0 {
            return self.extension(kind, &[]);
        }
        self.state = State::Extension(kind, length);
        Ok(())
    }

    fn extension(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        let text = || body.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        self.state = State::Header;
        match kind {
            b'L' => self.extensions.long_path = Some(text()),
            b'K' => self.extensions.long_target = Some(text()),
            _ => self.extensions.read(body)?,
        }
        Ok(())
    }

    fn entry(&mut self, kind: u8, block: &[u8]) -> Result<(), String> {
        let extensions = std::mem::take(&mut self.extensions);
        let set = |value: Option<Vec<u8>>| value.filter(|value| !value.is_empty());
        let (name, is_sure) = entry::whole_name(block);
        let given = set(extensions.long_path).or(set(extensions.path));
        let is_sure = is_sure || given.is_some();
        let path = given.unwrap_or(name);
        let target = set(extensions.long_target).or(set(extensions.target));
        let target = target.unwrap_or_else(|| entry::field(block, 157, 100).to_vec());
        let shown = || printable(&String::from_utf8_lossy(path.get(..200).unwrap_or(&path)));
        if path.len() > PATH_BYTES_MAX || target.len() > PATH_BYTES_MAX {
            return Err(format!("has a path or a link of more than {PATH_BYTES_MAX} bytes: `{}`", shown()));
        }
        self.say(path.len())?;
        let mut size = 0;
        let hash = self.reach(&path)?;
        // The oldest tars have no type for directories.
        let is_directory = kind == b'5' || kind == 0 && path.ends_with(b"/");
        if is_directory {
            self.directories.insert(hash);
            self.implied.remove(&hash);
            self.links.remove(&hash);
            self.say(DIRECTORY_BYTES + extensions.records * RECORD_BYTES)?;
        } else if self.directories.contains(&hash) {
            // The engine removes it, with all that is below: whatever is made there again costs as much again.
            self.directories = HashSet::new();
        }
        if kind == b'2' {
            self.links.insert(hash);
        } else if kind != b'1' {
            self.links.remove(&hash);
        }
        match kind {
            b'0' | 0 => {
                if kind == 0 && !is_sure {
                    return Err(format!("has a header for `{}` that programs read differently", shown()));
                }
                if !is_directory {
                    size = extensions
                        .size
                        .or_else(|| entry::size(block))
                        .ok_or_else(|| format!("has a header for `{}` that cannot be read", shown()))?;
                    if is_sure {
                        self.files.insert(hash);
                    }
                }
            }
            b'1' => {
                let leads = self.reach(&target)?;
                if self.links.contains(&leads) {
                    self.links.insert(hash);
                } else {
                    self.links.remove(&hash);
                }
                // BuildKit keeps the target of a symlink for each of its names (`cache/contenthash`). A file of this
                // archive has none, unless a symlink has taken its place by another path.
                if self.files.contains(&leads) {
                    self.files.insert(hash);
                } else {
                    self.files.remove(&hash);
                    self.longest = PATH_BYTES_MAX;
                }
                self.say(target.len() + self.longest)?;
            }
            b'2' => {
                // The kernel walks them one by one, `..` as well.
                if target.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count() > NAMES_MAX {
                    return Err(format!("has a path or a link of more than {NAMES_MAX} names"));
                }
                self.files.remove(&hash);
                self.longest = self.longest.max(target.len());
                self.say(target.len())?;
            }
            b'3'..=b'6' => {}
            b'S' => return Err(sparse()),
            _ => return Err(format!("has an entry `{}` of a type that BuildKit does not unpack", shown())),
        }
        self.state = match size.saturating_add(padding(size) as u64) {
            0 => State::Header,
            left => State::Skip(left),
        };
        Ok(())
    }

    fn say(&mut self, bytes: usize) -> Result<(), String> {
        self.said += bytes;
        if self.said as u64 > self.limits.headers {
            return Err(super::costs::too_much(self.limits.headers));
        }
        Ok(())
    }
}

impl Write for Scan {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.refused.is_none() {
            self.refused = self.pass(bytes).err();
        }
        match &self.refused {
            None => Ok(bytes.len()),
            Some(why) => Err(io::Error::other(why.clone())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

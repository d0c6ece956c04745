//! Archives in a context, which BuildKit unpacks itself for an `ADD`.
//!
//! An archive goes to BuildKit as it is, so it cannot be written again like a context's tar. wharfd reads it
//! to its end as BuildKit does, and refuses everything that the two could read in different ways. BuildKit
//! unpacks only after a sync, so no byte is unpacked before the archive is judged.

mod blocks;
mod costs;
mod extensions;
mod frames;
mod scan;
mod sources;
mod spent;
mod synced;
mod trees;

use std::{
    fmt,
    io::{self, Write},
    mem,
    sync::Arc,
};

use bzip2::write::BzDecoder;
use flate2::write::MultiGzDecoder;
use liblzma::{
    stream::{CONCATENATED, Stream},
    write::XzDecoder,
};

use blocks::Blocks;
pub use costs::Costs;
use frames::Frames;
use scan::Scan;
pub use sources::Unpacked;
pub use spent::Spent;
pub(super) use synced::{Synced, refused};
pub use trees::{Awaited, Tree, Trees, TreesOf};

use super::{packets::ENTRIES_BYTES_MAX, tar::entry};

/// The number of bytes by which BuildKit recognises a compression (`DecompressStream` in moby's `archive` and
/// `go-archive`).
const MAGIC_BYTES: usize = 10;

/// The limit on the windows of all copies of one build that unpack, since BuildKit may run them at once.
const WINDOWS_BYTES: u64 = 1 << 30;
/// The largest window: that of `xz -9`.
pub const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// The largest of Zstandard: that of `zstd -19`. BuildKit unpacks it in its own memory, and takes some times a window.
const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;
/// The factor by which a window of Zstandard is smaller than one of xz, which is a process of its own.
const ZSTD_SHARE: u64 = 4;
/// The memory that xz takes beside its window.
const XZ_BYTES: u64 = 2 << 20;
/// The limit on the blocks of xz that all copies of one build hold, if `xz` unpacks them in threads.
const BLOCKS_BYTES: u64 = 4 << 30;
/// The limit on what all copies of one build keep of archives' headers while they unpack.
const HEADERS_BYTES: u64 = 1 << 30;
/// The limit on the names of paths that all copies of one build open, some microseconds each: the engine opens each
/// path name by name, and no cancel ends it.
const STEPS_MAX: u64 = 64 << 20;
/// The limit on the entries of all copies of one build that lie behind a directory without an entry of its own. An earlier
/// step may have made a symlink in its place, which the engine then follows: up to 40 one after the other, each with 2000
/// names, some milliseconds each time. It replaces a symlink by the directory of an entry (`createTarFile`'s callers in
/// moby's `go-archive` 0.2).
const STRAYS_MAX: u64 = 100_000;

/// The limits on an archive on an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// The largest window.
    pub window: u64,
    /// The most bytes of blocks that `xz` holds.
    pub blocks: u64,
    /// The most bytes of its headers.
    pub headers: u64,
    /// The most names of paths to open.
    pub steps: u64,
    /// Whether Zstandard is unpacked at all: BuildKit up to 0.21 never frees its decoder.
    pub zstd: bool,
}

impl ArchiveLimits {
    /// For this many copies that unpack.
    pub fn of(copies: usize, zstd: bool) -> Self {
        let copies = u64::try_from(copies).unwrap_or(u64::MAX).max(1);
        Self {
            window: (WINDOWS_BYTES / copies).min(WINDOW_BYTES_MAX),
            blocks: BLOCKS_BYTES / copies,
            headers: (HEADERS_BYTES / copies).min(ENTRIES_BYTES_MAX as u64),
            steps: STEPS_MAX / copies,
            zstd,
        }
    }
}

/// The judge of one file, which may be an archive. Its errors say what is wrong with it, without its name.
pub struct Archive {
    limits: ArchiveLimits,
    spent: Arc<Spent>,
    state: State,
}

enum State {
    /// The beginning, until the kind of the file is known.
    Begin(Vec<u8>),
    Plain(Box<Scan>),
    Gzip(Box<MultiGzDecoder<Scan>>),
    Bzip2(Box<BzDecoder<Scan>>),
    Xz(Box<(XzDecoder<Scan>, Blocks)>),
    Zstd(Box<(zstd::stream::write::Decoder<'static, Scan>, Frames)>),
    /// It contains no tar, but BuildKit begins to unpack it to see that, and its decoder reads ahead.
    Frames(Frames),
    /// BuildKit copies it.
    Other,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Archive")
    }
}

impl Archive {
    /// A file that begins, in a context whose archives have `spent` this much together.
    pub fn new(limits: ArchiveLimits, spent: Arc<Spent>) -> Self {
        Self { limits, spent, state: State::Begin(Vec::new()) }
    }

    /// Whether the next bytes may take long to judge.
    pub fn is_heavy(&self) -> bool {
        !matches!(self.state, State::Other)
    }

    /// Whether it takes a window to unpack it.
    pub fn has_window(&self) -> bool {
        matches!(self.state, State::Bzip2(_) | State::Xz(_) | State::Zstd(_) | State::Frames(_))
    }

    /// Whether it is a tar, as far as that is known.
    pub fn is_tar(&self) -> bool {
        self.scan().and_then(Scan::is_tar) == Some(true)
    }

    /// What it takes of the engine to unpack it, as far as it has come.
    pub fn costs(&self) -> Costs {
        let blocks = if let State::Xz(xz) = &self.state { xz.1.held() } else { 0 };
        let archives = usize::from(self.is_tar() || self.has_window());
        let (steps, headers) = self.scan().map_or((0, 0), |scan| (scan.steps(), scan.headers()));
        let strays = self.scan().map_or(0, Scan::strays);
        let (packed, unpacked) = self.scan().map_or((0, 0), Scan::sizes);
        Costs { archives, steps, strays, blocks, headers, packed, unpacked }
    }

    /// Judges the next bytes.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<(), String> {
        let State::Begin(begin) = &mut self.state else { return self.more(bytes) };
        begin.extend_from_slice(bytes);
        if begin.len() < entry::BLOCK_BYTES {
            return Ok(());
        }
        let begin = mem::take(begin);
        self.state = self.begun(&begin)?;
        self.more(&begin)
    }

    /// Judges the end of the file.
    pub fn end(&mut self) -> Result<(), String> {
        if let State::Begin(begin) = &mut self.state {
            let begin = mem::take(begin);
            self.state = self.begun(&begin)?;
            self.more(&begin)?;
        }
        // The rest in a decoder. BuildKit itself refuses an archive that breaks off.
        let ended = match &mut self.state {
            State::Plain(_) | State::Frames(_) | State::Other | State::Begin(_) => return Ok(()),
            State::Gzip(decoder) => decoder.try_finish(),
            State::Bzip2(decoder) => decoder.try_finish(),
            State::Xz(xz) => xz.0.try_finish(),
            State::Zstd(zstd) => zstd.0.flush(),
        };
        match (self.scan().and_then(Scan::refused), ended) {
            (Some(why), _) => Err(why),
            // `xz` would read on where the blocks could not be followed.
            (None, Ok(())) if matches!(&self.state, State::Xz(xz) if xz.1.is_broken()) => {
                Err("has blocks that cannot be followed: compress it by `xz -T1`".to_owned())
            }
            (None, Err(error)) if is_limit(&error) => Err(self.broken(&error)),
            (None, _) => Ok(()),
        }
    }

    /// The kind of a file with this beginning, as BuildKit determines it.
    fn begun(&self, begin: &[u8]) -> Result<State, String> {
        let is_packed = !entry::is_header(begin);
        let scan = Scan::new(self.limits, is_packed.then(|| Arc::clone(&self.spent)));
        let magic = begin.get(..MAGIC_BYTES).unwrap_or(begin);
        Ok(match magic {
            // A block, or the end of an empty stream.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => {
                State::Bzip2(Box::new(BzDecoder::new(scan)))
            }
            // A text.
            [b'B', b'Z', b'h', ..] => State::Other,
            [0x1f, 0x8b, 8, ..] => State::Gzip(Box::new(MultiGzDecoder::new(scan))),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                let stream = Stream::new_stream_decoder(self.limits.window + XZ_BYTES, CONCATENATED);
                let stream = stream.map_err(|error| format!("cannot be unpacked: {error}"))?;
                State::Xz(Box::new((XzDecoder::new_stream(scan, stream), Blocks::new(self.limits.blocks))))
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] => {
                if !self.limits.zstd {
                    return Err("is compressed with Zstandard, and the engine's BuildKit never frees the \
                                memory in which it unpacks that (0.22 does): compress it with gzip"
                        .to_owned());
                }
                let window = (self.limits.window / ZSTD_SHARE).min(ZSTD_WINDOW_BYTES_MAX);
                let broken = |error| self.broken(&error);
                let mut decoder = zstd::stream::write::Decoder::new(scan).map_err(broken)?;
                decoder.window_log_max(ZSTD_WINDOW_BYTES_MAX.ilog2()).map_err(broken)?;
                State::Zstd(Box::new((decoder, Frames::new(window))))
            }
            _ if entry::is_header(begin) => State::Plain(Box::new(scan)),
            _ => State::Other,
        })
    }

    fn more(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.state {
            State::Zstd(zstd) => zstd.1.pass(bytes)?,
            State::Xz(xz) => xz.1.pass(bytes)?,
            _ => {}
        }
        if let Some(scan) = self.scan_mut() {
            scan.packed(bytes.len());
        }
        let passed = match &mut self.state {
            State::Begin(_) | State::Other => Ok(()),
            State::Plain(scan) => scan.write_all(bytes),
            State::Gzip(decoder) => decoder.write_all(bytes),
            State::Bzip2(decoder) => bunzip(decoder, bytes),
            State::Xz(xz) => xz.0.write_all(bytes),
            State::Zstd(zstd) => zstd.0.write_all(bytes),
            State::Frames(frames) => return frames.pass(bytes),
        };
        let scan = self.scan();
        if let Some(why) = scan.and_then(Scan::refused) {
            return Err(why);
        }
        // Each block of xz has a window of its own.
        if scan.and_then(Scan::is_tar) == Some(false) && !matches!(self.state, State::Xz(_)) {
            // BuildKit reads no more of it than its beginning, and copies it, even if the rest is broken.
            self.no_tar();
            return Ok(());
        }
        // Another decoder may continue where this one fails.
        passed.map_err(|error| self.broken(&error))
    }

    /// It is a file that BuildKit copies.
    fn no_tar(&mut self) {
        self.state = match mem::replace(&mut self.state, State::Other) {
            State::Zstd(zstd) => State::Frames(zstd.1),
            _ => State::Other,
        };
    }

    fn broken(&self, error: &io::Error) -> String {
        if is_limit(error) {
            let max = self.limits.window >> 20;
            return format!(
                "needs a larger dictionary than the {max} MiB that it may have in this build: compress it \
                 with `xz -6`, or unpack it in the context"
            );
        }
        format!("cannot be unpacked: {error}")
    }

    fn scan(&self) -> Option<&Scan> {
        match &self.state {
            State::Plain(scan) => Some(scan),
            State::Gzip(decoder) => Some(decoder.get_ref()),
            State::Bzip2(decoder) => Some(decoder.get_ref()),
            State::Xz(xz) => Some(xz.0.get_ref()),
            State::Zstd(zstd) => Some(zstd.0.get_ref()),
            State::Begin(_) | State::Frames(_) | State::Other => None,
        }
    }

    fn scan_mut(&mut self) -> Option<&mut Scan> {
        match &mut self.state {
            State::Plain(scan) => Some(scan),
            State::Gzip(decoder) => Some(decoder.get_mut()),
            State::Bzip2(decoder) => Some(decoder.get_mut()),
            State::Xz(xz) => Some(xz.0.get_mut()),
            State::Zstd(zstd) => Some(zstd.0.get_mut()),
            State::Begin(_) | State::Frames(_) | State::Other => None,
        }
    }
}

/// The names on the way to a path below the root, as `filepath.Join("/", …)` cleans it.
fn clean<'a, N: AsRef<[u8]> + ?Sized>(path: impl Iterator<Item = &'a N>) -> Vec<&'a N> {
    let mut names = Vec::new();
    for name in path {
        match name.as_ref() {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names
}

/// Whether a decoder of xz needs more memory than it may have.
fn is_limit(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<liblzma::stream::Error>());
    error.is_some_and(|error| *error == liblzma::stream::Error::MemLimit)
}

/// Go reads the streams of bzip2 that follow one another as one.
fn bunzip(decoder: &mut BzDecoder<Scan>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = decoder.write(bytes)?;
        bytes = bytes.get(length..).unwrap_or_default();
        if length == 0 {
            *decoder = BzDecoder::new(decoder.finish()?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

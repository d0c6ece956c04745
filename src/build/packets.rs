//! Judges a sync's packets (`fsutil.types.Packet`) one by one, in both directions.
//!
//! BuildKit's receiver runs as root on the node and trusts its sender more than is safe when the sender
//! belongs to a job. So BuildKit gets only packets that an honest sender would send, encoded again from the
//! parts that were understood here, and the client learns from BuildKit only which files it requests.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::{dockerfile, gate::Matching, spec::PATH_BYTES_MAX};
use crate::{
    buildkit::filesync::DirectoryRequest,
    go_mode as mode,
    names::{printable, shortened},
};

/// Each entry costs wharfd about twenty bytes, and BuildKit about a hundred. No real context is refused.
pub(super) const ENTRIES_MAX: usize = 2 << 20;

/// The limit on the paths, links and attributes of all entries together. BuildKit keeps all of it in the
/// engine's memory while it waits for the files' bytes. A million files in deep directories have less.
pub(super) const ENTRIES_BYTES_MAX: usize = 256 << 20;

/// The limit on a Dockerfile, which BuildKit reads whole, into the engine's own memory. A generated one can have some
/// MiB.
pub(super) const READ_BYTES_MAX: u64 = 4 << 20;
/// The same for an ignore file.
const IGNORE_BYTES_MAX: u64 = 1 << 20;
/// The limit on all such files of a sync together: the Dockerfile and its ignore file.
const READ_IN_ALL_BYTES_MAX: u64 = 6 << 20;

/// The limit on the number of such files: each is judged as the Dockerfile that it may be. A client sends two, and the
/// targets of links.
const READ_FILES_MAX: usize = 16;

/// An error names a path, at most.
const TOLD_BYTES_MAX: usize = 8 << 10;

/// The state of one sync of one directory: what each side has said so far.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The announced entries; an entry's id is its position.
    entries: Vec<Announced>,
    /// The number of bytes in their paths, links and attributes.
    entries_bytes: usize,
    /// Hashes of the announced files, each of its path, mode and attributes.
    files: HashSet<u64>,
    hasher: RandomState,
    /// Whether all entries have been announced.
    listed: bool,
    /// The number of missing bytes of each file that BuildKit has requested.
    open: HashMap<u32, u64>,
    /// Whether BuildKit has everything that it wants.
    finished: bool,
    /// Whether the client has said that it knows.
    ended: bool,
    /// Whether BuildKit has given up.
    given_up: bool,
    /// Whether BuildKit parses some of the files itself: the Dockerfile, `.dockerignore`.
    is_read: bool,
    /// Whether BuildKit reads all of the files whole.
    is_read_whole: bool,
    /// Whether it is an ignore file alone that BuildKit reads.
    is_ignore_file: bool,
    /// The size of the announced files that BuildKit reads whole.
    read: u64,
    /// Their number.
    read_files: usize,
    /// The text of each Dockerfile, as far as it has come.
    texts: Option<HashMap<u32, Vec<u8>>>,
    /// Takes the build's Dockerfile.
    dockerfile: Arc<dockerfile::Judge>,
    /// What BuildKit does with the entries.
    matching: Matching,
}

/// The size of a file that BuildKit has not requested yet; other entries have no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced(u64);

impl Announced {
    const WITHOUT_BYTES: Self = Self(u64::MAX);
}

impl Judge {
    /// A sync for BuildKit's request. `dockerfile` takes the build's Dockerfile, if it comes in this sync, and judges it
    /// before the packet with its end goes on: BuildKit requests it in each sync (`llb.DiffNone`), whatever it has from
    /// earlier ones.
    pub(super) fn of(request: &DirectoryRequest, dockerfile: &Arc<dockerfile::Judge>) -> Self {
        let mut paths = request.include_patterns.iter().chain(&request.follow_paths);
        let is_read = request.name != "context" || paths.any(|path| path.ends_with(".dockerignore"));
        let is_dockerfile = request.name != "context";
        if is_dockerfile {
            dockerfile.begin();
        }
        let mut all = request.include_patterns.iter().chain(&request.follow_paths).peekable();
        let is_ignore_file = all.peek().is_some() && all.all(|path| path.ends_with(".dockerignore"));
        Self {
            is_read,
            is_read_whole: is_dockerfile || is_ignore_file,
            is_ignore_file,
            texts: is_dockerfile.then(HashMap::new),
            dockerfile: Arc::clone(dockerfile),
            ..Self::default()
        }
    }

    /// Limits the entries by what BuildKit does with them.
    pub(super) fn limit(&mut self, matching: Matching) {
        self.matching = matching;
    }

    /// Whether the sync may bring the build's Dockerfile.
    pub(super) fn takes_texts(&self) -> bool {
        self.texts.is_some()
    }

    /// Whether BuildKit has everything that it wants, or has given up.
    pub(super) fn is_over(&self) -> bool {
        self.finished || self.given_up
    }

    /// Judges a client's packet; returns the packet for BuildKit.
    pub(super) fn client_says(&mut self, message: Bytes) -> Result<Bytes, Status> {
        // What all of a sync is judged for is judged with its end, once.
        if self.ended {
            return Err(refused("a packet was sent after the end of the sync"));
        }
        let mut packet =
            Packet::decode(message).map_err(|_| refused("a packet of the sync cannot be read"))?;
        let kind = PacketType::try_from(packet.r#type);
        match (kind, &mut packet.stat) {
            (Ok(PacketType::PacketStat), stat) => {
                // At the end of the list BuildKit closes a channel, and a further entry would be sent on it:
                // Go then panics and ends the engine.
                if self.listed {
                    return Err(refused("an entry was sent after the end of the list"));
                }
                match stat {
                    Some(stat) => self.announce(stat)?,
                    None => self.listed = true,
                }
                packet.data.clear();
            }
            (Ok(PacketType::PacketData), None) => self.data(packet.id, &packet.data)?,
            (Ok(PacketType::PacketFin), None) if self.finished => {
                self.ended = true;
                packet.data.clear();
            }
            // BuildKit's own log has it, whole, and so has the failure.
            (Ok(PacketType::PacketErr), None) => {
                let text = told(&String::from_utf8_lossy(&packet.data));
                packet.data = text.into_bytes();
            }
            (Ok(_) | Err(_), _) => {
                return Err(refused("a packet has a type that a sender of files does not send"));
            }
        }
        Ok(packet.encode_to_vec().into())
    }

    /// Judges BuildKit's packet; returns the packet for the client. Its texts contain paths of the node and
    /// names of BuildKit's temporary files, so no text is passed on.
    pub(super) fn builder_says(&mut self, message: Bytes) -> Result<Bytes, Status> {
        let broken = || Status::internal("the builder broke the sync's protocol");
        let packet = Packet::decode(message).map_err(|_| broken())?;
        let (kind, id) = match packet.r#type() {
            PacketType::PacketReq => {
                let index = usize::try_from(packet.id).map_err(|_| broken())?;
                let entry = self.entries.get_mut(index).ok_or_else(broken)?;
                // A file may be requested once: afterwards it counts as an entry without bytes.
                let Announced(size) = std::mem::replace(entry, Announced::WITHOUT_BYTES);
                if size == u64::MAX {
                    return Err(broken());
                }
                self.open.insert(packet.id, size);
                if let Some(texts) = &mut self.texts {
                    texts.insert(packet.id, Vec::new());
                }
                (PacketType::PacketReq, packet.id)
            }
            PacketType::PacketFin => {
                self.finished = true;
                (PacketType::PacketFin, 0)
            }
            PacketType::PacketErr => {
                self.given_up = true;
                tracing::debug!(
                    text = printable(&String::from_utf8_lossy(&packet.data)),
                    "BuildKit ended a sync"
                );
                (PacketType::PacketErr, 0)
            }
            PacketType::PacketStat | PacketType::PacketData => return Err(broken()),
        };
        Ok(Packet { r#type: kind.into(), id, ..Packet::default() }.encode_to_vec().into())
    }

    /// Judges and notes an announced entry.
    fn announce(&mut self, stat: &mut Stat) -> Result<(), Status> {
        if self.entries.len() >= ENTRIES_MAX {
            return Err(refused(format!("the directory has more than {ENTRIES_MAX} entries")));
        }
        let xattrs: usize = stat.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.entries_bytes += stat.path.len() + stat.linkname.len() + xattrs;
        if self.entries_bytes > ENTRIES_BYTES_MAX {
            return Err(too_much());
        }
        if let Some(why) = self.matching.refuses(self.entries.len() + 1, self.entries_bytes) {
            return Err(refused(why));
        }
        entry(stat, self.is_read)?;
        let is_file = stat.mode & mode::TYPE == 0;
        let has_bytes = is_file && stat.linkname.is_empty();
        if has_bytes {
            self.files.insert(self.hash(&stat.path, stat));
        } else if is_file && !self.files.contains(&self.hash(&stat.linkname, stat)) {
            return Err(refused(format!(
                "`{}` is a hard link to `{}`, which was not sent before it, or has another mode or other \
                 attributes; it may have changed meanwhile: build again",
                printable(&stat.path),
                printable(&stat.linkname)
            )));
        }
        let size = u64::try_from(stat.size)
            .map_err(|_| refused(format!("`{}` has no size", printable(&stat.path))))?;
        if self.is_read_whole && has_bytes {
            self.read = self.read.saturating_add(size);
            self.read_files += 1;
            if self.read_files > READ_FILES_MAX {
                return Err(refused(format!(
                    "more than {READ_FILES_MAX} files were sent where the builder reads a Dockerfile or an ignore file"
                )));
            }
            // An ignore file may be a link to any other name.
            let max = if self.is_ignore_file { IGNORE_BYTES_MAX } else { read_max(&stat.path) };
            if size > max || self.read > READ_IN_ALL_BYTES_MAX {
                return Err(refused(format!(
                    "`{}` is too large: the builder reads at most {} MiB of it, and {} MiB in all",
                    printable(&stat.path),
                    max >> 20,
                    READ_IN_ALL_BYTES_MAX >> 20
                )));
            }
        }
        self.entries.push(if has_bytes { Announced(size) } else { Announced::WITHOUT_BYTES });
        Ok(())
    }

    /// The hash of a file at `path` with the mode and attributes in `stat`. BuildKit sets the mode and
    /// attributes of a hard link on the file itself, but keeps the checksum of the file as it was announced
    /// first.
    fn hash(&self, path: &str, stat: &Stat) -> u64 {
        let mut xattrs: Vec<_> = stat.xattrs.iter().collect();
        xattrs.sort_unstable();
        self.hasher.hash_one((path, stat.mode, xattrs))
    }

    /// Judges bytes of a file; an empty packet is the file's end. BuildKit computes a file's checksum from
    /// the announced size and the bytes before the end, but also writes bytes after the end: the next job
    /// that copies an honest file with that checksum would get the wrong bytes.
    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Status> {
        let Some(left) = self.open.get_mut(&id) else {
            return Err(refused(format!("bytes of entry {id}, which the builder did not request")));
        };
        let length = data.len() as u64;
        match left.checked_sub(length) {
            Some(0) if length == 0 => {
                self.open.remove(&id);
                if let Some(text) = self.texts.as_mut().and_then(|texts| texts.remove(&id)) {
                    self.dockerfile.take(&id.to_string(), text);
                }
            }
            Some(still) if length > 0 => {
                *left = still;
                // At most as many bytes as announced.
                if let Some(text) = self.texts.as_mut().and_then(|texts| texts.get_mut(&id)) {
                    text.extend_from_slice(data);
                }
            }
            Some(_) => return Err(refused(format!("entry {id} ended before all of its bytes were sent"))),
            None => return Err(refused(format!("entry {id} has more bytes than announced"))),
        }
        Ok(())
    }
}

/// The limit on a file that BuildKit reads whole.
pub(super) fn read_max(path: &str) -> u64 {
    if path.ends_with(".dockerignore") { IGNORE_BYTES_MAX } else { READ_BYTES_MAX }
}

/// Judges an entry, and removes everything that an entry may not have.
fn entry(stat: &mut Stat, is_read: bool) -> Result<(), Status> {
    let kind = stat.mode & mode::TYPE;
    // For a file, the link is an earlier name; for a symlink, it is arbitrary text.
    let is_further_name = kind == 0 && !stat.linkname.is_empty();
    for path in [Some(&stat.path), is_further_name.then_some(&stat.linkname)].into_iter().flatten() {
        inside(path)?;
    }
    if stat.linkname.len() > PATH_BYTES_MAX {
        return Err(refused(format!(
            "`{}` is a link that is longer than a path can be",
            printable(&stat.path)
        )));
    }
    let shown = || printable(&stat.path);
    match kind {
        // No file system has a link without a target. BuildKit would fail to create it, and its error would
        // contain the name of its temporary file.
        mode::SYMLINK if stat.linkname.is_empty() || stat.linkname.contains('\0') => {
            return Err(refused(format!("`{}` is a link that points nowhere", shown())));
        }
        0 | mode::DIR | mode::SYMLINK => {}
        // Opening a pipe waits for ever.
        mode::NAMED_PIPE if !is_read => {}
        // BuildKit would read the node's own device, which may be a disk or endless.
        _ => {
            let text = format!("`{}` is a device, or has a type that cannot be built from", shown());
            return Err(refused(format!("{text}: leave it out with .dockerignore")));
        }
    }
    if kind != mode::SYMLINK && !is_further_name {
        stat.linkname.clear();
    }
    // As from any client of Docker: files belong to root, and nothing is a device.
    (stat.uid, stat.gid, stat.devmajor, stat.devminor) = (0, 0, 0, 0);
    stat.mode &= mode::TYPE | mode::SETUID | mode::SETGID | mode::STICKY | 0o777;
    if kind == mode::SYMLINK {
        // BuildKit sets them on the link's target, anywhere on the node (seen on 26.1 and on the newest
        // engine).
        stat.xattrs.clear();
    }
    // `security.selinux` and the like belong to the client's machine; the node's kernel would interpret
    // `trusted.overlay…`.
    stat.xattrs.retain(|name, _| name == "security.capability" || name.starts_with("user."));
    Ok(())
}

/// Refuses paths that lead out of the directory, and names that BuildKit uses there itself.
pub(super) fn inside(path: &str) -> Result<(), Status> {
    if path.len() > PATH_BYTES_MAX {
        let begin = printable(&shortened(path.to_owned(), 100));
        return Err(refused(format!("`{begin}` is longer than a path can be: {PATH_BYTES_MAX} bytes")));
    }
    // Engine 26.1's BuildKit treats `..` as a name, and replaces the directory in which it keeps the client's
    // files.
    if path.contains('\0') || path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(refused(format!("`{}` is not a path inside the directory", printable(path))));
    }
    if path == METADATA_FILE || path.split('/').any(is_temporary) {
        let text = format!("`{}` has the name of a file that the builder makes for itself", printable(path));
        return Err(refused(format!("{text}: leave it out with .dockerignore")));
    }
    Ok(())
}

/// BuildKit writes this file if only the names of a directory's files are synced (fsutil, `receive.go`).
const METADATA_FILE: &str = ".fsutil-metadata";

/// Whether BuildKit may use this name for a changed file before it renames it (fsutil, `nextSuffix`): `.tmp.`
/// and nine digits, which can be guessed. BuildKit opens the name without a check, so a link would lead it to
/// any file of the node.
fn is_temporary(name: &str) -> bool {
    let number = name.split_at_checked(5).filter(|(prefix, _)| prefix.eq_ignore_ascii_case(".tmp."));
    number.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A client's words about its failure. BuildKit writes it to its log, and several times.
pub(super) fn told(text: &str) -> String {
    shortened(printable(&shortened(text.to_owned(), TOLD_BYTES_MAX)), TOLD_BYTES_MAX)
}

/// More is said of entries than may be.
pub(super) fn too_much() -> Status {
    let limit = ENTRIES_BYTES_MAX >> 20;
    refused(format!("the paths, links and attributes of the context's entries have more than {limit} MiB"))
}

fn refused(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

#[cfg(test)]
mod tests;

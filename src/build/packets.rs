//! A sync's packets (`fsutil.types.Packet`), judged one by one in both directions.
//!
//! BuildKit's receiver runs as root on the node and trusts its sender in more points than are safe
//! when the sender is a job's. So it gets what an honest sender says, encoded anew from what was
//! understood here, and the client hears of BuildKit which files it wants and no more.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::dockerfile;
use crate::{buildkit::filesync::DirectoryRequest, names::printable, wire::mode};

/// Each entry costs us some twenty bytes, and BuildKit some hundred: no real context is refused.
pub(super) const ENTRIES_MAX: usize = 2 << 20;

/// A file that BuildKit reads whole, into the engine's own memory. A Dockerfile that a program has made
/// can have 900 kB.
pub(super) const READ_BYTES_MAX: u64 = 1 << 20;
/// Of all such files of a sync: the Dockerfile and its ignore file.
const READ_IN_ALL_BYTES_MAX: u64 = 4 << 20;

/// One sync of one directory: who has said what so far.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The entries that were announced, by their number.
    entries: Vec<Announced>,
    /// Hashes of the files that were announced, each by its path and what is set on it.
    files: HashSet<u64>,
    hasher: RandomState,
    /// All entries were announced.
    listed: bool,
    /// Bytes that are still to come of each file that BuildKit has asked for.
    open: HashMap<u32, u64>,
    /// BuildKit has all that it wants.
    finished: bool,
    /// BuildKit parses some of these files itself: the Dockerfile, `.dockerignore`.
    is_read: bool,
    /// It reads all of them whole.
    is_read_whole: bool,
    /// Bytes of the files that it reads whole.
    read: u64,
    /// Texts of Dockerfiles, as far as they have come.
    texts: Option<HashMap<u32, Vec<u8>>>,
    /// The length of the build's longest argument.
    longest_argument: u64,
}

/// A file's size, until BuildKit has asked for it; anything else has no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced(u64);

impl Announced {
    const WITHOUT_BYTES: Self = Self(u64::MAX);
}

impl Judge {
    /// A sync of what BuildKit asks for.
    pub(super) fn of(request: &DirectoryRequest) -> Self {
        let mut paths = request.include_patterns.iter().chain(&request.follow_paths);
        let is_read = request.name != "context" || paths.any(|path| path.ends_with(".dockerignore"));
        let is_dockerfile = request.name != "context";
        let mut all = request.include_patterns.iter().chain(&request.follow_paths).peekable();
        let is_ignore_file = all.peek().is_some() && all.all(|path| path.ends_with(".dockerignore"));
        Self {
            is_read,
            is_read_whole: is_dockerfile || is_ignore_file,
            texts: is_dockerfile.then(HashMap::new),
            ..Self::default()
        }
    }

    /// The same for a build whose longest argument has that length.
    pub(super) fn with_longest_argument(self, longest_argument: u64) -> Self {
        Self { longest_argument, ..self }
    }

    /// The client's packet as it goes on to BuildKit.
    pub(super) fn client_says(&mut self, message: Bytes) -> Result<Bytes, Status> {
        let mut packet =
            Packet::decode(message).map_err(|_| refused("a packet of the sync cannot be read"))?;
        let kind = PacketType::try_from(packet.r#type);
        match (kind, &mut packet.stat) {
            (Ok(PacketType::PacketStat), stat) => {
                // BuildKit closes a channel at the end of the list, and uses it for the next entry: Go
                // ends the whole engine.
                if self.listed {
                    return Err(refused("the list of entries goes on after its end"));
                }
                match stat {
                    Some(stat) => self.announce(stat)?,
                    None => self.listed = true,
                }
                packet.data.clear();
            }
            (Ok(PacketType::PacketData), None) => self.data(packet.id, &packet.data)?,
            (Ok(PacketType::PacketFin), None) if self.finished => packet.data.clear(),
            (Ok(PacketType::PacketErr), None) => {}
            (Ok(_) | Err(_), _) => return Err(refused("a packet is none that a sender of files sends")),
        }
        Ok(packet.encode_to_vec().into())
    }

    /// BuildKit's packet as it goes on to the client. Its texts name files of the node, and the names
    /// that it makes for itself: none of them goes on.
    pub(super) fn builder_says(&mut self, message: Bytes) -> Result<Bytes, Status> {
        let broken = || Status::internal("the builder broke the sync's protocol");
        let packet = Packet::decode(message).map_err(|_| broken())?;
        let (kind, id) = match packet.r#type() {
            PacketType::PacketReq => {
                let index = usize::try_from(packet.id).map_err(|_| broken())?;
                let entry = self.entries.get_mut(index).ok_or_else(broken)?;
                // A file is sent once: what was asked for is a file no more.
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

    /// Notes an entry that is fit to be announced.
    fn announce(&mut self, stat: &mut Stat) -> Result<(), Status> {
        if self.entries.len() >= ENTRIES_MAX {
            return Err(refused(format!("the directory has more than {ENTRIES_MAX} entries")));
        }
        entry(stat, self.is_read)?;
        let is_file = stat.mode & mode::TYPE == 0;
        let has_bytes = is_file && stat.linkname.is_empty();
        if has_bytes {
            self.files.insert(self.hash(&stat.path, stat));
        } else if is_file && !self.files.contains(&self.hash(&stat.linkname, stat)) {
            return Err(refused(format!(
                "`{}` is a further name of `{}`, which was not sent before it or has another mode or other \
                 attributes; it may have changed meanwhile: build again",
                printable(&stat.path),
                printable(&stat.linkname)
            )));
        }
        let size = u64::try_from(stat.size)
            .map_err(|_| refused(format!("`{}` has no size", printable(&stat.path))))?;
        if self.is_read_whole && has_bytes {
            self.read = self.read.saturating_add(size);
            if size > READ_BYTES_MAX || self.read > READ_IN_ALL_BYTES_MAX {
                return Err(refused(format!(
                    "`{}` is too large: the builder reads files of at most {} MiB, and {} MiB in all",
                    printable(&stat.path),
                    READ_BYTES_MAX >> 20,
                    READ_IN_ALL_BYTES_MAX >> 20
                )));
            }
        }
        self.entries.push(if has_bytes { Announced(size) } else { Announced::WITHOUT_BYTES });
        Ok(())
    }

    /// The hash of a file at `path` with the mode and the attributes of `stat`. BuildKit sets those of a
    /// further name on the file itself, and takes the checksum of the file as it was announced first.
    fn hash(&self, path: &str, stat: &Stat) -> u64 {
        let mut xattrs: Vec<_> = stat.xattrs.iter().collect();
        xattrs.sort_unstable();
        self.hasher.hash_one((path, stat.mode, xattrs))
    }

    /// Bytes of a file; none are its end. BuildKit's checksum of a file is made of the size that was
    /// announced and of the bytes that come before the end, but it writes what comes after the end as
    /// well: the next job that copies an honest file with that checksum would get the other's bytes.
    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Status> {
        let Some(left) = self.open.get_mut(&id) else {
            return Err(refused(format!("bytes of entry {id}, for which the builder does not wait")));
        };
        let length = data.len() as u64;
        match left.checked_sub(length) {
            Some(0) if length == 0 => {
                self.open.remove(&id);
                if let Some(text) = self.texts.as_mut().and_then(|texts| texts.remove(&id)) {
                    dockerfile::judge(&text, self.longest_argument).map_err(refused)?;
                }
            }
            Some(still) if length > 0 => {
                *left = still;
                // No longer than was announced.
                if let Some(text) = self.texts.as_mut().and_then(|texts| texts.get_mut(&id)) {
                    text.extend_from_slice(data);
                }
            }
            Some(_) => return Err(refused(format!("entry {id} ends before all of its bytes have come"))),
            None => return Err(refused(format!("entry {id} has more bytes than were announced"))),
        }
        Ok(())
    }
}

/// Judges an entry, and takes away what it may not have.
fn entry(stat: &mut Stat, is_read: bool) -> Result<(), Status> {
    let kind = stat.mode & mode::TYPE;
    // A file's link is its earlier name, a symlink's whatever it says.
    let is_further_name = kind == 0 && !stat.linkname.is_empty();
    for path in [Some(&stat.path), is_further_name.then_some(&stat.linkname)].into_iter().flatten() {
        inside(path)?;
    }
    let shown = || printable(&stat.path);
    match kind {
        // Whatever is written in the place of a link without a target makes BuildKit say under which
        // name it tried: no file system has such a link.
        mode::SYMLINK if stat.linkname.is_empty() || stat.linkname.contains('\0') => {
            return Err(refused(format!("`{}` is a link that points nowhere", shown())));
        }
        0 | mode::DIR | mode::SYMLINK => {}
        // Whoever opens one waits for ever.
        mode::NAMED_PIPE if !is_read => {}
        // BuildKit would read the node's own device, be it a disk or endless.
        _ => {
            let text = format!("`{}` is a device, or no file that can be built from", shown());
            return Err(refused(format!("{text}: leave it out with .dockerignore")));
        }
    }
    if kind != mode::SYMLINK && !is_further_name {
        stat.linkname.clear();
    }
    // As any client of Docker's says: files are root's, and nothing is a device.
    (stat.uid, stat.gid, stat.devmajor, stat.devminor) = (0, 0, 0, 0);
    stat.mode &= mode::TYPE | mode::SETUID | mode::SETGID | mode::STICKY | 0o777;
    if kind == mode::SYMLINK {
        // BuildKit sets them on what the link points to, wherever on the node that is (seen on 26.1 and
        // on the newest engine).
        stat.xattrs.clear();
    }
    // `security.selinux` and the like are about the client's machine; `trusted.overlay…` would be read
    // by the kernel of this one.
    stat.xattrs.retain(|name, _| name == "security.capability" || name.starts_with("user."));
    Ok(())
}

/// Refuses paths that lead out of the directory, and those that BuildKit makes there for itself.
pub(super) fn inside(path: &str) -> Result<(), Status> {
    // Engine 26.1's BuildKit takes `..` for a name, and replaces the directory that it keeps the
    // client's files in.
    if path.contains('\0') || path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(refused(format!("`{}` is not a path inside the directory", printable(path))));
    }
    if path == METADATA_FILE || path.split('/').any(is_temporary) {
        let text = format!("`{}` has the name of a file that the builder makes for itself", printable(path));
        return Err(refused(format!("{text}: leave it out with .dockerignore")));
    }
    Ok(())
}

/// Written beside a directory's files where only their names are synced (fsutil, `receive.go`).
const METADATA_FILE: &str = ".fsutil-metadata";

/// Whether BuildKit may write what has changed under this name before it renames it (fsutil,
/// `nextSuffix`): `.tmp.` and nine digits, which it guesses badly. It opens the name without a look at
/// what is there, and a link would lead it to any file of the node.
fn is_temporary(name: &str) -> bool {
    let number = name.split_at_checked(5).filter(|(prefix, _)| prefix.eq_ignore_ascii_case(".tmp."));
    number.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn refused(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

#[cfg(test)]
mod tests;

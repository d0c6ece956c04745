//! Refuses ignore files that a client announces but BuildKit could not read. BuildKit would ignore such a
//! file and continue (`frontend/dockerui`), and the image could contain the files that it excludes.

use std::collections::HashMap;

use bollard_buildkit_proto::fsutil::types::{Packet, packet::PacketType};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::{buildkit::filesync::DirectoryRequest, go_mode as mode, names::printable};

/// The name of an ignore file, or the end of its name.
const SUFFIX: &str = ".dockerignore";

/// The limit on remembered entries of such a sync: a file, the links to it, their directories.
const ENTRIES_MAX: usize = 1000;

/// Linux's own limit on symlinks in the resolution of a path.
const HOPS_MAX: usize = 40;

/// How many names are followed. Each may be a path of 4 KiB to look up.
const NAMES_MAX: usize = 512;

/// The ignore files that are requested in one sync.
#[derive(Debug)]
pub(super) struct IgnoreFiles {
    asked: Vec<String>,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File,
    Directory,
    Link(String),
    Other,
}

impl IgnoreFiles {
    /// The ignore files in this request of BuildKit's.
    pub(super) fn of(request: &DirectoryRequest) -> Self {
        let paths = request.include_patterns.iter().chain(&request.follow_paths);
        let asked = paths.filter(|path| path.ends_with(SUFFIX)).cloned().collect();
        Self { asked, entries: HashMap::new() }
    }

    /// Whether this is a sync of ignore files. If it fails, BuildKit continues without them.
    pub(super) fn are_synced(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Looks at a packet that the judge of packets has let pass.
    pub(super) fn pass(&mut self, message: Bytes) -> Result<Bytes, Status> {
        if !self.are_synced() {
            return Ok(message);
        }
        let packet = Packet::decode(message.clone())
            .map_err(|_| Status::invalid_argument("a packet of the sync cannot be read"))?;
        match packet.r#type() {
            PacketType::PacketStat => {}
            PacketType::PacketErr => {
                let text = printable(&String::from_utf8_lossy(&packet.data));
                return Err(Status::aborted(format!("error from sender: {text}")));
            }
            _ => return Ok(message),
        }
        match packet.stat {
            Some(stat) => {
                if self.entries.len() == ENTRIES_MAX {
                    let text =
                        format!("more than {ENTRIES_MAX} entries arrived for {}", self.asked.join(", "));
                    return Err(Status::invalid_argument(printable(&text)));
                }
                let entry = match stat.mode & mode::TYPE {
                    0 => Entry::File,
                    mode::DIR => Entry::Directory,
                    mode::SYMLINK => Entry::Link(stat.linkname),
                    _ => Entry::Other,
                };
                self.entries.insert(stat.path, entry);
            }
            None => {
                let unusable = self.asked.iter().find(|path| !self.is_usable(path));
                if let Some(path) = unusable {
                    return Err(Status::invalid_argument(format!(
                        "`{}` exists but cannot be read: it is not a file, or not a link to a file in this \
                         directory; without it the build would get the files that it excludes",
                        printable(path)
                    )));
                }
            }
        }
        Ok(message)
    }

    /// Whether BuildKit can read the file, or the file does not exist.
    fn is_usable(&self, path: &str) -> bool {
        if !self.entries.contains_key(path) {
            return true;
        }
        let mut at: Vec<&str> = Vec::new();
        let mut left: Vec<&str> = path.split('/').rev().collect();
        let (mut hops, mut names) = (0, 0);
        let mut is_file = false;
        while let Some(name) = left.pop() {
            names += 1;
            if names > NAMES_MAX {
                return false;
            }
            match name {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    is_file = false;
                    continue;
                }
                name => at.push(name),
            }
            match self.entries.get(&at.join("/")) {
                Some(Entry::File) => is_file = true,
                Some(Entry::Directory) => is_file = false,
                Some(Entry::Link(target)) => {
                    hops += 1;
                    if hops > HOPS_MAX {
                        return false;
                    }
                    // An absolute link starts at the directory's root.
                    if target.starts_with('/') {
                        at.clear();
                    } else {
                        at.pop();
                    }
                    left.extend(target.split('/').rev());
                    is_file = false;
                }
                Some(Entry::Other) | None => return false,
            }
        }
        is_file
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::fsutil::types::Stat;

    use super::*;

    fn judged(asked: &str, entries: &[(&str, u32, &str)]) -> Result<(), Status> {
        let request =
            DirectoryRequest { follow_paths: vec![asked.to_owned()], ..DirectoryRequest::default() };
        let mut files = IgnoreFiles::of(&request);
        let announced = |stat| {
            Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() }.encode_to_vec()
        };
        for (path, mode, link) in entries {
            let stat =
                Stat { path: (*path).into(), mode: *mode, linkname: (*link).into(), ..Stat::default() };
            files.pass(announced(Some(stat)).into())?;
        }
        files.pass(announced(None).into()).map(drop)
    }

    #[test]
    fn an_ignore_file_can_be_read_or_is_not_there() {
        let (file, link, dir) = (0o644, mode::SYMLINK | 0o777, mode::DIR | 0o755);
        for entries in [
            &[][..],
            &[(".dockerignore", file, "")],
            &[(".dockerignore", link, "rules"), ("rules", file, "")],
            &[(".dockerignore", link, "/d/../d/./rules"), ("d", dir, ""), ("d/rules", file, "")],
            &[
                (".dockerignore", link, "../d/rules"),
                ("d", link, "e"),
                ("e", dir, ""),
                ("e/rules", link, "../x"),
                ("x", file, ""),
            ],
        ] {
            judged(".dockerignore", entries).unwrap();
        }
        // Each link may say as much.
        let long = format!("{}x", "./".repeat(NAMES_MAX));
        for entries in [
            &[(".dockerignore", dir, "")][..],
            &[(".dockerignore", mode::SOCKET, "")],
            &[(".dockerignore", link, "../shared")],
            &[(".dockerignore", link, ".dockerignore")],
            &[(".dockerignore", link, "d"), ("d", dir, "")],
            &[(".dockerignore", link, "")],
            &[(".dockerignore", link, long.as_str()), ("x", file, "")],
        ] {
            let refused = judged(".dockerignore", entries).unwrap_err();
            assert!(refused.message().contains("`.dockerignore` exists but cannot be read"), "{refused}");
        }
        assert!(judged("a.Dockerfile.dockerignore", &[("a.Dockerfile.dockerignore", link, "x")]).is_err());
        // A file that nobody reads may be anything.
        judged("a", &[(".dockerignore", link, "../shared")]).unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let names: Vec<String> = (0..=ENTRIES_MAX).map(|name| name.to_string()).collect();
        let entries: Vec<_> = names.iter().map(|name| (name.as_str(), 0o644, "")).collect();
        assert!(judged("x.dockerignore", &entries).is_err());
        judged("x", &entries).unwrap();
    }
}

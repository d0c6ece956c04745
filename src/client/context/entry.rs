//! A file's description in the sync: `fsutil.types.Stat`.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use bollard_buildkit_proto::fsutil::types::Stat;
use rustix::{
    fs::{lgetxattr, llistxattr},
    io::Errno,
};

use super::Error;
use crate::go_mode as mode;

/// Linux's size limit for a list of attributes, and for a value.
const XATTR_BYTES_MAX: usize = 64 * 1024;
/// Room for the names of most files. The kernel allocates as much as it is given, for each file.
const NAMES_BYTES: usize = 256;

/// A file, directory or link as it is announced.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As sent; the path is relative to the root of the sync.
    pub stat: Stat,
}

impl Entry {
    /// Whether the entry has content that can be requested.
    pub fn is_file(&self) -> bool {
        self.stat.mode & mode::TYPE == 0
    }

    /// The size in bytes, 0 if the entry has no content.
    pub fn size(&self) -> u64 {
        u64::try_from(self.stat.size).unwrap_or(0)
    }

    /// Describes `file`, without its owner, as Docker does.
    pub(crate) fn of(
        file: &Path,
        path: &str,
        metadata: &Metadata,
        scratch: &mut Scratch,
    ) -> Result<Self, Error> {
        let device = metadata.file_type().is_block_device() || metadata.file_type().is_char_device();
        let mut stat = Stat {
            path: path.to_owned(),
            mode: go_mode(metadata.mode()),
            size: if metadata.is_dir() { 0 } else { i64::try_from(metadata.size()).unwrap_or(i64::MAX) },
            mod_time: metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec()),
            ..Stat::default()
        };
        if device {
            stat.devmajor = i64::from(rustix::fs::major(metadata.rdev()));
            stat.devminor = i64::from(rustix::fs::minor(metadata.rdev()));
        }
        if metadata.is_symlink() {
            let link = fs::read_link(file).map_err(|error| Error::read(path, error))?;
            stat.linkname =
                link.into_os_string().into_string().map_err(|_| Error::LinkNotUtf8(path.into()))?;
        }
        scratch.xattrs(file, &mut stat).map_err(|error| Error::read(path, error))?;
        Ok(Self { stat })
    }
}

/// `st_mode` in Go's encoding. A socket is announced as an empty file, since a tar cannot contain one.
fn go_mode(st_mode: u32) -> u32 {
    use rustix::fs::FileType;
    let kind = match FileType::from_raw_mode(st_mode) {
        FileType::Directory => mode::DIR,
        FileType::Symlink => mode::SYMLINK,
        FileType::BlockDevice => mode::DEVICE,
        FileType::CharacterDevice => mode::DEVICE | mode::CHAR_DEVICE,
        FileType::Fifo => mode::NAMED_PIPE,
        FileType::RegularFile | FileType::Socket | FileType::Unknown => 0,
    };
    kind | mode::from_permissions(st_mode)
}

/// Buffers for attributes, reused from file to file.
pub(crate) struct Scratch {
    names: Box<[u8]>,
    value: Box<[u8]>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { names: vec![0; XATTR_BYTES_MAX].into(), value: vec![0; XATTR_BYTES_MAX].into() }
    }

    /// Reads all extended attributes except macOS's, like BuildKit's own client. Unreadable attributes are
    /// skipped.
    fn xattrs(&mut self, file: &Path, stat: &mut Stat) -> io::Result<()> {
        let few = self.names.get_mut(..NAMES_BYTES).unwrap_or_default();
        let listed = match llistxattr(file, few) {
            Err(Errno::RANGE) => llistxattr(file, &mut *self.names),
            listed => listed,
        };
        let length = match listed {
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let names = self.names.get(..length).unwrap_or_default();
        for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let Ok(key) = str::from_utf8(name) else { continue };
            if key.starts_with("com.apple.") {
                continue;
            }
            if let Ok(length) = lgetxattr(file, key, &mut *self.value) {
                let value = self.value.get(..length).unwrap_or_default();
                stat.xattrs.insert(key.to_owned(), value.to_vec());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (st_mode, go) in [
            (0o100_644, 0o644),
            (0o040_755, 1 << 31 | 0o755),
            (0o120_777, 1 << 27 | 0o777),
            (0o010_600, 1 << 25 | 0o600),
            (0o060_660, 1 << 26 | 0o660),
            (0o020_620, 1 << 26 | 1 << 21 | 0o620),
            (0o140_777, 0o777),
            (0o104_755, 1 << 23 | 0o755),
            (0o102_755, 1 << 22 | 0o755),
            (0o041_777, 1 << 31 | 1 << 20 | 0o777),
        ] {
            assert_eq!(go_mode(st_mode), go, "{st_mode:o}");
        }
    }
}

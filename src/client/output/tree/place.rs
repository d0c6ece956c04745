//! Making entries in an open directory, without following a link.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, mkdirat, openat, statat, unlinkat},
    io::Errno,
};

use crate::client::temporary::Temporary;

/// Gives an entry its name, instead of whatever has it.
pub(super) fn place(entry: Temporary, name: &[u8]) -> io::Result<()> {
    if is_directory(entry.directory(), name)? {
        remove_tree(entry.directory(), name)?;
    }
    entry.place(name)
}

/// Opens a directory that is not a link.
pub(super) fn open_directory(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Makes a directory, or opens the one that is there. Anything else of that name is removed.
pub(super) fn make_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) if is_directory(parent, name)? => {}
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            mkdirat(parent, name, Mode::RWXU)?;
        }
        Err(error) => return Err(error.into()),
    }
    open_directory(parent, name)
}

fn is_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes a directory and everything in it.
fn remove_tree(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    // The standard library removes without following links; its way to the directory is the open parent.
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    fs::remove_dir_all(path)
}

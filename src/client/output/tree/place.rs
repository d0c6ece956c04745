//! Making entries in an open directory, without following a link.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, chmod, fchmod, fstat, mkdirat, openat, statat, unlinkat},
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

/// Opens a directory that is not a link. If its mode shuts its owner out, as an earlier build may have left it, the owner
/// gets in.
pub(super) fn open_directory(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat(&parent, name, flags, Mode::empty());
    match open() {
        Err(Errno::ACCESS) => match set_mode(&parent, name, |mode| mode | Mode::RWXU) {
            Ok(()) => Ok(open()?),
            // It is another user's.
            Err(_) => Err(Errno::ACCESS.into()),
        },
        opened => Ok(opened?),
    }
}

/// Changes the mode of an entry that cannot be opened for that. A link is not followed.
pub(super) fn set_mode(
    parent: impl AsFd,
    name: impl rustix::path::Arg,
    change: impl FnOnce(Mode) -> Mode,
) -> io::Result<()> {
    let entry = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&entry)?.st_mode;
    if FileType::from_raw_mode(found) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    // Before Linux 6.6 no call does that (`fchmodat2`). This path leads to the open entry, wherever its name leads.
    Ok(chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), change(Mode::from_raw_mode(found)))?)
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
    path.push(OsStr::from_bytes(name));
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let _ = unlock(parent, name);
            fs::remove_dir_all(&path)
        }
        removed => removed,
    }
}

/// Lets the owner into a directory and all that are below it.
fn unlock(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    // By their paths, since a tree may have more directories than can be open.
    let mut left = vec![vec![name.to_vec()]];
    while let Some(path) = left.pop() {
        let mut directory = parent.try_clone()?;
        for name in &path {
            directory = open_directory(&directory, name)?;
        }
        fchmod(&directory, Mode::from_raw_mode(fstat(&directory)?.st_mode) | Mode::RWXU)?;
        for entry in Dir::read_from(&directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") && is_directory(&directory, &name)? {
                left.push(path.iter().cloned().chain([name]).collect());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_mode_of_a_links_target_stays() {
        let path = std::env::temp_dir().join(format!("wharf-place-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let file = path.join("file");
        fs::write(&file, "").unwrap();
        let mode = |bits| move |_| Mode::from_raw_mode(bits);
        let directory: OwnedFd = fs::File::open(&path).unwrap().into();
        set_mode(&directory, "file", mode(0o640)).unwrap();
        symlink("file", path.join("link")).unwrap();
        set_mode(&directory, "link", mode(0o666)).unwrap_err();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        // What has the name may change, and what is open does not.
        rustix::fs::mknodat(&directory, "pipe", FileType::Fifo, Mode::RUSR, 0).unwrap();
        let swapped = |_| {
            fs::remove_file(path.join("pipe")).unwrap();
            symlink("file", path.join("pipe")).unwrap();
            Mode::from_raw_mode(0o666)
        };
        set_mode(&directory, "pipe", swapped).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        fs::remove_dir_all(&path).unwrap();
    }
}

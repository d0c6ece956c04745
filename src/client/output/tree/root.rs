//! The directory that an output is written into.

use std::{
    env, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, openat, statat},
    io::Errno,
};

use crate::client::{exit::Failure, files};

/// The open directory.
pub(in crate::client::output) struct Root {
    path: PathBuf,
    directory: Rc<OwnedFd>,
}

/// The reason why a directory cannot be opened.
enum Problem {
    /// It does not exist.
    Absent,
    /// This part of its path is a link.
    Link(PathBuf),
    /// It is no directory.
    NoDirectory,
    Io(io::Error),
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Root {
    /// Checks that an output can be written to `path` later.
    pub(in crate::client::output) fn look(path: &Path) -> Result<(), Failure> {
        match reach(path, false) {
            Ok(_) | Err(Problem::Absent) => Ok(()),
            Err(problem) => Err(problem.failure(path)),
        }
    }

    /// Opens the directory; makes it, and those above it, if they do not exist.
    pub(in crate::client::output) fn open(path: &Path) -> Result<Self, Failure> {
        match reach(path, true) {
            Ok(directory) => Ok(Self { path: path.to_owned(), directory: Rc::new(directory) }),
            Err(problem) => Err(problem.failure(path)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.directory)
    }
}

/// Opens the directory at `path`. Below the current directory, where an earlier build may have written, no part of it may
/// be a link, and elsewhere not the last one: the links above are the machine's.
fn reach(path: &Path, make: bool) -> Result<OwnedFd, Problem> {
    let here = env::current_dir().ok();
    let path = here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let start = if path.is_absolute() { "/" } else { "." };
    let mut directory = openat(CWD, start, flags, Mode::empty())?;
    let mut parts = path.components().peekable();
    let mut reached = PathBuf::new();
    while let Some(part) = parts.next() {
        reached.push(part);
        let name = match part {
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir => b"..",
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        };
        let follows = path.is_absolute() && parts.peek().is_some();
        let flags = if follows { flags } else { flags | OFlags::NOFOLLOW };
        directory = match openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if make => {
                match mkdirat(&directory, name, Mode::RWXU) {
                    // Another output, or another build, has just made it.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(&directory, name, flags, Mode::empty())?
            }
            Err(Errno::NOENT) => return Err(Problem::Absent),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let found = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
                return Err(if is_link { Problem::Link(reached) } else { Problem::NoDirectory });
            }
            opened => opened?,
        };
    }
    Ok(directory)
}

impl Problem {
    fn failure(self, path: &Path) -> Failure {
        let usage = |why: &str| Failure::usage(format!("cannot write to `{}`: {why}", path.display()));
        match self {
            Self::Link(link) => usage(&format!("`{}` is a link", link.display()))
                .hint("remove the link, or name the directory to which it leads"),
            Self::NoDirectory => {
                usage("it is not a directory").hint("name another directory, or remove the file")
            }
            Self::Absent => files::cannot_write(path, &io::ErrorKind::NotFound.into()),
            Self::Io(error) => files::cannot_write(path, &error),
        }
    }
}

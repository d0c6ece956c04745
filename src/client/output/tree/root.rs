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

/// Where an output is to be written.
#[derive(Clone, Debug)]
pub(in crate::client::output) struct Destination {
    path: PathBuf,
    /// Directories below which an earlier build may have written: the workspace, if there is one, and the current one.
    shared: Vec<PathBuf>,
}

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

impl Destination {
    pub(in crate::client::output) fn new(path: PathBuf, workspace: Option<&Path>) -> Self {
        Self { path, shared: workspace.map(Path::to_owned).into_iter().chain(env::current_dir()).collect() }
    }

    /// Checks that an output can be written here later.
    pub(in crate::client::output) fn look(&self) -> Result<(), Failure> {
        match self.reach(false) {
            Ok(_) | Err(Problem::Absent) => Ok(()),
            Err(problem) => Err(problem.failure(&self.path)),
        }
    }

    /// Opens the directory; makes it, and those above it, if they do not exist.
    pub(in crate::client::output) fn open(&self) -> Result<Root, Failure> {
        match self.reach(true) {
            Ok(directory) => Ok(Root { path: self.path.clone(), directory: Rc::new(directory) }),
            Err(problem) => Err(problem.failure(&self.path)),
        }
    }

    /// Opens the directory. Below a shared one no part of the path may be a link, and elsewhere not the last one: the
    /// links above are the machine's.
    fn reach(&self, make: bool) -> Result<OwnedFd, Problem> {
        let below =
            self.shared.iter().find_map(|base| Some((base.as_path(), self.path.strip_prefix(base).ok()?)));
        match below {
            Some((base, rest)) => reach(base, rest, false, make),
            None if self.path.is_absolute() => reach(Path::new("/"), &self.path, true, make),
            None => reach(Path::new("."), &self.path, false, make),
        }
    }
}

impl Root {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.directory)
    }
}

/// Opens the directory at `path` from the one at `start`. `follows` says whether links are followed but at its end.
fn reach(start: &Path, path: &Path, follows: bool, make: bool) -> Result<OwnedFd, Problem> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
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
        let flags = if follows && parts.peek().is_some() { flags } else { flags | OFlags::NOFOLLOW };
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

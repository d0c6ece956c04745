//! Writes files that other programs wait for: they appear complete or not at all.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, openat, statat, unlinkat},
    io::Errno,
};

use super::{
    checkouts::{Checkouts, End, Problem, cannot_write},
    exit::Failure,
    temporary::Temporary,
};

/// The mode of a new file, before the umask.
const MODE: u32 = 0o666;

/// A file to write: its directory, which is open from before the work on, and its name there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    path: PathBuf,
    directory: Arc<OwnedFd>,
    name: OsString,
}

/// What has a target's name.
enum Found {
    Nothing,
    /// A regular file, or a link that must be replaced: a link in a repository may point to any file or device of the
    /// agent.
    Plain,
    /// A pipe or a device.
    Special,
    /// One of the system's links, such as /dev/stdout: it is followed.
    OfSystem,
    Directory,
}

impl Target {
    /// Checks that `path` can be written later, and removes the result of an earlier command so that it
    /// cannot be mistaken for this one's.
    pub(crate) fn prepare(path: &Path, checkouts: &Checkouts) -> Result<Self, Failure> {
        let wrong = |why: &dyn std::fmt::Display| {
            Failure::usage(format!("cannot write {}: {why}", path.display()))
                .hint("name a file in an existing, writable directory")
        };
        let Some(name) = named(path) else { return Err(wrong(&"it is a directory")) };
        let above = path.parent().unwrap_or(Path::new(""));
        let directory = checkouts.open(above, End::MayBeLink).map_err(|problem| match problem {
            Problem::Link(_) => problem.failure(path),
            Problem::NoDirectory(part) => wrong(&format_args!("{} is not a directory", part.display())),
            Problem::Absent => wrong(&io::Error::from(Errno::NOENT)),
            Problem::Io(error) => wrong(&error),
        })?;
        let target = Self { path: path.to_owned(), directory: Arc::new(directory), name: name.to_owned() };
        match target.found().map_err(|error| wrong(&error))? {
            Found::Directory => Err(wrong(&"it is a directory")),
            Found::Plain => match unlinkat(&*target.directory, &target.name, AtFlags::empty()) {
                Ok(()) => Ok(target),
                Err(error) => Err(wrong(&io::Error::from(error))),
            },
            Found::Nothing | Found::Special | Found::OfSystem => Ok(target),
        }
    }

    /// Writes the content atomically: a reader sees all of it or nothing.
    pub(crate) fn write(&self, content: &[u8]) -> Result<(), Failure> {
        let written = self.open(MODE).and_then(|(mut file, beside)| {
            file.write_all(content)?;
            beside.complete()
        });
        written.map_err(|error| self.cannot_write(&error))
    }

    /// Opens the file to write to; `mode` is that of a new one, before the umask.
    pub(crate) fn open(&self, mode: u32) -> io::Result<(fs::File, Beside)> {
        let existing = match self.found()? {
            Found::Nothing | Found::Plain | Found::Directory => None,
            Found::Special => Some(OFlags::NOFOLLOW),
            Found::OfSystem => Some(OFlags::empty()),
        };
        if let Some(flags) = existing {
            let flags = flags | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
            let file = openat(&*self.directory, &self.name, flags, Mode::empty())?;
            return Ok((file.into(), Beside(None)));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let made = |at: &OwnedFd, name: &str| Ok(openat(at, name, flags, mode)?);
        let (meanwhile, file) = Temporary::new(&self.directory, made)?;
        Ok((file.into(), Beside(Some((meanwhile, self.name.clone())))))
    }

    /// The failure of the file if it cannot be written, once there is something to write.
    pub(crate) fn cannot_write(&self, error: &io::Error) -> Failure {
        cannot_write(&self.path, error)
    }

    fn found(&self) -> io::Result<Found> {
        let kind = |flags| match statat(&*self.directory, &self.name, flags) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        };
        Ok(match kind(AtFlags::SYMLINK_NOFOLLOW)? {
            None => Found::Nothing,
            Some(FileType::RegularFile) => Found::Plain,
            Some(FileType::Directory) => Found::Directory,
            Some(FileType::Symlink) if !self.is_in_systems_directory() => Found::Plain,
            Some(FileType::Symlink) => match kind(AtFlags::empty())? {
                Some(FileType::Directory) => Found::Directory,
                _ => Found::OfSystem,
            },
            Some(_) => Found::Special,
        })
    }

    fn is_in_systems_directory(&self) -> bool {
        let directory = fs::read_link(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        directory.is_ok_and(|at| at == Path::new("/dev") || at.starts_with("/proc"))
    }
}

/// The name of the file at `path`. A path that ends with a `/` names a directory.
fn named(path: &Path) -> Option<&OsStr> {
    path.file_name().filter(|_| !path.as_os_str().as_encoded_bytes().ends_with(b"/"))
}

/// A file that appears under its name once it is complete. Dropping this before removes what there is of it. `None` if
/// there is nothing to remove or to move.
#[derive(Debug)]
pub(crate) struct Beside(Option<(Temporary, OsString)>);

impl Beside {
    /// Lets the file appear.
    pub(crate) fn complete(self) -> io::Result<()> {
        self.0.map_or(Ok(()), |(meanwhile, name)| meanwhile.place(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::client::exit::Exit;

    /// A directory that goes with its test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn prepare(&self, name: &str) -> Result<Target, Failure> {
            Target::prepare(&self.0.join(name), &Checkouts::of([self.0.as_path()]))
        }

        fn target(&self, name: &str) -> Target {
            self.prepare(name).unwrap_or_else(|failure| panic!("{name}: {failure}"))
        }

        fn names(&self) -> Vec<OsString> {
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let dir = Dir::new("files");
        let id = dir.target("id");
        for content in ["one", "two"] {
            id.write(content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.0.join("id")).unwrap(), content);
        }
        assert_eq!(dir.names(), ["id"]);
        let id = dir.target("id");
        assert!(dir.names().is_empty(), "an earlier result is gone");
        let (_, half) = id.open(0o600).unwrap();
        assert_eq!(dir.names().len(), 1);
        drop(half);
        assert!(dir.names().is_empty());
        for wrong in ["absent/id", "", ".", "..", "id/", "file/id"] {
            fs::write(dir.0.join("file"), "").unwrap();
            let failure = dir.prepare(wrong).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}: {failure}");
            assert!(failure.text.contains(wrong), "{failure}");
        }
    }

    /// A link is replaced: its target may belong to someone else. A repository must not decide what is written to a device.
    #[test]
    fn no_link_is_followed_but_the_systems() {
        let dir = Dir::new("links");
        let others = dir.0.join("others");
        for target in [others.as_path(), &dir.0.join("nothing"), Path::new("/dev/null")] {
            fs::write(&others, "keep").unwrap();
            for again in [false, true] {
                let linked = dir.0.join("linked");
                let _ = fs::remove_file(&linked);
                symlink(target, &linked).unwrap();
                let prepared = dir.target("linked");
                if again {
                    symlink(target, &linked).unwrap();
                }
                prepared.write(b"x").unwrap();
                assert_eq!(fs::read_to_string(&linked).unwrap(), "x");
                assert!(!linked.is_symlink());
                assert_eq!(fs::read_to_string(&others).unwrap(), "keep");
            }
        }
        for system in ["/dev/null", "/dev/fd/1", "/proc/self/fd/1"] {
            let target = Target::prepare(Path::new(system), &Checkouts::default()).unwrap();
            target.write(b"").unwrap();
            assert!(Path::new(system).symlink_metadata().is_ok());
        }
    }

    /// Otherwise the pipeline's `dest=out/image.tar` would write into the directory that a pull request chooses.
    #[test]
    fn no_link_above_a_file_is_followed_in_a_checkout() {
        let (dir, others) = (Dir::new("above"), Dir::new("others"));
        symlink(&others.0, dir.0.join("out")).unwrap();
        fs::write(others.0.join("id"), "keep").unwrap();
        let failure = dir.prepare("out/id").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        assert!(failure.text.contains("/out` is a link"), "{failure}");
        assert_eq!(fs::read_to_string(others.0.join("id")).unwrap(), "keep");
        // Nor one that comes while the work runs.
        fs::create_dir(dir.0.join("d")).unwrap();
        let target = dir.target("d/id");
        fs::rename(dir.0.join("d"), dir.0.join("moved")).unwrap();
        symlink(&others.0, dir.0.join("d")).unwrap();
        target.write(b"x").unwrap();
        assert_eq!(fs::read_to_string(others.0.join("id")).unwrap(), "keep");
        assert_eq!(fs::read_to_string(dir.0.join("moved/id")).unwrap(), "x");
    }
}

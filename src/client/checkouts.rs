//! Opens directories to write into, and follows no link that a repository or a build may have made.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat},
    io::Errno,
};

use super::exit::{Exit, Failure};

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;

/// The directories in which a link may be anyone's: the current one, the workspace, and a build's context. A link
/// elsewhere is the machine's: `/var/run`, or one on the way to the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkouts(Vec<Identity>);

/// Identifies a directory, whichever path leads to it.
type Identity = (u64, u64);

/// What the end of a path may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A directory, or a link to one that is the machine's.
    MayBeLink,
    /// A directory that is made, with those above it, if it does not exist.
    Made,
    /// A directory.
    IsThere,
}

/// The reason why a directory cannot be opened.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It does not exist.
    Absent,
    /// This part of its path is a link.
    Link(PathBuf),
    /// This part of its path is no directory.
    NoDirectory(PathBuf),
    Io(io::Error),
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Checkouts {
    /// The current directory, and these.
    pub(crate) fn of<'a>(others: impl IntoIterator<Item = &'a Path>) -> Self {
        let root = identity_of(Path::new("/"));
        let all = [Path::new(".")].into_iter().chain(others).filter_map(identity_of);
        // The root holds the machine's links, even if somebody works there.
        Self(all.filter(|one| Some(*one) != root).collect())
    }

    /// Opens the directory at `path`, to reach what is in it.
    pub(crate) fn open(&self, path: &Path, end: End) -> Result<OwnedFd, Problem> {
        let mut at = open(CWD, ".")?;
        let mut reached = PathBuf::new();
        let (mut parts, mut links) = (parts(path), 0);
        while let Some(part) = parts.pop() {
            reached.push(&part);
            let found = match open(&at, &part) {
                Err(Errno::NOENT) if end == End::Made => {
                    match mkdirat(&at, &part, Mode::RWXU) {
                        // Another output, or another build, has just made it.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    open(&at, &part)?
                }
                Err(Errno::NOENT) => return Err(Problem::Absent),
                found => found?,
            };
            match FileType::from_raw_mode(fstat(&found)?.st_mode) {
                FileType::Directory => at = found,
                FileType::Symlink => {
                    let is_end = parts.is_empty() && end != End::MayBeLink;
                    if is_end || self.hold(&at)? {
                        return Err(Problem::Link(reached));
                    }
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    let target = readlinkat(&found, "", Vec::new())?;
                    parts.extend(self::parts(Path::new(&OsString::from_vec(target.into_bytes()))));
                    reached.pop();
                }
                _ => return Err(Problem::NoDirectory(reached)),
            }
        }
        Ok(at)
    }

    /// Whether a directory is one of these, or below one.
    fn hold(&self, directory: &OwnedFd) -> Result<bool, Problem> {
        let (mut at, mut here) = (open(directory, ".")?, identity(directory)?);
        loop {
            if self.0.contains(&here) {
                return Ok(true);
            }
            at = open(&at, "..")?;
            let above = identity(&at)?;
            if above == here {
                return Ok(false);
            }
            here = above;
        }
    }
}

impl Problem {
    /// The failure to write to `path`.
    pub(crate) fn failure(self, path: &Path) -> Failure {
        let usage = |why: &str| Failure::usage(format!("cannot write to `{}`: {why}", path.display()));
        match self {
            Self::Link(link) => usage(&format!("`{}` is a link", link.display()))
                .hint("remove the link, or name the directory to which it leads"),
            Self::NoDirectory(part) => usage(&format!("`{}` is not a directory", part.display()))
                .hint("name another directory, or remove the file"),
            Self::Absent => cannot_write(path, &Errno::NOENT.into()),
            Self::Io(error) => cannot_write(path, &error),
        }
    }
}

/// The failure of a file that cannot be written.
pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
}

/// The parts of a path, the last first. The root is one.
fn parts(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// Opens an entry itself, be it a link. It need not be readable.
fn open(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn identity(directory: impl AsFd) -> Result<Identity, Errno> {
    let found = fstat(directory)?;
    Ok((found.st_dev, found.st_ino))
}

fn identity_of(path: &Path) -> Option<Identity> {
    identity(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, os::unix::fs::symlink};

    use super::*;

    /// Where an opened directory is.
    fn place(opened: &OwnedFd) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap()
    }

    #[test]
    fn links_in_a_checkout_are_not_followed_and_those_above_are() {
        let top = env::temp_dir().join(format!("wharf-checkouts-{}", std::process::id()));
        let (checkout, outside) = (top.join("disk/checkout"), top.join("outside"));
        fs::create_dir_all(checkout.join("d")).unwrap();
        fs::create_dir_all(outside.join("below")).unwrap();
        fs::write(checkout.join("file"), "").unwrap();
        // The machine's: to the disk with the checkout, as /var/run; one of many steps; and one into the checkout.
        symlink("disk", top.join("work")).unwrap();
        symlink("./outside/../work/checkout", top.join("there")).unwrap();
        symlink("disk/checkout/out", top.join("in")).unwrap();
        // The repository's.
        symlink(&outside, checkout.join("out")).unwrap();
        symlink("d", checkout.join("near")).unwrap();
        symlink("out/below", checkout.join("chain")).unwrap();
        let checkouts = Checkouts::of([top.join("work/checkout").as_path()]);
        let open = |path: &str, end| checkouts.open(&top.join(path), end);

        for (path, leads) in [
            ("disk/checkout", "disk/checkout"),
            ("work/checkout/d", "disk/checkout/d"),
            ("work/checkout/d/../d", "disk/checkout/d"),
            ("work/checkout/../../outside", "outside"),
            ("outside/../work/checkout", "disk/checkout"),
            ("there/d", "disk/checkout/d"),
        ] {
            for end in [End::MayBeLink, End::IsThere, End::Made] {
                let opened = open(path, end).unwrap_or_else(|problem| panic!("{path}: {problem:?}"));
                assert_eq!(place(&opened), top.join(leads), "{path}");
            }
        }
        // Each of these paths leads out of the checkout, or elsewhere in it, by a link that it has.
        for (path, link) in [
            ("disk/checkout/out", "disk/checkout/out"),
            ("disk/checkout/out/below", "disk/checkout/out"),
            ("work/checkout/out/below", "disk/checkout/out"),
            ("work/checkout/d/../out/new/er", "disk/checkout/d/../out"),
            ("outside/../disk/checkout/chain", "outside/../disk/checkout/chain"),
            ("disk/checkout/near", "disk/checkout/near"),
            ("in/below", "disk/checkout/out"),
        ] {
            for end in [End::MayBeLink, End::IsThere, End::Made] {
                match open(path, end) {
                    Err(Problem::Link(found)) => assert_eq!(found, top.join(link), "{path}"),
                    opened => panic!("{path}: {opened:?}"),
                }
            }
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "nothing was made there");
        // The end of a path is a link only where that is asked for.
        open("work", End::MayBeLink).unwrap();
        assert!(matches!(open("work", End::Made), Err(Problem::Link(_))));
        assert!(matches!(open("work/checkout/new", End::IsThere), Err(Problem::Absent)));
        assert_eq!(place(&open("work/new/er", End::Made).unwrap()), top.join("disk/new/er"));
        assert!(matches!(open("disk/checkout/file", End::Made), Err(Problem::NoDirectory(_))));
        assert!(matches!(open("disk/checkout/file/x", End::Made), Err(Problem::NoDirectory(_))));
        symlink("loop", top.join("loop")).unwrap();
        assert!(matches!(open("loop/x", End::Made), Err(Problem::Io(_))));
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn the_machines_root_is_no_checkout() {
        assert!(Checkouts::of([Path::new("/")]).0.len() <= 1, "the current directory alone");
    }
}

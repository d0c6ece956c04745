//! The directory of a volume, below the kubelet's. wharfd acts there as root, and the pod sees the directory:
//! every step goes through an open directory, and none follows a link.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Seek as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::names::{Pod, is_label, printable, shortened};

const OF_CSI: &str = "kubernetes.io~csi";
const DIRECTORY: &str = "mount";
const SHOWN_BYTES_MAX: usize = 300;
/// wharfd makes no directories in a volume. Only a process that is already over-privileged could have.
const DEPTH_MAX: usize = 16;

/// A volume's directory: `PODS/UID/volumes/kubernetes.io~csi/VOLUME/mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    uid: String,
    volume: String,
}

impl Place {
    /// Reads a path of the kubelet's, whose directory of pods this is. The path has to be spelled as the kubelet does.
    pub(super) fn read(pods: &Path, path: &str) -> Result<Self, String> {
        let below = pods.to_str().and_then(|pods| path.strip_prefix(pods)?.strip_prefix('/'));
        let parts: Vec<_> = below.unwrap_or_default().split('/').collect();
        match parts[..] {
            [uid, "volumes", OF_CSI, volume, DIRECTORY] if Pod::is_uid(uid) && is_label(volume) => {
                Ok(Self { uid: uid.to_owned(), volume: volume.to_owned() })
            }
            _ => Err(format!(
                "target_path: `{}` is not `{}/UID/volumes/{OF_CSI}/VOLUME/{DIRECTORY}`",
                shortened(printable(path), SHOWN_BYTES_MAX),
                pods.display()
            )),
        }
    }

    /// The uid of the pod that the kubelet has made the directory for.
    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    /// Opens the directory, and makes it if it is missing. The kubelet has made those above.
    pub(super) fn make(&self, pods: &Path) -> io::Result<OwnedFd> {
        let above = self.above(pods)?.ok_or_else(|| io::Error::from(Errno::NOENT))?;
        match rustix::fs::mkdirat(&above, DIRECTORY, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = open(above.as_fd(), DIRECTORY)?;
        if rustix::fs::fstat(&directory)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("the directory belongs to another user"));
        }
        // Whatever the umask.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
        Ok(directory)
    }

    /// Opens the directory, if it is there.
    pub(super) fn find(&self, pods: &Path) -> io::Result<Option<OwnedFd>> {
        let Some(above) = self.above(pods)? else { return Ok(None) };
        absent(open(above.as_fd(), DIRECTORY))
    }

    /// Removes the directory with all that is in it, if it is there.
    pub(super) fn remove(&self, pods: &Path) -> io::Result<()> {
        let Some(above) = self.above(pods)? else { return Ok(()) };
        let Some(directory) = absent(open(above.as_fd(), DIRECTORY))? else { return Ok(()) };
        empty(&directory, device(above.as_fd())?, DEPTH_MAX)?;
        absent(rustix::fs::unlinkat(&above, DIRECTORY, AtFlags::REMOVEDIR).map_err(io::Error::from))?;
        Ok(())
    }

    /// Whether the kubelet has removed everything of the pod.
    pub(super) fn has_no_pod(&self, pods: &Path) -> io::Result<bool> {
        Ok(absent(open(File::open(pods)?.as_fd(), &self.uid))?.is_none())
    }

    /// The directory above, if it is there. Without the directory of pods nothing is known: its disk may not be mounted.
    fn above(&self, pods: &Path) -> io::Result<Option<OwnedFd>> {
        let mut at = OwnedFd::from(File::open(pods)?);
        for name in [&self.uid, "volumes", OF_CSI, &self.volume] {
            let Some(next) = absent(open(at.as_fd(), name))? else { return Ok(None) };
            at = next;
        }
        Ok(Some(at))
    }
}

/// The file system of an open directory.
fn device(directory: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(directory)?.st_dev)
}

fn open(above: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty()).map_err(io::Error::from)
}

fn absent<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes all that is in a directory of the file system `on`: what somebody has mounted there is not the volume's.
fn empty(directory: &OwnedFd, on: u64, depth: usize) -> io::Result<()> {
    let left = depth.checked_sub(1).ok_or_else(|| io::Error::other("the directory is too deep"))?;
    if device(directory.as_fd())? != on {
        return Err(io::Error::other("another file system is mounted in the directory"));
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if ![&b"."[..], b".."].contains(&name.as_bytes()) {
            names.push(name);
        }
    }
    for name in names {
        let look = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = absent(look.map_err(io::Error::from))? else { continue };
        let mut flags = AtFlags::empty();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let below = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            empty(&rustix::fs::openat(directory, &name, below, Mode::empty())?, on, left)?;
            flags = AtFlags::REMOVEDIR;
        }
        absent(rustix::fs::unlinkat(directory, &name, flags).map_err(io::Error::from))?;
    }
    Ok(())
}

/// Puts a copy of the file `from` into `directory`, executable for everyone; one that is there already is kept. A copy,
/// and no link to one file for all pods: no pod can spoil another's.
pub(super) fn put_program(directory: BorrowedFd<'_>, name: &str, from: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(there) = rustix::fs::openat(directory, name, flags, Mode::empty())
        && are_same(&source, &File::from(there))?
    {
        return Ok(());
    }
    source.rewind()?;
    put(directory, name, 0o755, |file| io::copy(&mut source, file).map(drop))
}

/// Whether two files have the same content: of two versions, even the size and the time can be the same.
fn are_same(one: &File, other: &File) -> io::Result<bool> {
    let (first, second) = (one.metadata()?, other.metadata()?);
    if !second.is_file() || first.len() != second.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Puts a text into `directory`, which everyone can read.
pub(super) fn put_text(directory: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<()> {
    put(directory, name, 0o644, |file| file.write_all(text.as_bytes()))
}

/// Writes a file beside its place, and moves it there: the pod may read it at any moment.
fn put(
    directory: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let fresh = format!(".{name}.new");
    absent(rustix::fs::unlinkat(directory, &fresh, AtFlags::empty()).map_err(io::Error::from))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, &fresh, flags, Mode::from_raw_mode(0o600))?);
    let written = write(&mut file)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| Ok(rustix::fs::renameat(directory, &fresh, directory, name)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(directory, &fresh, AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{MetadataExt as _, symlink},
        path::PathBuf,
    };

    use super::*;

    const UID: &str = "8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a";

    /// The kubelet's directory of pods, which goes with the test.
    struct Pods(PathBuf);

    impl Pods {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-place-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join(format!("{UID}/volumes/{OF_CSI}/wharf"))).unwrap();
            Self(path)
        }

        fn above(&self) -> PathBuf {
            self.0.join(format!("{UID}/volumes/{OF_CSI}/wharf"))
        }

        fn place(&self) -> Place {
            Place::read(&self.0, self.above().join("mount").to_str().unwrap()).unwrap()
        }
    }

    impl Drop for Pods {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_the_kubelets_own_spelling_is_a_place() {
        let read = |path: &str| Place::read(Path::new("/k/pods"), path);
        assert_eq!(read("/k/pods/1-a/volumes/kubernetes.io~csi/w/mount").unwrap().uid(), "1-a");
        for path in [
            "",
            "/k/pods",
            "/k/pods/1/volumes/kubernetes.io~csi/w",
            "/k/pods/1/volumes/kubernetes.io~csi/w/mount/",
            "/k/pods/1/volumes/kubernetes.io~csi/w/mount/x",
            "/k/pods//volumes/kubernetes.io~csi/w/mount",
            "/k/pods/../volumes/kubernetes.io~csi/w/mount",
            "/k/pods/1/volumes/kubernetes.io~csi/../mount",
            "/k/pods/1/volumes/kubernetes.io~csi/./mount",
            "/k/pods/1/../2/volumes/kubernetes.io~csi/w/mount",
            "/k/pods/1/volumes/kubernetes.io~empty-dir/w/mount",
            "/k/pods2/1/volumes/kubernetes.io~csi/w/mount",
            "/k//pods/1/volumes/kubernetes.io~csi/w/mount",
            "k/pods/1/volumes/kubernetes.io~csi/w/mount",
            "/k/pods/1/volumes/kubernetes.io~csi/w\0/mount",
        ] {
            assert!(read(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_directory_is_made_and_goes_with_all_that_is_in_it() {
        let pods = Pods::new("make");
        let place = pods.place();
        assert!(place.find(&pods.0).unwrap().is_none());
        place.remove(&pods.0).unwrap();
        let directory = place.make(&pods.0).unwrap();
        put_text(directory.as_fd(), "a", "one").unwrap();
        put_text(directory.as_fd(), "a", "two").unwrap();
        put_program(directory.as_fd(), "p", Path::new("/bin/true")).unwrap();
        let program = || fs::metadata(pods.above().join("mount/p")).unwrap();
        let first = program().ino();
        put_program(directory.as_fd(), "p", Path::new("/bin/true")).unwrap();
        assert_eq!((program().ino(), program().permissions().mode() & 0o777), (first, 0o755));
        put_program(directory.as_fd(), "p", Path::new("/bin/false")).unwrap();
        assert_ne!(program().ino(), first);
        assert_eq!(fs::read_to_string(pods.above().join("mount/a")).unwrap(), "two");
        fs::create_dir_all(pods.above().join("mount/d/e")).unwrap();
        assert!(place.make(&pods.0).is_ok(), "again");
        place.remove(&pods.0).unwrap();
        assert!(!pods.above().join("mount").exists() && pods.above().exists());
        assert!(!place.has_no_pod(&pods.0).unwrap());
        fs::remove_dir_all(pods.0.join(UID)).unwrap();
        assert!(place.has_no_pod(&pods.0).unwrap());
        place.remove(&pods.0).unwrap();
    }

    #[test]
    fn without_the_directory_of_pods_nothing_is_known() {
        let pods = Pods::new("unmounted");
        let (place, elsewhere) = (pods.place(), pods.0.join("not-mounted-yet"));
        assert!(place.find(&elsewhere).is_err() && place.make(&elsewhere).is_err());
        assert!(place.remove(&elsewhere).is_err(), "or the kubelet would take it for removed");
        assert!(place.has_no_pod(&elsewhere).is_err());
    }

    #[test]
    fn no_link_is_followed() {
        let pods = Pods::new("links");
        let (place, outside) = (pods.place(), pods.0.join("outside"));
        fs::create_dir_all(outside.join("mount")).unwrap();
        fs::write(outside.join("mount/kept"), "kept").unwrap();
        // In the place of the directory, and of one above it.
        symlink(outside.join("mount"), pods.above().join("mount")).unwrap();
        assert!(place.make(&pods.0).is_err() && place.remove(&pods.0).is_err());
        fs::remove_file(pods.above().join("mount")).unwrap();
        fs::remove_dir(pods.above()).unwrap();
        symlink(&outside, pods.above()).unwrap();
        assert!(place.make(&pods.0).is_err() && place.remove(&pods.0).is_err());
        fs::remove_file(pods.above()).unwrap();
        // In the place of a file that wharfd writes.
        fs::create_dir(pods.above()).unwrap();
        let directory = place.make(&pods.0).unwrap();
        let target = pods.0.join("target");
        fs::write(&target, "kept").unwrap();
        for name in ["a", ".a.new", "p", ".p.new", "d"] {
            symlink(if name == "d" { &outside } else { &target }, pods.above().join("mount").join(name))
                .unwrap();
        }
        put_text(directory.as_fd(), "a", "mine").unwrap();
        put_program(directory.as_fd(), "p", Path::new("/bin/true")).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        place.remove(&pods.0).unwrap();
        assert_eq!(fs::read_to_string(outside.join("mount/kept")).unwrap(), "kept");
    }

    #[test]
    fn a_directory_that_is_too_deep_is_not_removed_for_ever() {
        let pods = Pods::new("deep");
        pods.place().make(&pods.0).unwrap();
        fs::create_dir_all(pods.above().join("mount").join("d/".repeat(40))).unwrap();
        assert!(pods.place().remove(&pods.0).unwrap_err().to_string().contains("too deep"));
    }
}

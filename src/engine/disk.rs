//! The disk on which an engine keeps its files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::names::printable;

/// The file in an engine's directory with the name that the engine has given itself (since Engine 23).
const ID_FILE: &str = "engine-id";

/// The space of a disk in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The space that is free for everybody, without root's own reserve.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl Space {
    /// The space of the disk on which a file lies.
    pub fn of(path: &Path) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Ok(Self { free: bytes(disk.f_bavail), total: bytes(disk.f_blocks) })
    }
}

/// A directory on the disk of the engine called `id`, which says that it keeps its files in `root`; or why there is
/// none: the engine may have another machine's, or another container's, file system.
pub fn place(root: &str, id: &str) -> Result<PathBuf, String> {
    let place = PathBuf::from(root);
    let shown = printable(root);
    if !place.is_absolute() {
        return Err("the engine does not say where it keeps its files".to_owned());
    }
    match fs::read_to_string(place.join(ID_FILE)) {
        Ok(read) if read.trim() == id => Ok(place),
        Ok(_) => Err(format!("`{shown}` is another engine's here")),
        // Root's alone, for a wharfd that is not root: then there is an engine, and it is taken for this one.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match Space::of(&place) {
            Ok(_) => Ok(place),
            Err(error) => Err(format!("`{shown}`: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("`{shown}` is not the engine's directory here"))
        }
        Err(error) => Err(format!("`{shown}`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_s_directory_is_known_by_its_id() {
        let root = std::env::temp_dir().join(format!("wharf-disk-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let shown = root.to_str().unwrap();
        assert!(place(shown, "one").unwrap_err().contains("is not the engine's directory"));
        fs::write(root.join(ID_FILE), "one\n").unwrap();
        assert_eq!(place(shown, "one").unwrap(), root);
        assert!(place(shown, "two").unwrap_err().contains("another engine's"));
        assert!(place("", "one").is_err() && place("var", "one").is_err());
        let space = Space::of(&root).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        fs::remove_dir_all(root).unwrap();
    }
}

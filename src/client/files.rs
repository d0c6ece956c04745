//! Files that other programs wait for: whole, or not there.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use super::exit::{Exit, Failure};

/// Removes what an earlier command left at `path`, so that nobody takes it for this one's.
pub(crate) fn remove_stale(path: &Path) -> Result<(), Failure> {
    if !is_plain(path) {
        return Ok(());
    }
    fs::remove_file(path)
        .map_err(|error| Failure::usage(format!("cannot replace {}: {error}", path.display())))
}

/// Writes `content` to `path`, at once: a reader sees all of it or nothing.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    write_beside(path, content)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display())))
}

fn write_beside(path: &Path, content: &[u8]) -> io::Result<()> {
    if path.symlink_metadata().is_ok() && !is_plain(path) {
        // A pipe, a device, or a link to one, such as /dev/stdout: it stays what it is.
        return fs::OpenOptions::new().write(true).truncate(true).open(path)?.write_all(content);
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(hidden);
    let written = fs::write(&beside, content).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn is_plain(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let directory = std::env::temp_dir().join(format!("wharf-files-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("id");
        remove_stale(&path).unwrap();
        for content in ["one", "two"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        let link = directory.join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        remove_stale(&link).unwrap();
        write(&link, b"x").unwrap();
        assert!(link.is_symlink());
        let failure = write(&directory.join("absent/id"), b"x").unwrap_err();
        assert!(failure.text.contains("absent/id"), "{failure}");
        fs::remove_dir_all(&directory).unwrap();
    }
}

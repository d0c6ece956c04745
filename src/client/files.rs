//! Files that other programs wait for: whole, or not there.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use super::exit::{Exit, Failure};

/// Makes sure that `path` can be written later, and removes what an earlier command left there, so
/// that nobody takes it for this one's.
pub(crate) fn prepare(path: &Path) -> Result<(), Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot write {}: {why}", path.display()))
            .hint("name a file in a directory that is there and can be written to")
    };
    if is_plain(path) {
        return fs::remove_file(path).map_err(|error| wrong(&error));
    }
    if path.is_dir() || path.file_name().is_none() {
        return Err(wrong(&"it is a directory"));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(wrong(&format_args!("{} is not a directory", directory.display()))),
        Err(error) => Err(wrong(&error)),
    }
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
        prepare(&path).unwrap();
        for content in ["one", "two"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        prepare(&path).unwrap();
        assert!(!path.exists());
        let link = directory.join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        prepare(&link).unwrap();
        write(&link, b"x").unwrap();
        assert!(link.is_symlink());
        let failure = write(&directory.join("absent/id"), b"x").unwrap_err();
        assert!(failure.text.contains("absent/id"), "{failure}");
        for wrong in ["absent/id", "", "link/id"] {
            let failure = prepare(&directory.join(wrong)).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}: {failure}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}

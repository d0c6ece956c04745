//! Writes files that other programs wait for: they appear complete or not at all.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::exit::{Exit, Failure};

/// Checks that `path` can be written later, and removes the result of an earlier command so that it
/// cannot be mistaken for this one's.
pub(crate) fn prepare(path: &Path) -> Result<(), Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot write {}: {why}", path.display()))
            .hint("name a file in an existing, writable directory")
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

/// Writes `content` to `path` atomically: a reader sees all of it or nothing.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    write_beside(path, content).map_err(|error| cannot_write(path, &error))
}

/// The failure of a file that cannot be written, once there is something to write.
pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
}

fn write_beside(path: &Path, content: &[u8]) -> io::Result<()> {
    let (mut file, beside) = Beside::create(path, 0o666)?;
    file.write_all(content)?;
    beside.complete()
}

/// A file that appears at its path once it is complete. Dropping this before removes what there is of it.
#[derive(Debug)]
pub(crate) struct Beside {
    path: PathBuf,
    /// Where the file is meanwhile; `None` if there is nothing to remove or to move.
    meanwhile: Option<PathBuf>,
}

impl Beside {
    /// Opens a file to write to; `mode` is that of a new one, before the umask.
    pub(crate) fn create(path: &Path, mode: u32) -> io::Result<(fs::File, Self)> {
        let path = path.to_owned();
        if path.symlink_metadata().is_ok() && !is_plain(&path) {
            // A pipe, a device, or one of the system's links, such as /dev/stdout: write to it, do not replace it.
            let file = fs::OpenOptions::new().write(true).truncate(true).open(&path)?;
            return Ok((file, Self { path, meanwhile: None }));
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let beside = path.with_file_name(hidden);
        // A repository can have a link of this name for each process id.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        Ok((file, Self { path, meanwhile: Some(beside) }))
    }

    /// Lets the file appear.
    pub(crate) fn complete(mut self) -> io::Result<()> {
        if let Some(beside) = &self.meanwhile {
            fs::rename(beside, &self.path)?;
            self.meanwhile = None;
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(beside) = &self.meanwhile {
            let _ = fs::remove_file(beside);
        }
    }
}

/// Whether `path` is a regular file, or a link that must be replaced: a link in a repository may point to any
/// file or device of the agent. The system's own links, such as /dev/stdout, are followed.
fn is_plain(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => {
            let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
            let is_systems = directory.is_some_and(|at| at.starts_with("/dev") || at.starts_with("/proc"));
            !is_systems
        }
        Ok(metadata) => metadata.is_file(),
        Err(_) => false,
    }
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
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write(&link, b"x").unwrap();
        assert_eq!(
            fs::read_to_string(&link).unwrap(),
            "x",
            "what a device gets is not a repository's to say"
        );
        write(Path::new("/dev/null"), b"x").unwrap();
        // A link is replaced, never followed: its target may belong to someone else.
        let others = directory.join("others");
        for target in [&others, &directory.join("nothing")] {
            fs::write(&others, "keep").unwrap();
            for prepared in [true, false] {
                let linked = directory.join("linked");
                let _ = fs::remove_file(&linked);
                std::os::unix::fs::symlink(target, &linked).unwrap();
                if prepared {
                    prepare(&linked).unwrap();
                }
                write(&linked, b"x").unwrap();
                assert_eq!(fs::read_to_string(&linked).unwrap(), "x");
                assert_eq!(fs::read_to_string(&others).unwrap(), "keep");
            }
        }
        // So is one with the name that the file has before it is complete.
        fs::write(&others, "keep").unwrap();
        let beside = directory.join(format!(".named.{}", std::process::id()));
        std::os::unix::fs::symlink(&others, &beside).unwrap();
        let named = directory.join("named");
        write(&named, b"x").unwrap();
        assert_eq!(fs::read_to_string(&others).unwrap(), "keep");
        assert!(!named.is_symlink() && !beside.is_symlink());
        let failure = write(&directory.join("absent/id"), b"x").unwrap_err();
        assert!(failure.text.contains("absent/id"), "{failure}");
        for wrong in ["absent/id", "", "link/id"] {
            let failure = prepare(&directory.join(wrong)).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong}: {failure}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}

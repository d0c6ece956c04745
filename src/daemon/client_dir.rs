//! The client for agents: `wharf`, installed in a directory that they mount along with the socket, so that
//! they use the same version as their node's wharfd.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

const CLIENT: &str = "wharf";
/// Executable for everyone: agents run as the uid of their images.
const MODE: u32 = 0o755;

/// The reason why the client cannot be installed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ClientError {
    #[error("cannot find wharfd's own executable, beside which the client is installed")]
    Executable(#[source] io::Error),
    #[error(
        "no client at {}, beside wharfd; install `wharf` there, or omit --client-dir (client_dir) and [csi]",
        .0.display()
    )]
    Missing(PathBuf),
    #[error("cannot put the client into {}: cannot {what} {}", directory.display(), path.display())]
    Io { directory: PathBuf, what: &'static str, path: PathBuf, source: io::Error },
}

/// Copies the client from beside this executable into `directory`, makes the directory if it is missing,
/// and returns the client's path there. A client that runs from there is not disturbed.
pub(super) fn put(directory: &Path) -> Result<PathBuf, ClientError> {
    put_from(&beside_wharfd()?, directory)
}

/// The client beside this executable.
pub(super) fn program() -> Result<PathBuf, ClientError> {
    let client = beside_wharfd()?;
    if client.is_file() { Ok(client) } else { Err(ClientError::Missing(client)) }
}

fn beside_wharfd() -> Result<PathBuf, ClientError> {
    let executable = env::current_exe().map_err(ClientError::Executable)?;
    Ok(executable.with_file_name(CLIENT))
}

fn put_from(client: &Path, directory: &Path) -> Result<PathBuf, ClientError> {
    let failed = |what, path: &Path| {
        let (directory, path) = (directory.to_owned(), path.to_owned());
        move |source| ClientError::Io { directory, what, path, source }
    };
    let mut from = match File::open(client) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => file,
        Ok(_) => return Err(ClientError::Missing(client.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ClientError::Missing(client.to_owned()));
        }
        Err(error) => return Err(failed("read", client)(error)),
    };
    make(directory).map_err(failed("make", directory))?;

    // Write it under a temporary name: an agent may start the client at any moment.
    let fresh = directory.join(format!(".{CLIENT}.{}", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &fresh)(error));
        }
        _ => {}
    }
    let placed = directory.join(CLIENT);
    let written = copy(&mut from, &fresh)
        .map_err(failed("write", &fresh))
        .and_then(|()| fs::rename(&fresh, &placed).map_err(failed("replace", &placed)));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written.map(|()| placed)
}

/// Makes a directory and its parents. A new directory is open to everyone, whatever the umask.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent() {
        make(above)?;
    }
    match DirBuilder::new().mode(MODE).create(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(MODE)),
        // Another wharfd has just made it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn copy(from: &mut File, to: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(to)?;
    io::copy(from, &mut file)?;
    file.set_permissions(Permissions::from_mode(MODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("wharf-client-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn client(&self, text: &str) -> PathBuf {
            let path = self.0.join("wharf");
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_client_is_there_for_everyone() {
        let dir = Dir::new("put");
        let to = dir.0.join("run/bin");
        let placed = put_from(&dir.client("one"), &to).unwrap();
        assert_eq!(fs::read_to_string(&placed).unwrap(), "one");
        assert_eq!([mode(&placed), mode(&to), mode(&dir.0.join("run"))], [0o755; 3]);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }

    #[test]
    fn another_version_takes_its_place_and_the_old_one_runs_on() {
        let dir = Dir::new("upgrade");
        let to = dir.0.join("bin");
        let placed = put_from(&dir.client("one"), &to).unwrap();
        let running = File::open(&placed).unwrap();
        // The leftover of a killed wharfd with the same PID: in a container the PID is always 1.
        fs::write(to.join(format!(".wharf.{}", std::process::id())), "half").unwrap();
        put_from(&dir.client("two"), &to).unwrap();
        assert_eq!(fs::read_to_string(&placed).unwrap(), "two");
        assert_eq!(io::read_to_string(running).unwrap(), "one");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_is_there_keeps_its_mode() {
        let dir = Dir::new("mode");
        let to = dir.0.join("bin");
        DirBuilder::new().mode(0o750).create(&to).unwrap();
        put_from(&dir.client("one"), &to).unwrap();
        assert_eq!(mode(&to), 0o750);
    }

    #[test]
    fn a_client_that_is_missing_is_named() {
        let dir = Dir::new("missing");
        let client = dir.0.join("wharf");
        let error = put_from(&client, &dir.0.join("bin")).unwrap_err().to_string();
        assert!(error.contains(client.to_str().unwrap()) && error.contains("--client-dir"), "{error}");
        assert!(!dir.0.join("bin").exists());
        fs::create_dir(&client).unwrap();
        assert!(matches!(put_from(&client, &dir.0), Err(ClientError::Missing(_))));
    }

    #[test]
    fn what_cannot_be_written_is_named_and_nothing_is_left() {
        let dir = Dir::new("blocked");
        fs::write(dir.0.join("file"), "").unwrap();
        let error = put_from(&dir.client("one"), &dir.0.join("file/bin")).unwrap_err();
        assert!(error.to_string().contains("cannot make"), "{error}");
        fs::create_dir_all(dir.0.join("bin/wharf/in-the-way")).unwrap();
        let error = put_from(&dir.client("one"), &dir.0.join("bin")).unwrap_err();
        assert!(error.to_string().contains("cannot replace"), "{error}");
        assert_eq!(fs::read_dir(dir.0.join("bin")).unwrap().count(), 1);
    }
}

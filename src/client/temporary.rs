//! Entries that have another name until they are complete. Nothing is left of them when the client ends.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::OwnedFd,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::fs::{AtFlags, renameat, unlinkat};

use crate::names::{self, NoRandomness};

/// How long the client waits for its temporary entries to be removed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Those of this process.
static OWN: LazyLock<Temporaries> = LazyLock::new(Temporaries::default);

/// Entries that are not complete.
#[derive(Default)]
pub(super) struct Temporaries(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// The directory of each, by its number.
    directories: BTreeMap<u64, Arc<OwnedFd>>,
    number: u64,
    /// The beginning of all names, once there is one: nobody can guess it.
    prefix: Option<String>,
    has_ended: bool,
}

/// An entry under a name that it has until it is complete. Dropping it before removes it.
pub(super) struct Temporary {
    all: &'static Temporaries,
    directory: Arc<OwnedFd>,
    number: u64,
    name: String,
}

impl fmt::Debug for Temporary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Removes the entries that are not complete, and lets nobody make another one. A signal ends the client while threads
/// still write.
pub(super) fn end() {
    let (ended, wait) = mpsc::channel();
    let end = move || {
        OWN.end();
        // If nobody waits any more, the client ends all the same.
        let _ = ended.send(());
    };
    if thread::Builder::new().spawn(end).is_ok() {
        // A mount that does not answer must not keep the client.
        let _ = wait.recv_timeout(END_TIMEOUT);
    }
}

impl Temporary {
    /// Has `make` make an entry of a new name in the directory.
    pub(super) fn new<T>(
        directory: &Arc<OwnedFd>,
        make: impl FnOnce(&OwnedFd, &str) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        OWN.make(directory, make)
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Gives the entry its name, instead of whatever has it.
    pub(super) fn place(self, name: impl rustix::path::Arg) -> io::Result<()> {
        // If both are links to one file, the kernel leaves both; dropping this removes the one.
        Ok(renameat(&*self.directory, self.name.as_str(), &*self.directory, name)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.all.held().directories.remove(&self.number).is_some() {
            let _ = unlinkat(&*self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl Temporaries {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make<T>(
        &'static self,
        directory: &Arc<OwnedFd>,
        make: impl FnOnce(&OwnedFd, &str) -> io::Result<T>,
    ) -> io::Result<(Temporary, T)> {
        // Held while the entry is made: it is known before the end, or is not made.
        let mut held = self.held();
        if held.has_ended {
            return Err(io::Error::other("the client ends"));
        }
        let name = held.name().map_err(io::Error::other)?;
        let made = make(directory, &name)?;
        let number = held.number;
        held.directories.insert(number, Arc::clone(directory));
        Ok((Temporary { all: self, directory: Arc::clone(directory), number, name }, made))
    }

    fn end(&self) {
        let mut held = self.held();
        held.has_ended = true;
        let prefix = held.prefix.clone().unwrap_or_default();
        for (number, directory) in std::mem::take(&mut held.directories) {
            let _ = unlinkat(&*directory, format!("{prefix}{number}"), AtFlags::empty());
        }
    }
}

impl Held {
    fn name(&mut self) -> Result<String, NoRandomness> {
        let prefix = match &self.prefix {
            Some(prefix) => prefix,
            None => self.prefix.insert(format!(".wharf-{}-", names::random_id()?)),
        };
        self.number += 1;
        Ok(format!("{prefix}{}", self.number))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::{Mode, OFlags, openat};

    use super::*;

    fn file(directory: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(directory, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::RUSR)?)
    }

    #[test]
    fn the_end_leaves_only_what_is_complete() {
        let all: &'static Temporaries = Box::leak(Box::default());
        let path = std::env::temp_dir().join(format!("wharf-temporary-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let names =
            || fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let directory = Arc::new(OwnedFd::from(File::open(&path).unwrap()));
        let (complete, _) = all.make(&directory, file).unwrap();
        complete.place("complete").unwrap();
        let (dropped, _) = all.make(&directory, file).unwrap();
        drop(dropped);
        assert_eq!(names(), ["complete"]);
        // A thread that writes on does not know of the end.
        let (open, _) = all.make(&directory, file).unwrap();
        assert_eq!(names().len(), 2);
        all.end();
        assert_eq!(names(), ["complete"]);
        all.make(&directory, file).unwrap_err();
        open.place("late").unwrap_err();
        assert_eq!(names(), ["complete"]);
        fs::remove_dir_all(&path).unwrap();
    }
}

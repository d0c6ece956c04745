//! The thread that writes the lines. Others rotate the file: before each line it is opened again if its path leads
//! to another file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
};

use tokio::sync::oneshot;

use super::{Destination, Event, EventKind};
use crate::telemetry::each_second;

/// The limit on the lines that wait for the disk: some ten thousand.
const BACKLOG_BYTES_MAX: usize = 8 << 20;

/// The reason why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {}", .path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// The lines that wait for the disk, and the number of those that were lost.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: AtomicUsize,
    /// Lost since the last line that was written.
    lost: AtomicU64,
}

impl Backlog {
    /// Whether a line of this length in bytes may wait, too.
    pub(super) fn admit(&self, bytes: usize) -> bool {
        let admit = |waiting: usize| Some(waiting + bytes).filter(|waiting| *waiting <= BACKLOG_BYTES_MAX);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).is_ok()
    }

    /// The number of lost lines, since the last one that was written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Counts a lost line, and says so in the log.
    pub(super) fn lose(&self, cause: &str) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        each_second!(error, lost, cause, "events of the audit log are lost");
    }
}

/// Opens the destination, and starts the thread. `done` is sent when the last line is written.
pub(super) fn start(
    destination: &Destination,
    queue: mpsc::Receiver<String>,
    backlog: Arc<Backlog>,
    done: oneshot::Sender<()>,
) -> Result<(), OpenError> {
    let failed = |source| OpenError { path: destination.to_string().into(), source };
    let out: Box<dyn Out> = match destination {
        Destination::Stderr => Box::new(Stderr),
        Destination::File(path) => Box::new(Appended::open(path).map_err(failed)?),
    };
    start_with(out, queue, backlog, done).map_err(failed)
}

pub(super) fn start_with(
    mut out: Box<dyn Out>,
    queue: mpsc::Receiver<String>,
    backlog: Arc<Backlog>,
    done: oneshot::Sender<()>,
) -> io::Result<()> {
    let write = move || {
        for line in queue {
            backlog.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            if let Err(error) = append(&mut *out, &backlog, &line) {
                backlog.lose(&error.to_string());
            }
        }
        let _ = done.send(());
    };
    std::thread::Builder::new().name("audit".to_owned()).spawn(write).map(drop)
}

/// Writes a line; before it, how many have been lost.
fn append(out: &mut dyn Out, backlog: &Backlog, line: &str) -> io::Result<()> {
    let lost = backlog.lost();
    if lost > 0 {
        out.line(&Event::new(EventKind::Lost).number("events", lost).line(None))?;
        backlog.lost.fetch_sub(lost, Ordering::Relaxed);
    }
    out.line(line)
}

/// A destination.
pub(super) trait Out: Send {
    /// Writes one line.
    fn line(&mut self, line: &str) -> io::Result<()>;
}

struct Stderr;

impl Out for Stderr {
    fn line(&mut self, line: &str) -> io::Result<()> {
        io::stderr().write_all(line.as_bytes())
    }
}

/// A file that lines are appended to.
struct Appended {
    path: PathBuf,
    file: File,
    /// Its device and inode.
    identity: (u64, u64),
}

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        // For wharfd's user alone: it shows what all jobs build. The mode of a file that others have made is
        // theirs.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let found = file.metadata()?;
        let identity = (found.dev(), found.ino());
        Ok(Self { path: path.to_owned(), file, identity })
    }
}

impl Out for Appended {
    fn line(&mut self, line: &str) -> io::Result<()> {
        let is_same = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        if !fs::metadata(&self.path).is_ok_and(is_same) {
            *self = Self::open(&self.path)?;
        }
        let before = self.file.metadata()?.len();
        self.file.write_all(line.as_bytes()).inspect_err(|_| {
            // A line without its end would swallow the next one. Nobody else appends, but somebody may have emptied it.
            if self.file.metadata().is_ok_and(|now| now.len() > before) {
                let _ = self.file.set_len(before);
            }
        })
    }
}

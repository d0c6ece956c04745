//! The audit log: who did what, when, by which rule and with which result, as lines of JSON (docs/audit.md).
//!
//! It fails open: a disk that is full or slow ends no build. Events that cannot be written are counted, the log says
//! so, and their numbers are missing in the file.

mod details;
mod event;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use tokio::sync::oneshot;

pub use details::{By, Details};
pub use event::{Event, EventKind};
pub use writer::OpenError;

use crate::names::printable;
use writer::Backlog;

/// The place to which events are written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Destination {
    /// Standard error, beside the log.
    Stderr,
    /// A file, to which lines are appended.
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = PathBuf::from(text);
        if text == "stderr" {
            Ok(Self::Stderr)
        } else if path.is_absolute() {
            Ok(Self::File(path))
        } else {
            Err(format!("`{}` is neither an absolute path nor `stderr`", printable(text)))
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Takes events, and never waits for the disk. It is cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    sending: Mutex<Sending>,
    backlog: Arc<Backlog>,
    written: Mutex<Option<oneshot::Receiver<()>>>,
}

#[derive(Debug)]
struct Sending {
    /// The number of the next event.
    next: u64,
    /// `None` once the trail is closed.
    lines: Option<mpsc::Sender<String>>,
}

impl Trail {
    /// A trail that keeps nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens `destination`, and starts the thread that writes to it. Blocks on the file system.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn open(destination: &Destination) -> Result<Self, OpenError> {
        let (lines, queue) = mpsc::channel();
        let (backlog, (done, written)) = (Arc::default(), oneshot::channel());
        writer::start(destination, queue, Arc::clone(&backlog), done)?;
        let sending = Mutex::new(Sending { next: 1, lines: Some(lines) });
        Ok(Self { inner: Some(Arc::new(Inner { sending, backlog, written: Mutex::new(Some(written)) })) })
    }

    /// Whether events are kept.
    pub fn is_on(&self) -> bool {
        self.inner.is_some()
    }

    /// Takes an event. If too many wait for the disk, it is lost and counted.
    pub fn record(&self, event: Event) {
        let Some(inner) = &self.inner else { return };
        // The lock keeps the numbers in the order of the lines.
        let mut sending = inner.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let line = event.line(sending.next);
        sending.next += 1;
        let Some(lines) = &sending.lines else { return };
        if !inner.backlog.admit(line.len()) {
            inner.backlog.lose("too many events wait for the disk");
        } else if lines.send(line).is_err() {
            inner.backlog.lose("the thread of the audit log has ended");
        }
    }

    /// Takes no further events, and waits until all are written.
    pub async fn close(&self) {
        let Some(inner) = &self.inner else { return };
        inner.sending.lock().unwrap_or_else(PoisonError::into_inner).lines = None;
        let written = inner.written.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(written) = written {
            // An error means that the thread has ended.
            let _ = written.await;
        }
    }
}

#[cfg(test)]
mod tests;

//! The progress of one call: BuildKit's steps and wharfd's own, and the state of each. Each door reports
//! it in its own form.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::{Notify, mpsc};

/// How many bytes of a call's progress may wait for its reader. BuildKit takes 2 MiB of one step's output.
const UNREAD_BYTES_MAX: usize = 8 << 20;

/// News of steps. Later news of the same step or part replaces the earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps that began, ended or changed.
    pub vertexes: Vec<Vertex>,
    /// Parts of steps that made progress.
    pub statuses: Vec<VertexStatus>,
    /// Output of steps.
    pub logs: Vec<VertexLog>,
    /// Warnings.
    pub warnings: Vec<VertexWarning>,
    /// The place of a build in its engine's queue.
    pub queue: Option<QueuePosition>,
}

/// The place of a build that waits for its turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePosition {
    /// The digest of the step that lasts for as long as it waits.
    pub vertex: String,
    /// How many builds have their turns before it.
    pub ahead: usize,
}

/// A step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vertex {
    /// Its identity.
    pub digest: String,
    /// `[2/3] RUN make`.
    pub name: String,
    /// The digests of the steps that it needs.
    pub inputs: Vec<String>,
    /// Whether its result already existed.
    pub cached: bool,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
    /// The reason of its failure; empty if it did not fail.
    pub error: String,
}

/// A part of a step, such as a layer to fetch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VertexStatus {
    /// Its name.
    pub id: String,
    /// The digest of its step.
    pub vertex: String,
    /// The progress so far, in bytes or another unit.
    pub current: i64,
    /// The total in the same unit; 0 if unknown.
    pub total: i64,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it ended.
    pub completed: Option<SystemTime>,
}

/// Output of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct VertexLog {
    /// The digest of its step.
    pub vertex: String,
    /// The stream that the step wrote to.
    pub stream: Option<LogStream>,
    /// The bytes, as they were written.
    pub data: Bytes,
    /// When it was written.
    pub timestamp: Option<SystemTime>,
}

/// An output stream of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// A warning about a step, or about the call as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VertexWarning {
    /// The digest of its step; empty for the call as a whole.
    pub vertex: String,
    /// One line.
    pub short: String,
    /// More lines.
    pub details: Vec<String>,
    /// The address of an explanation; empty if there is none.
    pub url: String,
    /// The lines of the file that caused it.
    pub source: Option<SourceLines>,
}

/// Lines of a file that caused an error or a warning, with some lines around them. Lines count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceLines {
    /// The file's name.
    pub filename: String,
    /// The first of the lines that caused it.
    pub start: i32,
    /// The last of these lines.
    pub end: i32,
    /// The lines to show.
    pub text: Vec<String>,
    /// The number of the first line in `text`.
    pub first_text_line: i32,
}

/// The sending end for the progress of one call. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    sender: mpsc::UnboundedSender<(usize, Progress)>,
    unread: Arc<Unread>,
    steps: Arc<Steps>,
}

/// The receiving end of a [`Reporter`].
#[derive(Debug)]
pub struct Receiver {
    receiver: mpsc::UnboundedReceiver<(usize, Progress)>,
    unread: Arc<Unread>,
    steps: Arc<Steps>,
}

/// The progress that waits for its reader.
#[derive(Debug, Default)]
struct Unread {
    bytes: AtomicUsize,
    /// The bytes of output and warnings that did not fit, since the reader was last told.
    left_out: AtomicUsize,
}

/// The newest unread progress of wharfd's own steps. A running step holds locks that other jobs wait for,
/// so a client that does not read must not delay it.
#[derive(Debug, Default)]
struct Steps {
    unread: Mutex<Option<Progress>>,
    news: Notify,
}

impl Reporter {
    /// A reporter and its receiving end. A slow reader delays nothing: it does not get all of the steps' output, and is
    /// told so. A closed reader stops nothing; its owner must cancel the work.
    pub fn channel() -> (Self, Receiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (unread, steps) = (Arc::<Unread>::default(), Arc::<Steps>::default());
        let reporter = Self { sender, unread: Arc::clone(&unread), steps: Arc::clone(&steps) };
        (reporter, Receiver { receiver, unread, steps })
    }

    /// Reports progress. Output and warnings for which a reader is too slow are left out, never a step's end.
    pub fn report(&self, mut progress: Progress) {
        let mut bytes = progress.bytes();
        if self.unread.bytes.load(Ordering::Relaxed).saturating_add(bytes) > UNREAD_BYTES_MAX {
            progress = Progress { vertexes: progress.vertexes, queue: progress.queue, ..Progress::default() };
            let kept = progress.bytes();
            self.unread.left_out.fetch_add(bytes - kept, Ordering::Relaxed);
            bytes = kept;
        }
        if progress != Progress::default() {
            self.send(progress, bytes);
        }
    }

    fn send(&self, progress: Progress, bytes: usize) {
        self.unread.bytes.fetch_add(bytes, Ordering::Relaxed);
        // If the reader is gone, its call is over, and this work ends in a moment.
        let _ = self.sender.send((bytes, progress));
    }

    /// Starts a step of wharfd's own: `pull reg/app:1`.
    pub fn step(&self, name: impl Into<String>) -> Step {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let digest = format!("wharf:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let vertex =
            Vertex { digest, name: name.into(), started: Some(SystemTime::now()), ..Vertex::default() };
        let step = Step { reporter: self.clone(), vertex };
        step.send();
        step
    }

    /// Warns about the build as a whole.
    pub fn warn(&self, short: impl Into<String>, details: Vec<String>) {
        let warning = VertexWarning { short: short.into(), details, ..VertexWarning::default() };
        let progress = Progress { warnings: vec![warning], ..Progress::default() };
        let bytes = progress.bytes();
        self.send(progress, bytes);
    }
}

impl Receiver {
    /// The next progress; `None` once every reporter is dropped and everything is read.
    pub async fn next(&mut self) -> Option<Progress> {
        loop {
            if let Some(progress) = self.steps.take() {
                return Some(progress);
            }
            tokio::select! {
                reported = self.receiver.recv() => {
                    return reported.map(|reported| self.unread.read(reported)).or_else(|| self.steps.take());
                }
                () = self.steps.news.notified() => {}
            }
        }
    }

    /// All progress.
    pub fn into_stream(self) -> impl Stream<Item = Progress> + Send {
        stream::unfold(self, |mut receiver| async move { Some((receiver.next().await?, receiver)) })
    }
}

impl Unread {
    /// Progress that is read now, with a warning if some of it was left out before.
    fn read(&self, (bytes, mut progress): (usize, Progress)) -> Progress {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let short = format!(
                "{left_out} bytes of the log are left out: it was not read as fast as the steps wrote it"
            );
            progress.warnings.push(VertexWarning { short, ..VertexWarning::default() });
        }
        progress
    }
}

impl Progress {
    /// Roughly the memory that it takes.
    fn bytes(&self) -> usize {
        let vertexes = self.vertexes.iter().map(|vertex| {
            let inputs: usize = vertex.inputs.iter().map(String::len).sum();
            size_of::<Vertex>() + vertex.name.len() + vertex.error.len() + inputs
        });
        let statuses = self.statuses.iter().map(|status| size_of::<VertexStatus>() + status.id.len());
        let logs = self.logs.iter().map(|log| size_of::<VertexLog>() + log.data.len());
        let warnings = self.warnings.iter().map(|warning| {
            let lines = warning.source.iter().flat_map(|source| &source.text).chain(&warning.details);
            size_of::<VertexWarning>() + warning.short.len() + lines.map(String::len).sum::<usize>()
        });
        vertexes.chain(statuses).chain(logs).chain(warnings).sum()
    }
}

impl Steps {
    fn take(&self) -> Option<Progress> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn add(&self, progress: Progress) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = unread.get_or_insert_default();
        for vertex in progress.vertexes {
            match unread.vertexes.iter_mut().find(|known| known.digest == vertex.digest) {
                Some(known) => *known = vertex,
                None => unread.vertexes.push(vertex),
            }
        }
        for status in progress.statuses {
            let same = |known: &&mut VertexStatus| known.vertex == status.vertex && known.id == status.id;
            match unread.statuses.iter_mut().find(same) {
                Some(known) => *known = status,
                None => unread.statuses.push(status),
            }
        }
        unread.queue = progress.queue.or_else(|| unread.queue.take());
        self.news.notify_one();
    }
}

/// A step of wharfd's own.
#[derive(Debug)]
pub struct Step {
    reporter: Reporter,
    vertex: Vertex,
}

impl Step {
    /// Reports the progress of a part: `current` of `total` bytes; a total of 0 means unknown.
    pub fn moves(&self, part: &str, current: u64, total: u64, done: bool) {
        let status = VertexStatus {
            id: part.to_owned(),
            vertex: self.vertex.digest.clone(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            started: self.vertex.started,
            completed: done.then(SystemTime::now),
        };
        self.reporter.steps.add(Progress { statuses: vec![status], ..Progress::default() });
    }

    /// Reports that the step waits until this number of builds have had their turns.
    pub fn waits(&self, ahead: usize) {
        let queue = Some(QueuePosition { vertex: self.vertex.digest.clone(), ahead });
        self.reporter.steps.add(Progress { queue, ..Progress::default() });
    }

    /// Gives the step a better name once it is known: `pull reg/app:1@sha256:…`.
    pub fn rename(&mut self, name: impl Into<String>) {
        self.vertex.name = name.into();
        self.send();
    }

    /// Ends the step; `cached` means that there was nothing to do.
    pub fn done(mut self, cached: bool) {
        self.vertex.cached = cached;
        self.vertex.completed = Some(SystemTime::now());
        self.send();
    }

    /// Ends the step with an error.
    pub fn failed(mut self, error: impl Into<String>) {
        self.vertex.error = error.into();
        self.vertex.completed = Some(SystemTime::now());
        self.send();
    }

    fn send(&self) {
        let vertexes = vec![self.vertex.clone()];
        self.reporter.steps.add(Progress { vertexes, ..Progress::default() });
    }
}

#[cfg(test)]
mod tests;

//! Progress as wharfd reports it, for steps of its own and for BuildKit's.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::{Stream, stream};
use tokio::sync::{Notify, mpsc};

use super::v1;

/// Where the progress of one call goes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    sender: mpsc::Sender<v1::Progress>,
    steps: Arc<Steps>,
}

/// The end of a [`Reporter`] that is read.
#[derive(Debug)]
pub struct Facts {
    receiver: mpsc::Receiver<v1::Progress>,
    steps: Arc<Steps>,
}

/// The newest facts about wharfd's own steps that were not read yet. While such a step runs it holds
/// locks that other jobs wait for: a client that does not read must not hold it up.
#[derive(Debug, Default)]
struct Steps {
    unread: Mutex<Option<v1::Progress>>,
    news: Notify,
}

impl Reporter {
    /// A reporter and the end that is read. A reader that is slow slows down what is
    /// [reported](Self::report), not wharfd's own steps; one that is gone stops nothing: whoever reads
    /// says so by cancelling the work.
    pub fn channel(capacity: usize) -> (Self, Facts) {
        let (sender, receiver) = mpsc::channel(capacity);
        let steps = Arc::new(Steps::default());
        (Self { sender, steps: Arc::clone(&steps) }, Facts { receiver, steps })
    }

    /// Reports facts, each of which is read.
    pub async fn report(&self, progress: v1::Progress) {
        // The reader is gone: its call is over, and so is this work in a moment.
        let _ = self.sender.send(progress).await;
    }

    /// Starts a step of wharfd's own: `pull reg/app:1`.
    pub fn step(&self, name: impl Into<String>) -> Step {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let digest = format!("wharf:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let vertex = v1::Vertex { digest, name: name.into(), started: Some(now()), ..v1::Vertex::default() };
        let step = Step { reporter: self.clone(), vertex };
        step.send();
        step
    }

    /// Warns about the build as a whole.
    pub async fn warn(&self, short: impl Into<String>, details: Vec<String>) {
        let warning = v1::VertexWarning { short: short.into(), details, ..v1::VertexWarning::default() };
        self.report(v1::Progress { warnings: vec![warning], ..v1::Progress::default() }).await;
    }
}

impl Facts {
    /// The next facts; none once every reporter is gone and all is read.
    pub async fn next(&mut self) -> Option<v1::Progress> {
        loop {
            if let Some(progress) = self.steps.take() {
                return Some(progress);
            }
            tokio::select! {
                reported = self.receiver.recv() => return reported.or_else(|| self.steps.take()),
                () = self.steps.news.notified() => {}
            }
        }
    }

    /// All facts.
    pub fn into_stream(self) -> impl Stream<Item = v1::Progress> + Send {
        stream::unfold(self, |mut facts| async move { Some((facts.next().await?, facts)) })
    }
}

impl Steps {
    fn take(&self) -> Option<v1::Progress> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// "A later fact about the same vertex or status replaces the earlier one" (progress.proto).
    fn add(&self, facts: v1::Progress) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = unread.get_or_insert_default();
        for vertex in facts.vertexes {
            match unread.vertexes.iter_mut().find(|known| known.digest == vertex.digest) {
                Some(known) => *known = vertex,
                None => unread.vertexes.push(vertex),
            }
        }
        for status in facts.statuses {
            let same = |known: &&mut v1::VertexStatus| known.vertex == status.vertex && known.id == status.id;
            match unread.statuses.iter_mut().find(same) {
                Some(known) => *known = status,
                None => unread.statuses.push(status),
            }
        }
        self.news.notify_one();
    }
}

/// A step of wharfd's own.
#[derive(Debug)]
pub struct Step {
    reporter: Reporter,
    vertex: v1::Vertex,
}

impl Step {
    /// Reports a part that moves: `current` of `total` bytes; 0 for a total not known.
    pub fn moves(&self, part: &str, current: u64, total: u64, done: bool) {
        let status = v1::VertexStatus {
            id: part.to_owned(),
            vertex: self.vertex.digest.clone(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            started: self.vertex.started,
            completed: done.then(now),
            ..v1::VertexStatus::default()
        };
        self.reporter.steps.add(v1::Progress { statuses: vec![status], ..v1::Progress::default() });
    }

    /// Gives the step a better name, once it is known: `pull reg/app:1@sha256:…`.
    pub fn rename(&mut self, name: impl Into<String>) {
        self.vertex.name = name.into();
        self.send();
    }

    /// Ends the step; `cached` when nothing had to be done.
    pub fn done(mut self, cached: bool) {
        self.vertex.cached = cached;
        self.vertex.completed = Some(now());
        self.send();
    }

    /// Ends the step with an error.
    pub fn failed(mut self, error: impl Into<String>) {
        self.vertex.error = error.into();
        self.vertex.completed = Some(now());
        self.send();
    }

    fn send(&self) {
        let vertexes = vec![self.vertex.clone()];
        self.reporter.steps.add(v1::Progress { vertexes, ..v1::Progress::default() });
    }
}

/// The time now.
pub fn now() -> prost_types::Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_does_not_read_gets_the_newest_of_a_step() {
        let (reporter, mut facts) = Reporter::channel(1);
        let mut step = reporter.step("pull app:1");
        for current in 0..1000 {
            step.moves(if current % 2 == 0 { "a" } else { "b" }, current, 1000, false);
        }
        step.rename("pull app:1@sha256:…");
        step.done(false);
        drop(reporter);
        let progress = facts.next().await.unwrap();
        let newest: Vec<_> =
            progress.statuses.iter().map(|status| (status.id.as_str(), status.current)).collect();
        assert_eq!(newest, [("a", 998), ("b", 999)]);
        let [vertex] = progress.vertexes.as_slice() else { panic!("{progress:?}") };
        assert!(vertex.name.contains('@') && vertex.completed.is_some());
        assert_eq!(facts.next().await, None);
    }

    #[tokio::test]
    async fn what_is_reported_waits_for_its_reader_and_is_all_read() {
        let (reporter, mut facts) = Reporter::channel(1);
        let warned = async move {
            for number in 0..10 {
                reporter.warn(number.to_string(), Vec::new()).await;
            }
        };
        let read = async {
            let mut texts = Vec::new();
            while let Some(progress) = facts.next().await {
                texts.extend(progress.warnings.into_iter().map(|warning| warning.short));
            }
            texts
        };
        let ((), texts) = tokio::join!(warned, read);
        assert_eq!(texts.len(), 10);
    }
}

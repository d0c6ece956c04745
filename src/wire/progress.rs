//! Progress as wharfd reports it, for steps of its own and for BuildKit's.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

use super::v1;

/// Where the progress of one call goes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    sender: mpsc::Sender<v1::Progress>,
}

impl Reporter {
    /// A reporter and the end that is read. A reader that is slow slows the work down; one that is
    /// gone does not stop it: whoever reads says so by cancelling the work.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<v1::Progress>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self { sender }, receiver)
    }

    /// Reports facts.
    pub async fn report(&self, progress: v1::Progress) {
        // The reader is gone: its call is over, and so is this work in a moment.
        let _ = self.sender.send(progress).await;
    }

    /// Starts a step of wharfd's own: `pull reg/app:1`.
    pub async fn step(&self, name: impl Into<String>) -> Step {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let digest = format!("wharf:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let vertex = v1::Vertex { digest, name: name.into(), started: Some(now()), ..v1::Vertex::default() };
        let step = Step { reporter: self.clone(), vertex };
        step.send().await;
        step
    }

    /// Warns about the build as a whole.
    pub async fn warn(&self, short: impl Into<String>, details: Vec<String>) {
        let warning = v1::VertexWarning { short: short.into(), details, ..v1::VertexWarning::default() };
        self.report(v1::Progress { warnings: vec![warning], ..v1::Progress::default() }).await;
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
    pub async fn moves(&self, part: &str, current: u64, total: u64, done: bool) {
        let status = v1::VertexStatus {
            id: part.to_owned(),
            vertex: self.vertex.digest.clone(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            started: self.vertex.started,
            completed: done.then(now),
            ..v1::VertexStatus::default()
        };
        self.reporter.report(v1::Progress { statuses: vec![status], ..v1::Progress::default() }).await;
    }

    /// Gives the step a better name, once it is known: `pull reg/app:1@sha256:…`.
    pub async fn rename(&mut self, name: impl Into<String>) {
        self.vertex.name = name.into();
        self.send().await;
    }

    /// Ends the step; `cached` when nothing had to be done.
    pub async fn done(mut self, cached: bool) {
        self.vertex.cached = cached;
        self.vertex.completed = Some(now());
        self.send().await;
    }

    /// Ends the step with an error.
    pub async fn failed(mut self, error: impl Into<String>) {
        self.vertex.error = error.into();
        self.vertex.completed = Some(now());
        self.send().await;
    }

    async fn send(&self) {
        self.reporter
            .report(v1::Progress { vertexes: vec![self.vertex.clone()], ..v1::Progress::default() })
            .await;
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

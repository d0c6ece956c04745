//! Builds progress messages for tests.

use std::time::{Duration, Instant};

use super::model::Model;
use crate::wire::v1;

/// A progress message. Times are milliseconds after the build's start.
#[derive(Clone, Debug, Default)]
pub(in crate::client) struct Update(pub(in crate::client) v1::Progress);

/// A time of the engine's clock, which differs from the client's.
pub(in crate::client) fn at(millis: u64) -> Option<prost_types::Timestamp> {
    let time = Duration::from_secs(1_800_000_000) + Duration::from_millis(millis);
    Some(prost_types::Timestamp { seconds: time.as_secs() as i64, nanos: time.subsec_nanos() as i32 })
}

/// The client's clock.
pub(in crate::client) struct Clock(Instant);

impl Clock {
    pub(in crate::client) fn start() -> Self {
        Self(Instant::now())
    }

    pub(in crate::client) fn at(&self, millis: u64) -> Instant {
        self.0 + Duration::from_millis(millis)
    }
}

pub(in crate::client) fn model_of(updates: &[Update]) -> Model {
    let mut model = Model::default();
    for update in updates {
        model.apply(&update.0);
    }
    model
}

impl Update {
    pub(in crate::client) fn new() -> Self {
        Self::default()
    }

    pub(in crate::client) fn announced(self, digest: &str, name: &str) -> Self {
        self.vertex(digest, name, None, None, |_| {})
    }

    pub(in crate::client) fn started(self, digest: &str, name: &str, begin: u64) -> Self {
        self.vertex(digest, name, Some(begin), None, |_| {})
    }

    pub(in crate::client) fn done(self, digest: &str, name: &str, begin: u64, end: u64) -> Self {
        self.vertex(digest, name, Some(begin), Some(end), |_| {})
    }

    pub(in crate::client) fn cached(self, digest: &str, name: &str, time: u64) -> Self {
        self.vertex(digest, name, Some(time), Some(time), |vertex| vertex.cached = true)
    }

    pub(in crate::client) fn failed(
        self,
        digest: &str,
        name: &str,
        begin: u64,
        end: u64,
        error: &str,
    ) -> Self {
        self.vertex(digest, name, Some(begin), Some(end), |vertex| error.clone_into(&mut vertex.error))
    }

    pub(in crate::client) fn waits(mut self, digest: &str, ahead: u32) -> Self {
        self.0.queue = Some(v1::QueuePosition { vertex: digest.to_owned(), ahead });
        self
    }

    pub(in crate::client) fn vertex(
        mut self,
        digest: &str,
        name: &str,
        begin: Option<u64>,
        end: Option<u64>,
        further: impl Fn(&mut v1::Vertex),
    ) -> Self {
        let mut vertex = v1::Vertex {
            digest: digest.to_owned(),
            name: name.to_owned(),
            started: begin.and_then(at),
            completed: end.and_then(at),
            ..v1::Vertex::default()
        };
        further(&mut vertex);
        self.0.vertexes.push(vertex);
        self
    }

    /// `size` is current and total; `time` is the start and the end.
    pub(in crate::client) fn status(
        mut self,
        vertex: &str,
        id: &str,
        size: (i64, i64),
        time: (u64, Option<u64>),
    ) -> Self {
        self.0.statuses.push(v1::VertexStatus {
            id: id.to_owned(),
            vertex: vertex.to_owned(),
            name: String::new(),
            current: size.0,
            total: size.1,
            started: at(time.0),
            completed: time.1.and_then(at),
        });
        self
    }

    pub(in crate::client) fn log(mut self, vertex: &str, time: u64, data: impl AsRef<[u8]>) -> Self {
        self.0.logs.push(v1::VertexLog {
            vertex: vertex.to_owned(),
            stream: v1::LogStream::Stdout.into(),
            data: data.as_ref().to_vec().into(),
            timestamp: at(time),
        });
        self
    }

    pub(in crate::client) fn warning(mut self, vertex: &str, short: &str, line: i32) -> Self {
        self.0.warnings.push(v1::VertexWarning {
            vertex: vertex.to_owned(),
            short: short.to_owned(),
            source: (line > 0).then(|| dockerfile(line, &[])),
            ..v1::VertexWarning::default()
        });
        self
    }
}

/// Lines of a Dockerfile, with line `line` marked.
pub(in crate::client) fn dockerfile(line: i32, text: &[&str]) -> v1::SourceLines {
    v1::SourceLines {
        filename: "Dockerfile".to_owned(),
        start: line,
        end: line,
        text: text.iter().map(|line| (*line).to_owned()).collect(),
        first_text_line: 1,
    }
}

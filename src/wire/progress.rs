//! Conversion of progress to the API's form (`progress.proto`).

use std::time::SystemTime;

use prost_types::Timestamp;

use super::v1;
use crate::progress::{
    LogStream, Progress, QueuePosition, SourceLines, Vertex, VertexLog, VertexStatus, VertexWarning,
};

impl From<Progress> for v1::Progress {
    fn from(progress: Progress) -> Self {
        Self {
            vertexes: progress.vertexes.into_iter().map(vertex).collect(),
            statuses: progress.statuses.into_iter().map(status).collect(),
            logs: progress.logs.into_iter().map(log).collect(),
            warnings: progress.warnings.into_iter().map(warning).collect(),
            queue: progress.queue.map(queue),
        }
    }
}

impl From<SourceLines> for v1::SourceLines {
    fn from(lines: SourceLines) -> Self {
        let SourceLines { filename, start, end, text, first_text_line } = lines;
        Self { filename, start, end, text, first_text_line }
    }
}

fn vertex(vertex: Vertex) -> v1::Vertex {
    v1::Vertex {
        digest: vertex.digest,
        name: vertex.name,
        inputs: vertex.inputs,
        cached: vertex.cached,
        started: timestamp(vertex.started),
        completed: timestamp(vertex.completed),
        error: vertex.error,
    }
}

fn status(status: VertexStatus) -> v1::VertexStatus {
    v1::VertexStatus {
        id: status.id,
        vertex: status.vertex,
        // BuildKit's own is an action, "transferring"; buildx shows the id too.
        name: String::new(),
        current: status.current,
        total: status.total,
        started: timestamp(status.started),
        completed: timestamp(status.completed),
    }
}

fn log(log: VertexLog) -> v1::VertexLog {
    let stream = match log.stream {
        Some(LogStream::Stdout) => v1::LogStream::Stdout,
        Some(LogStream::Stderr) => v1::LogStream::Stderr,
        None => v1::LogStream::Unspecified,
    };
    v1::VertexLog {
        vertex: log.vertex,
        stream: stream.into(),
        data: log.data,
        timestamp: timestamp(log.timestamp),
    }
}

fn warning(warning: VertexWarning) -> v1::VertexWarning {
    v1::VertexWarning {
        vertex: warning.vertex,
        short: warning.short,
        details: warning.details,
        url: warning.url,
        source: warning.source.map(Into::into),
    }
}

fn queue(queue: QueuePosition) -> v1::QueuePosition {
    v1::QueuePosition { vertex: queue.vertex, ahead: u32::try_from(queue.ahead).unwrap_or(u32::MAX) }
}

fn timestamp(time: Option<SystemTime>) -> Option<Timestamp> {
    time.map(Into::into)
}

//! Converts BuildKit's status into wharfd's own form.

use std::time::SystemTime;

use bollard_buildkit_proto::{google::protobuf::Timestamp, moby::buildkit::v1 as control};

use crate::{
    buildkit::failure,
    progress::{LogStream, Progress, Vertex, VertexLog, VertexStatus, VertexWarning},
};

/// BuildKit's status in wharfd's own form.
pub(super) fn progress(response: control::StatusResponse) -> Progress {
    Progress {
        vertexes: response.vertexes.into_iter().map(vertex).collect(),
        statuses: response.statuses.into_iter().map(status).collect(),
        logs: response.logs.into_iter().map(log).collect(),
        warnings: response.warnings.into_iter().map(warning).collect(),
        queue: None,
    }
}

fn vertex(vertex: control::Vertex) -> Vertex {
    Vertex {
        digest: vertex.digest,
        name: vertex.name,
        inputs: vertex.inputs,
        cached: vertex.cached,
        started: time(vertex.started),
        completed: time(vertex.completed),
        error: vertex.error,
    }
}

fn status(status: control::VertexStatus) -> VertexStatus {
    VertexStatus {
        id: status.id,
        vertex: status.vertex,
        current: status.current,
        total: status.total,
        started: time(status.started),
        completed: time(status.completed),
    }
}

fn log(log: control::VertexLog) -> VertexLog {
    let stream = match log.stream {
        1 => Some(LogStream::Stdout),
        2 => Some(LogStream::Stderr),
        _ => None,
    };
    VertexLog { vertex: log.vertex, stream, data: log.msg.into(), timestamp: time(log.timestamp) }
}

fn warning(warning: control::VertexWarning) -> VertexWarning {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let start = warning.ranges.iter().filter_map(|range| range.start.as_ref()).map(|start| start.line).min();
    let end = warning.ranges.iter().filter_map(|range| range.end.as_ref()).map(|end| end.line).max();
    let source = warning.info.zip(start).map(|(info, start)| {
        let end = end.unwrap_or(start).max(start);
        failure::excerpt(info.filename, &String::from_utf8_lossy(&info.data), start, end)
    });
    VertexWarning {
        vertex: warning.vertex,
        short: text(&warning.short),
        details: warning.detail.iter().map(|line| text(line)).collect(),
        url: warning.url,
        source,
    }
}

fn time(time: Option<Timestamp>) -> Option<SystemTime> {
    let Timestamp { seconds, nanos } = time?;
    SystemTime::try_from(prost_types::Timestamp { seconds, nanos }).ok()
}

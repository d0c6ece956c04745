//! BuildKit's facts as the API's.

use bollard_buildkit_proto::{google::protobuf::Timestamp, moby::buildkit::v1 as control};

use crate::{
    buildkit::failure,
    wire::v1::{self, LogStream},
};

/// BuildKit's facts as the API's.
pub(super) fn progress(facts: control::StatusResponse) -> v1::Progress {
    v1::Progress {
        vertexes: facts.vertexes.into_iter().map(vertex).collect(),
        statuses: facts.statuses.into_iter().map(status).collect(),
        logs: facts.logs.into_iter().map(log).collect(),
        warnings: facts.warnings.into_iter().map(warning).collect(),
    }
}

fn vertex(vertex: control::Vertex) -> v1::Vertex {
    v1::Vertex {
        digest: vertex.digest,
        name: vertex.name,
        inputs: vertex.inputs,
        cached: vertex.cached,
        started: vertex.started.map(timestamp),
        completed: vertex.completed.map(timestamp),
        error: vertex.error,
    }
}

fn status(status: control::VertexStatus) -> v1::VertexStatus {
    v1::VertexStatus {
        id: status.id,
        vertex: status.vertex,
        // BuildKit's own is an action, "transferring"; buildx shows the id too.
        name: String::new(),
        current: status.current,
        total: status.total,
        started: status.started.map(timestamp),
        completed: status.completed.map(timestamp),
    }
}

fn log(log: control::VertexLog) -> v1::VertexLog {
    let stream = match log.stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        _ => LogStream::Unspecified,
    };
    v1::VertexLog {
        vertex: log.vertex,
        stream: stream.into(),
        data: log.msg.into(),
        timestamp: log.timestamp.map(timestamp),
    }
}

fn warning(warning: control::VertexWarning) -> v1::VertexWarning {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let start = warning.ranges.iter().filter_map(|range| range.start.as_ref()).map(|start| start.line).min();
    let end = warning.ranges.iter().filter_map(|range| range.end.as_ref()).map(|end| end.line).max();
    let source = warning.info.zip(start).map(|(info, start)| {
        let end = end.unwrap_or(start).max(start);
        failure::excerpt(info.filename, &String::from_utf8_lossy(&info.data), start, end)
    });
    v1::VertexWarning {
        vertex: warning.vertex,
        short: text(&warning.short),
        details: warning.detail.iter().map(|line| text(line)).collect(),
        url: warning.url,
        source,
    }
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos }
}

//! What people see of the engine's names: the Dockerfile's, never the engine's own.

use std::collections::BTreeMap;

use bollard_buildkit_proto::moby::buildkit::v1 as control;

use super::paths;
use crate::{
    buildkit::failure,
    engine::naming::{NamespaceNames, Owner, PRIVATE_HOST},
    names::Reference,
    wire::v1::{self, LogStream},
};

/// Turns the engine's names into the job's.
#[derive(Clone, Debug)]
pub(super) struct Renaming {
    names: NamespaceNames,
    root: String,
    admitted: BTreeMap<String, String>,
}

impl Renaming {
    /// The names of a namespace, in an engine whose files are under `root`.
    pub(super) fn new(names: NamespaceNames, root: &str) -> Self {
        Self { names, root: root.to_owned(), admitted: BTreeMap::new() }
    }

    /// `target`, a name in the engine, is shown as `named`.
    pub(super) fn admit(&mut self, target: &str, named: &str) {
        let shown =
            Reference::parse(named).map_or_else(|_| named.to_owned(), |reference| reference.to_string());
        self.admitted.insert(target.to_owned(), shown);
    }

    /// `text` without any name of the engine's own.
    pub(super) fn text(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(PRIVATE_HOST) {
            let (before, from) = rest.split_at(at);
            shown.push_str(before);
            let in_name =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':' | '@' | '-');
            let end = from.find(|c| !in_name(c)).unwrap_or(from.len());
            let (name, after) = from.split_at(end);
            // A sentence's own punctuation may follow a name.
            let bare = name.trim_end_matches([':', '.', '/', '@', '-']);
            shown.push_str(&self.name(bare));
            shown.push_str(name.strip_prefix(bare).unwrap_or_default());
            rest = after;
        }
        shown.push_str(rest);
        shown
    }

    /// An error of the engine's, without its names and without paths of its own.
    pub(super) fn error(&self, text: &str) -> String {
        self.text(&paths::without(text, &self.root))
    }

    fn name(&self, name: &str) -> String {
        let (bare, digest) = name.split_once('@').map_or((name, None), |(bare, digest)| (bare, Some(digest)));
        if let Some(named) = self.admitted.get(bare) {
            return match digest {
                Some(digest) if !named.contains('@') => format!("{named}@{digest}"),
                _ => named.clone(),
            };
        }
        match self.names.read(bare) {
            Some(Owner::Reference(reference)) => reference.to_string(),
            Some(Owner::Untagged) => "(untagged)".to_owned(),
            Some(Owner::Long(_)) | None => "(private image)".to_owned(),
        }
    }

    /// BuildKit's facts as the API's.
    pub(super) fn progress(&self, facts: control::StatusResponse) -> v1::Progress {
        v1::Progress {
            vertexes: facts.vertexes.into_iter().map(|vertex| self.vertex(vertex)).collect(),
            statuses: facts.statuses.into_iter().map(|status| self.status(status)).collect(),
            logs: facts.logs.into_iter().map(log).collect(),
            warnings: facts.warnings.into_iter().map(|warning| self.warning(warning)).collect(),
        }
    }

    fn vertex(&self, vertex: control::Vertex) -> v1::Vertex {
        v1::Vertex {
            digest: vertex.digest,
            name: self.vertex_name(&vertex.name),
            inputs: vertex.inputs,
            cached: vertex.cached,
            started: vertex.started.map(timestamp),
            completed: vertex.completed.map(timestamp),
            error: self.error(vertex.error.lines().next().unwrap_or_default()),
        }
    }

    fn vertex_name(&self, name: &str) -> String {
        // Under this URL BuildKit fetches the tar that a client has sent.
        if name.starts_with("http://buildkit-session/") {
            "[internal] load remote build context".to_owned()
        } else {
            self.text(name)
        }
    }

    fn status(&self, status: control::VertexStatus) -> v1::VertexStatus {
        v1::VertexStatus {
            id: self.text(&status.id),
            vertex: status.vertex,
            // BuildKit's own is an action, "transferring"; buildx shows the id too.
            name: String::new(),
            current: status.current,
            total: status.total,
            started: status.started.map(timestamp),
            completed: status.completed.map(timestamp),
        }
    }

    fn warning(&self, warning: control::VertexWarning) -> v1::VertexWarning {
        let text = |bytes: &[u8]| self.text(&String::from_utf8_lossy(bytes));
        let start =
            warning.ranges.iter().filter_map(|range| range.start.as_ref()).map(|start| start.line).min();
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

fn timestamp(time: bollard_buildkit_proto::google::protobuf::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::naming::Keys, names::Namespace};

    #[test]
    fn names_of_the_engine_become_the_jobs() {
        let directory = std::env::temp_dir().join(format!("wharf-shown-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let keys = Keys::load(&directory).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let own = keys.names(&Namespace::new("acme", "1").unwrap());
        let other = keys.names(&Namespace::new("other", "1").unwrap());
        let app = Reference::parse("app:1").unwrap();
        let mut shown = Renaming::new(own.clone(), "/var/lib/docker");
        shown.admit("wharf.invalid/i/hold/h:1", "docker.io/library/busybox:1");
        let text = |text: &str| shown.text(text);
        assert_eq!(text("[1/2] FROM wharf.invalid/i/hold/h:1"), "[1/2] FROM docker.io/library/busybox:1");
        assert_eq!(
            text("resolve wharf.invalid/i/hold/h:1@sha256:ab: not found"),
            "resolve docker.io/library/busybox:1@sha256:ab: not found"
        );
        assert_eq!(
            text(&format!("naming to {}", own.name(&app).as_str())),
            "naming to docker.io/library/app:1"
        );
        assert_eq!(text(&format!("naming to {}", own.untagged("0"))), "naming to (untagged)");
        let foreign = text(&format!("{} and wharf.invalid", other.name(&app).as_str()));
        assert_eq!(foreign, "(private image) and (private image)");
        assert_eq!(text("nothing of ours"), "nothing of ours");
    }
}

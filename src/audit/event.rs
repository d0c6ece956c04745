//! One event, and its line.

use std::{fmt, time::SystemTime};

use prost_types::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Value, json};

use super::details::Contents;
use crate::names::{CallerId, EngineName, Job, Namespace, printable_json, shortened};

/// The limit on a text. References, and the names of jobs, are shorter.
const TEXT_BYTES_MAX: usize = 1024;

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// wharfd has started.
    Started,
    /// A configuration is in use, or was refused.
    Configured,
    /// A caller is served, by these rules.
    Serves,
    /// wharfd ends: it takes no new work.
    Stopping,
    /// wharfd has ended.
    Stopped,
    /// A call has begun its work.
    Begun,
    /// A call has ended.
    Ended,
    /// A call was refused before it could begin.
    Refused,
    /// A namespace that nobody uses has ended by itself.
    NamespaceEnded,
    /// The cache mounts of a job that is ended, or that nobody builds, are gone.
    JobRetired,
    /// The disk of an engine has become low, or has space again.
    Disk,
    /// Events could not be written.
    Lost,
}

impl EventKind {
    /// The name in the field `event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Configured => "configured",
            Self::Serves => "serves",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Begun => "begun",
            Self::Ended => "ended",
            Self::Refused => "refused",
            Self::NamespaceEnded => "namespace_ended",
            Self::JobRetired => "job_retired",
            Self::Disk => "disk",
            Self::Lost => "lost",
        }
    }
}

/// An event: its fields, in their order.
#[derive(Debug)]
pub struct Event(Vec<(&'static str, Value)>);

impl Event {
    /// An event of now.
    pub fn new(kind: EventKind) -> Self {
        let time = Timestamp::from(SystemTime::now());
        // Milliseconds: nobody compares more of two machines' clocks.
        let time = Timestamp { nanos: time.nanos / 1_000_000 * 1_000_000, ..time };
        Self(vec![("time", json!(time.to_string())), ("event", json!(kind.as_str()))])
    }

    /// Adds a text, which is cut to a length.
    #[must_use]
    pub fn text(self, key: &'static str, text: impl fmt::Display) -> Self {
        let text = bounded(text);
        self.value(key, json!(text))
    }

    /// Adds a text if there is one.
    #[must_use]
    pub fn some_text(self, key: &'static str, text: Option<impl fmt::Display>) -> Self {
        match text {
            Some(text) => self.text(key, text),
            None => self,
        }
    }

    /// Adds a number if there is one.
    #[must_use]
    pub fn number(self, key: &'static str, number: impl Into<Option<u64>>) -> Self {
        match number.into() {
            Some(number) => self.value(key, json!(number)),
            None => self,
        }
    }

    /// Adds who calls, and the engine that works for it.
    #[must_use]
    pub fn by(self, caller: &CallerId, engine: &EngineName) -> Self {
        self.text("caller", caller).text("engine", engine)
    }

    /// Adds the namespace, in its parts: a text of all of them could be that of another.
    #[must_use]
    pub fn namespace(self, namespace: Option<&Namespace>) -> Self {
        let Some(namespace) = namespace else { return self };
        let job = namespace.job();
        let mut parts = json!({"job": bounded(job.name()), "run": bounded(namespace.run())});
        if let (Some(parts), Some(issuer)) = (parts.as_object_mut(), job.issuer()) {
            parts.insert("issuer".to_owned(), json!(issuer.to_string()));
        }
        self.value("namespace", parts)
    }

    /// Adds a job, in its parts.
    #[must_use]
    pub fn job(self, job: Option<&Job>) -> Self {
        let Some(job) = job else { return self };
        self.text("job", job.name()).some_text("issuer", job.issuer())
    }

    /// Adds the details of a call.
    pub(super) fn contents(mut self, contents: &Contents) -> Self {
        self.0.extend(contents.fields());
        self
    }

    /// Adds a value of texts and numbers, which its maker has bounded.
    #[must_use]
    pub fn value(mut self, key: &'static str, value: Value) -> Self {
        self.0.push((key, value));
        self
    }

    /// The event's line, with the newline. `number` is that of the event since wharfd's start.
    pub(super) fn line(mut self, number: impl Into<Option<u64>>) -> String {
        if let Some(number) = number.into() {
            self.0.insert(1, ("number", json!(number)));
        }
        // Texts and numbers in a list: this cannot fail.
        let json = serde_json::to_string(&self).unwrap_or_default();
        let mut line = printable_json(&json);
        line.push('\n');
        line
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// A text, cut to a length.
pub(super) fn bounded(text: impl fmt::Display) -> String {
    shortened(text.to_string(), TEXT_BYTES_MAX)
}

//! The error of a call, with two texts: one for the caller, one for the operator.

use std::{borrow::Cow, error::Error, fmt, num::NonZeroU32, time::Duration};

use crate::names::{NoRandomness, printable, shortened};

type Source = Box<dyn Error + Send + Sync>;

/// The kind of a failure; `wharf.v1.ErrorReason` documents each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reason {
    InvalidInput,
    UnknownCaller,
    NamespaceDenied,
    SourceDenied,
    GraphDenied,
    PolicyDenied,
    ImageNotFound,
    BaseImageNotFound,
    RegistryDenied,
    RegistryUnavailable,
    ImageForged,
    ImageUnsupported,
    EngineUnavailable,
    EngineFailed,
    SessionNotFound,
    StreamBroken,
    Cancelled,
    ShuttingDown,
    EngineLacks,
    BuildStopsEngine,
    LimitReached,
    SourceUnavailable,
    Internal,
}

/// The kinds of reasons, by who has to do something about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A rule, a policy, a limit or a registry does not allow it.
    Refused,
    /// It was ended: by its client, or since wharfd ends.
    Cancelled,
    /// The client asks for something wrong, or that is not there, or breaks off.
    Client,
    /// A registry cannot be asked.
    Registry,
    /// The engine is not there, or fails.
    Engine,
    /// wharfd itself is wrong.
    Internal,
}

impl Reason {
    /// Its class.
    pub fn class(self) -> Class {
        match self {
            Self::UnknownCaller
            | Self::NamespaceDenied
            | Self::SourceDenied
            | Self::GraphDenied
            | Self::PolicyDenied
            | Self::RegistryDenied
            | Self::ImageForged
            | Self::ImageUnsupported
            | Self::BuildStopsEngine
            | Self::LimitReached => Class::Refused,
            Self::Cancelled | Self::ShuttingDown => Class::Cancelled,
            Self::InvalidInput
            | Self::ImageNotFound
            | Self::BaseImageNotFound
            | Self::SessionNotFound
            | Self::StreamBroken
            | Self::SourceUnavailable => Class::Client,
            Self::RegistryUnavailable => Class::Registry,
            Self::EngineUnavailable | Self::EngineFailed | Self::EngineLacks => Class::Engine,
            Self::Internal => Class::Internal,
        }
    }
}

/// A failed call. `text` and `hint` go to the caller. `Display` is the same text for the operator's log;
/// `source` is the cause, which never leaves the daemon.
#[derive(Debug)]
pub struct Fault {
    reason: Reason,
    text: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    login: Option<Box<str>>,
    field: Option<Cow<'static, str>>,
    /// In seconds. Faults are in every result: this one stays small.
    retry_after: Option<NonZeroU32>,
    source: Option<Source>,
}

impl Fault {
    /// A failure with `reason`; `text` says what is wrong and where, for the caller.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            text: bounded(text.into()),
            hint: None,
            login: None,
            field: None,
            retry_after: None,
            source: None,
        }
    }

    /// Bad input in `field`, a path within the proto request: `spec.tags[0]`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Reason::InvalidInput, text) }
    }

    /// A failure of wharfd itself. The caller learns only that it happened; the log has the cause.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(Reason::Internal, "wharfd failed; its log says why").caused_by(source)
    }

    /// The same failure with another text, without the cause.
    #[must_use]
    pub fn reworded(&self, text: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: self.hint.clone(), ..Self::new(self.reason, text) }
    }

    /// Adds advice for the caller.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds that the caller can log in to the registry at `host`: each door says how.
    #[must_use]
    pub fn log_in(mut self, host: &str) -> Self {
        self.login = Some(host.into());
        self
    }

    /// Puts the line of the Dockerfile before the text.
    #[must_use]
    pub fn at_line(self, line: Option<u32>) -> Self {
        match line {
            Some(line) => Self { text: format!("Dockerfile:{line}: {}", self.text).into(), ..self },
            None => self,
        }
    }

    /// Adds the time after which the caller may try again, in whole seconds.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = u32::try_from(time.as_secs()).ok().and_then(NonZeroU32::new);
        self
    }

    /// Adds the cause, for the operator only.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind of the failure.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The text for the caller.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The advice for the caller.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The registry that the caller can log in to.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The time after which the caller may try again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry_after.map(|seconds| Duration::from_secs(seconds.get().into()))
    }

    /// The field of the request that is wrong.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

impl From<NoRandomness> for Fault {
    fn from(error: NoRandomness) -> Self {
        Self::internal(error)
    }
}

/// A text repeats names that a job chose, and a name may have megabytes: each of them would be a line of the log.
fn bounded(text: Cow<'static, str>) -> Cow<'static, str> {
    match text {
        Cow::Owned(text) if text.len() > TEXT_BYTES_MAX => shortened(text, TEXT_BYTES_MAX).into(),
        text => text,
    }
}

/// Longer texts of a fault are cut.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Longer texts of a single cause are cut.
const CAUSE_BYTES_MAX: usize = 4 << 10;

/// An error and its sources on one line, for the operator. Text that an error repeats from its source
/// appears once.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for source in std::iter::successors(Some(error), |source| (*source).source()) {
        // The text may come from a registry, which can send any length, as often as a job asks.
        let text = shortened(printable(&source.to_string()), CAUSE_BYTES_MAX);
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

//! What went wrong, in two texts: one for the caller, one for the operator.

use std::{borrow::Cow, error::Error, fmt};

use crate::names::{NoRandomness, printable, shortened};

type Source = Box<dyn Error + Send + Sync>;

/// Why a call failed, as `wharf.v1.ErrorReason` documents each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reason {
    InvalidInput,
    UnknownCaller,
    NamespaceDenied,
    SourceDenied,
    GraphDenied,
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
    LimitReached,
    Internal,
}

/// A failed call. `text` and `hint` go to the caller; `Display` is the same text for the
/// operator's log, and what it was caused by is `source`, which never leaves the daemon.
#[derive(Debug)]
pub struct Fault {
    reason: Reason,
    text: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    login: Option<Box<str>>,
    field: Option<Cow<'static, str>>,
    source: Option<Source>,
}

impl Fault {
    /// A failure for `reason`; `text` says to the caller what is wrong and where.
    pub fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, text: text.into(), hint: None, login: None, field: None, source: None }
    }

    /// Bad input in `field`, the path of a request's field in the proto: `spec.tags[0]`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Reason::InvalidInput, text) }
    }

    /// A failure of wharfd's own; the caller learns that it happened, the operator what.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(Reason::Internal, "wharfd failed; its log says why").caused_by(source)
    }

    /// Adds what the caller can do.
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

    /// Adds what it was caused by, for the operator only.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What the caller reads.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the caller can do.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The registry that the caller can log in to.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The request's field that is wrong.
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

/// How much of one cause is told.
const CAUSE_BYTES_MAX: usize = 4 << 10;

/// An error and its sources on one line, for the operator. What an error says that its cause says
/// too is said once.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for source in std::iter::successors(Some(error), |source| (*source).source()) {
        // A registry, say, may tell as much as it likes, and is heard as often as a job asks it.
        let text = shortened(printable(&source.to_string()), CAUSE_BYTES_MAX);
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

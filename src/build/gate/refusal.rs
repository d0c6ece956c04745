//! Why a graph does not run.

use super::Urls;

use crate::fault::{Fault, Reason};

/// The reason why a graph does not run, for now or at all.
#[derive(Debug)]
pub enum Refusal {
    /// The graph needs these URLs, which have not been judged yet.
    NeedsUrls(Urls),
    /// The graph is refused.
    Refused(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

pub(super) fn refuse(why: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    let why = why.into();
    Fault::new(Reason::GraphDenied, format!("the build graph is refused: {why}")).into()
}

impl Refusal {
    /// With the line of the Dockerfile, if it is known.
    pub(super) fn at(self, line: Option<u32>) -> Self {
        match self {
            Self::Refused(fault) => Self::Refused(fault.at_line(line)),
            Self::NeedsUrls(urls) => Self::NeedsUrls(urls),
        }
    }
}

//! The type of the names in an engine.

use std::fmt;

/// A name of wharfd's own for an image in an engine, in full: with a tag, or with a digest. Only
/// [`naming`](super) makes one, so a name from a caller cannot reach an engine by mistake.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(String);

impl ImageName {
    pub(super) fn new(name: String) -> Self {
        Self(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl ImageName {
    /// Any name, for tests.
    pub(crate) fn any(name: &str) -> Self {
        Self(name.to_owned())
    }
}

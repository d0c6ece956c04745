//! The types of keyed hashes: each names one kind of thing, and none can stand for another.

use std::fmt;

macro_rules! hashes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            pub(super) fn new(hash: String) -> Self {
                Self(hash)
            }

            /// The hash, in digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// Any text, for tests.
        #[cfg(test)]
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

/// Those that are read again from where they are kept.
macro_rules! kept {
    ($($name:ident),*) => {$(
        impl $name {
            /// The one that the store has kept.
            pub(crate) fn stored(hash: &str) -> Self {
                Self(hash.to_owned())
            }
        }
    )*};
}

hashes! {
    /// The opaque name of a namespace, by which engines and the store know it.
    NamespaceKey;
    /// The opaque name of a job.
    JobKey;
    /// The name of all cache mounts of a job.
    MountsKey;
    /// Distinguishes builds of a job that use different bases.
    BuildKey;
    /// The input of a build.
    InputKey;
    /// Stands in a private name for a reference that is too long for one.
    LongName;
}

kept!(NamespaceKey, MountsKey, LongName);

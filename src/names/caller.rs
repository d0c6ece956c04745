//! Who calls, for whatever is kept or counted by caller.

use std::fmt;

/// A caller's identity. Each identity scheme has a variant of its own, so that no two schemes can ever
/// mean the same caller by it, whatever their callers are called. It is compared as it is and never by
/// its text. It proves nothing: the proof is `identity::Caller`, which has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallerId {
    /// A user of the node, by the kernel's word.
    Uid(u32),
    /// The same, of a process that is in no container: root and wharfd's own user alone.
    Operator(u32),
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Operator(uid) => write!(f, "uid {uid} of the node"),
        }
    }
}

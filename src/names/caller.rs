//! The identity of a caller, as the key for everything that is kept or counted per caller.

use std::fmt;

use super::{AddressBlock, CertificateName, IssuerName, Job};

/// A caller's identity. Each identity scheme has a variant of its own, so that callers of two schemes are
/// never equal, whatever their names are. Compare the value, never its text. It proves nothing: the proof
/// is `identity::Caller`, which contains one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallerId {
    /// A user of the node, as the kernel reports it.
    Uid(u32),
    /// The same for a process outside any container. Only root and wharfd's own user can have this identity.
    Operator(u32),
    /// The holder of the static token of this name.
    Token(IssuerName),
    /// The holder of the key of a certificate of this name.
    Certificate(CertificateName),
    /// A job, whose issuer is known: all runs of the job together. So are the pods of a Kubernetes namespace, whose author
    /// chooses how many there are.
    Job(Job),
    /// A caller from the network that has proven nothing: only calls that need no caller are counted for it.
    Address(AddressBlock),
}

impl CallerId {
    /// A text that no other caller has.
    pub fn key(&self) -> String {
        match self {
            Self::Uid(uid) => format!("uid {uid}"),
            Self::Operator(uid) => format!("operator {uid}"),
            Self::Token(name) => format!("token {name}"),
            Self::Certificate(name) => format!("certificate {name}"),
            Self::Job(job) => format!("job {}", job.key()),
            Self::Address(source) => format!("address {source}"),
        }
    }
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Operator(uid) => write!(f, "uid {uid} of the node"),
            Self::Token(name) => write!(f, "token {name}"),
            Self::Certificate(name) => write!(f, "certificate {name}"),
            Self::Job(job) => write!(f, "job {job}"),
            Self::Address(source) => write!(f, "address {source}"),
        }
    }
}

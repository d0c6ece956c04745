//! A pod of a Kubernetes cluster.

use std::fmt;

use super::{IssuerName, Job, Namespace, printable, shortened};

/// Real uids have 36.
const UID_BYTES_MAX: usize = 64;
/// The limit on a label of DNS (RFC 1123).
const LABEL_BYTES_MAX: usize = 63;
/// The pod's author chooses these values, so they are shortened in errors.
const SHOWN_BYTES_MAX: usize = 100;

/// A pod: its Kubernetes namespace, and its uid. No other pod has the same, except a static pod that is made
/// again from the same manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pod {
    namespace: String,
    uid: String,
}

impl Pod {
    /// The pod `uid` of the Kubernetes namespace `namespace`; the error says which of the two is not valid.
    pub fn new(namespace: &str, uid: &str) -> Result<Self, String> {
        if !is_label(namespace) {
            return Err(format!("`{}` is not a Kubernetes namespace", shown(namespace)));
        }
        if !Self::is_uid(uid) {
            return Err(format!("`{}` is not a pod's uid", shown(uid)));
        }
        Ok(Self { namespace: namespace.to_owned(), uid: uid.to_owned() })
    }

    /// Whether a pod can have this uid.
    pub fn is_uid(text: &str) -> bool {
        is_name(text, UID_BYTES_MAX)
    }

    /// Its Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The job that all pods of its Kubernetes namespace are.
    pub fn job(&self) -> Job {
        self.own_namespace().job().clone()
    }

    /// The namespace that the pod is: a run of the job that its Kubernetes namespace is. The kubelet has proven it, as
    /// an issuer proves a job.
    pub fn own_namespace(&self) -> Namespace {
        Namespace::of_pod(&self.namespace, &self.uid).issued_by(IssuerName::of_pods())
    }
}

fn shown(text: &str) -> String {
    printable(&shortened(text.to_owned(), SHOWN_BYTES_MAX))
}

/// Whether it is a label of DNS, as the names of a Kubernetes namespace and of a pod's volume are.
pub fn is_label(text: &str) -> bool {
    is_name(text, LABEL_BYTES_MAX)
}

fn is_name(text: &str, max: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=max).contains(&text.len()) && text.bytes().all(is_plain)
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_run_of_its_kubernetes_namespace() {
        let pod = Pod::new("team-a", "8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a").unwrap();
        let own = pod.own_namespace();
        assert_eq!(own.to_string(), "pods:team-a#8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a");
        assert_ne!(own, Namespace::new("team-a", pod.uid()).unwrap(), "nobody can claim it");
    }

    #[test]
    fn nothing_that_could_be_a_path_is_a_pod() {
        let uid = "8f6b2c1e-6f0e-4c53-a1c2-0b9f2f3e4d5a";
        for namespace in ["", "a/b", "..", "A", "a b", "a\0", &"a".repeat(64)] {
            assert!(Pod::new(namespace, uid).unwrap_err().contains("Kubernetes namespace"), "{namespace}");
        }
        for uid in ["", ".", "..", "a/b", "../a", "a\n", &"a".repeat(65)] {
            assert!(Pod::new("a", uid).unwrap_err().contains("uid"), "{uid}");
        }
    }
}

//! Explains what a job may do. It permits nothing.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use super::{Entry, Permit, Rules, entry};
use crate::{
    config::StepNetwork,
    fault::{Fault, Reason},
    names::{Allowed, Namespace, Reference, printable},
};

/// What the job of a namespace may do.
#[derive(Debug)]
pub struct Explained {
    namespace: Namespace,
    rules: Arc<Rules>,
    entry: Arc<Entry>,
}

/// Why something is allowed.
#[derive(Debug)]
pub struct Because {
    /// The key.
    pub key: &'static str,
    /// The pattern that matches.
    pub pattern: String,
    /// Conditions that the build itself also checks.
    pub unless: Option<&'static str>,
}

impl Permit<Namespace> {
    /// Explains what the job of the namespace may do.
    pub fn explain(&self) -> Explained {
        let (rules, entry) = (Arc::clone(&self.rules), Arc::clone(&self.entry));
        Explained { namespace: self.subject.clone(), rules, entry }
    }
}

impl Rules {
    /// Explains what the job of `namespace` may do if a caller, named `who` in messages, acts by these rules.
    pub fn explain(self: &Arc<Self>, who: &str, namespace: Namespace) -> Result<Explained, Fault> {
        if !self.namespaces().matches(namespace.job().name()) {
            let (who, own) = (printable(who), self.namespaces());
            let text = format!("namespace `{namespace}` is not that of `{who}`, which may use `{own}`");
            return Err(Fault::new(Reason::NamespaceDenied, text));
        }
        let entry = self.policies().entry(namespace.job());
        Ok(Explained { namespace, rules: Arc::clone(self), entry })
    }
}

impl Explained {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The rules by which the caller acts there.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The entry that is for the job.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Whether a registry may be asked for `reference`.
    pub fn pull(&self, reference: &Reference) -> Result<Because, Fault> {
        let pattern = self.entry.pull(self.namespace.job(), reference)?;
        Ok(Because { key: "pull", pattern: pattern.to_string(), unless: None })
    }

    /// Whether an image may be pushed to `reference`, which comes from `field` of a request.
    pub fn push(&self, field: impl Into<Cow<'static, str>>, reference: Reference) -> Result<Because, Fault> {
        let (_, pattern) = self.entry.push(self.namespace.job(), field, reference)?;
        Ok(Because { key: "push", pattern: pattern.to_string(), unless: None })
    }

    /// Whether builds may use `reference` if the operator has put it on the node.
    pub fn node_image(&self, reference: &Reference) -> Result<Because, Fault> {
        let pattern = self.entry.node_image(self.namespace.job(), reference)?;
        Ok(Because { key: "node_images", pattern: pattern.to_string(), unless: None })
    }

    /// Whether a build may fetch `url`, whose host is `host`. Names are not looked up.
    pub fn add(&self, url: &str, host: &str) -> Result<Because, Fault> {
        let (pattern, allowed) = self.entry.fetch(self.namespace.job(), url)?;
        let unless = match (host.parse::<IpAddr>(), allowed) {
            (Ok(address), _) => {
                entry::address(url, allowed, address)?;
                None
            }
            (Err(_), Allowed::Public) => {
                Some("unless an address of the host is one of the node or its network")
            }
            (Err(_), Allowed::Named) => {
                Some("unless an address of the host is link-local or of a metadata service")
            }
        };
        Ok(Because { key: "add", pattern: pattern.to_string(), unless })
    }

    /// Whether a step may have this network.
    pub fn network(&self, network: StepNetwork) -> Result<Because, Fault> {
        self.entry.network(self.namespace.job(), network)?;
        Ok(Because { key: "networks", pattern: network.as_str().to_owned(), unless: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{reference, under};

    /// The text and the reason of a refusal.
    fn refused<T>(judged: Result<T, Fault>) -> Option<(String, Reason)> {
        judged.err().map(|fault| (fault.to_string(), fault.reason()))
    }

    #[test]
    fn an_explanation_is_what_a_permit_would_be() {
        const ALL: &str = "pull = [\"*\"]\npush = [\"*\"]\nnode_images = [\"*\"]\n";
        let entry = |keys: &str| format!("[[policy]]\nname = \"a\"\njobs = [\"*\"]\n{keys}");
        let one =
            "pull = [\"reg.example/*\"]\npush = [\"reg.example/app:1\"]\nnode_images = [\"app:latest\"]\n";
        let digest = format!("reg.example/app@sha256:{}", "a".repeat(64));
        for file in [String::new(), entry(""), entry(ALL), entry(one)] {
            let permit = under(&file, Namespace::new("acme/app", "1").unwrap());
            let explained = permit.explain();
            for text in [
                "app",
                "reg.example/app",
                "reg.example/app:1",
                "127.0.0.1:5000/app",
                "wharf.invalid/x/hold/y:1",
                "x.WHARF.invalid:80/app",
                &digest,
            ] {
                let name = || reference(text);
                let pulled = (refused(explained.pull(&name())), refused(permit.pull_from(name())));
                let pushed = (refused(explained.push("f", name())), refused(permit.push_to("f", name())));
                assert_eq!((pulled.0, pushed.0), (pulled.1, pushed.1), "{file}{text}");
                let node = explained.node_image(&name());
                assert_eq!(node.is_ok(), permit.from_node(name()).is_some(), "{file}{text}");
                let is_reserved = name().is_reserved();
                assert!(!is_reserved || (node.is_err() && explained.pull(&name()).is_err()), "{file}{text}");
            }
        }
    }
}

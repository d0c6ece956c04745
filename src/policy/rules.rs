//! The rules for callers.

use std::sync::Arc;

use super::{Permit, Policies};
use crate::{
    config::AT_ONCE,
    fault::{Fault, Reason},
    names::{CallerId, Namespace, Pattern},
};

/// The rules for one set of callers.
#[derive(Debug, PartialEq, Eq)]
pub struct Rules {
    /// How messages name these rules: "built-in", "serve uid 1000".
    name: String,
    namespaces: Pattern,
    at_once: u32,
    policies: Arc<Policies>,
}

impl Rules {
    /// Rules for callers who may act for jobs that match `namespaces`, and do there what `policies` say.
    pub fn new(name: impl Into<String>, namespaces: Pattern, policies: &Arc<Policies>) -> Self {
        Self { name: name.into(), namespaces, at_once: AT_ONCE, policies: Arc::clone(policies) }
    }

    /// The same, where jobs may do what the built-in rules allow.
    pub fn built_in(name: impl Into<String>, namespaces: Pattern) -> Self {
        Self::new(name, namespaces, &Arc::default())
    }

    /// The same rules with another limit on the work that runs at once.
    #[must_use]
    pub fn with_at_once(self, at_once: u32) -> Self {
        Self { at_once, ..self }
    }

    /// How many builds, pushes, pulls and saves of a caller may run at once; as many changes may run beside them.
    pub fn at_once(&self) -> u32 {
        self.at_once
    }

    /// How messages name these rules.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The jobs whose namespaces the caller may act in.
    pub fn namespaces(&self) -> &Pattern {
        &self.namespaces
    }

    pub(super) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// A description of these rules for the operator, one line for each.
    pub fn describe(&self) -> Vec<String> {
        let caller = [
            format!("namespaces: `{}`", self.namespaces),
            format!("builds, pushes, pulls and saves that run at once: {}", self.at_once),
        ];
        caller.into_iter().chain(self.policies.describe()).collect()
    }

    /// Whether `caller`, whose rules these are, may act in `namespace`.
    pub fn namespace(
        self: &Arc<Self>,
        caller: &CallerId,
        namespace: Namespace,
    ) -> Result<Permit<Namespace>, Fault> {
        if self.namespaces.matches(namespace.job().name()) {
            let entry = self.policies.entry(namespace.job());
            return Ok(Permit { subject: namespace, caller: caller.clone(), rules: Arc::clone(self), entry });
        }
        let text = format!("namespace `{namespace}` is not yours: you may use `{}`", self.namespaces);
        Err(Fault::new(Reason::NamespaceDenied, text)
            .hint("name one of yours, or ask the node's operator for a `[[serve]]` rule"))
    }
}

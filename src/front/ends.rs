//! Refuses tokens that are older than the end of the namespace that they prove.

use crate::{
    fault::{Fault, Reason},
    identity::Caller,
    names::{IssuerName, Namespace, printable},
    policy::Permit,
    store::Store,
};

/// The fault of a token that is older than the end of its namespace.
pub fn too_old(namespace: &Namespace) -> Fault {
    let text = format!(
        "namespace `{}` has ended, and your token is older than that",
        printable(&namespace.to_string())
    );
    let hint = "get a new token: the end of a namespace revokes the tokens that were issued before it";
    Fault::new(Reason::NamespaceDenied, text).hint(hint)
}

/// The ends of namespaces. A namespace that a caller names without a proof has no end: another run of the same name
/// is the caller's own doing.
#[derive(Debug)]
pub(super) struct Ends {
    store: Store,
}

impl Ends {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Fails if the caller's token was made before its namespace has ended, or its pod has ended.
    pub(super) async fn check(&self, caller: &Caller, namespace: &Namespace) -> Result<(), Fault> {
        caller.is_present()?;
        if self.is_over(caller, namespace).await? { Err(too_old(namespace)) } else { Ok(()) }
    }

    /// Whether the namespace that the caller has proven has ended since.
    pub(super) async fn is_over(&self, caller: &Caller, namespace: &Namespace) -> Result<bool, Fault> {
        let Some(proven) = caller.proven_at() else { return Ok(false) };
        let ended = self.store.of(caller.id()).namespace_ended(namespace.key()).await?;
        Ok(ended.is_some_and(|ended| proven <= ended))
    }

    /// Ends a namespace for the proofs so far.
    pub(super) async fn end(&self, namespace: &Permit<Namespace>) -> Result<(), Fault> {
        let (caller, namespace) = (namespace.caller(), namespace.subject());
        // A pod has no older token: only the pod's own end is final.
        if namespace.job().issuer().is_none_or(|issuer| *issuer == IssuerName::of_pods()) {
            return Ok(());
        }
        self.store.of(caller).end_namespace(namespace.key()).await
    }
}

//! Refuses tokens that are older than the end of the namespace that they prove.

use crate::{
    fault::{Fault, Reason},
    identity::Caller,
    names::Namespace,
    policy::Permit,
    store::Store,
};

/// The fault of a token that is older than the end of its namespace.
pub fn too_old(namespace: &Namespace) -> Fault {
    let text = format!("namespace `{namespace}` has ended, and your token is older than that");
    let hint = "get a new token: a namespace ends when it is deleted, or when nobody has used it for long, and the \
                tokens from before end with it";
    Fault::new(Reason::NamespaceDenied, text).hint(hint)
}

/// The ends of namespaces: that by a call, which counts from the moment it is done; the store notes that of a namespace
/// that nobody uses. A namespace that a caller names without a proof has no end: another run of the same name is the
/// caller's own doing.
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
        if !namespace.is_of_tokens() {
            return Ok(());
        }
        self.store.of(caller).end_namespace(namespace.key()).await
    }
}

//! Notes which namespaces are used, so that unused ones can end.

use crate::{
    fault::{Fault, Reason},
    names::{CallerId, EngineName, Namespace},
    naming::{MountsKey, NamespaceKey},
    policy::Permit,
    store::{Lease, Store},
};

/// How many namespaces a caller may have in an engine at once: a node starts fewer builds in a day.
const NAMESPACES_MAX: u32 = 10_000;

/// The namespaces that may own something.
#[derive(Debug)]
pub(super) struct Leases {
    store: Store,
}

impl Leases {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Notes that a namespace, whose opaque name this is, is used, before it owns anything.
    pub(super) async fn renew(
        &self,
        engine: &EngineName,
        namespace: &Permit<Namespace>,
        opaque: &NamespaceKey,
    ) -> Result<(), Fault> {
        let (caller, namespace) = (namespace.caller(), namespace.subject());
        let store = self.store.of(caller);
        if store.use_namespace(engine, opaque, namespace, caller, NAMESPACES_MAX).await? {
            return Ok(());
        }
        let text = format!("{caller} has {NAMESPACES_MAX} namespaces on this node, which is the limit");
        let hint = "end some; those that nobody uses end by themselves";
        Err(Fault::new(Reason::LimitReached, text).hint(hint))
    }

    /// Notes that the job of a namespace is built, whose cache mounts have this name.
    pub(super) async fn use_job(
        &self,
        engine: &EngineName,
        namespace: &Permit<Namespace>,
        mounts: &MountsKey,
    ) -> Result<(), Fault> {
        let (caller, job) = (namespace.caller(), namespace.subject().job());
        self.store.of(caller).use_job(engine, mounts, job, caller).await
    }

    /// Notes that the job of a namespace is ended, whose cache mounts have this name. Returns whether it can have any.
    pub(super) async fn end_job(
        &self,
        engine: &EngineName,
        namespace: &Permit<Namespace>,
        mounts: &MountsKey,
    ) -> Result<bool, Fault> {
        self.store.of(namespace.caller()).end_job(engine, mounts).await
    }

    /// The namespaces that may own something in an engine, for `caller`.
    pub(super) async fn list(&self, caller: &CallerId, engine: &EngineName) -> Result<Vec<Lease>, Fault> {
        self.store.of(caller).namespaces(engine).await
    }
}

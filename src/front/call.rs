//! An accepted call: who makes it, in which namespace, and how it ends.

use std::{future::Future, sync::Arc};

use tracing::Instrument as _;

use super::outcome::{End, Record};
use crate::{
    engines::Handle,
    fault::Fault,
    identity::Caller,
    images::Images,
    names::{EngineName, Namespace},
    policy::Permit,
};

/// An accepted call: it is known who calls, and which engine works for it. Cheap to clone; a call whose
/// last clone goes before its end was said has ended because its client went.
#[derive(Clone, Debug)]
pub struct Call {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    caller: Caller,
    engine: Handle,
    record: Record,
}

impl Call {
    pub(super) fn new(caller: Caller, engine: Handle, record: Record) -> Self {
        record.accepted(caller.id());
        Self { inner: Arc::new(Inner { caller, engine, record }) }
    }

    pub(super) fn record(&self) -> &Record {
        &self.inner.record
    }

    /// Who calls.
    pub fn caller(&self) -> &Caller {
        &self.inner.caller
    }

    /// The engine that works for the caller.
    pub fn engine(&self) -> &Handle {
        &self.inner.engine
    }

    /// The images of that engine, if it can be used now. All of a call uses one answer: it is about one
    /// engine, even if another one takes its place meanwhile.
    pub async fn images(&self) -> Result<Images, Fault> {
        self.inner.engine.images().await
    }

    /// The engine's name in the configuration.
    pub fn engine_name(&self) -> &EngineName {
        self.inner.caller.engine()
    }

    /// Allows the call to act in the namespace that its request names.
    pub fn authorize(&self, namespace: Namespace) -> Result<Permit<Namespace>, Fault> {
        self.acts_in(&namespace);
        self.inner.caller.rules().namespace(namespace)
    }

    /// Says in which namespace the call acts, where that follows from something else than its request.
    pub fn acts_in(&self, namespace: &Namespace) {
        self.inner.record.acts_in(namespace);
    }

    /// Does all of a call's `work` in its span; what it comes to is the call's end.
    pub async fn answer<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let answer = self.begin(work).await?;
        self.ended(&End::Done);
        Ok(answer)
    }

    /// Does what comes before a call's answer begins, in its span. Only a failure is the call's end:
    /// who streams the answer says the end.
    pub async fn begin<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let begun = work.instrument(self.inner.record.span().clone()).await;
        match &begun {
            Ok(_) => self.inner.record.span().in_scope(|| tracing::debug!("begun")),
            Err(fault) => self.ended(&End::Fault(fault)),
        }
        begun
    }

    /// Says how the call has ended. The first end stands.
    pub fn ended(&self, end: &End<'_>) {
        self.inner.record.end(end);
    }
}

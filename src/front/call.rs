//! An accepted call: its caller, its namespace, and how it ends.

use std::{future::Future, sync::Arc, time::Duration};

use tracing::Instrument as _;

use super::outcome::{End, Record};
use crate::{
    audit::Details,
    engines::Handle,
    fault::Fault,
    identity::Caller,
    images::Images,
    names::{EngineName, Namespace},
    policy::Permit,
};

/// An accepted call, with its caller and the engine that serves it. It is cheap to clone. If the last clone
/// is dropped before the end was recorded, the call has ended because its client disconnected.
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
        Self { inner: Arc::new(Inner { caller, engine, record }) }
    }

    pub(super) fn record(&self) -> &Record {
        &self.inner.record
    }

    /// The caller.
    pub fn caller(&self) -> &Caller {
        &self.inner.caller
    }

    /// The engine that serves the caller.
    pub fn engine(&self) -> &Handle {
        &self.inner.engine
    }

    /// The images of that engine, if it is usable now. Ask once for each call, so that the whole call deals
    /// with one engine even if another one takes its place meanwhile.
    pub async fn images(&self) -> Result<Images, Fault> {
        self.inner.engine.images().await
    }

    /// The engine's name in the configuration.
    pub fn engine_name(&self) -> &EngineName {
        self.inner.caller.engine()
    }

    /// Allows the call to act in the namespace that its request names, or in the one that its caller has proven.
    pub fn authorize(&self, named: Option<Namespace>) -> Result<Permit<Namespace>, Fault> {
        let permit = self.inner.caller.namespace(named.clone());
        // The log of a refused call has the name that the call asked for.
        match (&permit, &named) {
            (Ok(permit), _) => self.acts_in(permit),
            (Err(_), Some(named)) => self.inner.record.asks_for(named),
            (Err(_), None) => {}
        }
        permit
    }

    /// Records the namespace in which the call acts, if something other than its request determines it.
    pub fn acts_in(&self, permit: &Permit<Namespace>) {
        self.inner.record.acts_in(permit);
    }

    /// Records which other caller the call asks about, and in which namespace.
    pub fn asks_about(&self, caller: &str, namespace: Option<&Namespace>) {
        self.details().asked_about(caller);
        if let Some(namespace) = namespace {
            self.inner.record.asks_for(namespace);
        }
    }

    /// The details of the call, for the audit log.
    pub fn details(&self) -> &Details {
        self.inner.record.details()
    }

    /// Records how long the call has waited for its turn.
    pub fn waited(&self, time: Duration) {
        self.inner.record.waited(time);
    }

    /// Does all of a call's `work` in its span; the result ends the call.
    pub async fn answer<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let answer = self.begin(work).await?;
        self.ended(&End::Done);
        Ok(answer)
    }

    /// Does the work before a streamed answer begins, in the call's span. Only a failure ends the call here;
    /// otherwise the task that streams the answer records the end.
    pub async fn begin<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let begun = work.instrument(self.inner.record.span().clone()).await;
        match &begun {
            Ok(_) => self.inner.record.span().in_scope(|| tracing::debug!("begun")),
            Err(fault) => self.ended(&End::Fault(fault)),
        }
        begun
    }

    /// Records that the call has ended with its work.
    pub fn ended_with<T>(&self, done: &Result<T, Fault>) {
        match done {
            Ok(_) => self.ended(&End::Done),
            Err(fault) => self.ended(&End::Fault(fault)),
        }
    }

    /// Records how the call has ended. Only the first end counts.
    pub fn ended(&self, end: &End<'_>) {
        self.inner.record.end(end);
    }
}

//! The first and the last lines of every handler: who calls, in which namespace, and the answer.

use std::{future::Future, time::Instant};

use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span};

use super::{Front, Member, status};
use crate::{
    engine::Engine,
    fault::{Fault, Reason},
    identity::Caller,
    images::Images,
    names::{EngineName, Namespace, printable},
    policy::Permit,
    transport::Peer,
    wire::v1,
};

/// An accepted call: it is known who calls, and which engine works for it.
#[derive(Clone, Debug)]
pub struct Call {
    caller: Caller,
    images: Images,
    span: Span,
}

impl Front {
    /// Accepts a call of `method`, `SERVICE/METHOD` for the log, or refuses whoever is not known.
    pub fn accept<T>(&self, request: &Request<T>, method: &'static str) -> Result<Call, Status> {
        let span = tracing::info_span!(
            "call",
            method,
            caller = tracing::field::Empty,
            namespace = tracing::field::Empty
        );
        let accepted = span.in_scope(|| {
            let accepted = self.identify(request);
            if let Err(fault) = &accepted {
                status::log(fault);
            }
            accepted
        });
        let (caller, images) = accepted.map_err(|fault| status::from_fault(&fault))?;
        span.record("caller", tracing::field::display(&caller));
        Ok(Call { caller, images, span })
    }

    fn identify<T>(&self, request: &Request<T>) -> Result<(Caller, Images), Fault> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Fault::new(Reason::UnknownCaller, "nobody vouches for this connection"))?;
        let caller = self.identities.identify(peer)?;
        let images = self
            .engines
            .get(caller.engine())
            .ok_or_else(|| Fault::internal(format!("no engine `{}`", caller.engine())))?;
        Ok((caller, images.clone()))
    }
}

impl Call {
    /// Who calls.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The engine that works for the caller.
    pub fn engine(&self) -> &Engine {
        self.images.engine()
    }

    /// The images of that engine.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The engine's name in the configuration.
    pub fn engine_name(&self) -> &EngineName {
        self.caller.engine()
    }

    /// Allows the call to act in the namespace that its request names.
    pub fn authorize(&self, namespace: Option<v1::Namespace>) -> Result<Permit<Namespace>, Fault> {
        let v1::Namespace { job, run } =
            namespace.ok_or_else(|| Fault::invalid("namespace", "the request names no namespace"))?;
        let namespace =
            Namespace::new(job, run).map_err(|error| Fault::invalid("namespace", error.to_string()))?;
        self.span.record("namespace", printable(&namespace.to_string()));
        self.caller.rules().namespace(namespace)
    }

    /// Does `work` in the call's span, and answers with what it comes to.
    pub async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        async {
            let outcome = work.await;
            match &outcome {
                Ok(_) => tracing::debug!(elapsed = ?begun.elapsed(), "answered"),
                Err(fault) => status::log(fault),
            }
            outcome.map(Response::new).map_err(|fault| status::from_fault(&fault))
        }
        .instrument(self.span.clone())
        .await
    }

    /// The status for a fault that ends the call, which is logged.
    pub fn failed(&self, fault: &Fault) -> Status {
        self.span.in_scope(|| status::log(fault));
        status::from_fault(fault)
    }
}

/// Does `work` to its end, also when the client goes: half of a change helps nobody.
pub(super) async fn to_its_end<T: Send + 'static>(
    member: Member,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    let tasks = (*member).clone();
    let held = async move {
        let _member = member;
        work.await
    };
    tasks.spawn("change", held.in_current_span()).await?
}

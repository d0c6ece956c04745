//! The common part of wharfd's front doors, for any protocol: a call is accepted, authorized, does its
//! work, and ends with one outcome.

mod call;
mod calls;
mod ends;
mod events;
mod jobs;
mod leases;
mod looks;
mod outcome;
mod queue;
mod quotas;
mod work;

use std::{collections::BTreeMap, sync::Arc};

pub use call::Call;
pub use jobs::{Jobs, Retirement};
pub use looks::{Look, Looking};
pub use outcome::End;
pub use work::{Member, Work, WorkKind};

use crate::{
    audit::Trail,
    engines::Handle,
    fault::{Fault, Reason},
    identity::{self, Caller, Kept, Presented, Served},
    metrics::Metrics,
    names::{CallerId, EngineName, Namespace},
    naming::MountsKey,
    policy::{Explained, Permit},
    store::{Lease, Store},
    transport::Peer,
};
use calls::Calls;
pub use calls::Running;
use ends::Ends;
pub use ends::too_old;
use events::Events;
use leases::Leases;
use looks::Looks;
use outcome::{Lines, Record};
pub use queue::{Builds, Queues, Turn, Waiting};
use quotas::Quotas;
pub use quotas::Share;

/// The state that all doors and their handlers share.
#[derive(Debug)]
pub struct Front {
    served: Arc<Served>,
    engines: BTreeMap<EngineName, Handle>,
    work: Arc<Work>,
    lines: Arc<Lines>,
    quotas: Arc<Quotas>,
    queues: Queues,
    looks: Looks,
    calls: Calls,
    ends: Ends,
    leases: Leases,
}

impl Front {
    /// Makes a front for the callers that are `served`; `engines` contains every engine that they name. A
    /// caller may have `calls_per_caller` calls at once. The events of calls go to `trail`, and `metrics` count them.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
    pub fn new(
        served: Arc<Served>,
        engines: BTreeMap<EngineName, Handle>,
        work: Arc<Work>,
        store: Store,
        queues: Queues,
        calls_per_caller: usize,
        trail: Trail,
        metrics: Metrics,
    ) -> Arc<Self> {
        let (quotas, looks) = (Arc::default(), Looks::default());
        let lines = Arc::new(Lines::new(Events::new(trail), metrics));
        let (calls, ends) = (Calls::new(calls_per_caller), Ends::new(store.clone()));
        let leases = Leases::new(store);
        Arc::new(Self { served, engines, work, lines, quotas, queues, looks, calls, ends, leases })
    }

    /// Identifies the caller of a call to `path`, before anything but the call's head is read.
    pub fn identify(&self, presented: &Presented<'_>, path: &str) -> Result<Caller, Fault> {
        let identified = self.served.now().identify(presented);
        identified.inspect_err(|fault| self.lines.stranger(fault, identity::anyone(presented.peer), path))
    }

    /// Counts a call of `caller` as running for as long as the value lives, or refuses it.
    pub fn begin_call(&self, caller: &Caller, path: &str) -> Result<Running, Fault> {
        self.calls.take(caller.id()).inspect_err(|fault| self.lines.limited(fault, caller.id(), path))
    }

    /// The same for a call that anybody may make, which counts for the peer.
    pub fn anyone(&self, peer: &Peer, path: &str) -> Result<Running, Fault> {
        let id = identity::anyone(peer);
        self.calls.take(&id).inspect_err(|fault| self.lines.limited(fault, &id, path))
    }

    /// The fault of a caller that has too many connections.
    pub fn too_many_connections(&self, caller: &Caller, path: &str) -> Fault {
        let fault = Fault::new(Reason::LimitReached, format!("{caller} has too many connections"))
            .hint("try again when some have ended");
        self.lines.limited(&fault, caller.id(), path);
        fault
    }

    /// Accepts a call of an identified caller. `method` is the name for the log.
    pub fn accept(&self, caller: Caller, method: &'static str) -> Result<Call, Fault> {
        let record = Record::begin(&caller, method, &self.lines);
        match self.engines.get(caller.engine()) {
            Some(engine) => Ok(Call::new(caller, engine.clone(), record)),
            None => {
                let fault = Fault::internal(format!("no engine `{}`", caller.engine()));
                record.end(&End::Fault(&fault));
                Err(fault)
            }
        }
    }

    /// Logs a call that was refused before it reached a handler.
    pub fn refused(&self, fault: &Fault) {
        self.lines.unseen(fault);
    }

    /// Allows the call to act in the namespace that its request names, or in the one that its caller has proven,
    /// unless that has ended.
    pub async fn authorize(&self, call: &Call, named: Option<Namespace>) -> Result<Permit<Namespace>, Fault> {
        let permit = call.authorize(named)?;
        self.ends.check(call.caller(), permit.subject()).await?;
        Ok(permit)
    }

    /// Explains to the node's operator what another caller's job may do.
    pub fn explain(
        &self,
        call: &Call,
        caller: &str,
        namespace: Option<Namespace>,
    ) -> Result<Explained, Fault> {
        let explained = if matches!(call.caller().id(), CallerId::Operator(_)) {
            self.served.now().explain(caller, namespace.clone())
        } else {
            let text = "only the node's operator may ask about another caller";
            Err(Fault::new(Reason::NamespaceDenied, text))
        };
        let asked = explained.as_ref().map_or(namespace.as_ref(), |explained| Some(explained.namespace()));
        call.asks_about(caller, asked);
        explained
    }

    /// Puts a build into the queue of its engine, which has this number of processors; an error if the queue
    /// is full.
    pub fn queue(
        &self,
        call: &Call,
        namespace: &Permit<Namespace>,
        processors: usize,
    ) -> Result<Waiting, Fault> {
        let (engine, served) = (call.engine_name(), self.served.now());
        self.queues.wait(engine, processors, served.is_shared(engine), namespace)
    }

    /// How many builds an engine has.
    pub fn builds(&self, engine: &EngineName) -> Builds {
        self.queues.builds(engine)
    }

    /// Authorizes a call again, after it has waited: its token may have expired or been ended, and its rules may have
    /// changed.
    pub async fn authorize_again(
        &self,
        call: &Call,
        kept: &Kept,
        namespace: &Permit<Namespace>,
    ) -> Result<Permit<Namespace>, Fault> {
        let caller = self.served.now().identify_again(kept).map_err(|fault| {
            fault.hint("the token was valid when the build was called, but not at its turn: get a new one")
        })?;
        if caller.id() != call.caller().id() || caller.engine() != call.engine_name() {
            let text = "your identity or your engine has changed while the build waited for its turn";
            return Err(Fault::new(Reason::NamespaceDenied, text).hint("try again"));
        }
        let permit = caller.namespace(Some(namespace.subject().clone()))?;
        self.ends.check(&caller, permit.subject()).await?;
        call.record().acts_by(&permit);
        Ok(permit)
    }

    /// Refuses new work, and ends the wait of builds that have not begun; running work continues.
    pub fn drain(&self) {
        self.work.group().drain();
        self.queues.close();
    }

    /// Begins the work of a call and makes a group for its tasks. Fails once wharfd is draining, while the
    /// namespace is being deleted, and when the caller is at the limit of its rules.
    pub async fn begin(
        &self,
        call: &Call,
        namespace: &Permit<Namespace>,
        kind: WorkKind,
    ) -> Result<Member, Fault> {
        let share = self.quotas.take(call.caller(), kind)?;
        let member = self.work.begin(call.engine_name(), namespace, kind)?.with_share(share);
        // Once more, since an end lets work begin again only after it is known here.
        self.ends.check(call.caller(), namespace.subject()).await?;
        // A session makes nothing itself.
        if kind != WorkKind::Session {
            self.leases.renew(call.engine_name(), namespace, member.namespace()).await?;
        }
        let member =
            if kind == WorkKind::Build { self.begin_job(call, namespace, member).await? } else { member };
        call.record().works(Some(kind));
        Ok(member)
    }

    /// Notes that a build uses the cache mounts of its job, before it makes any.
    async fn begin_job(
        &self,
        call: &Call,
        namespace: &Permit<Namespace>,
        member: Member,
    ) -> Result<Member, Fault> {
        let (engine, mounts) = (call.engine_name(), self.work.mounts_of(namespace));
        let used = member.tasks().unless_cancelled(self.work.jobs().build(engine, &mounts)).await?;
        self.leases.use_job(engine, namespace, &mounts).await?;
        Ok(member.with_job(used))
    }

    /// Notes that a job is ended, so that its cache mounts go even if wharfd ends before. Returns their name and the right
    /// to remove them; `None` if it has none.
    pub async fn end_job(
        &self,
        call: &Call,
        namespace: &Permit<Namespace>,
    ) -> Result<Option<(MountsKey, Retirement)>, Fault> {
        let (engine, mounts) = (call.engine_name(), self.work.mounts_of(namespace));
        let retirement = self.work.jobs().retirement(engine, &mounts).await;
        let has_any = self.leases.end_job(engine, namespace, &mounts).await?;
        Ok(has_any.then_some((mounts, retirement)))
    }

    /// Begins the end of a namespace: `Work::end` needs the share until it is over. `None` if the namespace has
    /// ended since the caller has proven it: one of the same name is another's.
    pub async fn begin_end(
        &self,
        call: &Call,
        namespace: &Permit<Namespace>,
    ) -> Result<Option<Share>, Fault> {
        let share = self.quotas.take_end(call.caller())?;
        if self.ends.is_over(call.caller(), namespace.subject()).await? {
            return Ok(None);
        }
        call.record().works(None);
        Ok(Some(share))
    }

    /// Ends a namespace for the proofs so far, once all that it had is gone. Before that, an end that has failed
    /// can be tried again.
    pub async fn has_ended(&self, namespace: &Permit<Namespace>) -> Result<(), Fault> {
        self.ends.end(namespace).await
    }

    /// The namespaces that may own something in the engine of the caller, and in which it may act; all of them for the
    /// node's operator.
    pub async fn namespaces(&self, call: &Call) -> Result<Vec<Lease>, Fault> {
        let caller = call.caller();
        let mut leases = self.leases.list(caller.id(), call.engine_name()).await?;
        let may_act = |namespace: &Namespace| {
            // A name that an issuer has proven and the same name without a proof are two namespaces.
            caller.namespace(Some(namespace.clone())).is_ok_and(|permit| permit.subject() == namespace)
        };
        // Root in a container is not the node's operator.
        let sees_all = matches!(caller.id(), CallerId::Operator(_));
        leases.retain(|lease| sees_all || lease.namespace.as_ref().is_some_and(may_act));
        // A token acts in one namespace at most, and in none that has ended since.
        if caller.proven_at().is_some()
            && let Some(namespace) = leases.first().and_then(|lease| lease.namespace.as_ref())
        {
            self.ends.check(caller, namespace).await?;
        }
        Ok(leases)
    }

    /// Waits until the caller may look at the engine's images once more.
    pub async fn look(&self, call: &Call, look: Look) -> Looking {
        self.looks.begin(call.caller().id(), look).await
    }

    /// Every engine, in a fixed order.
    pub fn engines(&self) -> impl Iterator<Item = &Handle> {
        self.engines.values()
    }

    /// The running work.
    pub fn work(&self) -> &Arc<Work> {
        &self.work
    }
}

//! The common part of wharfd's front doors, for any protocol: a call is accepted, authorized, does its
//! work, and ends with one outcome.

mod call;
mod looks;
mod outcome;
mod quotas;
mod work;

use std::{collections::BTreeMap, sync::Arc};

pub use call::Call;
pub use looks::{Look, Looking};
pub use outcome::End;
pub use work::{Kind, Member, Work};

use crate::{
    engines::Handle,
    fault::{Fault, Reason},
    identity::{Caller, Identities},
    names::{EngineName, Namespace},
    policy::Permit,
    transport::Peer,
};
use looks::Looks;
use outcome::{Lines, Record};
use quotas::Quotas;
pub use quotas::Share;

/// The state that all doors and their handlers share.
#[derive(Debug)]
pub struct Front {
    identities: Arc<Identities>,
    engines: BTreeMap<EngineName, Handle>,
    work: Arc<Work>,
    lines: Arc<Lines>,
    quotas: Arc<Quotas>,
    looks: Looks,
}

impl Front {
    /// Makes a front for `identities`; `engines` contains every engine that they name.
    pub fn new(
        identities: Arc<Identities>,
        engines: BTreeMap<EngineName, Handle>,
        work: Arc<Work>,
    ) -> Arc<Self> {
        let (lines, quotas, looks) = (Arc::default(), Arc::default(), Looks::default());
        Arc::new(Self { identities, engines, work, lines, quotas, looks })
    }

    /// Accepts a call, or refuses an unknown caller. `peer` is the other end of its connection; `method` is
    /// the name for the log.
    pub fn accept(&self, peer: Option<&Peer>, method: &'static str) -> Result<Call, Fault> {
        let record = Record::begin(method, &self.lines);
        match self.identify(peer) {
            Ok((caller, engine)) => Ok(Call::new(caller, engine, record)),
            Err(fault) => {
                record.end(&End::Fault(&fault));
                Err(fault)
            }
        }
    }

    fn identify(&self, peer: Option<&Peer>) -> Result<(Caller, Handle), Fault> {
        let peer =
            peer.ok_or_else(|| Fault::new(Reason::UnknownCaller, "this connection has no verified peer"))?;
        let caller = self.identities.identify(peer)?;
        let engine = self
            .engines
            .get(caller.engine())
            .ok_or_else(|| Fault::internal(format!("no engine `{}`", caller.engine())))?;
        Ok((caller, engine.clone()))
    }

    /// Logs a call that was refused before it reached a handler.
    pub fn refused(&self, fault: &Fault) {
        self.lines.unseen(fault);
    }

    /// Begins the work of a call and makes a group for its tasks. Fails once wharfd is draining, while the
    /// namespace is being deleted, and when the caller is at the limit of its rules.
    pub fn begin(&self, call: &Call, namespace: &Permit<Namespace>, kind: Kind) -> Result<Member, Fault> {
        let share = self.quotas.take(call.caller(), kind)?;
        let member = self.work.begin(call.engine_name(), namespace, kind)?.with_share(share);
        call.record().works(kind);
        Ok(member)
    }

    /// Begins the end of a namespace: `Work::end` needs the share until it is over.
    pub fn begin_end(&self, call: &Call) -> Result<Share, Fault> {
        self.quotas.take_end(call.caller())
    }

    /// Waits until the caller may look at the engine's images once more.
    pub async fn look(&self, call: &Call, look: Look) -> Result<Looking, Fault> {
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

//! Limits on the running work of one caller, so that no caller takes a whole engine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::WorkKind;
use crate::{
    fault::{Fault, Reason},
    identity::Caller,
    names::CallerId,
};

/// The kinds of work that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Load {
    /// Pushes, pulls and saves, which keep the engine and registries busy.
    Transfer,
    /// Changes, which keep the store busy.
    Store,
    /// Ends of namespaces, each of which lists the engine's images, and continues without its client.
    End,
}

/// The running work of each caller.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    by: Mutex<HashMap<(CallerId, Load), u32>>,
}

impl Quotas {
    /// Takes a share for a piece of `caller`'s work; an error if the caller is at the limit of its rules. Builds have a
    /// queue instead, and a session only waits for builds.
    pub(super) fn take(self: &Arc<Self>, caller: &Caller, kind: WorkKind) -> Result<Option<Share>, Fault> {
        let (load, what) = match kind {
            WorkKind::Session | WorkKind::Build => return Ok(None),
            WorkKind::Push | WorkKind::Pull | WorkKind::Save => (Load::Transfer, "pushes, pulls and saves"),
            WorkKind::Change => (Load::Store, "tags and removals"),
        };
        self.take_of(caller, load, what).map(Some)
    }

    /// Takes a share for the end of a namespace. It is not the share of a change: a caller at that limit can
    /// still clean up.
    pub(super) fn take_end(self: &Arc<Self>, caller: &Caller) -> Result<Share, Fault> {
        self.take_of(caller, Load::End, "removals of namespaces")
    }

    fn take_of(self: &Arc<Self>, caller: &Caller, load: Load, what: &str) -> Result<Share, Fault> {
        let (key, max) = ((caller.id().clone(), load), caller.rules().at_once());
        let mut by = self.by();
        // A refused caller must not leave an entry behind.
        let count = by.get(&key).copied().unwrap_or_default();
        if count >= max {
            let text = format!("{caller} has {count} running {what}, which is its limit");
            let hint = "try again when one has ended; the limit is `at_once` of the caller's `[[serve]]` in \
                        wharfd's configuration";
            return Err(Fault::new(Reason::LimitReached, text).hint(hint));
        }
        by.insert(key.clone(), count + 1);
        drop(by);
        Ok(Share { key, quotas: Arc::clone(self) })
    }

    fn by(&self) -> MutexGuard<'_, HashMap<(CallerId, Load), u32>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of one piece of work; dropping it frees the share.
#[derive(Debug)]
pub struct Share {
    key: (CallerId, Load),
    quotas: Arc<Quotas>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut by = self.quotas.by();
        if let Some(count) = by.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                by.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        config::{Config, Flags},
        identity::{Identities, Presented},
        transport::Peer,
    };

    #[test]
    fn each_caller_has_a_quota_of_its_own() {
        let file =
            "[[serve]]\nuid = 1\nnamespaces = \"*\"\nat_once = 2\n[[serve]]\nuid = 2\nnamespaces = \"*\"\n";
        let identities =
            Identities::new(&Config::with_file(Flags::try_parse_from(["wharfd"]).unwrap(), file)).unwrap();
        let [one, two] = [1, 2].map(|uid| {
            let peer = Peer::User { uid, pid: None, beside: false };
            identities.identify(&Presented { peer: &peer, authorization: None, is_alone: true }).unwrap()
        });
        let quotas = Arc::new(Quotas::default());
        let pull = quotas.take(&one, WorkKind::Pull).unwrap();
        let push = quotas.take(&one, WorkKind::Push).unwrap();
        let fault = quotas.take(&one, WorkKind::Pull).unwrap_err();
        assert_eq!(fault.reason(), Reason::LimitReached);
        let change = quotas.take(&one, WorkKind::Change).unwrap();
        assert!(change.is_some() && quotas.take(&one, WorkKind::Session).unwrap().is_none());
        assert!(quotas.take(&one, WorkKind::Build).unwrap().is_none(), "builds wait in a queue");
        let others: Vec<_> = (0..10).map(|_| quotas.take(&two, WorkKind::Pull).unwrap()).collect();
        drop(pull);
        let pull = quotas.take(&one, WorkKind::Pull).unwrap();
        let ends = [quotas.take_end(&one).unwrap(), quotas.take_end(&one).unwrap()];
        assert_eq!(quotas.take_end(&one).unwrap_err().reason(), Reason::LimitReached);
        drop((push, pull, change, others, ends));
        assert!(quotas.by().is_empty());
    }
}

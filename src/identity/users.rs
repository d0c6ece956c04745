//! Users of the node, as the kernel reports them (`SO_PEERCRED`, unix(7)).

use std::{collections::BTreeMap, sync::Arc};

use super::{Answer, Caller, rules_of};
use crate::{
    config::{Config, Who},
    fault::{Fault, Reason},
    names::{CallerId, Pattern, own_job},
    policy::{Policies, Rules},
    transport::Peer,
};

/// The uid that the kernel reports in place of every uid that has none in wharfd's user namespace, unless
/// `/proc/sys/kernel/overflowuid` says otherwise. Many systems give it to the user `nobody`, too.
pub(super) const OVERFLOW_UID: u32 = 65534;

/// All users that are served.
#[derive(Debug)]
pub(super) struct Users {
    callers: BTreeMap<CallerId, Caller>,
    overflow_uid: u32,
}

impl Users {
    /// Root and wharfd's own uid, on the default engine, plus every `[[serve]]` entry. A process of these two
    /// uids outside any container may use every namespace; one inside a container may use only the job of its
    /// own user. An entry for either uid replaces both defaults.
    pub(super) fn new(config: &Config, policies: &Arc<Policies>) -> Self {
        let overflow_uid = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
        let overflow_uid = overflow_uid.ok().and_then(|uid| uid.trim().parse().ok()).unwrap_or(OVERFLOW_UID);
        Self::with_own_uid(config, policies, rustix::process::geteuid().as_raw(), overflow_uid)
    }

    pub(super) fn with_own_uid(
        config: &Config,
        policies: &Arc<Policies>,
        own_uid: u32,
        overflow_uid: u32,
    ) -> Self {
        let own = |id: CallerId, namespaces: Pattern| {
            let name = format!("built-in {id}");
            // The operator could use the engine's socket instead; a container that runs as its uid could not.
            let rules = Arc::new(match id {
                CallerId::Operator(_) => Rules::built_in(name, namespaces),
                _ => Rules::new(name, namespaces, policies),
            });
            let engine = config.engines.default_name().clone();
            Caller { id, rules, engine, proven: None, is_operator: true }
        };
        let own = [0, own_uid]
            .into_iter()
            // If wharfd runs as `nobody`, every user without a uid here would be wharfd itself.
            .filter(|uid| {
                *uid != overflow_uid && !config.serve.iter().any(|serve| serve.who == Who::Uid(*uid))
            })
            .flat_map(|uid| {
                // Without a user namespace, a container's root is the node's root, so this uid does not prove
                // that the caller may use any job's namespace; a health probe needs no namespace. A process
                // outside any container can reach the engine's socket anyway.
                let contained = own(CallerId::Uid(uid), Pattern::only(own_job(uid)));
                [contained, own(CallerId::Operator(uid), Pattern::any())]
            });
        let named = config.serve.iter().filter_map(|serve| match serve.who {
            Who::Uid(uid) => {
                Some(Caller::served(CallerId::Uid(uid), &rules_of(serve, policies), &serve.engine))
            }
            Who::Token { .. } | Who::Certificate(_) | Who::Issuer(_) => None,
        });
        let callers = own.chain(named).map(|caller| (caller.id.clone(), caller));
        Self { callers: callers.collect(), overflow_uid }
    }

    /// Asked when a call presents no token.
    pub(super) fn identify(&self, peer: &Peer) -> Answer {
        // Another kind of peer does not compile until it is decided here whether it is a user.
        let (uid, beside) = match *peer {
            Peer::User { uid, beside, .. } => (uid, beside),
            Peer::Pod(_) | Peer::Remote { .. } => return Answer::NotPresented,
        };
        let operator = self.callers.get(&CallerId::Operator(uid)).filter(|_| beside);
        let caller = operator.or_else(|| self.callers.get(&CallerId::Uid(uid)));
        caller.cloned().map_or_else(|| Answer::Failed(self.unknown(uid)), Answer::Proven)
    }

    /// All callers that are served, in a fixed order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Caller> {
        self.callers.values()
    }

    /// The uid that stands for every user without one in wharfd's user namespace, if it is served.
    pub(super) fn serves_overflow(&self) -> Option<u32> {
        self.callers.contains_key(&CallerId::Uid(self.overflow_uid)).then_some(self.overflow_uid)
    }

    /// Whether root, and with it every container that runs as root, may use every job's namespaces.
    pub(super) fn root_is_every_job(&self) -> bool {
        let root = self.callers.get(&CallerId::Uid(0));
        root.is_some_and(|root| root.rules.namespaces().is_any())
    }

    fn unknown(&self, uid: u32) -> Fault {
        if uid == self.overflow_uid {
            let text =
                format!("uid {uid} is not served here: it stands for every user that the kernel cannot name");
            let hint =
                "let the agent run under a uid that wharfd's user namespace knows, other than `nobody`";
            return Fault::new(Reason::UnknownCaller, text).hint(hint);
        }
        let hint = format!(
            "the node's operator can serve it: `[[serve]]` with `uid = {uid}` and `namespaces = \"…\"` in wharfd's \
             configuration"
        );
        Fault::new(Reason::UnknownCaller, format!("uid {uid} is not served here")).hint(hint)
    }
}

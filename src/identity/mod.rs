//! Turns a peer into a caller, or refuses it. A [`Caller`] is made here and nowhere else.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    config::Config,
    fault::{Fault, Reason},
    names::{CallerId, EngineName, Pattern, own_job},
    policy::Rules,
    transport::Peer,
};

/// A proven caller: its identity, its rules, and its engine.
#[derive(Clone, Debug)]
pub struct Caller {
    id: CallerId,
    rules: Arc<Rules>,
    engine: EngineName,
    is_operator: bool,
}

impl Caller {
    /// The identity, as the key for everything that is kept or counted per caller.
    pub fn id(&self) -> &CallerId {
        &self.id
    }

    /// The rules that apply to the caller.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Whether the caller is told about engines that do not work for it. This holds for root and wharfd's own
    /// user, unless the configuration has a `[[serve]]` entry for them.
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }

    /// The engine that works for the caller.
    pub fn engine(&self) -> &EngineName {
        &self.engine
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The uid that the kernel reports in place of every uid that has none in wharfd's user namespace, unless
/// `/proc/sys/kernel/overflowuid` says otherwise. Many systems give it to the user `nobody`, too.
const OVERFLOW_UID: u32 = 65534;

/// All callers that are served.
#[derive(Debug)]
pub struct Identities {
    callers: BTreeMap<CallerId, Caller>,
    overflow_uid: u32,
}

impl Identities {
    /// Root and wharfd's own uid, on the default engine, plus every `[[serve]]` entry. A process of these two
    /// uids outside any container may use every namespace; one inside a container may use only the job of its
    /// own user. An entry for either uid replaces both defaults.
    pub fn new(config: &Config) -> Self {
        let overflow_uid = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
        let overflow_uid = overflow_uid.ok().and_then(|uid| uid.trim().parse().ok()).unwrap_or(OVERFLOW_UID);
        Self::with_own_uid(config, rustix::process::geteuid().as_raw(), overflow_uid)
    }

    fn with_own_uid(config: &Config, own_uid: u32, overflow_uid: u32) -> Self {
        let own = |id: CallerId, namespaces: Pattern| {
            let rules = Arc::new(Rules::built_in(format!("built-in {id}"), namespaces));
            let engine = config.engines.default_name().clone();
            Caller { id, rules, engine, is_operator: true }
        };
        let own = [0, own_uid]
            .into_iter()
            // If wharfd runs as `nobody`, whoever has no uid here would be wharfd itself.
            .filter(|uid| *uid != overflow_uid && !config.serve.iter().any(|serve| serve.uid == *uid))
            .flat_map(|uid| {
                // Without a user namespace, a container's root is the node's root, so this uid does not prove
                // that the caller may use any job's namespace; a health probe needs no namespace. A process
                // outside any container can reach the engine's socket anyway.
                let contained = own(CallerId::Uid(uid), Pattern::only(own_job(uid)));
                [contained, own(CallerId::Operator(uid), Pattern::any())]
            });
        let named = config.serve.iter().map(|serve| {
            let rules = Rules::built_in(format!("serve uid {}", serve.uid), serve.namespaces.clone());
            let rules = rules.with_at_once(serve.at_once);
            let (id, engine) = (CallerId::Uid(serve.uid), serve.engine.clone());
            Caller { id, rules: Arc::new(rules), engine, is_operator: false }
        });
        let callers = own.chain(named).map(|caller| (caller.id.clone(), caller));
        Self { callers: callers.collect(), overflow_uid }
    }

    /// Identifies `peer`.
    pub fn identify(&self, peer: &Peer) -> Result<Caller, Fault> {
        // Each identity scheme handles its kind of peer: a new kind of peer does not compile until a scheme
        // handles it.
        let Peer::User { uid, beside, .. } = *peer;
        let operator = self.callers.get(&CallerId::Operator(uid)).filter(|_| beside);
        operator.or_else(|| self.callers.get(&CallerId::Uid(uid))).cloned().ok_or_else(|| {
            if uid == self.overflow_uid {
                let text = format!(
                    "uid {uid} is not served here: it stands for every user that the kernel cannot name"
                );
                let hint =
                    "let the agent run under a uid that wharfd's user namespace knows, other than `nobody`";
                return Fault::new(Reason::UnknownCaller, text).hint(hint);
            }
            let hint = format!(
                "the node's operator can serve it: `[[serve]]` with `uid = {uid}` and `namespaces = \"…\"` \
                 in wharfd's configuration"
            );
            Fault::new(Reason::UnknownCaller, format!("uid {uid} is not served here")).hint(hint)
        })
    }

    /// All callers that are served, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = &Caller> {
        self.callers.values()
    }

    /// The uid that stands for every user without one in wharfd's user namespace, if it is served.
    pub fn serves_overflow(&self) -> Option<u32> {
        self.callers.contains_key(&CallerId::Uid(self.overflow_uid)).then_some(self.overflow_uid)
    }

    /// Whether root, and with it every container that runs as root, may use every job's namespaces.
    pub fn root_is_every_job(&self) -> bool {
        let root = self.callers.get(&CallerId::Uid(0));
        root.is_some_and(|root| root.rules.namespaces().is_any())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{config::Flags, names::Namespace};

    fn user(uid: u32) -> Peer {
        Peer::User { uid, pid: None, beside: false }
    }

    fn beside(uid: u32) -> Peer {
        Peer::User { uid, pid: None, beside: true }
    }

    fn identities(file: &str) -> Identities {
        let flags = Flags::try_parse_from(["wharfd"]).unwrap();
        Identities::with_own_uid(&Config::with_file(flags, file), 998, OVERFLOW_UID)
    }

    #[test]
    fn users_whom_the_kernel_cannot_name_are_nobody() {
        let config = |file: &str| Config::with_file(Flags::try_parse_from(["wharfd"]).unwrap(), file);
        let as_nobody = Identities::with_own_uid(&config(""), OVERFLOW_UID, OVERFLOW_UID);
        for peer in [user(OVERFLOW_UID), beside(OVERFLOW_UID)] {
            let fault = as_nobody.identify(&peer).unwrap_err();
            assert!(fault.text().contains("every user that the kernel cannot name"), "{fault}");
            assert!(!fault.hint_text().unwrap().contains("[[serve]]"));
        }
        assert_eq!(as_nobody.serves_overflow(), None);
        let file = format!("[[serve]]\nuid = {OVERFLOW_UID}\nnamespaces = \"acme/*\"\n");
        let named = identities(&file);
        assert!(named.identify(&user(OVERFLOW_UID)).is_ok());
        assert_eq!(named.serves_overflow(), Some(OVERFLOW_UID));
    }

    #[test]
    fn root_and_wharfds_own_uid_are_served_and_nobody_else() {
        let identities = identities("");
        assert_eq!(identities.identify(&user(0)).unwrap().to_string(), "uid 0");
        assert!(!identities.root_is_every_job());
        let theirs = own_job(998);
        for (uid, own, others) in [(0, "user/root", &*theirs), (998, &*theirs, "user/root")] {
            let caller = identities.identify(&user(uid)).unwrap();
            let allows =
                |job: &str| caller.rules().namespace(caller.id(), Namespace::new(job, "1").unwrap()).is_ok();
            assert!(allows(own), "{uid}");
            for job in [others, "acme/app", "user/", "user/root/x", "user/rooty", "*"] {
                assert!(!allows(job), "{uid}: {job}");
            }
        }
        for uid in [0, 998] {
            let caller = identities.identify(&beside(uid)).unwrap();
            assert!(caller.rules().namespace(caller.id(), Namespace::new("acme/app", "1").unwrap()).is_ok());
            assert_ne!(caller.id(), identities.identify(&user(uid)).unwrap().id());
        }
        assert!(identities.identify(&beside(1000)).is_err());
        let fault = identities.identify(&user(1000)).unwrap_err();
        assert_eq!(fault.reason(), Reason::UnknownCaller);
        assert!(fault.hint_text().unwrap().contains("uid = 1000"));
    }

    #[test]
    fn root_is_every_job_where_the_configuration_says_so() {
        for (namespaces, every) in [("*", true), ("acme/*", false), ("user/root", false)] {
            let file = format!("[[serve]]\nuid = 0\nnamespaces = \"{namespaces}\"\n");
            assert_eq!(identities(&file).root_is_every_job(), every, "{namespaces}");
            let [one, other] = [user(0), beside(0)].map(|peer| identities(&file).identify(&peer).unwrap());
            assert_eq!(one.id(), other.id(), "an entry applies inside and outside of containers");
        }
        assert!(!identities("[[serve]]\nuid = 1000\nnamespaces = \"*\"\n").root_is_every_job());
    }

    #[test]
    fn who_is_named_is_served_as_it_says() {
        let identities = identities(
            r#"
            default_engine = "a"
            [engines.a]
            socket = "unix:///a"
            [engines.b]
            socket = "unix:///b"
            [[serve]]
            uid = 1000
            namespaces = "acme/*"
            engine = "b"
            "#,
        );
        let caller = identities.identify(&user(1000)).unwrap();
        assert_eq!(caller.engine().as_str(), "b");
        assert!(caller.rules().namespace(caller.id(), Namespace::new("acme/app", "1").unwrap()).is_ok());
        assert!(caller.rules().namespace(caller.id(), Namespace::new("other/app", "1").unwrap()).is_err());
        assert_eq!(identities.identify(&user(0)).unwrap().engine().as_str(), "a");
    }
}

//! Who calls: a peer becomes a caller, or is refused. A [`Caller`] is made here and nowhere else.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    config::{Config, EngineName},
    fault::{Fault, Reason},
    names::Pattern,
    policy::Rules,
    transport::Peer,
};

/// A proven caller: what it is, by which rules it is judged, and which engine works for it.
#[derive(Clone, Debug)]
pub struct Caller {
    uid: u32,
    rules: Arc<Rules>,
    engine: EngineName,
}

impl Caller {
    /// The rules that say what it may do.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The engine that works for it.
    pub fn engine(&self) -> &EngineName {
        &self.engine
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)
    }
}

/// Everyone who is served.
#[derive(Debug)]
pub struct Identities {
    by_uid: BTreeMap<u32, Caller>,
}

impl Identities {
    /// Root and wharfd's own uid, on the default engine, and whom the configuration names; what it
    /// says of those two replaces the default.
    pub fn new(config: &Config) -> Self {
        Self::with_own_uid(config, rustix::process::geteuid().as_raw())
    }

    fn with_own_uid(config: &Config, own_uid: u32) -> Self {
        let built_in = Arc::new(Rules::built_in("built-in", Pattern::any()));
        let own = [0, own_uid].map(|uid| {
            let engine = config.engines.default_name().clone();
            (uid, Caller { uid, rules: Arc::clone(&built_in), engine })
        });
        let named = config.serve.iter().map(|serve| {
            let rules = Rules::built_in(format!("serve uid {}", serve.uid), serve.namespaces.clone());
            (serve.uid, Caller { uid: serve.uid, rules: Arc::new(rules), engine: serve.engine.clone() })
        });
        Self { by_uid: own.into_iter().chain(named).collect() }
    }

    /// Who `peer` is.
    pub fn identify(&self, peer: &Peer) -> Result<Caller, Fault> {
        self.by_uid.get(&peer.uid()).cloned().ok_or_else(|| {
            let uid = peer.uid();
            let hint = format!(
                "the node's operator can serve it: `[[serve]]` with `uid = {uid}` and `namespaces = \"…\"` \
                 in wharfd's configuration"
            );
            Fault::new(Reason::UnknownCaller, format!("uid {uid} is not served here")).hint(hint)
        })
    }

    /// Everyone who is served, by uid.
    pub fn iter(&self) -> impl Iterator<Item = &Caller> {
        self.by_uid.values()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{config::Flags, names::Namespace};

    fn identities(file: &str) -> Identities {
        let flags = Flags::try_parse_from(["wharfd"]).unwrap();
        Identities::with_own_uid(&Config::with_file(flags, file), 998)
    }

    #[test]
    fn root_and_wharfds_own_uid_are_served_and_nobody_else() {
        let identities = identities("");
        assert_eq!(identities.identify(&Peer::test(0)).unwrap().to_string(), "uid 0");
        assert!(identities.identify(&Peer::test(998)).is_ok());
        let fault = identities.identify(&Peer::test(1000)).unwrap_err();
        assert_eq!(fault.reason(), Reason::UnknownCaller);
        assert!(fault.hint_text().unwrap().contains("uid = 1000"));
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
        let caller = identities.identify(&Peer::test(1000)).unwrap();
        assert_eq!(caller.engine().as_str(), "b");
        assert!(caller.rules().namespace(Namespace::new("acme/app", "1").unwrap()).is_ok());
        assert!(caller.rules().namespace(Namespace::new("other/app", "1").unwrap()).is_err());
        assert_eq!(identities.identify(&Peer::test(0)).unwrap().engine().as_str(), "a");
    }
}

//! Finds out who makes a call, or refuses it. A [`Caller`] is made here and nowhere else.
//!
//! Each scheme of proof is a module of its own. It answers with an [`Answer`]: the first scheme that proves a
//! caller, or fails to, ends the search.

mod certificates;
mod explain;
mod jenkins;
mod jobs;
mod keys;
mod pods;
mod tokens;
mod users;
mod verify;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use http::HeaderValue;

use crate::{
    config::{Config, Serve},
    fault::{Fault, Reason},
    names::{AddressBlock, CallerId, EngineName, Namespace, Pod},
    policy::{Permit, Policies, Rules},
    transport::{Peer, Presence, Standing},
};
use certificates::Certificates;
use jobs::Jobs;
#[cfg(feature = "fuzzing")]
pub use jobs::fuzz;
pub use keys::IssuerError;
use pods::Pods;
use tokens::Tokens;
use users::Users;

/// A proven caller: its identity, its rules, and its engine.
#[derive(Clone, Debug)]
pub struct Caller {
    id: CallerId,
    rules: Arc<Rules>,
    engine: EngineName,
    /// The only namespace for which the proof is valid; `None` if the caller names its namespace, within its
    /// rules.
    proven: Option<Proven>,
    is_operator: bool,
}

/// The namespace that a token, or the socket of a pod, proves.
#[derive(Clone, Debug)]
struct Proven {
    namespace: Namespace,
    by: Proof,
}

/// The proof of a namespace.
#[derive(Clone, Debug)]
enum Proof {
    /// A token that was issued at this time, in seconds since 1970.
    Token(i64),
    /// The socket of a pod.
    Pod(Presence),
}

impl Caller {
    /// The identity, as the key for everything that is kept or counted per caller.
    pub fn id(&self) -> &CallerId {
        &self.id
    }

    fn served(id: CallerId, rules: &Arc<Rules>, engine: &EngineName) -> Self {
        Self { id, rules: Arc::clone(rules), engine: engine.clone(), proven: None, is_operator: false }
    }

    /// Allows the caller to act in the namespace that a request names, or in the one that it has proven.
    pub fn namespace(&self, named: Option<Namespace>) -> Result<Permit<Namespace>, Fault> {
        let Some(proven) = &self.proven else {
            let named = named.ok_or_else(|| {
                let text = "the request names no namespace, and the caller's identity proves none";
                Fault::invalid("namespace", text).hint("name one, as `JOB#RUN`")
            })?;
            let is_issued = named.job().issuer().is_some();
            if is_issued && !matches!(self.id, CallerId::Operator(_)) {
                let text = format!("namespace `{named}` is not yours: it needs a token of its issuer");
                return Err(Fault::new(Reason::NamespaceDenied, text));
            }
            return self.rules.namespace(&self.id, named);
        };
        match named {
            Some(named) if !named.means(&proven.namespace) => {
                let proof = match proven.by {
                    Proof::Token(_) => "token",
                    Proof::Pod(_) => "socket",
                };
                let own = &proven.namespace;
                let text = format!("namespace `{named}` is not yours: your {proof} is for `{own}`");
                let hint = format!("omit the namespace: the {proof} decides it");
                Err(Fault::new(Reason::NamespaceDenied, text).hint(hint))
            }
            _ => self.rules.namespace(&self.id, proven.namespace.clone()),
        }
    }

    /// A description of the namespaces in which the caller may act.
    pub fn namespaces(&self) -> String {
        match &self.proven {
            None => self.rules.namespaces().to_string(),
            Some(proven) => proven.namespace.to_string(),
        }
    }

    /// When the token for the caller's namespace was issued, in seconds since 1970; `None` without one.
    pub fn proven_at(&self) -> Option<i64> {
        self.proven.as_ref().and_then(|proven| match proven.by {
            Proof::Token(at) => Some(at),
            Proof::Pod(_) => None,
        })
    }

    /// Fails if the caller is a pod that has ended since.
    pub fn is_present(&self) -> Result<(), Fault> {
        match self.proven.as_ref().map(|proven| &proven.by) {
            Some(Proof::Pod(pod)) if pod.has_ended() => Err(pods::ended(pod.pod())),
            Some(Proof::Pod(_) | Proof::Token(_)) | None => Ok(()),
        }
    }

    /// The rules that apply to the caller.
    pub fn rules(&self) -> &Rules {
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

/// The proofs that a call presents for its caller.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The other end of the call's connection.
    pub peer: &'a Peer,
    /// The call's `authorization`.
    pub authorization: Option<&'a HeaderValue>,
    /// Whether the call has no second one.
    pub is_alone: bool,
}

/// The proof that a call has presented, so that its caller can be identified again.
#[derive(Clone, Debug)]
pub struct Kept {
    peer: Peer,
    /// Marked as sensitive, which keeps it out of `Debug`.
    authorization: Option<HeaderValue>,
}

impl Presented<'_> {
    /// The same to keep; `None` of a call that presents two tokens.
    pub fn kept(&self) -> Option<Kept> {
        let authorization = self.authorization.cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        self.is_alone.then(|| Kept { peer: self.peer.clone(), authorization })
    }
}

impl Kept {
    fn presented(&self) -> Presented<'_> {
        Presented { peer: &self.peer, authorization: self.authorization.as_ref(), is_alone: true }
    }
}

/// A scheme's answer to a call.
#[derive(Debug)]
enum Answer {
    /// The call presents nothing that the scheme reads.
    NotPresented,
    /// It proves this caller.
    Proven(Caller),
    /// It presents something that proves nothing. No other scheme is asked: a client that sends a bad token
    /// must not be served as its uid.
    Failed(Fault),
}

/// All callers that are served.
#[derive(Debug)]
pub struct Identities {
    tokens: Tokens,
    jobs: Jobs,
    users: Users,
    certificates: Certificates,
    pods: Pods,
    policies: Arc<Policies>,
    /// The engines that several callers may use.
    shared: BTreeSet<EngineName>,
}

impl Identities {
    /// The callers of `config`. Fails if the keys of an issuer cannot be read.
    pub fn new(config: &Config) -> Result<Self, IssuerError> {
        let policies = Policies::of(config);
        Ok(Self {
            tokens: Tokens::new(config, &policies),
            jobs: Jobs::new(config, &policies)?,
            users: Users::new(config, &policies),
            certificates: Certificates::new(config, &policies),
            pods: Pods::new(config, &policies),
            policies,
            shared: config
                .engines
                .iter()
                .map(|(name, _)| name)
                .filter(|name| config.is_shared(name))
                .cloned()
                .collect(),
        })
    }

    /// Whether several callers may use an engine.
    pub fn is_shared(&self, engine: &EngineName) -> bool {
        self.shared.contains(engine)
    }

    /// Identifies the caller of a call.
    pub fn identify(&self, presented: &Presented<'_>) -> Result<Caller, Fault> {
        if let Peer::Pod(presence) = presented.peer
            && presence.has_ended()
        {
            // Its namespace is being removed. A client that shows a token lost the connection a moment ago.
            return Err(pods::ended(presence.pod()));
        }
        let answer = match presented.authorization {
            Some(_) if !presented.is_alone => {
                let text = "the call has more than one `authorization`";
                Answer::Failed(Fault::new(Reason::UnknownCaller, text))
            }
            None => self.by_peer(presented.peer),
            Some(value) => match bearer(value) {
                None => Answer::Failed(unreadable()),
                Some(token) => match self.tokens.identify(token) {
                    Answer::NotPresented => self.jobs.identify(token, SystemTime::now()),
                    answer => answer,
                },
            },
        };
        match answer {
            Answer::Proven(caller) => Ok(caller),
            Answer::Failed(fault) => Err(fault),
            Answer::NotPresented if presented.authorization.is_none() => {
                let text = "nothing proves who calls: there is no client certificate, and no token";
                let hint = "give a certificate from an authority that wharfd's operator trusts, or a token";
                Err(Fault::new(Reason::UnknownCaller, text).hint(hint))
            }
            Answer::NotPresented => {
                let text = "the call's token is not known here";
                let hint = "the node's operator can serve it: `[[serve]]` with `token` or `issuer` in wharfd's \
                            configuration";
                Err(Fault::new(Reason::UnknownCaller, text).hint(hint))
            }
        }
    }

    /// Identifies the caller of a call again: a token may have expired, a key or an entry may be gone.
    pub fn identify_again(&self, kept: &Kept) -> Result<Caller, Fault> {
        self.identify(&kept.presented())
    }

    /// The caller of a call without a token.
    fn by_peer(&self, peer: &Peer) -> Answer {
        match self.users.identify(peer) {
            Answer::NotPresented => match self.certificates.identify(peer) {
                Answer::NotPresented => self.pods.identify(peer),
                answer => answer,
            },
            answer => answer,
        }
    }

    /// Whether a pod may have a socket. It need not be served: a token may prove another caller there.
    pub fn admit_pod(&self, pod: &Pod) -> Result<(), Fault> {
        self.pods.admit(pod)
    }

    /// How far a peer is served before its calls present anything.
    pub fn standing(&self, peer: &Peer) -> Standing {
        match self.by_peer(peer) {
            Answer::Proven(caller) => Standing::Served(caller.id),
            Answer::NotPresented | Answer::Failed(_) if self.tokens.is_empty() && self.jobs.is_empty() => {
                Standing::Stranger
            }
            Answer::NotPresented | Answer::Failed(_) => Standing::Unproven,
        }
    }

    /// The served callers, in a fixed order, each with its rules and its engine.
    pub fn served(&self) -> impl Iterator<Item = (String, &Arc<Rules>, &EngineName)> {
        let callers = self.users.iter().chain(self.tokens.iter()).chain(self.certificates.iter());
        let callers = callers.map(|caller| (caller.to_string(), &caller.rules, &caller.engine));
        callers.chain(self.jobs.served()).chain(self.pods.served())
    }

    /// The policies of jobs, which do not apply to the node's operator.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The uid that stands for every user without one in wharfd's user namespace, if it is served.
    pub fn serves_overflow(&self) -> Option<u32> {
        self.users.serves_overflow()
    }

    /// Whether root, and with it every container that runs as root, may use every job's namespaces.
    pub fn root_is_every_job(&self) -> bool {
        self.users.root_is_every_job()
    }
}

/// The identities in use: those of the start, until others take their place. What a call was once permitted holds
/// for this call.
#[derive(Debug)]
pub struct Served(RwLock<Arc<Identities>>);

impl Served {
    /// Begins with these.
    pub fn new(identities: Identities) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(identities))))
    }

    /// The identities in use now.
    pub fn now(&self) -> Arc<Identities> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes these from now on.
    pub fn replace(&self, identities: Identities) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identities);
    }
}

/// The peer of a call that needs no caller, to count and to log such calls by it. It proves nothing.
pub fn anyone(peer: &Peer) -> CallerId {
    match peer {
        Peer::User { uid, .. } => CallerId::Uid(*uid),
        Peer::Pod(presence) => CallerId::Job(presence.pod().job()),
        Peer::Remote { address, .. } => CallerId::Address(AddressBlock::of(address.ip())),
    }
}

fn rules_of(serve: &Serve, policies: &Arc<Policies>) -> Arc<Rules> {
    Arc::new(Rules::new(serve.name(), serve.namespaces.clone(), policies).with_at_once(serve.at_once))
}

/// The token of `Bearer TOKEN` (RFC 6750, 2.1; RFC 9110, 11.1: the scheme in any case).
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
}

fn unreadable() -> Fault {
    let text = "the call's `authorization` is not `Bearer TOKEN`";
    Fault::new(Reason::UnknownCaller, text)
}

#[cfg(test)]
mod tests;

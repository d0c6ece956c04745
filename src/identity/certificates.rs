//! Client certificates, which TLS has verified: one of the names in the certificate's SAN is the caller.

use std::{collections::BTreeMap, sync::Arc};

use super::{Answer, Caller, rules_of};
use crate::{
    config::{Config, Who},
    fault::{Fault, Reason},
    names::{CallerId, CertificateName, printable, shortened},
    policy::Policies,
    transport::Peer,
};

/// A message shows so much of a certificate's names.
const SHOWN_BYTES_MAX: usize = 200;

/// The callers of all certificates.
#[derive(Debug)]
pub(super) struct Certificates {
    callers: BTreeMap<CertificateName, Caller>,
}

impl Certificates {
    pub(super) fn new(config: &Config, policies: &Arc<Policies>) -> Self {
        let callers = config.serve.iter().filter_map(|serve| match &serve.who {
            Who::Certificate(name) => {
                let id = CallerId::Certificate(name.clone());
                Some((name.clone(), Caller::served(id, &rules_of(serve, policies), &serve.engine)))
            }
            Who::Uid(_) | Who::Token { .. } | Who::Issuer(_) => None,
        });
        Self { callers: callers.collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Caller> {
        self.callers.values()
    }

    /// Asked when a call presents no token and its peer is not a user.
    pub(super) fn identify(&self, peer: &Peer) -> Answer {
        let names = match peer {
            Peer::User { .. } | Peer::Pod(_) | Peer::Remote { certificate: None, .. } => {
                return Answer::NotPresented;
            }
            Peer::Remote { certificate: Some(names), .. } => names,
        };
        let served: BTreeMap<_, _> =
            names.iter().filter_map(|name| Some((name, self.callers.get(name)?))).collect();
        let mut callers = served.values();
        match (callers.next(), callers.next()) {
            (Some(caller), None) => Answer::Proven((*caller).clone()),
            (Some(_), Some(_)) => {
                let text = format!(
                    "the certificate has the names of several callers: {}",
                    listed(served.into_keys())
                );
                Answer::Failed(
                    Fault::new(Reason::UnknownCaller, text).hint("give each caller a certificate of its own"),
                )
            }
            (None, _) => Answer::Failed(unknown(names)),
        }
    }
}

fn unknown(names: &[CertificateName]) -> Fault {
    if names.is_empty() {
        let text = "the certificate has no name: its SAN has neither a DNS name nor a URI";
        return Fault::new(Reason::UnknownCaller, text).hint("a common name (CN) does not count");
    }
    let text = format!("no name of the certificate is served here: {}", listed(names));
    let hint = "the node's operator can serve one: `[[serve]]` with `certificate = \"NAME\"` and `namespaces = \"…\"` in \
                wharfd's configuration";
    Fault::new(Reason::UnknownCaller, text).hint(hint)
}

/// The names, in backticks.
fn listed<'a>(names: impl IntoIterator<Item = &'a CertificateName>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    shortened(printable(&names.join(", ")), SHOWN_BYTES_MAX)
}

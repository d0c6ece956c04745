//! Pods, which the kubelet has proven when it requested their sockets (`csi`): every connection to such a
//! socket is the pod.

use std::sync::Arc;

use super::{Answer, Caller, Proof, Proven, rules_of};
use crate::{
    config::{Config, Who},
    fault::{Fault, Reason},
    names::{CallerId, EngineName, IssuerName, Job, Pattern, Pod},
    policy::{Policies, Rules},
    transport::Peer,
};

/// The pods that are served.
#[derive(Debug)]
pub(super) struct Pods {
    /// The entries of `[[serve]]`, in the file's order: the first whose pattern matches the Kubernetes
    /// namespace applies.
    served: Vec<(Arc<Rules>, EngineName)>,
    /// The Kubernetes namespaces whose pods have to present a token.
    tokens_only: Vec<Pattern>,
}

impl Pods {
    pub(super) fn new(config: &Config, policies: &Arc<Policies>) -> Self {
        let pods = Who::Issuer(IssuerName::of_pods());
        let served = config.serve.iter().filter(|serve| config.csi.is_some() && serve.who == pods);
        Self {
            served: served.map(|serve| (rules_of(serve, policies), serve.engine.clone())).collect(),
            tokens_only: config.csi.as_ref().map(|csi| csi.tokens_only.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn served(&self) -> impl Iterator<Item = (String, &Arc<Rules>, &EngineName)> {
        self.served.iter().map(|(rules, engine)| ("pods of this node".to_owned(), rules, engine))
    }

    /// Asked when a call presents no token.
    pub(super) fn identify(&self, peer: &Peer) -> Answer {
        let presence = match peer {
            Peer::User { .. } | Peer::Remote { .. } => return Answer::NotPresented,
            Peer::Pod(presence) => presence,
        };
        let pod = presence.pod();
        if self.needs_token(pod) {
            let text = format!(
                "the pods of the Kubernetes namespace `{}` have to present a job's token",
                pod.namespace()
            );
            let hint = "make the call with the token of this run";
            return Answer::Failed(Fault::new(Reason::UnknownCaller, text).hint(hint));
        }
        match self.rules(pod) {
            None => Answer::Failed(unserved(pod)),
            Some((rules, engine)) => {
                let caller = Caller::served(CallerId::Job(pod.job()), rules, engine);
                let namespace = pod.own_namespace();
                let proven = Proven { namespace, by: Proof::Pod(presence.clone()) };
                Answer::Proven(Caller { proven: Some(proven), ..caller })
            }
        }
    }

    /// Refuses a pod for which a socket would be of no use.
    pub(super) fn admit(&self, pod: &Pod) -> Result<(), Fault> {
        let is_served = self.needs_token(pod) || self.rules(pod).is_some();
        if is_served { Ok(()) } else { Err(unserved(pod)) }
    }

    fn needs_token(&self, pod: &Pod) -> bool {
        self.tokens_only.iter().any(|pattern| pattern.matches(pod.namespace()))
    }

    fn rules(&self, pod: &Pod) -> Option<&(Arc<Rules>, EngineName)> {
        self.of(pod.namespace())
    }

    /// The same for the job that stands for the pods of a Kubernetes namespace; `None` if these have to present a token,
    /// which is another job's.
    pub(super) fn rules_of(&self, job: &Job) -> Option<&(Arc<Rules>, EngineName)> {
        let is_of_pods = job.issuer() == Some(&IssuerName::of_pods());
        let needs_token = self.tokens_only.iter().any(|pattern| pattern.matches(job.name()));
        self.of(job.name()).filter(|_| is_of_pods && !needs_token)
    }

    fn of(&self, namespace: &str) -> Option<&(Arc<Rules>, EngineName)> {
        self.served.iter().find(|(rules, _)| rules.namespaces().matches(namespace))
    }
}

/// The refusal of a call for a pod whose volume is gone.
pub(super) fn ended(pod: &Pod) -> Fault {
    Fault::new(
        Reason::UnknownCaller,
        format!("pod {pod} has ended, and its socket no longer proves anything"),
    )
}

fn unserved(pod: &Pod) -> Fault {
    let namespace = pod.namespace();
    let text = format!("the pods of the Kubernetes namespace `{namespace}` are not served here");
    let hint = format!(
        "the cluster's operator can serve them: `[[serve]]` with `issuer = \"{}\"` and `namespaces = \"{namespace}\"` in \
         wharfd's configuration",
        IssuerName::of_pods()
    );
    Fault::new(Reason::UnknownCaller, text).hint(hint)
}

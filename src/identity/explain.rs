//! Explains the rights of another caller, for the node's operator.

use super::Identities;
use crate::{
    fault::{Fault, Reason},
    names::{CallerId, IssuerName, Namespace, printable, read_name, shortened},
    policy::Explained,
};

/// Longer names of callers are cut in messages.
const SHOWN_BYTES_MAX: usize = 200;

impl Identities {
    /// Explains what the caller of this name may do in `namespace`: `uid 1000`, as the audit log has it. The name proves
    /// nothing, so this makes no [`Caller`](super::Caller). A job, `job ISSUER:JOB`, may leave
    /// out the namespace; the pods of a Kubernetes namespace are `job pods:NAME`.
    pub fn explain(&self, caller: &str, namespace: Option<Namespace>) -> Result<Explained, Fault> {
        let unknown = || {
            let text = format!("`{}` is not served here", shortened(printable(caller), SHOWN_BYTES_MAX));
            let hint = "name a caller as the audit log does: `uid 1000`, `token NAME`, `certificate NAME`, \
                        `job ISSUER:JOB`, or `job pods:NAMESPACE` for pods";
            Fault::invalid("caller", text).hint(hint)
        };
        if let Some(job) = caller.strip_prefix("job ") {
            let (issuer, name) = job.split_once(':').ok_or_else(unknown)?;
            let issuer = IssuerName::try_from(issuer.to_owned()).map_err(|_| unknown())?;
            let run = namespace.as_ref().map_or("local", Namespace::run);
            let own = Namespace::new(read_name(name), run)
                .map_err(|error| Fault::invalid("caller", error.to_string()))?;
            let own = own.issued_by(issuer);
            if namespace.is_some_and(|named| !named.means(&own)) {
                let text = format!("`{}` may act only in namespaces of its own job", printable(caller));
                return Err(Fault::new(Reason::NamespaceDenied, text));
            }
            let pods = || self.pods.rules_of(own.job()).map(|(rules, _)| rules);
            return self.jobs.rules(own.job()).or_else(pods).ok_or_else(unknown)?.explain(caller, own);
        }
        let callers = self.users.iter().chain(self.tokens.iter()).chain(self.certificates.iter());
        let found = callers.into_iter().find(|known| known.to_string() == caller).ok_or_else(unknown)?;
        let namespace = namespace.ok_or_else(|| {
            Fault::invalid("namespace", "the request names no namespace").hint("name one, as `JOB#RUN`")
        })?;
        if namespace.job().issuer().is_some() && !matches!(found.id, CallerId::Operator(_)) {
            let text = format!("`{}` cannot prove the name of a job", printable(caller));
            return Err(Fault::new(Reason::NamespaceDenied, text).hint("`job ISSUER:JOB` can"));
        }
        found.rules.explain(caller, namespace)
    }
}

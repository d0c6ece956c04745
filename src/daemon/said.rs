//! The lines of the log and of the audit log about the configuration in use.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    audit::{Event, EventKind, Trail},
    config::Config,
    identity::Identities,
    policy::Policies,
};

/// Records that `config` is in use now, and how many entries it adds to an `earlier` one, changes and removes.
/// `needs_restart` are the keys that differ and that only a start reads.
pub(super) fn say_configured(
    earlier: Option<&Config>,
    config: &Config,
    needs_restart: &[&str],
    trail: &Trail,
) {
    let issuers = |config: &Config| -> Vec<_> {
        config.issuers.iter().map(|(name, issuer)| (name.to_string(), issuer.clone())).collect()
    };
    let serve = |config: &Config| -> Vec<_> {
        config.serve.iter().map(|entry| (entry.name(), entry.clone())).collect()
    };
    let policies = |config: &Config| -> Vec<_> {
        config.policy.iter().flatten().map(|entry| (entry.name.to_string(), entry.clone())).collect()
    };
    let event = Event::new(EventKind::Configured).text("result", "done");
    let event = event.value("serve", counts(earlier.map(serve).as_deref(), &serve(config)));
    let event = event.value("issuers", counts(earlier.map(issuers).as_deref(), &issuers(config)));
    let event = event.value("policies", counts(earlier.map(policies).as_deref(), &policies(config)));
    let needs_restart = (!needs_restart.is_empty()).then(|| needs_restart.join(", "));
    trail.record(event.some_text("needs_restart", needs_restart));
}

/// Records that a configuration is refused, and why: the old one stays in use.
pub(super) fn say_not_configured(cause: &str, trail: &Trail) {
    trail.record(Event::new(EventKind::Configured).text("result", "refused").text("message", cause));
}

/// The number of entries, and how many differ from `earlier` ones of the same name. An entry whose place
/// among the others differs has changed: the first that matches applies.
fn counts<T: PartialEq>(earlier: Option<&[(String, T)]>, now: &[(String, T)]) -> Value {
    let Some(earlier) = earlier else { return json!({"entries": now.len()}) };
    let (before, after) = (common(earlier, now), common(now, earlier));
    json!({
        "entries": now.len(),
        "added": now.len() - after.len(),
        "changed": before.iter().zip(&after).filter(|(before, after)| before != after).count(),
        "removed": earlier.len() - before.len(),
    })
}

/// The `entries` whose names `others` have, too.
fn common<'a, T>(entries: &'a [(String, T)], others: &[(String, T)]) -> Vec<&'a (String, T)> {
    let others: BTreeSet<_> = others.iter().map(|(name, _)| name).collect();
    entries.iter().filter(|(name, _)| others.contains(name)).collect()
}

/// Says who is served, and by which rules.
pub(super) fn say_who_is_served(identities: &Identities, trail: &Trail) {
    let mut said: Vec<&str> = Vec::new();
    for (caller, rules, engine) in identities.served() {
        tracing::info!(
            caller,
            engine = %engine,
            namespaces = %rules.namespaces(),
            rules = rules.name(),
            "serving a caller"
        );
        let event = Event::new(EventKind::Serves).text("caller", &caller).text("engine", engine);
        let event = event.text("rule", rules.name()).text("namespaces", rules.namespaces());
        trail.record(event.number("at_once", u64::from(rules.at_once())));
        if !said.contains(&rules.name()) {
            said.push(rules.name());
            for rule in rules.describe() {
                tracing::info!(rules = rules.name(), rule, "the rules of a caller");
            }
        }
    }
    say_what_jobs_may_do(identities.policies());
    if identities.root_is_every_job() {
        tracing::warn!(
            "root is served in every namespace: each container that runs as root and sees the socket can read, \
             remove and push the images of every job (`[[serve]]` with `uid = 0`)"
        );
    }
    if let Some(uid) = identities.serves_overflow() {
        tracing::warn!(
            uid,
            "a uid is served that stands for every user whom the kernel cannot name: all of them share its \
             namespaces (`[[serve]]`)"
        );
    }
    tracing::info!(
        "everyone else is refused; nothing is guaranteed on an engine whose socket others use too"
    );
}

fn say_what_jobs_may_do(policies: &Policies) {
    if policies.are_built_in() {
        tracing::info!(
            "no `[[policy]]`: every job may pull, push and fetch as the built-in rules say, which are for one team's \
             machine"
        );
        return;
    }
    for (jobs, entry) in policies.entries() {
        let keys = entry.keys().into_iter().map(|(key, values)| {
            let values = if values.is_empty() { "nothing".to_owned() } else { values.join(", ") };
            format!("{key}: {values}")
        });
        let keys: Vec<_> = keys.collect();
        tracing::info!(policy = %entry.name(), %jobs, keys = keys.join("; "), "a policy for jobs");
    }
    tracing::info!("a job without a policy may use no registry, no image of the node, and no network");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_changed_by_its_values_or_its_place() {
        let of = |entries: &[(&str, u8)]| -> Vec<(String, u8)> {
            entries.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let old = of(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(counts(None, &old), json!({"entries": 3}));
        for (new, [entries, added, changed, removed]) in [
            (&old, [3, 0, 0, 0]),
            (&of(&[]), [0, 0, 0, 3]),
            (&of(&[("new", 1), ("a", 1), ("b", 2), ("c", 1)]), [4, 1, 1, 0]),
            (&of(&[("b", 1), ("a", 1), ("c", 1)]), [3, 0, 2, 0]),
            (&of(&[("c", 1), ("d", 1)]), [2, 1, 0, 2]),
        ] {
            let expected =
                json!({"entries": entries, "added": added, "changed": changed, "removed": removed});
            assert_eq!(counts(Some(&old), new), expected, "{new:?}");
        }
    }
}

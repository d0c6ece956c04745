//! What callers may do, and what jobs may do (`docs/policy.md`). A [`Permit`] is made here and nowhere else.

mod addresses;
mod check;
mod entry;
mod rules;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use crate::{
    config::{PolicyLimits, StepNetwork},
    fault::Fault,
    names::{Allowed, CallerId, Namespace, Reference},
};
pub(crate) use addresses::{is_no_server, is_public, is_within, metadata};
pub use check::{Because, Explained};
pub use entry::{Entry, Policies};
pub use rules::Rules;

/// A subject that is allowed, with the caller and the rules that allow it. It holds as long as it is kept:
/// work that runs continues under the rules under which it began.
#[derive(Clone, Debug)]
pub struct Permit<T> {
    subject: T,
    caller: CallerId,
    rules: Arc<Rules>,
    /// The entry for the job.
    entry: Arc<Entry>,
}

impl<T> Permit<T> {
    /// The subject.
    pub fn subject(&self) -> &T {
        &self.subject
    }

    /// The caller for whom it is allowed.
    pub fn caller(&self) -> &CallerId {
        &self.caller
    }

    /// The rules that allow it. Only who holds their `Arc`, as an identity does, can ask them for another permit.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// An image that a registry may be asked for.
#[derive(Debug)]
pub struct PullFrom(Reference);

/// An image that may be used if the operator has put it on the node.
#[derive(Debug)]
pub struct FromNode(Reference);

/// A reference that an image of a namespace may get.
#[derive(Debug)]
pub struct TagAs(Reference);

/// A reference that an image of a namespace may be pushed to.
#[derive(Debug)]
pub struct PushTo(Reference);

/// A URL that a build may fetch from, if its host has addresses that are allowed.
#[derive(Debug)]
pub struct FetchFrom {
    url: String,
    allowed: Allowed,
}

/// A URL that a build may fetch from, at these addresses of its host and at no others.
#[derive(Debug)]
pub struct Fetch {
    url: String,
    addresses: Vec<IpAddr>,
}

impl PullFrom {
    /// The image.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl FromNode {
    /// The image.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl TagAs {
    /// The reference, with a tag.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl PushTo {
    /// The reference, with a tag.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl Fetch {
    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The addresses of its host, each of which is allowed.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl<T> Permit<T> {
    fn permit<U>(&self, subject: U) -> Permit<U> {
        let (caller, rules) = (self.caller.clone(), Arc::clone(&self.rules));
        Permit { subject, caller, rules, entry: Arc::clone(&self.entry) }
    }
}

impl Permit<Namespace> {
    /// Whether a registry may be asked for `reference` for the namespace.
    pub fn pull_from(&self, reference: Reference) -> Result<Permit<PullFrom>, Fault> {
        self.entry.pull(self.subject.job(), &reference)?;
        Ok(self.permit(PullFrom(reference)))
    }

    /// Whether builds in the namespace may use `reference` if the operator has put it on the node.
    pub fn from_node(&self, reference: Reference) -> Option<Permit<FromNode>> {
        self.entry.node_image(self.subject.job(), &reference).ok()?;
        Some(self.permit(FromNode(reference)))
    }

    /// Whether an image of the namespace may get `reference` (`:latest` if it has no tag), which comes from
    /// `field` of a request.
    pub fn tag_as(
        &self,
        field: impl Into<Cow<'static, str>>,
        reference: Reference,
    ) -> Result<Permit<TagAs>, Fault> {
        Ok(self.permit(TagAs(entry::new_name(field, reference)?)))
    }

    /// Whether an image of the namespace may be pushed to `reference` (`:latest` if it has no tag), which comes
    /// from `field` of a request.
    pub fn push_to(
        &self,
        field: impl Into<Cow<'static, str>>,
        reference: Reference,
    ) -> Result<Permit<PushTo>, Fault> {
        let (reference, _) = self.entry.push(self.subject.job(), field, reference)?;
        Ok(self.permit(PushTo(reference)))
    }

    /// Whether a build in the namespace may fetch from `url`, wherever its host is.
    pub fn fetch_from(&self, url: &str) -> Result<Permit<FetchFrom>, Fault> {
        let (_, allowed) = self.entry.fetch(self.subject.job(), url)?;
        Ok(self.permit(FetchFrom { url: url.to_owned(), allowed }))
    }

    /// The name of the policy that is for the namespace's job.
    pub fn policy(&self) -> String {
        self.entry.name()
    }

    /// The limits on builds in the namespace.
    pub fn limits(&self) -> PolicyLimits {
        self.entry.limits()
    }

    /// The refusal of a build that is over the limit `key`.
    pub fn over(&self, key: &'static str) -> Fault {
        self.entry.over(key)
    }

    /// Whether a step of a build in the namespace may have this network.
    pub fn network(&self, network: StepNetwork) -> Result<(), Fault> {
        self.entry.network(self.subject.job(), network)
    }
}

impl Permit<FetchFrom> {
    /// Whether the build may fetch from the URL, whose host has these addresses.
    pub fn at(&self, addresses: &[IpAddr]) -> Result<Permit<Fetch>, Fault> {
        let FetchFrom { url, allowed } = &self.subject;
        for address in addresses {
            entry::address(url, *allowed, *address)?;
        }
        Ok(self.permit(Fetch { url: url.clone(), addresses: addresses.to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        config::{Config, Flags},
        fault::Reason,
        names::{IssuerName, Pattern},
    };

    pub(super) fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    /// What a job may do under this file.
    pub(super) fn under(file: &str, namespace: Namespace) -> Permit<Namespace> {
        let config = Config::with_file(Flags::try_parse_from(["wharfd"]).unwrap(), file);
        let rules = Arc::new(Rules::new("test", Pattern::any(), &Policies::of(&config)));
        rules.namespace(&CallerId::Uid(1), namespace).unwrap()
    }

    fn job(file: &str, job: &str) -> Permit<Namespace> {
        under(file, Namespace::new(job, "1").unwrap())
    }

    const FILE: &str = r#"
        [[policy]]
        name = "requests"
        jobs = ["acme/app/PR-*"]
        pull = ["docker.io/library/*"]
        networks = ["none"]
        [[policy]]
        name = "acme"
        jobs = ["acme/*"]
        pull = ["*"]
        push = ["reg.example/acme/*"]
        node_images = ["tools:1"]
        add = ["files.example", "*"]
        [[policy]]
        name = "issued"
        jobs = ["ci:*"]
        push = ["reg.example/ci/*"]
        [issuers.ci]
        preset = "jenkins"
        issuer = "https://ci.example/oidc"
        audience = "wharf"
        jwks = "/j"
        [[serve]]
        issuer = "ci"
        namespaces = "*"
    "#;

    #[test]
    fn without_an_entry_a_job_may_do_nothing_and_without_a_file_what_is_built_in() {
        let (built_in, missing) = (job("", "x"), job(FILE, "x"));
        for name in ["alpine", "127.0.0.1:5000/app:1"] {
            assert!(
                built_in.pull_from(reference(name)).is_ok() && built_in.from_node(reference(name)).is_some()
            );
            assert!(built_in.push_to("reference", reference(name)).is_ok());
            let fault = missing.pull_from(reference(name)).unwrap_err();
            assert_eq!(fault.reason(), Reason::PolicyDenied);
            assert!(
                fault.text().starts_with("no policy is for the job `x`, so it may not pull `"),
                "{fault}"
            );
            assert!(missing.push_to("reference", reference(name)).is_err());
            assert!(missing.from_node(reference(name)).is_none());
        }
        for (namespace, network) in [(&built_in, StepNetwork::Default), (&missing, StepNetwork::None)] {
            assert!(namespace.network(network).is_ok());
        }
        assert!(missing.network(StepNetwork::Default).is_err() && missing.fetch_from("https://a/").is_err());
        assert!(
            missing.tag_as("target", reference("reg.example/acme/app")).is_ok(),
            "a name alone reaches nobody"
        );
    }

    #[test]
    fn the_first_entry_for_a_job_applies_alone() {
        let (request, branch) = (job(FILE, "acme/app/PR-1"), job(FILE, "acme/app/main"));
        let team = || reference("reg.example/acme/app:1");
        assert!(branch.push_to("reference", team()).is_ok());
        let fault = request.push_to("reference", team()).unwrap_err();
        assert_eq!(fault.text(), "policy `requests` does not let the job push to `reg.example/acme/app:1`");
        assert!(fault.hint_text().unwrap().contains("`push` of the policy `requests`"));
        assert!(request.pull_from(reference("alpine")).is_ok() && request.pull_from(team()).is_err());
        assert!(
            branch.network(StepNetwork::Default).is_ok() && request.network(StepNetwork::Default).is_err()
        );
        assert!(
            branch.from_node(reference("tools:1")).is_some()
                && branch.from_node(reference("tools:2")).is_none()
        );
    }

    #[test]
    fn a_claimed_name_is_not_an_issuers() {
        let issuer = IssuerName::try_from("ci".to_owned()).unwrap();
        let proven = Namespace::new("acme/app", "1").unwrap().issued_by(issuer);
        let ours = || reference("reg.example/ci/app");
        assert!(under(FILE, proven.clone()).push_to("reference", ours()).is_ok());
        assert!(under(FILE, proven).push_to("reference", reference("reg.example/acme/app")).is_err());
        assert!(job(FILE, "ci:acme/app").push_to("reference", ours()).is_err());
    }

    #[test]
    fn a_step_may_always_have_no_network() {
        for networks in ["networks = []", "networks = [\"default\"]", "networks = [\"none\"]", ""] {
            let file = format!("[[policy]]\nname = \"a\"\njobs = [\"*\"]\n{networks}\n");
            assert!(job(&file, "x").network(StepNetwork::None).is_ok(), "{networks}");
        }
    }

    #[test]
    fn only_a_host_that_is_named_may_be_private_and_none_a_metadata_service() {
        let branch = job(FILE, "acme/app/main");
        let at = |url: &str, address: &str| {
            branch.fetch_from(url).and_then(|from| from.at(&[address.parse().unwrap()])).is_ok()
        };
        assert!(at("https://files.example/a", "10.0.0.1") && at("https://files.example/a", "8.8.8.8"));
        assert!(at("https://other.example/a", "8.8.8.8") && !at("https://other.example/a", "10.0.0.1"));
        assert!(!at("https://files.example:444/a", "127.0.0.1"));
        for address in ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "0.0.0.0"] {
            assert!(!at("https://files.example/a", address), "{address}");
        }
        let request = job(FILE, "acme/app/PR-1").fetch_from("https://files.example/a").unwrap_err();
        assert!(
            request.text().contains("policy `requests` does not let the job fetch `https://files.example/a`")
        );
    }

    #[test]
    fn a_caller_acts_only_in_namespaces_of_its_pattern() {
        let rules = Arc::new(Rules::built_in("serve[0]", "acme/*".parse().unwrap()));
        assert!(rules.namespace(&CallerId::Uid(1), Namespace::new("acme/app", "1").unwrap()).is_ok());
        let fault = rules.namespace(&CallerId::Uid(1), Namespace::new("acmes", "1").unwrap()).unwrap_err();
        assert_eq!(fault.reason(), Reason::NamespaceDenied);
    }

    #[test]
    fn a_new_name_has_no_digest_and_is_not_wharfds() {
        let rules = Arc::new(Rules::built_in("serve[0]", "acme/*".parse().unwrap()));
        let namespace = rules.namespace(&CallerId::Uid(1), Namespace::new("acme/app", "1").unwrap()).unwrap();
        let tag = namespace.tag_as("target", reference("app")).unwrap();
        assert_eq!(tag.subject().reference(), &reference("app:latest"));
        let digest = format!("app@sha256:{}", "a".repeat(64));
        let tagged = digest.replace('@', ":1@");
        let own = digest.replace("app", "wharf.invalid/app");
        assert!(namespace.tag_as("target", reference(&digest)).is_err());
        // An image that was pushed has this name, and can be pushed again.
        let push = namespace.push_to("reference", reference(&digest)).unwrap();
        assert_eq!(push.subject().reference(), &reference(&digest));
        for denied in ["wharf.invalid/i/hold/h:1", "x.WHARF.invalid/app:1", &tagged, &own] {
            let fault = namespace.tag_as("target", reference(denied)).unwrap_err();
            assert_eq!(fault.field(), Some("target"), "{denied}");
            assert!(namespace.push_to("reference", reference(denied)).is_err(), "{denied}");
        }
    }
}

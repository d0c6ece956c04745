//! What jobs may do: the entries of `[[policy]]`, or the built-in rules if there are none.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use super::addresses::{is_no_server, is_public};
use crate::{
    config::{Config, Policy, PolicyLimits, StepNetwork},
    fault::{Fault, Reason},
    names::{
        Allowed, ImagePattern, Job, JobPattern, PolicyName, RESERVED_HOST, Reference, UrlPattern,
        printable_url, shortened,
    },
};

/// Longer names of jobs are cut in messages.
const JOB_BYTES_MAX: usize = 200;

/// What each job may do.
#[derive(Debug, PartialEq, Eq)]
pub struct Policies {
    /// In the file's order: the first whose patterns match a job applies, alone.
    entries: Vec<(Vec<JobPattern>, Arc<Entry>)>,
    /// The entry for all other jobs.
    otherwise: Arc<Entry>,
}

/// What a job may do.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    origin: Origin,
    pull: Vec<ImagePattern>,
    push: Vec<ImagePattern>,
    node_images: Vec<ImagePattern>,
    add: Vec<UrlPattern>,
    networks: Vec<StepNetwork>,
    limits: PolicyLimits,
}

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    BuiltIn,
    Named(PolicyName),
    /// There are entries, but none is for the job.
    Missing,
}

impl Policies {
    /// The entries of `config`; the built-in rules if it has none.
    pub fn of(config: &Config) -> Arc<Self> {
        let Some(entries) = &config.policy else { return Arc::default() };
        Arc::new(Self {
            entries: entries.iter().map(|entry| (entry.jobs.clone(), Entry::of(entry).into())).collect(),
            otherwise: Entry::missing().into(),
        })
    }

    /// Whether the configuration has no entries.
    pub fn are_built_in(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry for a job.
    pub(super) fn entry(&self, job: &Job) -> Arc<Entry> {
        let entry = self.entries.iter().find(|(jobs, _)| jobs.iter().any(|jobs| jobs.matches(job)));
        let found = entry.map_or(&self.otherwise, |(_, entry)| entry);
        Arc::clone(found)
    }

    /// A description for the operator, one line for each.
    pub fn describe(&self) -> Vec<String> {
        if !self.are_built_in() {
            return vec![
                "what a job may do: as its entry of `[[policy]]` says, otherwise nothing".to_owned(),
            ];
        }
        vec![
            "registries: any, loopback included; and images that are on the node".to_owned(),
            "ADD of a URL: not from loopback, link-local or private addresses".to_owned(),
            "Git repositories: none; host networking and privileged steps: never".to_owned(),
        ]
    }

    /// The entries: the patterns of each, and what it allows.
    pub fn entries(&self) -> impl Iterator<Item = (String, &Entry)> {
        self.entries.iter().map(|(jobs, entry)| (listed(jobs).join(", "), &**entry))
    }
}

/// The built-in rules.
impl Default for Policies {
    fn default() -> Self {
        Self { entries: Vec::new(), otherwise: Entry::built_in().into() }
    }
}

impl Entry {
    /// Any registry, loopback included; images that are on the node; any URL except those of this node and its
    /// network.
    fn built_in() -> Self {
        Self {
            origin: Origin::BuiltIn,
            pull: vec![ImagePattern::any()],
            push: vec![ImagePattern::any()],
            node_images: vec![ImagePattern::any()],
            add: vec![UrlPattern::any()],
            networks: StepNetwork::ALL.to_vec(),
            limits: PolicyLimits::default(),
        }
    }

    /// Nothing but steps without a network, which reach nothing.
    fn missing() -> Self {
        Self {
            origin: Origin::Missing,
            pull: Vec::new(),
            push: Vec::new(),
            node_images: Vec::new(),
            add: Vec::new(),
            networks: vec![StepNetwork::None],
            limits: PolicyLimits::default(),
        }
    }

    fn of(entry: &Policy) -> Self {
        let limits = entry.limits();
        let Policy { name, pull, push, node_images, add, networks, .. } = entry.clone();
        Self { origin: Origin::Named(name), pull, push, node_images, add, networks, limits }
    }

    pub(super) fn pull(&self, job: &Job, reference: &Reference) -> Result<&ImagePattern, Fault> {
        foreign(reference)?;
        let pattern = self.pull.iter().find(|pattern| pattern.matches(reference));
        pattern.ok_or_else(|| self.denied(job, "pull", format_args!("pull `{}`", reference.familiar())))
    }

    /// The reference as it is pushed to, with a tag. It comes from `field` of a request.
    pub(super) fn push(
        &self,
        job: &Job,
        field: impl Into<Cow<'static, str>>,
        reference: Reference,
    ) -> Result<(Reference, &ImagePattern), Fault> {
        let reference = match (reference.tag(), reference.digest()) {
            // An image that was pushed before has this name.
            (None, Some(_)) => outside(field, reference)?,
            _ => new_name(field, reference)?,
        };
        match self.push.iter().find(|pattern| pattern.matches(&reference)) {
            Some(pattern) => Ok((reference, pattern)),
            None => Err(self.denied(job, "push", format_args!("push to `{}`", reference.familiar()))),
        }
    }

    /// A build that may not use the node's image asks the registry, if `pull` allows it.
    pub(super) fn node_image(&self, job: &Job, reference: &Reference) -> Result<&ImagePattern, Fault> {
        foreign(reference)?;
        let pattern = self.node_images.iter().find(|pattern| pattern.matches(reference));
        pattern.ok_or_else(|| {
            self.denied(job, "node_images", format_args!("use `{}` of the node", reference.familiar()))
        })
    }

    pub(super) fn fetch(&self, job: &Job, url: &str) -> Result<(&UrlPattern, Allowed), Fault> {
        let allowed = || self.add.iter().filter_map(|pattern| Some((pattern, pattern.allows(url)?)));
        // A host that is named is more than any public one.
        let named = allowed().find(|(_, allowed)| *allowed == Allowed::Named);
        named
            .or_else(|| allowed().next())
            .ok_or_else(|| self.denied(job, "add", format_args!("fetch `{}` (`ADD`)", printable_url(url))))
    }

    pub(super) fn network(&self, job: &Job, network: StepNetwork) -> Result<(), Fault> {
        // None at all is less than any.
        if network == StepNetwork::None || self.networks.contains(&network) {
            return Ok(());
        }
        let action = "run a step with a network: `RUN` needs `--network=none`";
        Err(self.denied(job, "networks", format_args!("{action}")))
    }

    pub(super) fn limits(&self) -> PolicyLimits {
        self.limits
    }

    /// The refusal of a build that is over the limit `key`.
    pub(super) fn over(&self, key: &'static str) -> Fault {
        let value = self.limits_by_key().into_iter().find(|(name, _)| *name == key).map(|(_, value)| value);
        let value = value.unwrap_or_default();
        let text = format!("over a limit of policy `{}`: `{key}` is {value}", self.name());
        Fault::new(Reason::PolicyDenied, text)
    }

    fn limits_by_key(&self) -> Vec<(&'static str, String)> {
        let PolicyLimits { build_time, context_size, log_size, images } = self.limits;
        let size = |size: u64| format!("{} KiB", size >> 10);
        let limits = [
            ("build_time", build_time.map(|time| format!("{} s", time.as_secs()))),
            ("context_size", context_size.map(size)),
            ("log_size", Some(size(log_size))),
            ("images", images.map(|images| images.to_string())),
        ];
        limits.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// The refusal of something that `key` could allow.
    fn denied(&self, job: &Job, key: &str, action: fmt::Arguments<'_>) -> Fault {
        let (text, hint) = match &self.origin {
            Origin::Named(name) => (
                format!("policy `{name}` does not let the job {action}"),
                format!(
                    "the node's operator can allow it: `{key}` of the policy `{name}` in wharfd's configuration"
                ),
            ),
            Origin::Missing => (
                format!(
                    "no policy is for the job `{}`, so it may not {action}",
                    shortened(job.to_string(), JOB_BYTES_MAX)
                ),
                format!("the node's operator can add a `[[policy]]` for it, with `{key}`"),
            ),
            // It allows all that has a key.
            Origin::BuiltIn => {
                (format!("the job may not {action}"), format!("the built-in rules do not allow it: `{key}`"))
            }
        };
        Fault::new(Reason::PolicyDenied, text).hint(hint)
    }

    /// The name of the entry, for messages.
    pub fn name(&self) -> String {
        match &self.origin {
            Origin::Named(name) => name.to_string(),
            Origin::BuiltIn => PolicyName::BUILT_IN.to_owned(),
            Origin::Missing => PolicyName::MISSING.to_owned(),
        }
    }

    /// The allowed values of each key.
    pub fn keys(&self) -> Vec<(&'static str, Vec<String>)> {
        let has_none = self.networks.contains(&StepNetwork::None);
        let networks = self.networks.iter().chain((!has_none).then_some(&StepNetwork::None));
        let networks = networks.map(|network| network.as_str());
        let grants = [
            ("pull", listed(&self.pull)),
            ("push", listed(&self.push)),
            ("node_images", listed(&self.node_images)),
            ("add", listed(&self.add)),
            ("networks", listed(networks)),
        ];
        let limits = self.limits_by_key().into_iter().map(|(key, limit)| (key, vec![limit]));
        grants.into_iter().chain(limits).collect()
    }
}

fn listed(values: impl IntoIterator<Item = impl fmt::Display>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

/// Refuses a name of wharfd's own: it belongs to another namespace, is a hold, or does not exist, and the caller must not
/// see the difference.
fn foreign(reference: &Reference) -> Result<(), Fault> {
    if !reference.is_reserved() {
        return Ok(());
    }
    let text = format!("no such image: the names under `{RESERVED_HOST}` are wharfd's own");
    let hint = "use the image's reference in the namespace, or at a registry";
    Err(Fault::new(Reason::BaseImageNotFound, text).hint(hint))
}

/// Refuses a reference that cannot be a new name of an image; adds `:latest` to one that has no tag.
pub(super) fn new_name(
    field: impl Into<Cow<'static, str>>,
    reference: Reference,
) -> Result<Reference, Fault> {
    if reference.digest().is_some() {
        let text = format!(
            "`{}` has a digest: a new name cannot choose the image's digest; leave it out",
            reference.familiar()
        );
        return Err(Fault::invalid(field, text));
    }
    Ok(outside(field, reference)?.tagged())
}

/// Refuses a name of wharfd's own.
fn outside(field: impl Into<Cow<'static, str>>, reference: Reference) -> Result<Reference, Fault> {
    if reference.is_reserved() {
        let text = format!("names under `{RESERVED_HOST}` are wharfd's own: choose another host");
        return Err(Fault::invalid(field, text));
    }
    Ok(reference)
}

/// Whether a build may fetch from `address`, which the host of `url` has.
pub(super) fn address(url: &str, allowed: Allowed, address: IpAddr) -> Result<(), Fault> {
    let why = match allowed {
        Allowed::Public if !is_public(address) => "an address of this node or its network",
        Allowed::Named if is_no_server(address) => "an address that no build may reach",
        Allowed::Public | Allowed::Named => return Ok(()),
    };
    let text = format!("`ADD {}` is not allowed: {address} is {why}", printable_url(url));
    Err(Fault::new(Reason::SourceDenied, text).hint("copy the file into the build context instead"))
}

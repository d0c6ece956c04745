//! Keeps one job's builds apart from another's inside one BuildKit: the frontend's attributes, and the source
//! policy of every pass.

use std::collections::HashMap;

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{
    MatchType, Policy, PolicyAction, Rule, Selector, Update,
};

use super::{
    downloads::Download,
    gate::definition::{Fetched, Fetches},
    spec::BuildSpec,
    tar::Tar,
};
use crate::{config::StepNetwork, images::admission::Admitted, names::RESERVED_HOST, naming::ImageName};

/// Keyed hashes for one job, never the job's name: BuildKit joins such keys with `/`, so one job's name could
/// be a prefix of another's.
#[derive(Clone, Debug)]
pub struct JobKeys {
    /// Part of the cache key of every RUN step, so that a result made with one job's secrets is never reused
    /// by another job. A step can print it, so it must be useless to others.
    pub salt: String,
    /// The prefix of cache mounts' ids.
    pub cache_mounts: String,
    /// The path of the file in the layers of the job's own, if its images have such layers. Images show it.
    pub layers: Option<String>,
}

impl JobKeys {
    /// The name in a step's /etc/hosts that contains the salt; it leaves no trace in the image.
    pub fn salt_host(&self) -> String {
        format!("{}.salt.{RESERVED_HOST}", self.salt)
    }

    /// The salt for copies: a path at which no image has a file. It leaves no trace in an image.
    pub fn copied_path(&self) -> String {
        format!("/{}", self.salt_host())
    }

    /// The salt for sources fetched by URL. Without it, BuildKit would find such a source by its content's
    /// digest alone, and `ADD --checksum` would give any job what another job has fetched, or its uploaded
    /// tar. The salt is in the source's `http.perm`, which no Dockerfile can set. BuildKit puts the whole
    /// value (an `int`) into the cache key, and makes the file's mode from the low 32 bits, which are those
    /// of the default mode. That leaves 31 bits. They are enough: a salt can be compared only by a build under another
    /// job's name, so one name in two thousand million meets that of a given job, and it gains only content whose
    /// digest it knows already. `http.uid` and `http.gid` would have as many, but an engine that remaps users
    /// (`userns-remap`) refuses them.
    pub fn http_perm(&self) -> String {
        let salt = self.salt.bytes().fold(0_i64, |salt, byte| {
            let digit = char::from(byte).to_digit(16).unwrap_or_default();
            (salt << 4 | i64::from(digit)) & 0x7fff_ffff
        });
        (salt << 32 | 0o600).to_string()
    }
}

/// The attribute that contains [`JobKeys::http_perm`].
pub const HTTP_PERM: &str = "http.perm";
/// The attribute with the digest of the content, with which BuildKit finds what it has without asking for it.
pub const CHECKSUM: &str = "http.checksum";

/// The address of the salt's name. It is never used.
pub const SALT_ADDRESS: &str = "127.0.0.1";

/// A source that a build may use, with whatever allows that: an admission, a permit, or the client's own upload.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// An image.
    Image {
        /// The Dockerfile's name in full: `docker.io/library/busybox:latest`.
        named: &'a str,
        /// The image itself.
        image: &'a Admitted,
    },
    /// A file at a URL, which wharfd fetches.
    Url(&'a Download),
    /// The uploaded tar.
    Tar(&'a Tar),
}

/// The attributes of `dockerfile.v0` for a build. Each of them is set here; the client cannot add its own.
pub fn attributes(spec: &BuildSpec, keys: &JobKeys, tar: Option<&str>) -> HashMap<String, String> {
    let mut attributes = HashMap::new();
    let mut set = |key: &str, value: String| attributes.insert(key.to_owned(), value);
    for (key, value) in &spec.build_args {
        set(&format!("build-arg:{key}"), value.clone());
    }
    for (key, value) in &spec.labels {
        set(&format!("label:{key}"), value.clone());
    }
    set("build-arg:BUILDKIT_CACHE_MOUNT_NS", keys.cache_mounts.clone());
    // An empty value forces the built-in frontend: otherwise `# syntax=` would run a frontend of the job's
    // choice.
    set("cmdline", String::new());
    set("filename", spec.dockerfile.clone());
    set("image-resolve-mode", "local".to_owned());
    let salt = format!("{}={SALT_ADDRESS}", keys.salt_host());
    let hosts = spec.add_hosts.iter().map(|(host, address)| format!("{host}={address}")).chain([salt]);
    set("add-hosts", hosts.collect::<Vec<_>>().join(","));
    if !spec.target.is_empty() {
        set("target", spec.target.clone());
    }
    if spec.no_cache {
        set("no-cache", String::new());
    }
    if spec.network == StepNetwork::None {
        set("force-network-mode", "none".to_owned());
    }
    if spec.shm_size > 0 {
        set("shm-size", spec.shm_size.to_string());
    }
    if !spec.ulimits.is_empty() {
        let ulimits = spec.ulimits.iter().map(|(name, soft, hard)| format!("{name}={soft}:{hard}"));
        set("ulimit", ulimits.collect::<Vec<_>>().join(","));
    }
    if let Some(url) = tar {
        set("context", url.to_owned());
    }
    attributes
}

/// The allow-list that BuildKit enforces while the frontend runs: it denies everything, then allows the
/// admitted sources. The last rule that matches a source decides. `fetched` is the result of [`fetched`] for
/// the sources, `frontend` the image that reads the Dockerfile; the gate does not let a graph use that image.
pub fn policy(sources: &[Source<'_>], fetched: &Fetches, frontend: Option<&ImageName>) -> Policy {
    let mut rules = vec![rule(PolicyAction::Deny, "*", None), rule(PolicyAction::Allow, "local://*", None)];
    if let Some(frontend) = frontend {
        let target = format!("docker-image://{frontend}");
        rules.push(rule(PolicyAction::Allow, &format!("{target}@*"), None));
        rules.push(exact(rule(PolicyAction::Allow, &target, None)));
    }
    for source in sources {
        let Source::Image { named, image } = source else { continue };
        let target = format!("docker-image://{}", image.target());
        // The selector must be WILDCARD: with EXACT, a CONVERT silently does nothing.
        let update = Update { identifier: target.clone(), ..Update::default() };
        rules.push(rule(PolicyAction::Convert, &format!("docker-image://{named}"), Some(update)));
        rules.push(rule(PolicyAction::Allow, &target, None));
        // Newer engines add the digest before they ask again. `…*` would be wrong: it would admit `:10` for
        // `:1`.
        rules.push(rule(PolicyAction::Allow, &format!("{target}@*"), None));
    }
    for (named, Fetched { url, attributes, .. }) in fetched {
        // The frontend itself fetches the tar, and nothing else.
        if named == url {
            let attrs = attributes.clone().into_iter().collect();
            let update = Update { identifier: url.clone(), attrs };
            rules.push(exact(rule(PolicyAction::Convert, url, Some(update))));
        }
        rules.push(exact(rule(PolicyAction::Allow, url, None)));
    }
    Policy { version: 1, rules }
}

/// Matches a URL exactly: a `*` in a URL is not a pattern, and cannot be escaped.
fn exact(mut rule: Rule) -> Rule {
    if let Some(selector) = &mut rule.selector {
        selector.match_type = MatchType::Exact.into();
    }
    rule
}

/// The URLs among the sources, and what becomes of each in the graph ([`super::gate::definition`]): BuildKit gets
/// everything from the session. For the tar, which the frontend fetches, the source policy adds the attributes as well.
pub fn fetched(sources: &[Source<'_>], keys: &JobKeys) -> Fetches {
    let fetched = sources.iter().filter_map(|source| {
        let (named, url, digest, modified) = match source {
            Source::Image { .. } => return None,
            Source::Url(file) => (file.url().to_owned(), file.session_url(), file.digest(), file.modified()),
            Source::Tar(tar) => (tar.url(), tar.url(), tar.digest(), None),
        };
        let checksum = digest.map(|digest| (CHECKSUM.to_owned(), digest.to_owned()));
        let perm = (HTTP_PERM.to_owned(), keys.http_perm());
        let attributes = [perm].into_iter().chain(checksum).collect();
        Some((named, Fetched { url, attributes, modified }))
    });
    fetched.collect()
}

fn rule(action: PolicyAction, identifier: &str, updates: Option<Update>) -> Rule {
    let selector = Selector {
        identifier: identifier.to_owned(),
        match_type: MatchType::Wildcard.into(),
        ..Selector::default()
    };
    Rule { action: action.into(), selector: Some(selector), updates }
}

//! `[[policy]]`: what jobs may do.

use std::{num::NonZeroU32, path::Path, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    ConfigError,
    file::{File, Seconds},
    place,
};
use crate::names::{ImagePattern, IssuerName, JobPattern, PolicyName, UrlPattern, printable};

/// An entry of `[[policy]]`. A key that is missing grants nothing, except `networks`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The name in messages; no other entry has it.
    pub name: PolicyName,
    /// The jobs that it is for, by their whole names: `acme/app`, or `ISSUER:acme/app` if a token proves the name.
    pub jobs: Vec<JobPattern>,
    /// The images that registries are asked for.
    #[serde(default)]
    pub pull: Vec<ImagePattern>,
    /// The references that images are pushed to.
    #[serde(default)]
    pub push: Vec<ImagePattern>,
    /// The images on the node that builds may use.
    #[serde(default)]
    pub node_images: Vec<ImagePattern>,
    /// The URLs that builds may fetch.
    #[serde(default)]
    pub add: Vec<UrlPattern>,
    /// The networks of steps: without the key, those that every build may be expected to need.
    #[serde(default = "all_networks")]
    pub networks: Vec<StepNetwork>,
    #[serde(default, deserialize_with = "time")]
    build_time: Option<Duration>,
    #[serde(default, deserialize_with = "size")]
    context_size: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    log_size: Option<u64>,
    images: Option<NonZeroU32>,
}

impl Policy {
    /// Its limits on builds.
    pub fn limits(&self) -> PolicyLimits {
        PolicyLimits {
            build_time: self.build_time,
            context_size: self.context_size,
            log_size: self.log_size.unwrap_or(LOG_SIZE),
            images: self.images.map(NonZeroU32::get),
        }
    }
}

/// How much the steps of a build may write without the key `log_size`: BuildKit keeps all of it in memory until the
/// build ends (`util/progress`).
const LOG_SIZE: u64 = 256 << 20;

/// A policy's limits on builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyLimits {
    /// How long a build may take, without its pushes.
    pub build_time: Option<Duration>,
    /// The bytes that a client may send of its directories or its tar for a build.
    pub context_size: Option<u64>,
    /// The bytes that the steps of a build may write.
    pub log_size: u64,
    /// How many images a namespace may have for another build or pull to begin.
    pub images: Option<u32>,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self { build_time: None, context_size: None, log_size: LOG_SIZE, images: None }
    }
}

/// The network of a step of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepNetwork {
    /// The engine's network for builds.
    #[default]
    Default,
    /// No network.
    None,
}

impl StepNetwork {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Default, Self::None];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
        }
    }
}

fn all_networks() -> Vec<StepNetwork> {
    StepNetwork::ALL.to_vec()
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match Seconds::deserialize(deserializer)?.0 {
        Duration::ZERO => {
            Err(D::Error::custom("every build takes some time; leave the limit out, or write 30s, 5m or 1h"))
        }
        time => Ok(Some(time)),
    }
}

/// A size: `"512KiB"`, `"100MiB"`, `"2GiB"`.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        || D::Error::custom(format!("`{}` is not a size; write 512KiB, 100MiB or 2GiB", printable(&text)));
    parse_size(&text).map(Some).ok_or_else(wrong)
}

/// The bytes of a size, at least one.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    units.iter().find_map(|(unit, bits)| {
        let number: u32 = text.strip_suffix(unit)?.parse().ok().filter(|number| *number > 0)?;
        Some(u64::from(number) << bits)
    })
}

/// The entries of the file; `None` if it has none.
pub(super) fn entries(
    written: &File,
    (path, text): (&Path, &str),
) -> Result<Option<Vec<Policy>>, ConfigError> {
    let mut entries: Vec<Policy> = Vec::new();
    for spanned in &written.policy {
        let entry = spanned.as_ref();
        let refused =
            |message| Err(ConfigError::File { place: place(path, text, Some(spanned.span())), message });
        if entry.jobs.is_empty() {
            return refused(format!("policy `{}`: `jobs` is empty; `[\"*\"]` is every job", entry.name));
        }
        if entries.iter().any(|earlier| earlier.name == entry.name) {
            return refused(format!("policy `{}`: an earlier entry has the same name", entry.name));
        }
        let is_known = |issuer: &IssuerName| {
            written.issuers.contains_key(issuer)
                || (written.csi.is_some() && *issuer == IssuerName::of_pods())
        };
        if let Some(issuer) =
            entry.jobs.iter().filter_map(JobPattern::issuer).find(|issuer| !is_known(issuer))
        {
            let name = &entry.name;
            return refused(format!(
                "policy `{name}`: there is no [issuers.{issuer}]; to match names that users claim and that begin with \
                 `{issuer}:`, write `:{issuer}:…`"
            ));
        }
        let is_covered = |pattern: &JobPattern| {
            entries.iter().any(|earlier| earlier.jobs.iter().any(|earlier| earlier.covers(pattern)))
        };
        if let Some(pattern) = entry.jobs.iter().find(|pattern| is_covered(pattern)) {
            let name = &entry.name;
            return refused(format!(
                "policy `{name}`: never used for `{pattern}`, since an earlier entry covers all of these jobs"
            ));
        }
        entries.push(entry.clone());
    }
    Ok((!entries.is_empty()).then_some(entries))
}

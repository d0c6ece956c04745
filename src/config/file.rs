//! The configuration file.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{
    BuiltLayers, ConfigError, FrontendPlace, Policy, SocketMode, disk, issuers, parse_seconds, place,
};
use crate::{
    audit::Destination,
    names::{CertificateName, EngineName, IssuerName, ListenAddress, Pattern, SocketPath},
    telemetry::{Filter, LogFormat},
};

/// A job that builds once a month keeps its cache mounts.
const JOB_RETIRE_AFTER: Duration = Duration::from_secs(45 * 24 * 3600);
const JOB_RETIRE_AFTER_MIN: Duration = Duration::from_secs(3600);

/// The file as it is written. An unknown key is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) listen: Vec<ListenAddress>,
    pub(super) listen_mode: Option<SocketMode>,
    pub(super) listen_group: Option<Group>,
    pub(super) dangerous_plain_tcp: bool,
    pub(super) tls: Option<Spanned<Tls>>,
    pub(super) metrics: Metrics,
    pub(super) csi: Option<Spanned<Csi>>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) client_dir: Option<PathBuf>,
    pub(super) frontend: Option<FrontendPlace>,
    pub(super) frontend_file: Option<PathBuf>,
    pub(super) layers: BuiltLayers,
    pub(super) grace_period: Option<Seconds>,
    pub(super) namespace_ttl: Option<Seconds>,
    pub(super) job: Job,
    pub(super) disk: Option<Spanned<disk::Written>>,
    pub(super) max_builds: Option<NonZeroUsize>,
    pub(super) max_builds_per_job: Option<NonZeroUsize>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log_level: Option<Filter>,
    pub(super) audit_log: Option<Destination>,
    pub(super) default_engine: Option<Spanned<EngineName>>,
    pub(super) engines: BTreeMap<EngineName, Engine>,
    pub(super) issuers: BTreeMap<IssuerName, Spanned<issuers::Written>>,
    pub(super) serve: Vec<Spanned<Serve>>,
    pub(super) policy: Vec<Spanned<Policy>>,
}

/// `[job]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Job {
    retire_after: Option<Spanned<Seconds>>,
}

impl Job {
    /// How long a job keeps its cache mounts.
    pub(super) fn retire_after(&self, (path, text): (&Path, &str)) -> Result<Duration, ConfigError> {
        match &self.retire_after {
            Some(time) if time.as_ref().0 < JOB_RETIRE_AFTER_MIN => Err(ConfigError::File {
                place: place(path, text, Some(time.span())),
                message: "job.retire_after: a job's caches would be gone at its next build; give 1h or more"
                    .to_owned(),
            }),
            Some(time) => Ok(time.as_ref().0),
            None => Ok(JOB_RETIRE_AFTER),
        }
    }
}

/// `[tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<PathBuf>,
}

/// `[metrics]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) listen: Option<SocketAddr>,
}

/// `[csi]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Csi {
    pub(super) kubelet_dir: Option<PathBuf>,
    #[serde(default)]
    pub(super) tokens_only: Vec<Pattern>,
}

/// `[engines.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Engine {
    pub(super) socket: SocketPath,
    pub(super) disk: Option<Spanned<PathBuf>>,
    pub(super) firewall: Option<Spanned<PathBuf>>,
}

/// `[[serve]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Serve {
    #[serde(default, deserialize_with = "uid")]
    pub(super) uid: Option<u32>,
    pub(super) token: Option<IssuerName>,
    pub(super) sha256: Option<String>,
    pub(super) certificate: Option<CertificateName>,
    pub(super) issuer: Option<Spanned<IssuerName>>,
    pub(super) namespaces: Pattern,
    pub(super) engine: Option<Spanned<EngineName>>,
    pub(super) at_once: Option<NonZeroU32>,
}

/// A number, not a login name: a container's users have no names on the node.
fn uid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    u32::deserialize(deserializer)
        .map(Some)
        .map_err(|_| D::Error::custom("uid: expected a numeric uid, as `id -u USER` prints it"))
}

/// A group's name or number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a group's name or number")]
pub(super) enum Group {
    Id(u32),
    Name(String),
}

/// A time: `25`, `"25s"`, `"5m"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seconds(pub(super) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a time: 25, \"25s\" or \"5m\"")]
        enum Written {
            Seconds(u32),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => Ok(Self(Duration::from_secs(seconds.into()))),
            Written::Text(text) => parse_seconds(&text).map(Self).map_err(D::Error::custom),
        }
    }
}

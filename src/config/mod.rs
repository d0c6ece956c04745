//! wharfd's configuration: flags, `WHARFD_*` and the configuration file, merged and checked.

mod apart;
mod csi;
mod disk;
mod engines;
pub(crate) mod env;
mod file;
mod flags;
mod issuers;
mod listen;
mod policy;
mod serve;
mod template;

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    num::NonZeroUsize,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    audit::Destination,
    names::{EngineName, IssuerName, ListenAddress, printable, socket::SocketPathError},
    telemetry::{Filter, LogFormat},
};
pub use apart::{BuiltLayers, FrontendPlace};
pub use csi::{Csi, DRIVER};
pub use disk::{DiskMarks, Mark};
pub use engines::Engines;
use file::File;
pub use flags::Flags;
pub use issuers::{Algorithm, Issuer, Jenkins, JobName};
pub use listen::TlsFiles;
pub use policy::{Policy, PolicyLimits, StepNetwork};
pub use serve::{Serve, TokenHash, Who};
pub use template::{ClaimError, Template};

const STATE_DIR: &str = "/var/lib/wharf";
/// Below the 30 s that Kubernetes gives a pod, which leaves time to clean up after cancelled builds.
const GRACE_PERIOD: Duration = Duration::from_secs(25);
/// A run that waits for a person may wait over night.
const NAMESPACE_TTL: Duration = Duration::from_secs(24 * 3600);
const NAMESPACE_TTL_MIN: Duration = Duration::from_secs(300);
/// As many builds, or pushes and pulls, as a caller is likely to want; a little more than one engine runs at once.
pub const AT_ONCE: u32 = 160;
/// A configuration is about a page; a larger file is some other file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The addresses to serve on; at least one.
    pub listen: Vec<ListenAddress>,
    /// The mode of the sockets among them.
    pub listen_mode: SocketMode,
    /// Their group; `None` is wharfd's own.
    pub listen_group: Option<u32>,
    /// TLS for the others; `None` serves them without it, which the operator has then allowed.
    pub tls: Option<TlsFiles>,
    /// The port for metrics; `None` serves none.
    pub metrics: Option<SocketAddr>,
    /// Sockets for the pods of a Kubernetes node; `None` serves none.
    pub csi: Option<Csi>,
    /// The engines.
    pub engines: Engines,
    /// The issuers of job tokens.
    pub issuers: BTreeMap<IssuerName, Issuer>,
    /// The entries of `[[serve]]`, in the file's order; each uid and each token once.
    pub serve: Vec<Serve>,
    /// The entries of `[[policy]]`, in the file's order; `None` leaves all jobs to the built-in rules.
    pub policy: Option<Vec<Policy>>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// The directory to install the client in for agents; `None` installs it nowhere.
    pub client_dir: Option<PathBuf>,
    /// Where Dockerfiles are read; `None` leaves it to [`Config::frontend`].
    said_frontend: Option<FrontendPlace>,
    /// Whose layers builds make.
    pub layers: BuiltLayers,
    /// The frontend's program; `None` is `frontend` beside wharfd.
    pub frontend_file: Option<PathBuf>,
    /// How long running builds may continue after SIGTERM.
    pub grace_period: Duration,
    /// How long a namespace lives that nobody uses.
    pub namespace_ttl: Duration,
    /// How long a job keeps its cache mounts when nobody builds it.
    pub job_retire_after: Duration,
    /// How much of each engine's disk stays free.
    pub disk: DiskMarks,
    /// How many builds run at once.
    pub builds: BuildLimits,
    /// How the log looks.
    pub log_format: LogFormat,
    /// Which lines are logged.
    pub log_level: Filter,
    /// Where the audit log goes; `None` keeps none.
    pub audit_log: Option<Destination>,
}

/// The limits on the builds of each engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildLimits {
    /// How many run at once; `None` depends on the engine's processors.
    pub max: Option<NonZeroUsize>,
    /// How many of one job; `None` is half of all.
    pub max_per_job: Option<NonZeroUsize>,
}

/// The permission bits of a socket. Written in octal: `0660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SocketMode(u32);

impl SocketMode {
    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if mode <= 0o777 && !digits.starts_with('+') => Ok(Self(mode)),
            _ => Err(format!("`{}` is not a mode; write it in octal: \"0660\"", printable(text))),
        }
    }
}

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Why the configuration is refused. Each names the flag, or the file and line.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: more than {FILE_BYTES_MAX} bytes; this is not a configuration", .0.display())]
    TooLarge(PathBuf),
    #[error("{place}: {message}")]
    File { place: String, message: String },
    #[error("{origin}: {source}{}", engines::reason(source))]
    Engine { origin: &'static str, source: SocketPathError },
    #[error("--listen-group: no group `{0}` in /etc/group; give its number")]
    Group(String),
    #[error("{0} is not an absolute path; give --state-dir an absolute one")]
    StateDir(PathBuf),
    #[error("{0} is not an absolute path; give --client-dir an absolute one")]
    ClientDir(PathBuf),
    #[error("{0} is not an absolute path; give --frontend-file an absolute one")]
    FrontendFile(PathBuf),
    #[error("--namespace-ttl: a namespace would end between two steps of its job; give 5m or more")]
    NamespaceTtl,
    #[error("--listen: {0} is given twice")]
    ListenTwice(ListenAddress),
    #[error(
        "--listen: {0} needs [tls] with `certificate` and `key`; without TLS anyone on the network path can \
         read and change everything, the tokens included. Use --dangerous-plain-tcp only on a network \
         without anyone else"
    )]
    PlainTcp(ListenAddress),
    #[error("--dangerous-plain-tcp has no effect with [tls]; leave out one of them")]
    PlainTcpWithTls,
}

impl Config {
    /// The keys that `new` changes and that only a start reads. The engines, the frontend and the layers are not among them.
    pub fn kept(&self, new: &Self) -> Vec<&'static str> {
        // A new key does not compile until it is decided here whether a running wharfd takes it up.
        let Self {
            listen,
            listen_mode,
            listen_group,
            tls,
            metrics,
            csi,
            engines: _,
            issuers: _,
            serve: _,
            policy: _,
            state_dir,
            client_dir,
            said_frontend: _,
            layers: _,
            frontend_file,
            grace_period,
            namespace_ttl,
            job_retire_after,
            disk,
            builds,
            log_format,
            log_level,
            audit_log,
        } = self;
        let keys = [
            ("listen", *listen != new.listen),
            ("listen_mode", *listen_mode != new.listen_mode),
            ("listen_group", *listen_group != new.listen_group),
            ("tls", *tls != new.tls),
            ("metrics", *metrics != new.metrics),
            ("csi", csi.as_ref().map(|csi| &csi.kubelet_dir) != new.csi.as_ref().map(|csi| &csi.kubelet_dir)),
            ("state_dir", *state_dir != new.state_dir),
            ("client_dir", *client_dir != new.client_dir),
            ("frontend_file", *frontend_file != new.frontend_file),
            ("grace_period", *grace_period != new.grace_period),
            ("namespace_ttl", *namespace_ttl != new.namespace_ttl),
            ("job.retire_after", *job_retire_after != new.job_retire_after),
            ("disk", *disk != new.disk),
            ("max_builds", builds.max != new.builds.max),
            ("max_builds_per_job", builds.max_per_job != new.builds.max_per_job),
            ("log_format", *log_format != new.log_format),
            ("log_level", *log_level != new.log_level),
            ("audit_log", *audit_log != new.audit_log),
        ];
        keys.into_iter().filter(|(_, changes)| *changes).map(|(key, _)| key).collect()
    }

    /// Whether `[[serve]]` lets several callers use an engine. The jobs of an issuer are a caller each.
    pub fn is_shared(&self, engine: &EngineName) -> bool {
        let mut callers = self.serve.iter().filter(|serve| serve.engine == *engine).map(|serve| &serve.who);
        callers.clone().any(|who| matches!(who, Who::Issuer(_))) || callers.nth(1).is_some()
    }

    /// Reads the file that the flags name, if any, and merges everything.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => Some((path.clone(), read(path)?)),
            None => None,
        };
        let docker_host = env::value(env::DOCKER_HOST);
        Self::resolve(flags, file.as_ref().map(|(path, text)| (path.as_path(), text.as_str())), docker_host)
    }

    /// The configuration from `flags` and the text of a file.
    #[cfg(test)]
    pub(crate) fn with_file(flags: Flags, file: &str) -> Self {
        Self::resolve(flags, Some((Path::new("wharfd.toml"), file)), None).unwrap()
    }

    /// Flags override the file, the file the defaults.
    fn resolve(
        flags: Flags,
        file: Option<(&Path, &str)>,
        docker_host: Option<String>,
    ) -> Result<Self, ConfigError> {
        let (path, text) = file.unwrap_or((Path::new(""), ""));
        let written: File = toml::from_str(text).map_err(|error| ConfigError::File {
            place: place(path, text, error.span()),
            message: error.message().trim_end().to_owned(),
        })?;
        let listen = listen::addresses(&flags, &written)?;
        let is_plain = flags.dangerous_plain_tcp || written.dangerous_plain_tcp;
        let tls = listen::tls(&listen, is_plain, &written, (path, text))?;
        let engines = engines::engines(&flags, &written, docker_host, (path, text))?;
        let issuers = serve::issuers(&written, (path, text))?;
        let serve = serve::entries(&written, &engines, &issuers, (path, text))?;
        let csi = csi::csi(&written, &serve, (path, text))?;
        let policy = policy::entries(&written, (path, text))?;

        let group = flags.listen_group.map(|name| match name.parse() {
            Ok(id) => file::Group::Id(id),
            Err(_) => file::Group::Name(name),
        });
        let listen_group = match group.or(written.listen_group) {
            Some(file::Group::Id(id)) => Some(id),
            Some(file::Group::Name(name)) => Some(group_id(name)?),
            None => None,
        };

        let state_dir = flags.state_dir.or(written.state_dir).unwrap_or_else(|| STATE_DIR.into());
        if !state_dir.is_absolute() {
            return Err(ConfigError::StateDir(state_dir));
        }
        let client_dir = flags.client_dir.or(written.client_dir);
        if let Some(relative) = client_dir.as_ref().filter(|directory| !directory.is_absolute()) {
            return Err(ConfigError::ClientDir(relative.clone()));
        }
        let frontend_file = flags.frontend_file.or(written.frontend_file);
        if let Some(relative) = frontend_file.as_ref().filter(|file| !file.is_absolute()) {
            return Err(ConfigError::FrontendFile(relative.clone()));
        }
        let namespace_ttl = flags.namespace_ttl.or(written.namespace_ttl.map(|seconds| seconds.0));
        if namespace_ttl.is_some_and(|ttl| ttl < NAMESPACE_TTL_MIN) {
            return Err(ConfigError::NamespaceTtl);
        }
        let job_retire_after = written.job.retire_after((path, text))?;
        Ok(Self {
            listen,
            listen_mode: flags.listen_mode.or(written.listen_mode).unwrap_or_default(),
            listen_group,
            tls,
            metrics: flags.metrics_listen.or(written.metrics.listen),
            csi,
            engines,
            issuers,
            serve,
            policy,
            state_dir,
            client_dir,
            said_frontend: written.frontend,
            layers: written.layers,
            frontend_file,
            grace_period: flags
                .grace_period
                .or(written.grace_period.map(|seconds| seconds.0))
                .unwrap_or(GRACE_PERIOD),
            namespace_ttl: namespace_ttl.unwrap_or(NAMESPACE_TTL),
            job_retire_after,
            disk: disk::marks(written.disk.as_ref(), (path, text))?,
            builds: BuildLimits {
                max: flags.max_builds.or(written.max_builds),
                max_per_job: flags.max_builds_per_job.or(written.max_builds_per_job),
            },
            log_format: flags.log_format.or(written.log_format).unwrap_or_default(),
            log_level: flags.log_level.or(written.log_level).unwrap_or_default(),
            audit_log: flags.audit_log.or(written.audit_log),
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    fs::read_to_string(path).map_err(failed)
}

/// `wharfd.toml:3`.
fn place(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    match before {
        Some(before) => format!("{}:{}", path.display(), before.matches('\n').count() + 1),
        None => path.display().to_string(),
    }
}

/// A group's number, from /etc/group alone: a static binary has no name service.
fn group_id(name: String) -> Result<u32, ConfigError> {
    let table = fs::read_to_string("/etc/group").unwrap_or_default();
    let id = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(&name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    id.ok_or(ConfigError::Group(name))
}

/// Reads `25`, `25s`, `5m` or `1h`.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 's')) => (text.get(..at), 1),
        Some((at, 'm')) => (text.get(..at), 60),
        Some((at, 'h')) => (text.get(..at), 3600),
        _ => (Some(text), 1),
    };
    let seconds = digits.and_then(|digits| digits.parse::<u32>().ok());
    seconds
        .map(|seconds| Duration::from_secs(u64::from(seconds) * unit))
        .ok_or_else(|| format!("`{}` is not a time; write it as 25, 25s, 5m or 1h", printable(text)))
}

#[cfg(test)]
mod tests;

//! The engines of the configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{ConfigError, Flags, env, file::File, place};
use crate::names::{EngineName, SocketPath, socket::SocketPathError};

pub(super) const ENGINE: &str = "unix:///var/run/docker.sock";

/// The engines by name, one of them the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engines {
    pub(super) sockets: BTreeMap<EngineName, SocketPath>,
    pub(super) default: EngineName,
    pub(super) disks: BTreeMap<EngineName, PathBuf>,
    pub(super) firewalls: BTreeMap<EngineName, PathBuf>,
}

impl Engines {
    /// The engine for users whose entry names none.
    pub fn default_name(&self) -> &EngineName {
        &self.default
    }

    /// A directory on the disk of an engine's storage, if the configuration names one.
    pub fn disk(&self, engine: &EngineName) -> Option<&Path> {
        self.disks.get(engine).map(PathBuf::as_path)
    }

    /// The file that is there while the rules of `wharfd firewall` are set in an engine's network, if the configuration
    /// names one.
    pub fn firewall(&self, engine: &EngineName) -> Option<&Path> {
        self.firewalls.get(engine).map(PathBuf::as_path)
    }

    /// Every engine and its socket.
    pub fn iter(&self) -> impl Iterator<Item = (&EngineName, &SocketPath)> {
        self.sockets.iter()
    }
}

/// Explains to users who ask for TCP why it is not supported.
pub(super) fn reason(error: &SocketPathError) -> &'static str {
    match error {
        SocketPathError::Scheme(..) => {
            ". wharfd runs on its engine's node and must be the engine's only client, which a network \
             address cannot guarantee"
        }
        SocketPathError::Shape(_)
        | SocketPathError::Relative(_)
        | SocketPathError::TooLong(..)
        | SocketPathError::Directory(_)
        | SocketPathError::Control(_) => "",
    }
}

/// The file's engines, or a single engine called `default`. `--engine` sets the default engine's socket.
pub(super) fn engines(
    flags: &Flags,
    written: &File,
    docker_host: Option<String>,
    (path, text): (&Path, &str),
) -> Result<Engines, ConfigError> {
    let mut sockets: BTreeMap<EngineName, SocketPath> =
        written.engines.iter().map(|(name, engine)| (name.clone(), engine.socket.clone())).collect();
    let default = match (&written.default_engine, sockets.len()) {
        (Some(name), 1..) if !sockets.contains_key(name.as_ref()) => {
            return Err(ConfigError::File {
                place: place(path, text, Some(name.span())),
                message: no_engine("default_engine", name.as_ref(), &sockets),
            });
        }
        (Some(name), _) => name.as_ref().clone(),
        (None, 0 | 1) => sockets.keys().next().cloned().unwrap_or_default(),
        (None, _) => {
            return Err(ConfigError::File {
                place: path.display().to_string(),
                message: "several engines and no default_engine: add `default_engine = \"NAME\"`".to_owned(),
            });
        }
    };
    let (origin, address) = match (&flags.engine, docker_host) {
        (Some(address), _) => ("--engine", Some(address.clone())),
        (None, Some(host)) if sockets.is_empty() => (env::DOCKER_HOST, Some(host)),
        (None, _) => ("the default", sockets.is_empty().then(|| ENGINE.to_owned())),
    };
    if let Some(address) = address {
        let socket = address.parse().map_err(|source| ConfigError::Engine { origin, source })?;
        sockets.insert(default.clone(), socket);
    }
    let mut names = BTreeMap::new();
    for (name, socket) in &sockets {
        if let Some(other) = names.insert(socket.as_path(), name) {
            return Err(ConfigError::File {
                place: path.display().to_string(),
                message: format!(
                    "engines.{} and engines.{} are the same engine, {socket}: nothing would keep their jobs apart",
                    other.as_str(),
                    name.as_str()
                ),
            });
        }
    }
    let (mut disks, mut firewalls) = (BTreeMap::new(), BTreeMap::new());
    for (name, engine) in &written.engines {
        let keys = [("disk", &engine.disk, &mut disks), ("firewall", &engine.firewall, &mut firewalls)];
        for (key, written, paths) in keys {
            let Some(written) = written else { continue };
            if !written.as_ref().is_absolute() {
                return Err(ConfigError::File {
                    place: place(path, text, Some(written.span())),
                    message: format!("engines.{}.{key} is not an absolute path", name.as_str()),
                });
            }
            paths.insert(name.clone(), written.as_ref().clone());
        }
    }
    Ok(Engines { sockets, default, disks, firewalls })
}

pub(super) fn no_engine(key: &str, name: &EngineName, known: &BTreeMap<EngineName, SocketPath>) -> String {
    let known: Vec<_> = known.keys().map(EngineName::as_str).collect();
    format!("{key}: no engine `{}`; there are: {}", name.as_str(), known.join(", "))
}

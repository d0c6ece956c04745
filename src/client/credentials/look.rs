//! A look at docker's config that asks nobody for a login.

use std::{collections::BTreeMap, io, path::PathBuf};

use super::{
    Config, HUB_KEY, Logins,
    config::{Found, hostname},
    helper, hub,
};
use crate::client::{env::Env, exit::Failure};

/// What there is of docker's config.
pub(crate) enum Look {
    /// Nobody knows where it would be.
    Homeless,
    /// No file.
    Absent {
        /// Its place.
        path: PathBuf,
        /// Whether a variable names the place.
        is_named: bool,
    },
    /// A file of another user, which is ignored.
    Closed {
        /// Its place.
        path: PathBuf,
        /// The error.
        why: io::Error,
    },
    /// A file that was read.
    Read {
        /// Its place.
        path: PathBuf,
        /// The registries with an entry.
        hosts: Vec<String>,
        /// The entries that cannot be used.
        broken: Vec<Failure>,
        /// The credential helpers that it names.
        helpers: Vec<Helper>,
    },
}

/// A credential helper that docker's config names.
pub(crate) struct Helper {
    /// The name of its program, if it can be one.
    pub(crate) program: Result<String, Failure>,
    /// The registries that it is for; none if it is for all.
    pub(crate) hosts: Vec<String>,
}

impl Look {
    /// Looks at the config of this environment.
    pub(crate) fn at(env: &Env) -> Result<Self, Failure> {
        let (directory, is_named) = super::directory(env);
        let Some(path) = directory.map(|directory| directory.join("config.json")) else {
            return Ok(Self::Homeless);
        };
        let config = match Config::find(&path, is_named)? {
            Found::Absent => return Ok(Self::Absent { path, is_named }),
            Found::Closed(why) => return Ok(Self::Closed { path, why }),
            Found::Read(config) => config,
        };
        let mut helpers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, host) in config.helpers() {
            helpers.entry(name).or_default().extend(host.map(|host| shown(host).to_owned()));
        }
        let is_store = |name: &str| config.helpers().any(|(store, host)| store == name && host.is_none());
        let helpers = helpers.into_iter().map(|(name, hosts)| Helper {
            program: helper::Helper::named(name).map(|helper| helper.name),
            hosts: if is_store(name) { Vec::new() } else { hosts },
        });
        Ok(Self::Read {
            hosts: config.hosts().map(|host| shown(host).to_owned()).collect(),
            broken: config.hosts().filter_map(|host| config.stored(host).err()).collect(),
            helpers: helpers.collect(),
            path,
        })
    }
}

/// The registries that WHARF_LOGIN has logins for.
pub(crate) fn of_blocks(env: &Env) -> Result<Vec<String>, Failure> {
    Ok(Logins::read(&[], &[], env)?.hosts().map(str::to_owned).collect())
}

/// The registries that DOCKER_AUTH_CONFIG has logins for.
pub(crate) fn of_variable(env: &Env) -> Result<Vec<String>, Failure> {
    let config = super::of_variable(env)?.unwrap_or_default();
    Ok(config.hosts().map(|host| shown(host).to_owned()).collect())
}

/// The registry of a key of docker's config.
fn shown(key: &str) -> &str {
    if key == HUB_KEY { hub(hostname(key)) } else { hostname(key) }
}

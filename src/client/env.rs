//! The environment that a command was started in. Read once, so that tests can have their own.

use std::{collections::BTreeMap, env, ffi::OsString, fs, path::PathBuf};

use super::exit::Failure;

/// The environment's variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env {
    variables: BTreeMap<OsString, OsString>,
}

impl Env {
    /// The process's own.
    pub(crate) fn of_process() -> Self {
        Self { variables: env::vars_os().collect() }
    }

    /// An environment of these variables.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self { variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }

    /// A variable's value; one that is empty counts as not set.
    pub(crate) fn get(&self, name: &str) -> Result<Option<String>, Failure> {
        Ok(self.get_raw(name)?.filter(|value| !value.is_empty()))
    }

    /// A variable's value as it is.
    pub(crate) fn get_raw(&self, name: &str) -> Result<Option<String>, Failure> {
        match self.variables.get(&OsString::from(name)) {
            Some(value) => match value.to_str() {
                Some(value) => Ok(Some(value.to_owned())),
                None => Err(Failure::usage(format!("the environment variable {name} is not UTF-8"))),
            },
            None => Ok(None),
        }
    }

    /// A variable that is a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(&OsString::from(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The user's home.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.path("HOME").or_else(|| passwd(5).map(PathBuf::from))
    }

    /// The user's login name, else the number.
    pub(crate) fn login(&self) -> String {
        passwd(0).unwrap_or_else(|| format!("uid-{}", rustix::process::geteuid().as_raw()))
    }
}

/// A field of the user's entry in passwd(5). A static binary has no other name service.
fn passwd(field: usize) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let uid = rustix::process::geteuid().as_raw().to_string();
    let entry = users.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    entry.split(':').nth(field).filter(|value| !value.is_empty()).map(str::to_owned)
}

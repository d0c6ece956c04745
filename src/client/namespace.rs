//! Resolves the namespace that a command acts in.

use std::fmt;

use super::{
    env::{self, Env},
    exit::Failure,
};
use crate::{
    names::{Namespace, own_job},
    wire::v1,
};

/// The run of a namespace outside of Jenkins builds.
const LOCAL_RUN: &str = "local";

/// The namespace of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// This one.
    Given(Namespace),
    /// The one that the token proves: the client cannot tell.
    OfToken,
}

impl Named {
    /// The same name, proven by this issuer.
    pub(crate) fn issued_by(self, issuer: String) -> Result<Self, Failure> {
        let issuer =
            issuer.try_into().map_err(|error: String| Failure::usage(format!("--issuer: {error}")))?;
        match self {
            Self::Given(namespace) => Ok(Self::Given(namespace.issued_by(issuer))),
            Self::OfToken => Err(Failure::usage("--issuer needs a namespace: name it, as `JOB#RUN`")),
        }
    }

    /// Its wire form.
    pub(crate) fn to_wire(&self) -> Option<v1::Namespace> {
        match self {
            Self::Given(namespace) => Some(namespace.into()),
            Self::OfToken => None,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(namespace) => namespace.fmt(f),
            Self::OfToken => f.write_str("the token's namespace"),
        }
    }
}

/// The namespace from `flag`, else WHARF_NAMESPACE, else Jenkins' variables, else the token's, else the user's own
/// job, so that wharf also works outside of a job.
pub(crate) fn resolve(flag: Option<&str>, env: &Env, has_token: bool) -> Result<Named, Failure> {
    if let Some(name) = flag {
        return Ok(Named::Given(Namespace::parse(name)?));
    }
    if let Some(name) = env.get(env::WHARF_NAMESPACE)? {
        return Ok(Named::Given(Namespace::parse(&name)?));
    }
    if let Some(job) = env.get(env::JOB_NAME)? {
        let run = env.get(env::BUILD_NUMBER)?.unwrap_or_else(|| LOCAL_RUN.to_owned());
        return Ok(Named::Given(Namespace::new(job, run)?));
    }
    if has_token {
        return Ok(Named::OfToken);
    }
    Ok(Named::Given(Namespace::new(own_job(rustix::process::geteuid().as_raw()), LOCAL_RUN)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(flag: Option<&str>, env: &[(&str, &str)]) -> String {
        resolve(flag, &Env::of(env), false).unwrap().to_string()
    }

    #[test]
    fn the_nearest_name_wins() {
        let jenkins = [("JOB_NAME", "acme/feature%2Fx"), ("BUILD_NUMBER", "42")];
        let named = [("WHARF_NAMESPACE", "acme/b#7"), ("JOB_NAME", "j"), ("BUILD_NUMBER", "1")];
        assert_eq!(resolved(Some("a#1"), &named), "a#1");
        assert_eq!(resolved(None, &named), "acme/b#7");
        assert_eq!(resolved(None, &jenkins), "acme/feature%2Fx#42");
        assert_eq!(resolved(None, &[("JOB_NAME", "a#b")]), "a#b#local");
        assert_eq!(resolved(None, &[("WHARF_NAMESPACE", ""), ("JOB_NAME", "a")]), "a#local");
        let own = resolved(None, &[]);
        assert!(own.starts_with("user/") && own.ends_with("#local"), "{own}");
        let with_token = |env: &[(&str, &str)]| resolve(None, &Env::of(env), true).unwrap().to_wire();
        assert_eq!(with_token(&[]), None);
        assert_eq!(with_token(&jenkins).unwrap().run, "42");
    }

    #[test]
    fn a_wrong_name_is_bad_usage() {
        let failure = resolve(Some("#1"), &Env::of(&[]), true).unwrap_err();
        assert!(failure.text.contains("job is empty") && failure.hint.is_some(), "{failure:?}");
    }
}

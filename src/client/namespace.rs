//! Resolves the namespace that a command acts in.

use std::fmt;

use super::{
    env::{self, Env},
    exit::Failure,
};
use crate::{
    names::{IssuerName, Namespace, own_job, printable, shown_job, shown_name},
    wire::v1,
};

/// The run of a namespace outside of Jenkins builds.
const LOCAL_RUN: &str = "local";

/// The namespace of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// This one.
    Given(Namespace),
    /// The one that the token proves: the client does not know it.
    OfToken,
    /// The one of the pod whose socket it is.
    OfPod,
}

impl Named {
    /// The same name, proven by this issuer.
    pub(crate) fn issued_by(self, issuer: String) -> Result<Self, Failure> {
        let issuer =
            issuer.try_into().map_err(|error: String| Failure::usage(format!("--issuer: {error}")))?;
        match self {
            Self::Given(namespace) => Ok(Self::Given(namespace.issued_by(issuer))),
            Self::OfToken | Self::OfPod => {
                Err(Failure::usage("--issuer needs a namespace: name it, as `JOB#RUN`"))
            }
        }
    }

    /// Its wire form.
    pub(crate) fn to_wire(&self) -> Option<v1::Namespace> {
        match self {
            Self::Given(namespace) => Some(namespace.into()),
            Self::OfToken | Self::OfPod => None,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(namespace) => namespace.fmt(f),
            Self::OfToken => f.write_str("the token's namespace"),
            Self::OfPod => f.write_str("the pod's namespace"),
        }
    }
}

/// A command's proof of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A job without an issuer.
    None,
    /// A token.
    Token,
    /// The socket of the pod that it runs in.
    Socket,
}

/// A namespace's name with its issuer, `ISSUER:JOB#RUN`, as [`parse_listed`] reads it and wharfd's log has it. A job without
/// an issuer has nothing before the colon if its own name has one.
pub(crate) fn listed_as(namespace: &v1::Namespace) -> String {
    let v1::Namespace { job, run, issuer } = namespace;
    format!("{}#{}", shown_job(&printable(issuer), job), shown_name(run))
}

/// The namespace that is listed as `name`.
pub(crate) fn parse_listed(name: &str) -> Result<Namespace, Failure> {
    let Some((before, rest)) = name.split_once(':') else { return Ok(Namespace::parse(name)?) };
    if before.is_empty() {
        return Ok(Namespace::parse(rest)?);
    }
    match IssuerName::try_from(before.to_owned()) {
        Ok(issuer) => Ok(Namespace::parse(rest)?.issued_by(issuer)),
        // A job's own colon: an issuer's name has no slash.
        Err(_) => Ok(Namespace::parse(name)?),
    }
}

/// The namespace from `flag`, else WHARF_NAMESPACE, else the pod's, else Jenkins' variables, else the token's, else the
/// user's own job, so that wharf also works outside of a job.
pub(crate) fn resolve(flag: Option<&str>, env: &Env, proof: Proof) -> Result<Named, Failure> {
    if let Some(name) = flag {
        return Ok(Named::Given(Namespace::parse(name)?));
    }
    if let Some(name) = env.get(env::WHARF_NAMESPACE)? {
        return Ok(Named::Given(Namespace::parse(&name)?));
    }
    // A pod may have the variables of a run, and is itself all the same.
    if proof == Proof::Socket {
        return Ok(Named::OfPod);
    }
    if let Some(job) = env.get(env::JOB_NAME)? {
        let run = env.get(env::BUILD_NUMBER)?.unwrap_or_else(|| LOCAL_RUN.to_owned());
        return Ok(Named::Given(Namespace::new(job, run)?));
    }
    if proof == Proof::Token {
        return Ok(Named::OfToken);
    }
    Ok(Named::Given(Namespace::new(own_job(rustix::process::geteuid().as_raw()), LOCAL_RUN)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(flag: Option<&str>, env: &[(&str, &str)]) -> String {
        resolve(flag, &Env::of(env), Proof::None).unwrap().to_string()
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
        let with_token = |env: &[(&str, &str)]| resolve(None, &Env::of(env), Proof::Token).unwrap().to_wire();
        assert_eq!(with_token(&[]), None);
        assert_eq!(with_token(&jenkins).unwrap().run, "42");
        let in_pod = |env: &[(&str, &str)]| resolve(None, &Env::of(env), Proof::Socket).unwrap();
        assert_eq!(in_pod(&jenkins), Named::OfPod);
        assert_eq!(in_pod(&named).to_string(), "acme/b#7");
    }

    #[test]
    fn a_listed_name_is_read_as_the_namespace_that_it_is() {
        let of = |job: &str| Namespace::new(job, "1").unwrap();
        let issued = |job: &str| of(job).issued_by("ci".to_owned().try_into().unwrap());
        for (namespace, shown) in [
            (of("acme/app"), "acme/app#1"),
            (issued("acme/app"), "ci:acme/app#1"),
            (issued("a:b#c"), "ci:a:b#c#1"),
            (of("ci:acme/app"), ":ci:acme/app#1"),
            (of(":"), "::#1"),
            (of("acme/👩\u{200d}💻"), "acme/👩\\u{200d}💻#1"),
            (issued("a:\u{202e}"), "ci:a:\\u{202e}#1"),
            (of("\u{200c}:"), ":\\u{200c}:#1"),
        ] {
            assert_eq!(listed_as(&(&namespace).into()), shown);
            assert_eq!(namespace.to_string(), shown);
            assert_eq!(parse_listed(shown).unwrap(), namespace);
        }
        assert_eq!(parse_listed("acme/app:x#1").unwrap(), of("acme/app:x"));
        assert!(parse_listed("ci:#1").is_err());
    }

    #[test]
    fn a_wrong_name_is_bad_usage() {
        let failure = resolve(Some("#1"), &Env::of(&[]), Proof::Token).unwrap_err();
        assert!(failure.text.contains("job is empty") && failure.hint.is_some(), "{failure:?}");
    }
}

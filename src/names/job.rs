//! The owners of everything that wharfd keeps: a job, and the namespace of one run of it.

use std::{borrow::Cow, fmt};

use super::{IssuerName, printable::is_hidden};

/// Jenkins' own limit on a folder path is lower, so no real job is refused.
const JOB_BYTES_MAX: usize = 1024;
const RUN_BYTES_MAX: usize = 255;

/// A job: its name, and the issuer that has proven the name. A name proven by an issuer and the same name
/// claimed by a user are two jobs, and so are the same names of two issuers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job {
    issuer: Option<IssuerName>,
    name: String,
}

/// One run of a job: `acme/app/main#42`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    job: Job,
    run: String,
}

/// The reason for refusing a namespace's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum NamespaceError {
    #[error("the namespace's {0} is empty")]
    Empty(&'static str),
    #[error("the namespace's {0} has {1} bytes; {2} are allowed")]
    TooLong(&'static str, usize, usize),
    #[error("the namespace's {0} has a control or format character, `{1}`")]
    Hidden(&'static str, String),
    #[error("the namespace's run has a `#`, which separates it from the job")]
    Hash,
}

impl Job {
    /// The name: `acme/app/main`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The issuer whose tokens prove the name; `None` for a name that a caller claims.
    pub fn issuer(&self) -> Option<&IssuerName> {
        self.issuer.as_ref()
    }

    /// A text that no other job has, as the key for everything that the job owns. Neither part has a control
    /// character.
    pub fn key(&self) -> Cow<'_, str> {
        match &self.issuer {
            None => Cow::Borrowed(&self.name),
            Some(issuer) => Cow::Owned(format!("\0{issuer}\0{}", self.name)),
        }
    }
}

/// The text of a job that no other job has: `ISSUER:NAME`, or the claimed name alone, with a colon before it if it has
/// one. A claimed job has an empty issuer.
pub fn shown_job(issuer: &str, name: &str) -> String {
    let colon = if issuer.is_empty() && !name.contains(':') { "" } else { ":" };
    format!("{issuer}{colon}{name}")
}

/// As [`shown_job`] has it.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_job(self.issuer.as_ref().map_or("", IssuerName::as_str), &self.name))
    }
}

impl Namespace {
    /// The namespace of `run` of `job`. A job's name has 1 to 1024 bytes, a run 1 to 255, and the run no `#`. Neither has a
    /// character that is not shown as itself: a name is read as it is listed.
    pub fn new(job: impl Into<String>, run: impl Into<String>) -> Result<Self, NamespaceError> {
        let (job, run) = (job.into(), run.into());
        check("job", &job, JOB_BYTES_MAX)?;
        check("run", &run, RUN_BYTES_MAX)?;
        if run.contains('#') {
            return Err(NamespaceError::Hash);
        }
        Ok(Self { job: Job { issuer: None, name: job }, run })
    }

    /// The namespace of the run `run` of the job `job`, both are checked names of a pod.
    pub(super) fn of_pod(job: &str, run: &str) -> Self {
        Self { job: Job { issuer: None, name: job.to_owned() }, run: run.to_owned() }
    }

    /// A text that no other namespace has.
    pub fn key(&self) -> String {
        format!("{}\0{}", self.job.key(), self.run)
    }

    /// The namespace of the same name whose job `issuer` has proven.
    #[must_use]
    pub fn issued_by(self, issuer: IssuerName) -> Self {
        Self { job: Job { issuer: Some(issuer), ..self.job }, ..self }
    }

    /// Reads `JOB#RUN`, split at the last `#`; without a `#` the run is `local`.
    pub fn parse(name: &str) -> Result<Self, NamespaceError> {
        match name.rsplit_once('#') {
            Some((job, run)) => Self::new(job, run),
            None => Self::new(name, "local"),
        }
    }

    /// Whether a caller that names this namespace can mean `proven`: it need not name the issuer.
    pub fn means(&self, proven: &Self) -> bool {
        let issuer = self.job.issuer.is_none() || self.job.issuer == proven.job.issuer;
        issuer && self.job.name == proven.job.name && self.run == proven.run
    }

    /// Whether tokens prove it: several over time, which may outlive it. A pod has no older proof than itself.
    pub fn is_of_tokens(&self) -> bool {
        self.job.issuer().is_some_and(|issuer| *issuer != IssuerName::of_pods())
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The run: `42`.
    pub fn run(&self) -> &str {
        &self.run
    }
}

fn check(what: &'static str, value: &str, max: usize) -> Result<(), NamespaceError> {
    if value.is_empty() {
        Err(NamespaceError::Empty(what))
    } else if value.len() > max {
        Err(NamespaceError::TooLong(what, value.len(), max))
    } else if let Some(hidden) = value.chars().find(|c| is_hidden(*c)) {
        Err(NamespaceError::Hidden(what, hidden.escape_default().to_string()))
    } else {
        Ok(())
    }
}

/// `JOB#RUN`: no other namespace is written so.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.job, self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::printable;

    #[test]
    fn a_name_splits_at_its_last_hash() {
        let namespace = Namespace::parse("acme/a#b/main#42").unwrap();
        assert_eq!((namespace.job().name(), namespace.run()), ("acme/a#b/main", "42"));
        assert_eq!(Namespace::parse("acme/feature%2Fx").unwrap().to_string(), "acme/feature%2Fx#local");
    }

    #[test]
    fn a_name_of_an_issuer_is_another_job() {
        let issuer = |name: &str| IssuerName::try_from(name.to_owned()).unwrap();
        let claimed = Namespace::new("acme/app", "1").unwrap();
        let [one, two] = ["one", "two"].map(|name| claimed.clone().issued_by(issuer(name)));
        assert!(claimed != one && one != two);
        let keys = [&claimed, &one, &two].map(|namespace| namespace.job().key().into_owned());
        assert!(keys[0] != keys[1] && keys[1] != keys[2], "{keys:?}");
        assert_eq!((one.to_string(), &*keys[0]), ("one:acme/app#1".to_owned(), "acme/app"));
    }

    #[test]
    fn what_is_not_a_name_says_why() {
        assert_eq!(Namespace::parse("#1"), Err(NamespaceError::Empty("job")));
        assert_eq!(Namespace::parse("a#"), Err(NamespaceError::Empty("run")));
        assert_eq!(Namespace::new("a\n", "1"), Err(NamespaceError::Hidden("job", "\\n".to_owned())));
        let turned = Namespace::new("a", "1\u{202e}2").unwrap_err().to_string();
        assert_eq!(turned, "the namespace's run has a control or format character, `\\u{202e}`");
        assert_eq!(Namespace::new("a", "5#7"), Err(NamespaceError::Hash));
        assert_eq!(Namespace::new("a", "r".repeat(256)), Err(NamespaceError::TooLong("run", 256, 255)));
    }

    /// What lists a namespace prints it, and what ends one reads what was printed.
    #[test]
    fn every_character_of_a_name_is_shown_as_itself() {
        for c in ('\0'..=char::MAX).filter(|c| *c != '#') {
            let [job, run] = [format!("a{c}b"), format!("1{c}2")];
            let shown = [&job, &run].map(|name| printable(name));
            let is_plain = [&job, &run] == [&shown[0], &shown[1]];
            assert_eq!(Namespace::new(job, "1").is_ok(), is_plain, "{c:?}");
            assert_eq!(Namespace::new("a", run).is_ok(), is_plain, "{c:?}");
        }
    }
}

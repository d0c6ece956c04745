//! The owners of everything that wharfd keeps: a job, and the namespace of one run of it.

use std::{borrow::Cow, fmt};

use super::{IssuerName, read_name, shown::ESCAPE, shown_name};

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
    #[error("the namespace's {0} has a control character, `{1}`")]
    Control(&'static str, String),
    #[error(
        "the namespace's {0} has `\\u{{`, which is kept for characters that nobody sees, such as `\\u{{200d}}`"
    )]
    Escape(&'static str),
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
/// one. A claimed job has an empty issuer. The name is a [`shown_name`].
pub fn shown_job(issuer: &str, name: &str) -> String {
    let colon = if issuer.is_empty() && !name.contains(':') { "" } else { ":" };
    format!("{issuer}{colon}{}", shown_name(name))
}

/// As [`shown_job`] has it.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_job(self.issuer.as_ref().map_or("", IssuerName::as_str), &self.name))
    }
}

impl Namespace {
    /// The namespace of `run` of `job`. A job's name has 1 to 1024 bytes, a run 1 to 255, and the run no `#`. Neither has a
    /// control character, or the beginning of an escape: a name is read as it is shown.
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

    /// Reads `JOB#RUN`, split at the last `#`, of names as they are or as they are shown; without a `#` the run is `local`.
    pub fn parse(name: &str) -> Result<Self, NamespaceError> {
        let (job, run) = name.rsplit_once('#').unwrap_or((name, "local"));
        Self::new(read_name(job), read_name(run))
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
    } else if let Some(control) = value.chars().find(|c| is_control(*c)) {
        Err(NamespaceError::Control(what, control.escape_default().to_string()))
    } else if value.contains(ESCAPE) {
        Err(NamespaceError::Escape(what))
    } else {
        Ok(())
    }
}

/// Keys separate their parts by control characters. Those that end a line are in no text that names a job.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `JOB#RUN`: no other namespace is written so, and each character is seen.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.job, shown_name(&self.run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{printable, shown::is_unseen};

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
        assert_eq!(Namespace::new("a\n", "1"), Err(NamespaceError::Control("job", "\\n".to_owned())));
        let line = Namespace::new("a", "1\u{2028}2").unwrap_err().to_string();
        assert_eq!(line, "the namespace's run has a control character, `\\u{2028}`");
        assert_eq!(Namespace::new("a\\u{200d}", "1"), Err(NamespaceError::Escape("job")));
        let escape = Namespace::parse("a#\\u{61}").unwrap_err().to_string();
        assert_eq!(
            escape,
            "the namespace's run has `\\u{`, which is kept for characters that nobody sees, such as `\\u{200d}`"
        );
        assert_eq!(Namespace::new("a", "5#7"), Err(NamespaceError::Hash));
        assert_eq!(Namespace::new("a", "r".repeat(256)), Err(NamespaceError::TooLong("run", 256, 255)));
    }

    /// What lists a namespace prints it, and what ends one reads what was printed. No two are printed alike.
    #[test]
    fn a_name_is_read_as_it_is_shown() {
        for c in ('\0'..=char::MAX).filter(|c| *c != ':') {
            for (job, run) in [(format!("a{c}b"), "1".to_owned()), ("a".to_owned(), format!("1{c}2"))] {
                let Ok(namespace) = Namespace::new(job, run) else {
                    assert!(is_control(c) || c == '#', "{c:?}");
                    continue;
                };
                let shown = namespace.to_string();
                assert!(!shown.chars().any(is_unseen), "{c:?}");
                assert_eq!(printable(&shown), shown, "{c:?}");
                assert_eq!(shown.contains(c), !is_unseen(c), "{c:?}");
                assert_eq!(Namespace::parse(&shown).unwrap(), namespace, "{c:?}");
            }
        }
    }
}

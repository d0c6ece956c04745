//! The owners of everything that wharfd keeps: a job, and the namespace of one run of it.

use std::fmt;

/// Jenkins' own limit on a folder path is lower, so no real job is refused.
const JOB_BYTES_MAX: usize = 1024;
const RUN_BYTES_MAX: usize = 255;

/// One run of a job: `acme/app/main#42`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    job: String,
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
    #[error("the namespace's {0} has a control character")]
    Control(&'static str),
}

impl Namespace {
    /// The namespace of `run` of `job`. A job has 1 to 1024 bytes, a run 1 to 255, without control characters.
    pub fn new(job: impl Into<String>, run: impl Into<String>) -> Result<Self, NamespaceError> {
        let (job, run) = (job.into(), run.into());
        check("job", &job, JOB_BYTES_MAX)?;
        check("run", &run, RUN_BYTES_MAX)?;
        Ok(Self { job, run })
    }

    /// Reads `JOB#RUN`, split at the last `#`; without a `#` the run is `local`.
    pub fn parse(name: &str) -> Result<Self, NamespaceError> {
        match name.rsplit_once('#') {
            Some((job, run)) => Self::new(job, run),
            None => Self::new(name, "local"),
        }
    }

    /// The job: `acme/app/main`.
    pub fn job(&self) -> &str {
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
    } else if value.chars().any(char::is_control) {
        Err(NamespaceError::Control(what))
    } else {
        Ok(())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.job, self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_splits_at_its_last_hash() {
        let namespace = Namespace::parse("acme/a#b/main#42").unwrap();
        assert_eq!((namespace.job(), namespace.run()), ("acme/a#b/main", "42"));
        assert_eq!(Namespace::parse("acme/feature%2Fx").unwrap().to_string(), "acme/feature%2Fx#local");
    }

    #[test]
    fn what_is_not_a_name_says_why() {
        assert_eq!(Namespace::parse("#1"), Err(NamespaceError::Empty("job")));
        assert_eq!(Namespace::parse("a#"), Err(NamespaceError::Empty("run")));
        assert_eq!(Namespace::new("a\n", "1"), Err(NamespaceError::Control("job")));
        assert_eq!(Namespace::new("a", "r".repeat(256)), Err(NamespaceError::TooLong("run", 256, 255)));
    }
}

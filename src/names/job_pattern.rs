//! Patterns of jobs, by their issuers and names.

use std::fmt;

use super::{IssuerName, Job, Pattern, pattern::PatternError};

/// A pattern of jobs: `ISSUER:PATTERN` matches names that the issuer proves, and `PATTERN` matches claimed
/// names; write a leading colon if the pattern itself contains one. `*` alone is every job.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct JobPattern(Jobs);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Jobs {
    Any,
    Of { issuer: Option<IssuerName>, names: Pattern },
}

impl JobPattern {
    /// The issuer of the jobs that it matches; `None` if it matches others.
    pub fn issuer(&self) -> Option<&IssuerName> {
        match &self.0 {
            Jobs::Any => None,
            Jobs::Of { issuer, .. } => issuer.as_ref(),
        }
    }

    /// Whether the pattern matches `job`. A name that is only claimed is never an issuer's, however it begins.
    pub fn matches(&self, job: &Job) -> bool {
        match &self.0 {
            Jobs::Any => true,
            Jobs::Of { issuer, names } => issuer.as_ref() == job.issuer() && names.matches(job.name()),
        }
    }

    /// Whether it matches all that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Jobs::Any, _) => true,
            (Jobs::Of { .. }, Jobs::Any) => false,
            (Jobs::Of { issuer, names }, Jobs::Of { issuer: other, names: others }) => {
                issuer == other && names.covers(others)
            }
        }
    }
}

impl TryFrom<String> for JobPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "*" {
            return Ok(Self(Jobs::Any));
        }
        // As the client reads a namespace's name: an issuer's name has no slash.
        let issuer =
            text.split_once(':').map(|(issuer, names)| (IssuerName::try_from(issuer.to_owned()), names));
        let (issuer, names) = match issuer {
            Some((Ok(issuer), "")) => {
                let text = format!("`{issuer}:` names no job; `{issuer}:*` is every job of the issuer");
                return Err(text);
            }
            Some((Ok(issuer), names)) => (Some(issuer), names),
            Some((Err(_), names)) if text.starts_with(':') => (None, names),
            Some((Err(_), _)) | None => (None, text.as_str()),
        };
        let names = names.parse().map_err(|error: PatternError| error.to_string())?;
        Ok(Self(Jobs::Of { issuer, names }))
    }
}

impl fmt::Display for JobPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Jobs::Any => f.write_str("*"),
            Jobs::Of { issuer: Some(issuer), names } => write!(f, "{issuer}:{names}"),
            Jobs::Of { issuer: None, names } if names.is_any() || names.as_str().contains(':') => {
                write!(f, ":{}", names)
            }
            Jobs::Of { issuer: None, names } => names.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Namespace;

    fn pattern(text: &str) -> JobPattern {
        JobPattern::try_from(text.to_owned()).unwrap()
    }

    fn matches(text: &str, issuer: Option<&str>, name: &str) -> bool {
        let job = Namespace::new(name, "1").unwrap();
        let job = match issuer {
            Some(issuer) => job.issued_by(issuer.to_owned().try_into().unwrap()),
            None => job,
        };
        pattern(text).matches(job.job())
    }

    #[test]
    fn a_pattern_matches_the_jobs_of_its_issuer_or_those_of_none() {
        for name in ["acme/app", "ci:acme/app", "ci"] {
            for issuer in [None, Some("ci"), Some("other")] {
                assert!(matches("*", issuer, name));
                assert_eq!(matches("ci:*", issuer, name), issuer == Some("ci"), "{issuer:?} {name}");
                assert_eq!(matches(":*", issuer, name), issuer.is_none(), "{issuer:?} {name}");
            }
        }
        // No prefix goes over the colon of an issuer.
        for prefix in ["c*", "ci*"] {
            assert!(matches(prefix, None, "ci") && matches(prefix, None, "ci:acme/app"));
            assert!(!matches(prefix, Some("ci"), "acme/app") && !matches(prefix, Some("ci"), "ci"));
        }
        assert!(matches("ci:acme/*", Some("ci"), "acme/app") && !matches("ci:acme/*", None, "ci:acme/app"));
        assert!(matches(":ci:acme/*", None, "ci:acme/app") && !matches(":ci:acme/*", Some("ci"), "acme/app"));
        assert!(matches("a/b:c*", None, "a/b:cd") && matches("ci:a:b", Some("ci"), "a:b"));
        assert!(!matches("acme/*", Some("ci"), "acme/app"));
    }

    #[test]
    fn a_pattern_covers_what_it_matches() {
        for (wide, narrow) in
            [("*", "ci:*"), ("*", ":*"), (":*", "acme/*"), ("ci:*", "ci:acme/*"), ("c*", ":ci:x")]
        {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
            assert!(!pattern(narrow).covers(&pattern(wide)), "{narrow} {wide}");
        }
        for (one, other) in [("ci*", "ci:acme"), ("ci:*", ":ci:*"), ("ci:*", "cj:*"), (":*", "ci:*")] {
            assert!(!pattern(one).covers(&pattern(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_it_is_read() {
        for text in ["*", ":*", "ci:*", "acme/*", "ci:acme/app", ":ci:acme/*", ":a/b:c*"] {
            assert_eq!(pattern(text).to_string(), text);
        }
        assert_eq!(pattern("a/b:c").to_string(), ":a/b:c");
        for wrong in ["", "ci:", ":", "ci*:x", "a*b", "ci:**"] {
            assert!(JobPattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}

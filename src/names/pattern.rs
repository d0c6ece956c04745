//! Patterns of job names.

use std::{fmt, str::FromStr};

use super::{printable, read_name, shown_name};

/// A pattern of job names: exact, or a prefix that ends in `*`. It is written with the names' own characters, or as they are
/// shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

/// The reason for refusing a pattern.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PatternError {
    #[error("the pattern is empty; `*` matches every job")]
    Empty,
    #[error("`{0}`: `*` can only be the last character")]
    Star(String),
}

impl Pattern {
    /// The pattern that matches every job.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// The pattern that matches `job` alone; `job` has no `*`.
    pub(crate) fn only(job: String) -> Self {
        Self(job)
    }

    /// Whether the pattern matches every job.
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// Whether the pattern matches `job`.
    pub fn matches(&self, job: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => job.starts_with(prefix),
            None => job == self.0,
        }
    }

    /// Whether it matches all that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('*'), other.0.strip_suffix('*')) {
            (Some(prefix), Some(others)) => others.starts_with(prefix),
            (_, None) => self.matches(&other.0),
            (None, Some(_)) => false,
        }
    }

    /// The pattern, in the names' own characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix('*').unwrap_or(text) {
            "" if text.is_empty() => Err(PatternError::Empty),
            prefix if prefix.contains('*') => Err(PatternError::Star(printable(text))),
            _ => Ok(Self(read_name(text))),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_name(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_ends_a_prefix() {
        let pattern: Pattern = "acme/*".parse().unwrap();
        assert!(pattern.matches("acme/app") && pattern.matches("acme/"));
        assert!(!pattern.matches("acme") && !pattern.matches("acmes/app"));
        let exact: Pattern = "acme/app".parse().unwrap();
        assert!(exact.matches("acme/app") && !exact.matches("acme/app/main"));
        assert!(Pattern::any().matches("x") && Pattern::any().is_any());
        assert!(!pattern.is_any() && !exact.is_any());
        let any = Pattern::any();
        assert!(any.covers(&pattern) && any.covers(&exact) && pattern.covers(&exact) && exact.covers(&exact));
        assert!(!pattern.covers(&any) && !exact.covers(&pattern) && !exact.covers(&any));
    }

    #[test]
    fn a_pattern_is_written_as_names_are_or_as_they_are_shown() {
        let [own, shown] = ["acme/می\u{200c}رود", "acme/می\\u{200c}رود"];
        for text in [own, shown] {
            let pattern: Pattern = text.parse().unwrap();
            assert!(pattern.matches(own) && !pattern.matches("acme/میرود"));
            assert_eq!(pattern.to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_pattern_says_why() {
        assert_eq!("".parse::<Pattern>(), Err(PatternError::Empty));
        assert_eq!("a*b".parse::<Pattern>(), Err(PatternError::Star("a*b".into())));
        assert_eq!("**".parse::<Pattern>(), Err(PatternError::Star("**".into())));
    }
}

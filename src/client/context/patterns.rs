//! `.dockerignore`'s patterns, as BuildKit matches them (moby/patternmatcher).

use regex::Regex;

use super::{glob, path, regexp};

/// The reason why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// The pattern consists of a `!` only.
    #[error("illegal exclusion pattern: \"!\"")]
    Bare,
    /// The pattern is malformed.
    #[error("`{0}` is not a well-formed pattern")]
    Syntax(String),
}

/// An ordered list of patterns; the last one that matches decides.
#[derive(Debug)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// The patterns that match a directory; its entries inherit them.
#[derive(Clone, Debug, Default)]
pub struct Matched(Box<[bool]>);

#[derive(Debug)]
struct Pattern {
    /// Whether the pattern began with `!`, which re-includes its matches.
    exception: bool,
    /// Cleaned, and without the `!`.
    text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Exact,
    Prefix(usize),
    Suffix,
    Regex(Regex),
    /// Matching it fails. A pattern that no path is matched against does no harm.
    Invalid,
}

impl Patterns {
    /// Reads patterns, one per line of `.dockerignore`; skips blank lines.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn new<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<Self, IgnoreError> {
        let patterns = lines
            .into_iter()
            .map(|line| line.as_ref().trim().to_owned())
            .filter(|line| !line.is_empty())
            .map(|line| Pattern::new(&line))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether `path` matches, and the state that its entries inherit if it is a directory. `above` is the
    /// state of the parent directory, or the default for an entry of the root.
    ///
    /// # Errors
    /// When a pattern that would decide is invalid.
    pub fn matches(&self, path: &str, above: &Matched) -> Result<(bool, Matched), IgnoreError> {
        let mut matched = false;
        let mut each = vec![false; self.patterns.len()].into_boxed_slice();
        for (at, (pattern, own)) in self.patterns.iter().zip(&mut each).enumerate() {
            let inherited = above.0.get(at).copied().unwrap_or(false);
            // This pattern cannot change the outcome so far.
            if !inherited && pattern.exception != matched {
                continue;
            }
            *own = inherited
                || pattern.matches(path)?
                || (above.0.is_empty() && path::ancestors(path).any(|dir| pattern.matches(dir) == Ok(true)));
            if *own {
                matched = !pattern.exception;
            }
        }
        Ok((matched, Matched(each)))
    }

    /// Whether a pattern could match something inside `directory`. Looks at exceptions only if `exceptions`
    /// is true, at the other patterns otherwise.
    pub(crate) fn may_match_inside(&self, directory: &str, exceptions: bool) -> bool {
        self.patterns.iter().filter(|pattern| pattern.exception == exceptions).any(|pattern| {
            let text = pattern.text.strip_suffix("/**").unwrap_or(&pattern.text);
            let text = text.strip_suffix("/*").unwrap_or(text);
            // Wildcards may match anything; a plain pattern must lead into the directory.
            text.contains(['*', '[', ']', '?', '^', '\\'])
                || text == directory
                || text.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

impl Pattern {
    fn new(line: &str) -> Result<Self, IgnoreError> {
        // Docker cleans the pattern before it removes the `!`: `!./a` stays `./a` and matches nothing.
        let cleaned = path::clean(line);
        let (exception, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(IgnoreError::Bare),
            Some(text) => (true, text.to_owned()),
            None => (false, cleaned),
        };
        glob::check(&text).map_err(|_| IgnoreError::Syntax(line.to_owned()))?;
        let kind = Kind::of(&text);
        Ok(Self { exception, text, kind })
    }

    fn matches(&self, path: &str) -> Result<bool, IgnoreError> {
        match &self.kind {
            Kind::Exact => Ok(path == self.text),
            Kind::Prefix(length) => {
                Ok(self.text.get(..*length).is_some_and(|prefix| path.starts_with(prefix)))
            }
            Kind::Suffix => {
                let suffix = self.text.get(2..).unwrap_or_default();
                Ok(path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path))
            }
            Kind::Regex(regex) => Ok(regex.is_match(path)),
            Kind::Invalid => Err(IgnoreError::Syntax(self.text.clone())),
        }
    }
}

impl Kind {
    /// Writes the same regular expression as Docker, and decides whether it needs to be matched.
    fn of(text: &str) -> Self {
        #[derive(PartialEq)]
        enum Shape {
            Exact,
            Prefix,
            Suffix,
            Regex,
        }
        let mut shape = Shape::Exact;
        let mut expression = String::from("^");
        let mut chars = text.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    // `**/` matches any number of directories, including none.
                    chars.next_if_eq(&'/');
                    if chars.peek().is_some() {
                        expression.push_str("(.*/)?");
                        shape = Shape::Regex;
                    } else if shape == Shape::Exact {
                        shape = Shape::Prefix;
                    } else {
                        expression.push_str(".*");
                        shape = Shape::Regex;
                    }
                    if first {
                        shape = Shape::Suffix;
                    }
                }
                '*' => {
                    expression.push_str("[^/]*");
                    shape = Shape::Regex;
                }
                '?' => {
                    expression.push_str("[^/]");
                    shape = Shape::Regex;
                }
                // Docker intends to escape `{`, `|` and `}` too, but does not.
                '.' | '+' | '(' | ')' | '$' => {
                    expression.push('\\');
                    expression.push(c);
                }
                '\\' => {
                    expression.push('\\');
                    if let Some(escaped) = chars.next() {
                        expression.push(escaped);
                        shape = Shape::Regex;
                    }
                }
                '[' | ']' => {
                    expression.push(c);
                    shape = Shape::Regex;
                }
                c => expression.push(c),
            }
            first = false;
        }
        match shape {
            Shape::Exact => Self::Exact,
            Shape::Prefix => Self::Prefix(text.len().saturating_sub(2)),
            Shape::Suffix => Self::Suffix,
            Shape::Regex => {
                expression.push('$');
                regexp::compile(&expression).map_or(Self::Invalid, Self::Regex)
            }
        }
    }
}

//! `.dockerignore`'s patterns, as BuildKit matches them (moby/patternmatcher).

use regex::Regex;

use super::{glob, path, regexp};

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Only a `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    Bare,
    /// Not well-formed.
    #[error("`{0}` is not a well-formed pattern")]
    Syntax(String),
}

/// An ordered list of patterns; the last one that matches decides.
#[derive(Debug)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// Which of the patterns match a directory: what its entries need to know of it.
#[derive(Clone, Debug, Default)]
pub struct Matched(Box<[bool]>);

#[derive(Debug)]
struct Pattern {
    /// Whether it began with `!`: what it matches is taken out again.
    exception: bool,
    /// Cleaned, without the `!`.
    text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Exact,
    Prefix(usize),
    Suffix,
    Regex(Regex),
    /// An error when it is asked, and only then: a pattern that no path gets to does no harm.
    Invalid,
}

impl Patterns {
    /// Reads patterns, one a line of `.dockerignore`; blank ones count for nothing.
    ///
    /// # Errors
    /// When one is not well-formed.
    pub fn new<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        let patterns = lines
            .into_iter()
            .map(|line| line.as_ref().trim().to_owned())
            .filter(|line| !line.is_empty())
            .map(|line| Pattern::new(&line))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether `path` matches, and what its own entries need to know, if it is a directory. `above`
    /// is what the directory that holds it gave; the default for an entry of the root.
    ///
    /// # Errors
    /// When a pattern that decides cannot be matched.
    pub fn matches(&self, path: &str, above: &Matched) -> Result<(bool, Matched), PatternError> {
        let mut matched = false;
        let mut each = vec![false; self.patterns.len()].into_boxed_slice();
        for (at, (pattern, own)) in self.patterns.iter().zip(&mut each).enumerate() {
            let inherited = above.0.get(at).copied().unwrap_or(false);
            // What an earlier pattern has settled needs no look at this one.
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

    /// Whether something inside of `directory` could be matched by a pattern, or by an exception
    /// where `exceptions` asks for those.
    pub(crate) fn may_match_inside(&self, directory: &str, exceptions: bool) -> bool {
        self.patterns.iter().filter(|pattern| pattern.exception == exceptions).any(|pattern| {
            let text = pattern.text.strip_suffix("/**").unwrap_or(&pattern.text);
            let text = text.strip_suffix("/*").unwrap_or(text);
            // Wildcards may match anything; a plain one has to lead into the directory.
            text.contains(['*', '[', ']', '?', '^', '\\'])
                || text == directory
                || text.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

impl Pattern {
    fn new(line: &str) -> Result<Self, PatternError> {
        // Cleaned before the `!` is taken off, as Docker does: `!./a` stays `./a`, and matches
        // nothing.
        let cleaned = path::clean(line);
        let (exception, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::Bare),
            Some(text) => (true, text.to_owned()),
            None => (false, cleaned),
        };
        glob::check(&text).map_err(|_| PatternError::Syntax(line.to_owned()))?;
        let kind = Kind::of(&text);
        Ok(Self { exception, text, kind })
    }

    fn matches(&self, path: &str) -> Result<bool, PatternError> {
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
            Kind::Invalid => Err(PatternError::Syntax(self.text.clone())),
        }
    }
}

impl Kind {
    /// Writes the regular expression that Docker writes, and finds whether one is needed.
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
                    // `**/` is any number of directories, also none.
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
                // Docker means to escape `{`, `|` and `}` too, but does not.
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

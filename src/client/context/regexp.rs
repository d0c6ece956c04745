//! Translates the subset of Go's regular expressions that a pattern can contain, for the `regex` crate.
//!
//! Docker turns a pattern of `.dockerignore` into a regular expression for Go, and that expression defines
//! which files match. Docker escapes less of the pattern than its documentation says: `\d`, `|`, `{2}`, and a
//! class that contains a `*` keep their meaning in the expression. So this client writes the same expression
//! as Docker, and interprets it as Go does.

use std::fmt::Write as _;

use regex::Regex;

/// Go's limit on a counted repetition.
const REPEAT_MAX: u32 = 1000;

/// The names of classes such as `[:alpha:]`, the same in Go and in `regex`.
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// Compiles Go's `expression`; `None` if Go refuses it, or if Go and `regex` could differ.
pub(crate) fn compile(expression: &str) -> Option<Regex> {
    let mut translation = Translation { out: String::new(), rest: expression };
    translation.run()?;
    Regex::new(&translation.out).ok()
}

struct Translation<'a> {
    out: String,
    rest: &'a str,
}

impl<'a> Translation<'a> {
    fn run(&mut self) -> Option<()> {
        // Whether there is something to repeat: not at the start or after `|` or `(`. A repetition of a
        // repetition is an error in Go.
        let mut repeatable = false;
        while let Some(c) = self.next() {
            repeatable = match c {
                '*' | '?' if repeatable => {
                    self.out.push(c);
                    false
                }
                '*' | '?' => return None,
                '{' => match self.repetition()? {
                    Some(counts) if repeatable => {
                        let _ = write!(self.out, "{{{counts}}}");
                        false
                    }
                    Some(_) => return None,
                    None => {
                        self.literal('{');
                        true
                    }
                },
                '(' | '|' => {
                    self.out.push(c);
                    false
                }
                '^' | '$' | '.' | ')' => {
                    self.out.push(c);
                    true
                }
                '[' => {
                    self.class()?;
                    true
                }
                '\\' => self.escape(repeatable)?,
                c => {
                    self.literal(c);
                    true
                }
            };
        }
        Some(())
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn strip(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn literal(&mut self, c: char) {
        // Always by number, so that no character of a pattern has a special meaning in `regex`.
        let _ = write!(self.out, "\\x{{{:x}}}", u32::from(c));
    }

    /// The text between `{` and `}`, if it is a repetition. `None` if Go refuses its numbers.
    fn repetition(&mut self) -> Option<Option<&'a str>> {
        let Some((inside, rest)) = self.rest.split_once('}') else { return Some(None) };
        let (low, high) = inside.split_once(',').map_or((inside, None), |(low, high)| (low, Some(high)));
        let is_number = |digits: &str| {
            !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
                && (digits.len() == 1 || !digits.starts_with('0'))
        };
        if !is_number(low) || high.is_some_and(|high| !high.is_empty() && !is_number(high)) {
            return Some(None);
        }
        let number = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n <= REPEAT_MAX);
        let least = number(low)?;
        if let Some(high) = high.filter(|high| !high.is_empty())
            && number(high)? < least
        {
            return None;
        }
        self.rest = rest;
        Some(Some(inside))
    }

    /// Reads a `\` outside of a class; returns whether the result can be repeated.
    fn escape(&mut self, repeatable: bool) -> Option<bool> {
        match self.rest.chars().next() {
            Some('A') => self.out.push_str("\\A"),
            Some('z') => self.out.push_str("\\z"),
            Some('b') => self.out.push_str("(?-u:\\b)"),
            Some('Q') => {
                let quoted = self.rest.get(1..)?;
                let (quoted, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                self.rest = rest;
                quoted.chars().for_each(|c| self.literal(c));
                return Some(repeatable || !quoted.is_empty());
            }
            _ => {
                if let Some(set) = self.perl_class() {
                    self.out.push_str(&set);
                } else {
                    let c = self.escaped_char()?;
                    self.literal(c);
                }
                return Some(true);
            }
        }
        self.next();
        Some(true)
    }

    /// Reads `\d` and similar classes, after the `\`. They are ASCII only, as in Go.
    fn perl_class(&mut self) -> Option<String> {
        let c = self.rest.chars().next()?;
        let set = match c.to_ascii_lowercase() {
            'd' => "0-9",
            's' => "\\t\\n\\x0c\\r\\x20",
            'w' => "0-9A-Za-z_",
            _ => return None,
        };
        self.next();
        Some(format!("[{}{set}]", if c.is_ascii_uppercase() { "^" } else { "" }))
    }

    /// The character that an escape means, read after the `\`. `\p`, `\B` and `\C`, among others, are
    /// refused: the first two would need tables and bytes that Go and `regex` treat differently.
    fn escaped_char(&mut self) -> Option<char> {
        let c = self.next()?;
        match c {
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            '0' => self.octal(0),
            '1'..='7' if self.rest.starts_with(|next| matches!(next, '0'..='7')) => {
                self.octal(c.to_digit(8)?)
            }
            'x' => self.hexadecimal(),
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            _ => None,
        }
    }

    fn octal(&mut self, first: u32) -> Option<char> {
        let mut value = first;
        for _ in 0..2 {
            let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
            self.next();
            value = value * 8 + digit;
        }
        char::from_u32(value)
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if self.strip("{") {
            let (digits, rest) = self.rest.split_once('}')?;
            self.rest = rest;
            digits
        } else {
            let digits = self.rest.get(..2)?;
            self.rest = self.rest.get(2..)?;
            digits
        };
        // `from_str_radix` would accept a sign.
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u32::from_str_radix(digits.trim_start_matches('0'), 16)
            .ok()
            .or_else(|| (!digits.is_empty() && digits.bytes().all(|b| b == b'0')).then_some(0))
            .and_then(char::from_u32)
    }

    /// Reads a class, after its `[`.
    fn class(&mut self) -> Option<()> {
        self.out.push('[');
        if self.strip("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if !first && self.strip("]") {
                self.out.push(']');
                return Some(());
            }
            first = false;
            if self.rest.starts_with("[:")
                && let Some((name, rest)) = self.rest.get(2..).and_then(|rest| rest.split_once(":]"))
            {
                // An unknown name is an error in Go, but a class of these letters in `regex`.
                if !POSIX_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return None;
                }
                let _ = write!(self.out, "[:{name}:]");
                self.rest = rest;
                continue;
            }
            if let Some(after) = self.rest.strip_prefix('\\') {
                let whole = std::mem::replace(&mut self.rest, after);
                if let Some(set) = self.perl_class() {
                    self.out.push_str(&set);
                    continue;
                }
                self.rest = whole;
            }
            let low = self.class_char()?;
            let mut high = low;
            if self.rest.starts_with('-') && self.rest.len() > 1 && !self.rest.starts_with("-]") {
                self.next();
                high = self.class_char()?;
            }
            if high < low {
                return None;
            }
            self.literal(low);
            self.out.push('-');
            self.literal(high);
        }
    }

    fn class_char(&mut self) -> Option<char> {
        match self.next()? {
            '\\' => self.escaped_char(),
            c => Some(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_as_go_does() {
        for (expression, text, expected) in [
            ("^a|b[^/]*$", "ab", Some(true)),
            ("^a|b[^/]*$", "cb", Some(true)),
            ("^a{2}$", "aa", Some(true)),
            ("^a{,2}$", "a{,2}", Some(true)),
            ("^a{02}$", "a{02}", Some(true)),
            ("^a{1001}$", "a", None),
            ("^a{3,2}$", "a", None),
            ("^[^/]*{2}$", "a", None),
            ("^|{2}$", "a", None),
            ("^[[^/]*]$", "^^]", Some(true)),
            ("^[]a]$", "]", Some(true)),
            ("^[a&&b]$", "&", Some(true)),
            ("^[a~~b]$", "~", Some(true)),
            ("^[[:digit:]]$", "7", Some(true)),
            ("^[[:DIGIT:]]$", "7", None),
            (r"^\d$", "7", Some(true)),
            (r"^\d$", "٣", Some(false)),
            (r"^[\D]$", "٣", Some(true)),
            (r"^\Qa.b\E.$", "a.bc", Some(true)),
            (r"^\Qa$", "a$", Some(true)),
            (r"^\x41\x{42}\103$", "ABC", Some(true)),
            (r"^\q$", "q", None),
            (r"^\1$", "1", None),
            ("^[z-a]$", "b", None),
            ("^[a", "a", None),
        ] {
            let found = compile(expression).map(|regex| regex.is_match(text));
            assert_eq!(found, expected, "{expression} on {text}");
        }
    }
}

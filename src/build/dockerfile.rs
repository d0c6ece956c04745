//! Estimates how much memory and time a Dockerfile takes when BuildKit's frontend expands it, in the engine's own
//! process.
//!
//! The estimate is rather high: only the length of each variable is known here, and nothing about the
//! Dockerfile's base images. No real Dockerfile comes near the limits.

use std::{collections::HashMap, sync::Arc};

use super::{input::Texts, packets::READ_BYTES_MAX};

/// The limit on a Dockerfile that BuildKit checks: each of its warnings carries all of the text, and there may be one
/// for each line.
const CHECKED_BYTES_MAX: u64 = 1 << 20;
/// The build argument, and its value, without which BuildKit checks.
pub const CHECK: (&str, &str) = ("BUILDKIT_DOCKERFILE_CHECK", "skip=all");
/// The limit on lines. Generated Dockerfiles have some 15,000; 4 MiB of ordinary lines are 70,000.
const LINES_MAX: usize = 100_000;
/// The limit on the variables that all lines see together: for each line BuildKit may go through all that the stage
/// has, so that its time grows with the square of their number (10,000 `ENV`s cost 7 s of a processor, measured on
/// the newest engine). Real Dockerfiles have a few dozen.
const VARIABLES_SEEN_MAX: usize = 50_000_000;
/// The limit on nested `${a:-${b:-…}}`: BuildKit recurses for each level.
const NESTING_MAX: usize = 256;
/// The limit on the value of a variable. Linux gives no program a variable of more than 128 KiB.
const VALUE_BYTES_MAX: u64 = 1 << 20;
/// The limit on all lines together, once their variables are replaced.
const EXPANDED_BYTES_MAX: u64 = 64 << 20;
/// The assumed length of an unknown variable: a path or a version.
const UNKNOWN_BYTES: u64 = 256;

/// How a build's Dockerfile is judged.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The length of the longest build argument.
    pub longest_argument: u64,
    /// Whether BuildKit's own frontend reads it, inside the engine's process.
    pub is_builtin: bool,
    /// Whether BuildKit checks the Dockerfile, and warns.
    pub has_checks: bool,
    /// The texts that were judged and may pass.
    pub texts: Arc<Texts>,
}

/// Judges a Dockerfile by its text. The error contains the reason and the line.
pub(super) fn judge(text: &[u8], rules: &Rules) -> Result<(), String> {
    expand(text, rules)?;
    rules.texts.add(text);
    Ok(())
}

/// Judges a text that is no file: the triggers of an image.
pub(super) fn judge_triggers(triggers: &[String], rules: &Rules) -> Result<(), String> {
    expand(triggers.join("\n").as_bytes(), &Rules { is_builtin: false, ..rules.clone() })
}

fn expand(text: &[u8], rules: &Rules) -> Result<(), String> {
    if text.len() as u64 > READ_BYTES_MAX {
        return Err(format!("the Dockerfile has more than {} MiB", READ_BYTES_MAX >> 20));
    }
    if rules.has_checks && text.len() as u64 > CHECKED_BYTES_MAX {
        let ((name, value), limit) = (CHECK, CHECKED_BYTES_MAX >> 20);
        return Err(format!(
            "the Dockerfile has more than {limit} MiB: the builder reads it only without its checks, with the build \
             argument `{name}={value}`"
        ));
    }
    if text.iter().filter(|byte| **byte == b'\n').count() > LINES_MAX {
        return Err(format!("the Dockerfile has more than {LINES_MAX} lines"));
    }
    let text = String::from_utf8_lossy(text);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // BuildKit before 0.15 looks for the stage before the first one, and ends the engine.
    if rules.is_builtin && has_arguments_alone(text) {
        return Err("the Dockerfile has no `FROM`".to_owned());
    }
    let mut judge = Judge {
        escape: escape(text),
        longest: rules.longest_argument,
        lengths: HashMap::new(),
        expanded: 0,
        seen: 0,
    };
    let (mut instruction, mut begins) = (String::new(), 1);
    for (line, number) in text.split('\n').zip(1_usize..) {
        let line = line.trim_end();
        if instruction.is_empty() {
            begins = number;
        }
        // A comment between two lines of an instruction is not part of it, but in a here-document it is text.
        if line.trim_start().starts_with('#') {
            judge.line(line).map_err(|why| format!("line {number}: {why}"))?;
            continue;
        }
        if let Some(line) = line.strip_suffix(judge.escape) {
            instruction.push_str(line);
            continue;
        }
        instruction.push_str(line);
        judge.line(&instruction).map_err(|why| format!("line {begins}: {why}"))?;
        instruction.clear();
    }
    judge.line(&instruction).map_err(|why| format!("line {begins}: {why}"))
}

/// The character that joins lines: a directive at the top, before any other comment, may choose it.
fn escape(text: &str) -> char {
    let directives = text.lines().map_while(|line| {
        let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic())
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_name && !value.is_empty()).then_some((key, value))
    });
    let mut chosen = directives.filter(|(key, _)| key.eq_ignore_ascii_case("escape"));
    if chosen.next().is_some_and(|(_, value)| value == "`") { '`' } else { '\\' }
}

/// Whether `ARG` is the only instruction, read as BuildKit does (`parser.Parse`): inside an instruction that goes
/// on, comments and empty lines count as nothing. Before a `FROM` there is no here-document.
fn has_arguments_alone(text: &str) -> bool {
    let escape = escape(text);
    let (mut goes_on, mut has_some) = (false, false);
    for line in text.split('\n') {
        let line = line.trim_end_matches('\r');
        let word = line.trim_start();
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let keyword =
            word.split(|c: char| c.is_ascii_whitespace() || c == '\u{b}').next().unwrap_or_default();
        // The escape alone, before anything else.
        let is_nothing = word.trim_end_matches([' ', '\t']) == escape.to_string();
        if !goes_on && is_nothing {
            continue;
        }
        if !goes_on {
            if !keyword.eq_ignore_ascii_case("ARG") {
                return false;
            }
            has_some = true;
        }
        let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape);
        goes_on = before.is_some_and(|before| !before.ends_with(escape));
    }
    has_some
}

struct Judge {
    escape: char,
    longest: u64,
    /// The longest possible value of each variable.
    lengths: HashMap<String, u64>,
    expanded: u64,
    /// The variables that each line has seen, all together.
    seen: usize,
}

impl Judge {
    /// Judges an instruction, or a line of a here-document, which is treated like one.
    fn line(&mut self, line: &str) -> Result<(), String> {
        if nesting(line) > NESTING_MAX {
            return Err(format!("more than {NESTING_MAX} nested `${{…}}`"));
        }
        let mut rest = line.trim_start();
        let mut keyword = "";
        while let Some((word, after)) = rest.split_once(char::is_whitespace) {
            (keyword, rest) = (word, after.trim_start());
            if !keyword.eq_ignore_ascii_case("ONBUILD") {
                break;
            }
        }
        let is = |names: &[&str]| names.iter().any(|name| keyword.eq_ignore_ascii_case(name));
        // The frontend does not expand these: a shell expands their variables in the step.
        if is(&["RUN", "CMD", "ENTRYPOINT", "SHELL", "HEALTHCHECK"]) {
            return Ok(());
        }
        self.see()?;
        if is(&["ENV", "ARG"]) {
            self.assign(rest, is(&["ARG"]))
        } else {
            let length = self.length(line);
            self.add(length)
        }
    }

    /// Judges `NAME=VALUE …`, or `ENV NAME VALUE`. All values are expanded with the variables from before the
    /// line.
    fn assign(&mut self, rest: &str, is_argument: bool) -> Result<(), String> {
        let words = words(rest, self.escape);
        let pairs: Vec<(&str, &str)> = match words.first() {
            Some(first) if is_argument || first.contains('=') => {
                words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect()
            }
            Some(first) => vec![(first, rest.get(first.len()..).unwrap_or_default())],
            None => return Ok(()),
        };
        let given = if is_argument { self.longest.max(UNKNOWN_BYTES) } else { 0 };
        let now: Vec<(String, u64)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), self.length(value).max(given))).collect();
        for (name, length) in now {
            if length > VALUE_BYTES_MAX.max(given) {
                let limit = VALUE_BYTES_MAX >> 20;
                return Err(format!("the value of a variable would have more than {limit} MiB"));
            }
            self.add(length)?;
            self.lengths.insert(name, length);
            self.see()?;
        }
        Ok(())
    }

    /// Counts what one line, or one of its assignments, sees.
    fn see(&mut self) -> Result<(), String> {
        self.seen = self.seen.saturating_add(self.lengths.len());
        if self.seen > VARIABLES_SEEN_MAX {
            return Err("the Dockerfile has too many variables for its number of lines".to_owned());
        }
        Ok(())
    }

    fn add(&mut self, length: u64) -> Result<(), String> {
        self.expanded = self.expanded.saturating_add(length);
        if self.expanded > EXPANDED_BYTES_MAX {
            let limit = EXPANDED_BYTES_MAX >> 20;
            return Err(format!("with its variables replaced, the Dockerfile has more than {limit} MiB"));
        }
        Ok(())
    }

    /// The longest possible text once the variables in `text` are replaced.
    fn length(&self, text: &str) -> u64 {
        // The length that each name adds, from the last name to the first, so that nested names come before
        // the names that contain them.
        let mut added: Vec<(usize, u64)> = Vec::new();
        for (at, _) in text.rmatch_indices('$') {
            let rest = text.get(at + 1..).unwrap_or_default();
            let named = rest.strip_prefix('{').unwrap_or(rest);
            let name =
                named.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
            if name.is_empty() {
                continue;
            }
            let mut own = self.lengths.get(name).copied().unwrap_or(UNKNOWN_BYTES);
            let after = named.strip_prefix(name).unwrap_or_default();
            // `${NAME/PATTERN/TEXT}` can replace every byte by the text.
            if named.len() < rest.len() && after.starts_with('/') {
                let length = closed(after);
                let end = text.len() - after.len() + length;
                let inside = added.iter().rev().take_while(|(at, _)| *at < end);
                let inside = inside.fold(length as u64, |sum, (_, length)| sum.saturating_add(*length));
                own = own.saturating_mul(inside.max(1));
            }
            added.push((at, own));
        }
        added.iter().fold(text.len() as u64, |sum, (_, length)| sum.saturating_add(*length))
    }
}

/// The length of the text before its closing brace.
fn closed(text: &str) -> usize {
    let (mut depth, mut before) = (0_usize, ' ');
    for (at, c) in text.char_indices() {
        match (before, c) {
            ('$', '{') => depth += 1,
            (_, '}') if depth == 0 && before != '\\' => return at,
            (_, '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = c;
    }
    text.len()
}

/// The words of an instruction, with their quotes.
fn words(text: &str, escape: char) -> Vec<&str> {
    let (mut words, mut begin) = (Vec::new(), None);
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        if c.is_whitespace() && quote.is_none() && !escaped {
            words.extend(begin.take().and_then(|begin| text.get(begin..at)));
            continue;
        }
        begin.get_or_insert(at);
        if escaped {
            escaped = false;
        } else if c == escape && quote != Some('\'') {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '"' | '\'') {
            quote = Some(c);
        }
    }
    words.extend(begin.and_then(|begin| text.get(begin..)));
    words
}

/// The deepest nesting of `${`.
fn nesting(line: &str) -> usize {
    let (mut depth, mut deepest, mut before) = (0_usize, 0, ' ');
    for c in line.chars() {
        match (before, c) {
            ('$', '{') => depth += 1,
            (_, '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
        before = c;
    }
    deepest
}

#[cfg(test)]
mod tests;

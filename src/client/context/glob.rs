//! Wildcards within one name, as in Go's `filepath.Match`, including its errors.

/// A malformed pattern: an open `[`, an empty range, or a `\` at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPattern;

/// Checks that `pattern` is well formed.
pub(crate) fn check(pattern: &str) -> Result<(), BadPattern> {
    // Docker checks the same way: it matches "." against the pattern. This misses an error after the first
    // mismatch, so both accept such a pattern.
    matches(pattern, ".").map(drop)
}

/// Whether all of `name` matches `pattern`. Neither `*` nor `?` matches a `/`.
pub(crate) fn matches(pattern: &str, name: &str) -> Result<bool, BadPattern> {
    let (mut pattern, mut name) = (pattern, name);
    'chunks: while !pattern.is_empty() {
        let (star, chunk, rest) = next_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            return Ok(!name.contains('/'));
        }
        // The last chunk must use up the name; earlier chunks leave the rest to later ones.
        let fits = |left: &str| left.is_empty() || !rest.is_empty();
        if let Some(left) = match_chunk(chunk, name)?
            && fits(left)
        {
            name = left;
            continue;
        }
        if star {
            let mut skipped = name.chars();
            while skipped.next().is_some_and(|c| c != '/') {
                if let Some(left) = match_chunk(chunk, skipped.as_str())?
                    && fits(left)
                {
                    name = left;
                    continue 'chunks;
                }
            }
        }
        return Ok(false);
    }
    Ok(name.is_empty())
}

/// Splits off the first chunk: stars, then everything up to the next star.
fn next_chunk(pattern: &str) -> (bool, &str, &str) {
    let after = pattern.trim_start_matches('*');
    let star = after.len() < pattern.len();
    let mut in_class = false;
    let mut chars = after.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '*' if !in_class => {
                let (chunk, rest) = after.split_at(at);
                return (star, chunk, rest);
            }
            _ => {}
        }
    }
    (star, after, "")
}

/// The rest of `name` after `chunk`, which contains no star. The chunk is read to its end even after a
/// mismatch, so that its errors are found.
fn match_chunk<'a>(chunk: &str, name: &'a str) -> Result<Option<&'a str>, BadPattern> {
    let mut failed = false;
    let mut name = name.chars();
    let mut chunk = chunk.chars();
    while let Some(c) = chunk.next() {
        failed = failed || name.as_str().is_empty();
        let mut next = || if failed { None } else { name.next() };
        match c {
            '[' => {
                let found = next();
                let within = class(&mut chunk, found)?;
                failed = failed || !within;
            }
            '?' => failed = next().is_none_or(|found| found == '/'),
            '\\' => {
                let literal = chunk.next().ok_or(BadPattern)?;
                failed = next() != Some(literal);
            }
            literal => failed = next() != Some(literal),
        }
    }
    Ok((!failed).then_some(name.as_str()))
}

/// Reads a class after its `[`; returns whether the class contains `found`.
fn class(chunk: &mut std::str::Chars<'_>, found: Option<char>) -> Result<bool, BadPattern> {
    let mut rest = chunk.as_str();
    let negated = rest.starts_with('^');
    rest = rest.strip_prefix('^').unwrap_or(rest);
    let mut within = false;
    let mut ranges = 0;
    let end = loop {
        if ranges > 0
            && let Some(end) = rest.strip_prefix(']')
        {
            break end;
        }
        let (low, after) = class_char(rest)?;
        let (high, after) = match after.strip_prefix('-') {
            Some(after) => class_char(after)?,
            None => (low, after),
        };
        rest = after;
        within = within || found.is_some_and(|found| (low..=high).contains(&found));
        ranges += 1;
    };
    *chunk = end.chars();
    Ok(within != negated)
}

/// One end of a range. Something must follow it, at least the `]`.
fn class_char(text: &str) -> Result<(char, &str), BadPattern> {
    let text = match text.strip_prefix('\\') {
        Some(escaped) => escaped,
        None if text.starts_with(['-', ']']) => return Err(BadPattern),
        None => text,
    };
    let mut chars = text.chars();
    let c = chars.next().ok_or(BadPattern)?;
    let rest = chars.as_str();
    if rest.is_empty() { Err(BadPattern) } else { Ok((c, rest)) }
}

/// Whether `name` has a wildcard that no `\` escapes.
pub(crate) fn has_wildcard(name: &str) -> bool {
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, name, expected) in [
            ("*.go", "a.go", Ok(true)),
            ("*.go", "a/b.go", Ok(false)),
            ("a*b*c", "abbbcbc", Ok(true)),
            ("?", "é", Ok(true)),
            ("[^a]", "a", Ok(false)),
            ("[a-c]x", "bx", Ok(true)),
            ("\\*", "*", Ok(true)),
            ("\\*", "a", Ok(false)),
            ("[]a]", "a", Err(BadPattern)),
            ("[a-]", "a", Err(BadPattern)),
            ("[a", "a", Err(BadPattern)),
            ("a\\", "a", Err(BadPattern)),
            ("**", "ab", Ok(true)),
            ("", "", Ok(true)),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}

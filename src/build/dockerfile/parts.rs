//! The parts of an instruction, exactly as BuildKit's parser finds them (`frontend/dockerfile/parser`,
//! `split_command.go` and `line_parsers.go`).

use super::lines::Version;

/// The first character, and its length, as Go decodes UTF-8: a byte that does not fit is one character.
pub(super) fn rune(text: &[u8]) -> Option<(char, usize)> {
    let first = text.first()?;
    if first.is_ascii() {
        return Some((char::from(*first), 1));
    }
    let mut lengths = (2..=4).filter_map(|length| std::str::from_utf8(text.get(..length)?).ok());
    let found = lengths.next().and_then(|text| text.chars().next());
    Some(found.map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8())))
}

/// `unicode.IsSpace` and `TrimLeftFunc`.
pub(super) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let Some((_, width)) = rune(text).filter(|(c, _)| c.is_whitespace()) {
        text = text.get(width..).unwrap_or_default();
    }
    text
}

/// `strings.TrimSpace`.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let mut text = trim_start(text);
    'all: loop {
        for width in 1..=4 {
            let Some((before, last)) = text.len().checked_sub(width).and_then(|at| text.split_at_checked(at))
            else {
                return text;
            };
            if std::str::from_utf8(last).is_ok_and(|last| last.chars().all(char::is_whitespace)) {
                text = before;
                continue 'all;
            }
        }
        return text;
    }
}

/// White space between an instruction's words (`reWhitespace`).
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0xb | 0xc | b'\r' | b' ')
}

/// The first word, and the rest after the blanks: `reWhitespace.Split(…, 2)`.
pub(super) fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(at) = text.iter().position(|byte| is_blank(*byte)) else { return (text, None) };
    let (word, rest) = text.split_at_checked(at).unwrap_or((text, &[]));
    let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
    (word, rest.get(blanks..))
}

/// In lower case, as far as keywords and stages' names go: these two letters become ASCII.
pub(super) fn lower(word: &[u8]) -> Vec<u8> {
    let word = String::from_utf8_lossy(word).replace('\u{212a}', "k").replace('\u{130}', "i");
    word.to_ascii_lowercase().into_bytes()
}

/// The text after an instruction's flags (`extractBuilderFlags`, which takes bytes for characters).
fn after_flags(text: &[u8], escape: u8) -> &[u8] {
    let is_space = |byte: u8| is_blank(byte) || matches!(byte, b'\n' | 0x85 | 0xa0);
    let mut left = text;
    loop {
        let blanks = left.iter().take_while(|byte| is_space(**byte)).count();
        left = left.get(blanks..).unwrap_or_default();
        if !left.starts_with(b"--") {
            return left;
        }
        let (mut word, mut quote) = (Vec::new(), None);
        loop {
            let Some((&byte, rest)) = left.split_first() else { return &[] };
            if quote.is_none() && is_space(byte) {
                break;
            }
            left = rest;
            match quote {
                Some(open) if byte == open => quote = None,
                None if matches!(byte, b'\'' | b'"') => quote = Some(byte),
                _ if byte == escape => match left.split_first() {
                    Some((&byte, rest)) => {
                        word.push(byte);
                        left = rest;
                    }
                    None => return &[],
                },
                _ => word.push(byte),
            }
        }
        if word == b"--" {
            return left;
        }
    }
}

/// An instruction's keyword, and its arguments.
pub(super) fn command(line: &[u8], escape: u8) -> (Vec<u8>, &[u8]) {
    let (word, rest) = split(trim(line));
    (lower(word), trim(after_flags(rest.unwrap_or_default(), escape)))
}

/// The name of the image or stage on which a stage builds, and the stage's own name; empty if it has none. Both are in
/// lower case.
pub(super) fn from(arguments: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut words = arguments.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty());
    let base = lower(words.next().unwrap_or_default());
    (base, lower(words.nth(1).unwrap_or_default()))
}

/// Whether a name has nothing that quotes or replaces.
pub(super) fn is_plain(name: &[u8]) -> bool {
    !name.iter().any(|byte| b"$'\"\\`".contains(byte))
}

/// Whether the text is an array of strings in JSON, as far as `encoding/json` is concerned. An array of anything
/// else BuildKit refuses.
pub(super) fn is_json(text: &[u8], version: Version) -> bool {
    let after_blanks = |text: &mut &[u8]| {
        let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        *text = text.get(blanks..).unwrap_or_default();
    };
    let Some(mut left) = trim_start(text).strip_prefix(b"[") else { return false };
    after_blanks(&mut left);
    let mut ended = left.strip_prefix(b"]");
    while ended.is_none() {
        after_blanks(&mut left);
        let Some(rest) = json_string(left) else { return false };
        left = rest;
        after_blanks(&mut left);
        ended = left.strip_prefix(b"]");
        if ended.is_none() {
            let Some(rest) = left.strip_prefix(b",") else { return false };
            left = rest;
        }
    }
    let mut left = ended.unwrap_or_default();
    after_blanks(&mut left);
    left.is_empty() || version < Version::V0_15
}

/// The text after a string.
fn json_string(text: &[u8]) -> Option<&[u8]> {
    let mut left = text.strip_prefix(b"\"")?;
    loop {
        let (byte, rest) = left.split_first()?;
        left = match byte {
            b'"' => return Some(rest),
            b'\\' => match rest.split_first()? {
                (b'u', rest) => {
                    let (digits, rest) = rest.split_at_checked(4)?;
                    digits.iter().all(u8::is_ascii_hexdigit).then_some(rest)?
                }
                (b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest) => rest,
                _ => return None,
            },
            0..0x20 => return None,
            _ => rest,
        };
    }
}

/// The words of `ENV`, `ARG` and `LABEL`, with their quotes (`parseWords`).
pub(super) fn words(text: &[u8], escape: u8) -> Vec<Vec<u8>> {
    let escape = char::from(escape);
    let (mut words, mut word, mut is_word, mut quote) = (Vec::new(), String::new(), false, None);
    let mut left = text;
    let next = |left: &mut &[u8]| {
        let (c, width) = rune(left)?;
        *left = left.get(width..).unwrap_or_default();
        Some(c)
    };
    while let Some(c) = next(&mut left) {
        if quote.is_none() && c.is_whitespace() {
            if is_word {
                words.push(std::mem::take(&mut word).into_bytes());
            }
            is_word = false;
            continue;
        }
        if c == escape && quote != Some('\'') {
            // At the end it is left out.
            let Some(escaped) = next(&mut left) else { break };
            word.extend([c, escaped]);
        } else {
            match quote {
                Some(open) if c == open => quote = None,
                None if matches!(c, '\'' | '"') => quote = Some(c),
                _ => {}
            }
            word.push(c);
        }
        is_word = true;
    }
    if is_word {
        words.push(word.into_bytes());
    }
    words
}

//! Text from outside, made fit for a terminal and a log.

use std::fmt::Write as _;

/// `text` with control and format characters escaped as Rust writes them, so that it cannot drive
/// a terminal or forge a line of a log.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(escape).collect()
}

/// Like [`printable`], but keeps joiners inside words and emoji, since many scripts are written with
/// them. Fit for a log, not for a name that people compare by eye.
pub fn printable_words(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let in_word = |c: char| !c.is_ascii() && !is_hidden(c);
        let joins = match c {
            '\u{200b}'..='\u{200d}' => {
                before.is_some_and(in_word) && chars.peek().copied().is_some_and(in_word)
            }
            // Tag characters spell the region of a flag emoji.
            '\u{e0020}'..='\u{e007f}' => matches!(before, Some('\u{1f3f4}' | '\u{e0020}'..='\u{e007f}')),
            _ => false,
        };
        if joins {
            shown.push(c);
            before = Some(c);
        } else {
            shown.extend(escape(c));
            // An escaped character cannot begin a flag or a word.
            before = Some(c).filter(|c| !is_hidden(*c));
        }
    }
    shown
}

/// JSON made safe to read: characters that could drive a terminal or hide text become JSON escapes, so
/// the value stays the same. ASCII controls are left alone: in valid JSON they are only white space
/// between tokens.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c < ' ' || !is_hidden(c) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string never fails.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    }
    shown
}

/// `text`, cut to its first `max` bytes; a mark shows that it was cut.
pub fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

/// A printable URL without the user and password that it may contain.
pub fn printable_url(url: &str) -> String {
    let hidden = url.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.find(['/', '?', '#']).map_or(rest, |end| rest.split_at(end).0);
        let (user, _) = authority.rsplit_once('@')?;
        // BuildKit writes it like this in its steps.
        Some(format!("{scheme}://xxxxx:xxxxx{}", rest.split_at(user.len()).1))
    });
    printable(hidden.as_deref().unwrap_or(url))
}

/// Control characters, and all that Unicode 16 calls format characters (Cf) or separators of lines and paragraphs:
/// bidi controls, joiners, tags and zero-width characters can hide or turn text.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let hidden = is_hidden(c);
    let escaped = hidden.then(|| c.escape_default());
    let plain = (!hidden).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_logs_in_is_not_shown() {
        assert_eq!(printable_url("http://a:b@host:1/x@y"), "http://xxxxx:xxxxx@host:1/x@y");
        assert_eq!(printable_url("https://token@host"), "https://xxxxx:xxxxx@host");
        assert_eq!(printable_url("https://a:b@c@host?q"), "https://xxxxx:xxxxx@host?q");
        for plain in ["https://host/a@b", "git@host:x", "http://host?a@b"] {
            assert_eq!(printable_url(plain), plain);
        }
    }

    #[test]
    fn a_text_is_cut_between_its_characters() {
        assert_eq!(shortened("aé".to_owned(), 3), "aé");
        assert_eq!(shortened("aéb".to_owned(), 2), "a…");
    }

    #[test]
    fn json_stays_the_same_json() {
        let json = "{\n\t\"a\u{9b}2J\": \"é\u{202e}\u{7f}\u{200b}\u{e0041}\\u001b\"\n}";
        let shown = printable_json(json);
        assert_eq!(shown, "{\n\t\"a\\u009b2J\": \"é\\u202e\\u007f\\u200b\\udb40\\udc41\\u001b\"\n}");
        let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(read(&shown), read(json));
    }

    #[test]
    fn joiners_stay_in_words() {
        for word in ["می\u{200c}رود", "👩\u{200d}💻", "🏴\u{e0067}\u{e007f}"] {
            assert_eq!(printable_words(word), word);
            assert_ne!(printable(word), word);
        }
        assert_eq!(printable_words("a\u{200d}é"), "a\\u{200d}é");
        assert_eq!(printable_words("\u{1b}[2Jé\u{202e}é"), "\\u{1b}[2Jé\\u{202e}é");
    }

    #[test]
    fn escape_sequences_lose_their_power() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
        assert_eq!(printable("a\u{61c}b\u{2063}c\u{e0041}"), "a\\u{61c}b\\u{2063}c\\u{e0041}");
    }

    #[test]
    fn every_format_character_is_escaped() {
        // UnicodeData.txt of Unicode 16: the category Cf, and Zl and Zp.
        let ranges: [(u32, u32); 23] = [
            (0xad, 0xad),
            (0x600, 0x605),
            (0x61c, 0x61c),
            (0x6dd, 0x6dd),
            (0x70f, 0x70f),
            (0x890, 0x891),
            (0x8e2, 0x8e2),
            (0x180e, 0x180e),
            (0x200b, 0x200f),
            (0x2028, 0x2029),
            (0x202a, 0x202e),
            (0x2060, 0x2064),
            (0x2066, 0x206f),
            (0xfeff, 0xfeff),
            (0xfff9, 0xfffb),
            (0x110bd, 0x110bd),
            (0x110cd, 0x110cd),
            (0x13430, 0x1343f),
            (0x1bca0, 0x1bca3),
            (0x1d173, 0x1d17a),
            (0xe0001, 0xe0001),
            (0xe0020, 0xe007f),
            (0, 0x1f),
        ];
        for c in ranges.into_iter().flat_map(|(first, last)| first..=last).filter_map(char::from_u32) {
            assert_ne!(printable(&c.to_string()), c.to_string(), "{c:?}");
        }
    }
}

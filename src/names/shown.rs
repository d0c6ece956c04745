//! Names of jobs and runs, as people read them.

use super::printable::is_hidden;

/// The beginning of an escape. No name has it itself.
pub(super) const ESCAPE: &str = "\\u{";

/// A name with each character that nobody sees as an escape, `\u{200d}`: two names that are shown alike are one. For names
/// without [`ESCAPE`], [`read_name`] is the way back.
pub fn shown_name(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        // A space between others is seen.
        let at_the_margin = c == ' ' && (shown.is_empty() || chars.as_str().is_empty());
        if at_the_margin || is_unseen(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The name that is shown as `text`, or that a person has written with the characters themselves. An escape of anything
/// that is seen stays as it is, and makes no name.
pub fn read_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once(ESCAPE) {
        name.push_str(before);
        match escape.split_once('}').and_then(|(digits, after)| Some((unseen(digits)?, after))) {
            Some((c, after)) => {
                name.push(c);
                rest = after;
            }
            None => {
                name.push_str(ESCAPE);
                rest = escape;
            }
        }
    }
    name.push_str(rest);
    name
}

/// The character that these digits escape.
fn unseen(digits: &str) -> Option<char> {
    let is_number = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let c = is_number.then(|| u32::from_str_radix(digits, 16).ok()).flatten().and_then(char::from_u32)?;
    (c == ' ' || is_unseen(c)).then_some(c)
}

/// Whether nobody sees the character, or takes it for a space: those that can drive a terminal or turn text; all that
/// Unicode 16 has renderers ignore (`Default_Ignorable_Code_Point`), such as the selectors of an emoji's style; spaces but
/// the one of ASCII; blank letters.
pub(super) fn is_unseen(c: char) -> bool {
    is_hidden(c)
        || c.is_whitespace() && c != ' '
        || matches!(c, '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{2065}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
            | '\u{13441}'..='\u{13442}' | '\u{1d159}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_nobody_sees_is_shown() {
        for (name, shown) in [
            ("acme/app", "acme/app"),
            ("می\u{200c}رود", "می\\u{200c}رود"),
            ("👩\u{200d}💻", "👩\\u{200d}💻"),
            ("⚙\u{fe0f} build", "⚙\\u{fe0f} build"),
            (" a  b ", "\\u{20}a  b\\u{20}"),
            ("a\u{a0}b\u{3000}c", "a\\u{a0}b\\u{3000}c"),
            ("a\\b\\u", "a\\b\\u"),
            ("é e\u{301}", "é e\u{301}"),
        ] {
            assert_eq!(shown_name(name), shown);
            assert_eq!(read_name(shown), name);
            assert_eq!(read_name(name), name);
        }
    }

    #[test]
    fn only_what_is_not_seen_is_an_escape() {
        for text in
            ["\\u{61}", "\\u{5c}u{200d}", "\\u{}", "\\u{+200d}", "\\u{200d", "\\u{d800}", "\\u{0000200d}"]
        {
            assert_eq!(read_name(text), text);
        }
        assert_eq!(read_name("\\\\u{200D}"), "\\\u{200d}");
    }

    #[test]
    fn every_character_that_renderers_ignore_is_escaped() {
        // DerivedCoreProperties.txt of Unicode 16.
        let ignored: [(u32, u32); 17] = [
            (0xad, 0xad),
            (0x34f, 0x34f),
            (0x61c, 0x61c),
            (0x115f, 0x1160),
            (0x17b4, 0x17b5),
            (0x180b, 0x180f),
            (0x200b, 0x200f),
            (0x202a, 0x202e),
            (0x2060, 0x206f),
            (0x3164, 0x3164),
            (0xfe00, 0xfe0f),
            (0xfeff, 0xfeff),
            (0xffa0, 0xffa0),
            (0xfff0, 0xfff8),
            (0x1bca0, 0x1bca3),
            (0x1d173, 0x1d17a),
            (0xe0000, 0xe0fff),
        ];
        for c in ignored.into_iter().flat_map(|(first, last)| first..=last).filter_map(char::from_u32) {
            assert!(is_unseen(c), "{c:?}");
        }
    }

    /// Names with many of the characters that matter, and any others.
    fn name() -> impl Strategy<Value = String> {
        let odd =
            prop::sample::select("\\u{}20d \u{200d}\u{200c}\u{fe0f}\u{a0}a".chars().collect::<Vec<_>>());
        let name = prop::collection::vec(prop_oneof![4 => odd, 1 => any::<char>()], 0..24);
        name.prop_map(String::from_iter).prop_filter("an escape", |name| !name.contains(ESCAPE))
    }

    proptest! {
        #[test]
        fn a_shown_name_is_read_as_the_name(name in name()) {
            let shown = shown_name(&name);
            prop_assert!(!shown.chars().any(is_unseen), "{}", shown);
            prop_assert!(!shown.starts_with(' ') && !shown.ends_with(' '), "{}", shown);
            prop_assert_eq!(read_name(&shown), name.clone());
            prop_assert_eq!(read_name(&name), name);
        }

        #[test]
        fn a_text_is_read_as_what_is_shown_so(text in name(), before in name(), digits in "[0-9a-f]{0,7}") {
            let text = format!("{before}{ESCAPE}{digits}}}{text}");
            let name = read_name(&text);
            if !name.contains(ESCAPE) {
                prop_assert_eq!(read_name(&shown_name(&name)), name);
            }
        }
    }
}

//! Text from outside, made fit for a terminal and a log.

/// `text` with control and format characters escaped as Rust writes them, so that it cannot drive
/// a terminal or forge a line of a log.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(escape).collect()
}

fn escape(c: char) -> impl Iterator<Item = char> {
    // U+202A.. and U+2066.. turn the direction of text around: they hide what is written.
    let hidden = c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let escaped = hidden.then(|| c.escape_default());
    let plain = (!hidden).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_power() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
    }
}

//! Text from a build made fit for a console: lines, widths, sizes and times.

use unicode_width::UnicodeWidthChar as _;

use crate::names::printable;

/// A step that writes no newline must not make us keep its output; what is longer goes on in a
/// line of its own.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// No name or error is worth more than this of a console.
const NAME_BYTES_MAX: usize = 4 * 1024;

/// Cuts a step's output into lines, whatever pieces it comes in.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    /// What came after the last newline, as it was written.
    rest: Vec<u8>,
}

impl LineBuffer {
    /// Adds output; returns the lines that it ends, fit for a console.
    pub(super) fn push(&mut self, data: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            self.extend(text, &mut lines);
            if ended {
                lines.push(log_line(&self.rest));
                self.rest.clear();
            }
        }
        lines
    }

    /// Ends the line that has no newline yet.
    pub(super) fn end(&mut self) -> Option<String> {
        let line = self.peek();
        self.rest.clear();
        line
    }

    /// The line that has no newline yet.
    pub(super) fn peek(&self) -> Option<String> {
        (!self.rest.is_empty()).then(|| log_line(&self.rest))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn extend(&mut self, mut text: &[u8], lines: &mut Vec<String>) {
        while !text.is_empty() {
            let room = LINE_BYTES_MAX.saturating_sub(self.rest.len()).min(text.len());
            let (now, later) = text.split_at(room);
            self.rest.extend_from_slice(now);
            text = later;
            if self.rest.len() >= LINE_BYTES_MAX {
                self.shorten(lines);
            }
        }
    }

    /// Makes room: forgets what was overwritten, else ends the line here.
    fn shorten(&mut self, lines: &mut Vec<String>) {
        let overwritten = self.rest.iter().rposition(|byte| *byte == b'\r').map_or(0, |at| at + 1);
        if overwritten > 0 && overwritten < self.rest.len() {
            self.rest.drain(..overwritten);
            return;
        }
        let end = match std::str::from_utf8(&self.rest) {
            // The last character is not all there yet.
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
            _ => self.rest.len(),
        };
        let tail = self.rest.split_off(end);
        lines.push(log_line(&self.rest));
        self.rest = tail;
    }
}

/// A line of output as a terminal would be left with: without escape sequences, and of what a
/// carriage return overwrote only the last. Tabs stay; other control characters are escaped.
fn log_line(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return text.into_owned();
    }
    let text = without_sequences(&text);
    let last = text.rsplit('\r').find(|segment| !segment.is_empty()).unwrap_or_default();
    let mut line = String::with_capacity(last.len());
    for c in last.chars() {
        match c {
            '\u{8}' => drop(line.pop()),
            c => line.push(c),
        }
    }
    let cells: Vec<String> = line.split('\t').map(printable).collect();
    cells.join("\t")
}

/// A name, an error or a warning in one line: without escape sequences, control characters escaped.
pub(in crate::client) fn one_line(text: &str) -> String {
    let mut line = printable(&without_sequences(&cut_bytes(text, NAME_BYTES_MAX)).replace('\t', " "));
    line.truncate(line.trim_end().len());
    line
}

/// A line of a source file: as [`one_line`], but with its tabs and spaces.
pub(super) fn source_line(text: &str) -> String {
    log_line(cut_bytes(text, NAME_BYTES_MAX).as_bytes())
}

fn cut_bytes(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
}

/// `text` without the sequences that would colour it, move the cursor, or set a title (ECMA-48,
/// sections 5.3 to 5.6). An introducer without an end loses only itself, so that a stray one does
/// not hide the rest of the line.
fn without_sequences(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let mut after = rest.clone();
        let ended = match c {
            '\u{1b}' => match after.next() {
                Some('[') => end_of_csi(&mut after),
                Some(']' | 'P' | 'X' | '^' | '_') => end_of_string(&mut after),
                Some(' '..='/') => {
                    after.find(|c| !matches!(c, ' '..='/')).is_some_and(|c| matches!(c, '0'..='~'))
                }
                Some('0'..='~') => true,
                _ => false,
            },
            '\u{9b}' => end_of_csi(&mut after),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => end_of_string(&mut after),
            c => {
                kept.push(c);
                continue;
            }
        };
        if ended {
            rest = after;
        }
    }
    kept
}

/// Parameters and intermediates, then one final byte.
fn end_of_csi(rest: &mut std::str::Chars<'_>) -> bool {
    rest.find(|c| !matches!(c, ' '..='?')).is_some_and(|c| matches!(c, '@'..='~'))
}

/// Anything up to a string terminator; xterm takes a BEL for one.
fn end_of_string(rest: &mut std::str::Chars<'_>) -> bool {
    while let Some(c) = rest.next() {
        match c {
            '\u{7}' | '\u{9c}' => return true,
            '\u{1b}' => return rest.next() == Some('\\'),
            _ => {}
        }
    }
    false
}

/// How many columns a terminal gives `text`.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// `text` in at most `columns`, with three dots where it was cut.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let dots = if columns >= 12 { "..." } else { "" };
    let (mut kept, mut left) = (String::new(), columns.saturating_sub(dots.len()));
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        kept.push(c);
    }
    kept + dots
}

/// `text` with its tabs as spaces, to the next multiple of eight columns.
pub(super) fn untabbed(text: &str) -> String {
    let mut columns = 0;
    let mut spaced = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\t' {
            let gap = 8 - columns % 8;
            spaced.extend(std::iter::repeat_n(' ', gap));
            columns += gap;
        } else {
            spaced.push(c);
            columns += c.width().unwrap_or(0);
        }
    }
    spaced
}

/// How far something is, of how much, with a space before it; empty where neither is known.
pub(super) fn amount(current: u64, total: u64) -> String {
    match (current, total) {
        (0, 0) => String::new(),
        (current, 0) => format!(" {}", bytes(current)),
        (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
    }
}

/// A size in decimal units, as `docker` shows it: `154B`, `12.30MB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        // What would be shown as 1000.00 belongs to the next unit.
        if value < 999.995 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        log_line(text.as_bytes())
    }

    #[test]
    fn sequences_go_and_what_they_coloured_stays() {
        assert_eq!(clean("\x1b[1;31merror\x1b[0m: \x1b[4mx\x1b[m"), "error: x");
        assert_eq!(clean("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c\x1bP1$r\u{9c}d"), "abcd");
        assert_eq!(clean("a\x1b(Bb\x1b7c\x1bcd\u{9b}2Je"), "abcde");
        // Invalid UTF-8 cannot smuggle a C1 control in.
        assert_eq!(log_line(b"a\x9b2Jb\xff"), "a\u{fffd}2Jb\u{fffd}");
    }

    #[test]
    fn an_introducer_without_an_end_hides_nothing() {
        assert_eq!(clean("\x1b]rest"), "]rest");
        assert_eq!(clean("\x1b[12"), "[12");
        assert_eq!(clean("\x1b"), "");
        assert_eq!(clean("\x1b\x1b[2Jx"), "x");
        assert_eq!(clean("\x1b]0;a\x1b[2Jb"), "]0;ab");
    }

    #[test]
    fn other_controls_are_escaped_and_tabs_stay() {
        assert_eq!(clean("a\tb\x07\0\x0b\u{202e}c\u{85}"), "a\tb\\u{7}\\u{0}\\u{b}\\u{202e}c\\u{85}");
        assert_eq!(one_line("a\tb\nc\r\x1b[2J"), "a b\\nc\\r");
    }

    #[test]
    fn a_carriage_return_leaves_what_a_terminal_would_show() {
        assert_eq!(clean("10%\r50%\r100%"), "100%");
        assert_eq!(clean("windows line\r"), "windows line");
        assert_eq!(clean("\r\r"), "");
        assert_eq!(clean("|\u{8}/\u{8}-"), "-");
    }

    #[test]
    fn lines_are_cut_at_newlines_only_and_bounded() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.push(b"one\ntw"), ["one"]);
        assert_eq!(buffer.peek().as_deref(), Some("tw"));
        assert_eq!(buffer.push("o\n\nlast \u{e9}".as_bytes()), ["two", ""]);
        assert_eq!(buffer.end().as_deref(), Some("last \u{e9}"));
        assert_eq!(buffer.end(), None);

        // An even count of two-byte characters behind one byte: the limit falls inside one.
        let long = format!("x{}", "\u{e9}".repeat(LINE_BYTES_MAX));
        let mut lines = buffer.push(long.as_bytes());
        assert!(buffer.rest.len() <= LINE_BYTES_MAX);
        lines.extend(buffer.end());
        assert!(lines.len() > 1);
        assert_eq!(lines.concat(), long);

        let bar: String = (0..=100).map(|percent| format!("\r{percent}%{}", " ".repeat(500))).collect();
        assert_eq!(buffer.push(bar.as_bytes()), Vec::<String>::new());
        assert_eq!(buffer.end().unwrap().trim(), "100%");
    }

    #[test]
    fn widths_are_a_terminals() {
        assert_eq!(width("日本e\u{301}"), 5);
        assert_eq!(cut("日本語", 5), "日本");
        assert_eq!(cut("a name of some length", 12), "a name of...");
        assert_eq!(cut("short", 12), "short");
        assert_eq!(untabbed("a\tb\t日\tc"), "a       b       日      c");
    }

    #[test]
    fn sizes_are_dockers() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345_678, "12.35MB"),
            (999_999, "1.00MB"),
            (u64::MAX, "18.45EB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}

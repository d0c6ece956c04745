//! Makes text from a build safe for a console; widths, sizes and times.

use unicode_width::UnicodeWidthChar as _;

use crate::names::printable_words;

/// The longest name or error that is shown.
const NAME_BYTES_MAX: usize = 4 * 1024;

/// The part of a line between two carriage returns, safe for a console.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) text: String,
    /// Whether the segment erases the text before it.
    pub(super) erases: bool,
}

/// The segments of a line of output, without escape sequences and with backspaces applied. Tabs are
/// kept; other control characters are escaped.
pub(super) fn segments(text: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut segment = Segment::default();
    pieces(text, |piece| match piece {
        Piece::Char('\u{8}') => drop(segment.text.pop()),
        Piece::Char(c) => segment.text.push(c),
        Piece::Erase { all } => {
            if all {
                segment.text.clear();
            }
            segment.erases = true;
        }
        Piece::Home => segments.push(std::mem::take(&mut segment)),
    });
    segments.push(segment);
    for segment in &mut segments {
        segment.text = log_text(&segment.text);
    }
    segments
}

/// Escapes control characters other than tabs; joiners within words are kept.
fn log_text(text: &str) -> String {
    let cells: Vec<String> = text.split('\t').map(printable_words).collect();
    cells.join("\t")
}

/// A name, an error or a warning on one line: without escape sequences, with control characters escaped.
pub(in crate::client) fn one_line(text: &str) -> String {
    let mut line = printable_words(&without_sequences(&cut_bytes(text, NAME_BYTES_MAX)).replace('\t', " "));
    line.truncate(line.trim_end().len());
    line
}

/// A line of a source file: as [`one_line`], but keeping its tabs and spaces.
pub(super) fn source_line(text: &str) -> String {
    log_text(&without_sequences(cut_bytes(text, NAME_BYTES_MAX).trim_end_matches('\r')))
}

fn cut_bytes(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
}

/// `text` without sequences that would drive a terminal.
fn without_sequences(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    pieces(text, |piece| {
        if let Piece::Char(c) = piece {
            kept.push(c);
        }
    });
    kept
}

/// A piece of text as a terminal would interpret it.
enum Piece {
    Char(char),
    /// Erases the line after the cursor, or all of it.
    Erase {
        all: bool,
    },
    /// Goes to the start of the line.
    Home,
}

/// Splits `text` into pieces, and drops sequences that would colour it, move the cursor, or set a title
/// (ECMA-48, sections 5.3 to 5.6). Of an unterminated sequence only the introducer is dropped, so that a
/// stray one does not hide the rest of the line.
fn pieces(text: &str, mut each: impl FnMut(Piece)) {
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let mut after = rest.clone();
        let introduced = match c {
            '\u{1b}' => after.next(),
            '\u{9b}' => Some('['),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => Some(']'),
            c => {
                each(Piece::Char(c));
                continue;
            }
        };
        let ended = match introduced {
            Some('[') => {
                let parameters = after.as_str();
                let end = end_of_csi(&mut after);
                let parameters = parameters.split(|c| !matches!(c, ' '..='?')).next().unwrap_or_default();
                match (end, parameters) {
                    (Some('K' | 'J'), "" | "0") => each(Piece::Erase { all: false }),
                    (Some('K'), "2") => each(Piece::Erase { all: true }),
                    (Some('G'), "" | "0" | "1") => each(Piece::Home),
                    _ => {}
                }
                end.is_some()
            }
            Some(']' | 'P' | 'X' | '^' | '_') => end_of_string(&mut after),
            Some(' '..='/') => {
                after.find(|c| !matches!(c, ' '..='/')).is_some_and(|c| matches!(c, '0'..='~'))
            }
            Some('0'..='~') => true,
            _ => false,
        };
        if ended {
            rest = after;
        }
    }
}

/// Parameters and intermediates, then one final byte, which is returned.
fn end_of_csi(rest: &mut std::str::Chars<'_>) -> Option<char> {
    rest.find(|c| !matches!(c, ' '..='?')).filter(|c| matches!(c, '@'..='~'))
}

/// Skips to a string terminator; xterm also accepts a BEL.
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

/// The width of `text` in columns of a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// `text` in at most `columns`; three dots mark a cut.
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

/// `text` with its tabs replaced by spaces, to the next multiple of eight columns.
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

/// Progress and total, preceded by a space; empty if neither is known.
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
        // A value that would be shown as 1000.00 belongs to the next unit.
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

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(one_line("a\tb\nc\r\x1b[2J"), "a b\\nc\\r");
        assert_eq!(one_line("RUN echo 👩\u{200d}💻 \u{200d}"), "RUN echo 👩\u{200d}💻 \\u{200d}");
        assert_eq!(one_line("a\x1b[Kb\x1b[1Gc"), "abc");
        assert_eq!(source_line("\tRUN  x\r"), "\tRUN  x");
        assert_eq!(source_line("RUN\ra\x1b[2Kb\x1b[1Gc"), "RUN\\rabc");
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

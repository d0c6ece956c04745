//! Splits a stream of a step's output into lines for a log. Loses only text that a terminal would have
//! overwritten.

use super::text::{Segment, segments, width};

/// The longest line. A step that writes no newline must not make us keep all its output, so longer lines are
/// split. BuildKit itself truncates a step's output at twice this size.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Splits a stream into lines; the stream arrives in arbitrary pieces.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    /// The raw text after the last newline or carriage return.
    rest: Vec<u8>,
    /// The text before the last carriage return, safe for a console. Later text may overwrite it.
    left: Option<String>,
}

impl LineBuffer {
    /// Adds output; returns the lines that it completes, safe for a console.
    pub(super) fn push(&mut self, data: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in data.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            match piece.split_last() {
                Some((b'\n', text)) => {
                    self.extend(text, &mut lines);
                    self.end_segment(&mut lines);
                    lines.push(self.left.take().unwrap_or_default());
                }
                Some((b'\r', text)) => {
                    self.extend(text, &mut lines);
                    self.end_segment(&mut lines);
                }
                _ => self.extend(piece, &mut lines),
            }
        }
        lines
    }

    /// Ends the unfinished line, which may turn out to be several.
    pub(super) fn end(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        self.end_segment(&mut lines);
        lines.extend(self.left.take());
        lines
    }

    /// The unfinished line.
    pub(super) fn peek(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let shown = segments(&String::from_utf8_lossy(&self.rest)).into_iter().rev();
        let shown = shown.map(|segment| segment.text).find(|text| !text.is_empty());
        Some(shown.or_else(|| self.left.clone()).unwrap_or_default())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.left.is_none()
    }

    /// How many bytes the buffer holds.
    pub(super) fn bytes(&self) -> usize {
        self.rest.len() + self.left.as_ref().map_or(0, String::len)
    }

    /// Completes a segment: it either overwrites the text before it, or makes that text a line of its own.
    fn end_segment(&mut self, lines: &mut Vec<String>) {
        if self.rest.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.rest);
        let shown = if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            vec![Segment { text: text.into_owned(), erases: false }]
        } else {
            segments(&text)
        };
        self.rest.clear();
        for Segment { text, erases } in shown {
            if text.is_empty() && !erases {
                continue;
            }
            if let Some(left) = self.left.take() {
                let left_over = !erases && width(&text) < width(left.trim_end());
                lines.extend(left_over.then_some(left));
            }
            self.left = Some(text);
        }
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

    /// Ends the line here, to make room.
    fn shorten(&mut self, lines: &mut Vec<String>) {
        let end = match std::str::from_utf8(&self.rest) {
            // The last character is still incomplete.
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
            _ => self.rest.len(),
        };
        let tail = self.rest.split_off(end);
        lines.extend(self.end());
        self.rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `text`, which is given a final newline.
    fn lines(text: impl AsRef<[u8]>) -> Vec<String> {
        let mut buffer = LineBuffer::default();
        let mut lines = buffer.push(text.as_ref());
        lines.extend(buffer.push(b"\n"));
        assert!(buffer.is_empty());
        lines
    }

    #[test]
    fn sequences_go_and_what_they_coloured_stays() {
        assert_eq!(lines("\x1b[1;31merror\x1b[0m: \x1b[4mx\x1b[m"), ["error: x"]);
        assert_eq!(lines("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c\x1bP1$r\u{9c}d"), ["abcd"]);
        assert_eq!(lines("a\x1b(Bb\x1b7c\x1bcd\u{9b}2Je"), ["abcde"]);
        // Invalid UTF-8 cannot smuggle a C1 control in.
        assert_eq!(lines(b"a\x9b2Jb\xff"), ["a\u{fffd}2Jb\u{fffd}"]);
    }

    #[test]
    fn an_introducer_without_an_end_hides_nothing() {
        assert_eq!(lines("\x1b]rest"), ["]rest"]);
        assert_eq!(lines("\x1b[12"), ["[12"]);
        assert_eq!(lines("\x1b"), [""]);
        assert_eq!(lines("\x1b\x1b[2Jx"), ["x"]);
        assert_eq!(lines("\x1b]0;a\x1b[2Jb"), ["]0;ab"]);
    }

    #[test]
    fn other_controls_are_escaped_and_tabs_stay() {
        assert_eq!(lines("a\tb\x07\0\x0b\u{202e}c\u{85}"), ["a\tb\\u{7}\\u{0}\\u{b}\\u{202e}c\\u{85}"]);
    }

    #[test]
    fn a_carriage_return_hides_only_what_is_overwritten() {
        assert_eq!(lines("10%\r50%\r100%"), ["100%"]);
        assert_eq!(lines("windows line\r"), ["windows line"]);
        assert_eq!(lines("\r\r"), [""]);
        assert_eq!(lines("|\u{8}/\u{8}-"), ["-"]);
        // A terminal would be left with a mixture of both.
        assert_eq!(lines("FATAL: disk full\rcleaning"), ["FATAL: disk full", "cleaning"]);
        assert_eq!(lines("a long one\rshort\rshorter\rx"), ["a long one", "shorter", "x"]);
        // Blanks also overwrite, and so do sequences that erase.
        assert_eq!(lines("waiting...\r          \rdone"), ["done"]);
        for erased in [
            "waiting...\r\x1b[Kdone",
            "waiting...\rdone\x1b[0K",
            "waiting...\x1b[2K\x1b[1Gdone",
            "waiting...\r\x1b[Jdone",
        ] {
            assert_eq!(lines(erased), ["done"], "{erased:?}");
        }
        assert_eq!(lines("waiting...\r\x1b[K"), [""]);
        assert_eq!(lines("日本\rabc"), ["日本", "abc"]);
        assert_eq!(lines("日本\rabcd"), ["abcd"]);
    }

    #[test]
    fn words_stay_as_they_are() {
        for word in [
            "می\u{200c}رود",
            "👩\u{200d}💻",
            "👁\u{fe0f}\u{200d}🗨\u{fe0f}",
            "क्\u{200d}ष",
            "🏴\u{e0067}\u{e0062}\u{e007f}",
        ] {
            assert_eq!(lines(word), [word]);
        }
        for (hidden, shown) in [
            ("a\u{200d}b", "a\\u{200d}b"),
            ("é\u{200d}", "é\\u{200d}"),
            ("é\u{200d}\u{200d}é", "é\\u{200d}\\u{200d}é"),
            ("x\u{e0067}", "x\\u{e0067}"),
            ("é\u{202e}é", "é\\u{202e}é"),
        ] {
            assert_eq!(lines(hidden), [shown]);
        }
    }

    #[test]
    fn lines_are_whole_whatever_pieces_they_come_in() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.push(b"one\ntw"), ["one"]);
        assert_eq!(buffer.peek().as_deref(), Some("tw"));
        assert_eq!(buffer.push("o\n\nlast \u{e9}".as_bytes()), ["two", ""]);
        assert_eq!(buffer.end(), ["last \u{e9}"]);
        assert_eq!(buffer.end(), [""; 0]);
        assert_eq!(buffer.push(b"10%\r"), [""; 0]);
        assert_eq!(buffer.peek().as_deref(), Some("10%"));
        assert_eq!(buffer.push(b"9"), [""; 0]);
        assert_eq!(buffer.peek().as_deref(), Some("9"));
        assert_eq!(buffer.push(b"\n"), ["10%", "9"]);

        let report = format!("{{{}}}\n", "0123456789".repeat(30_000));
        let mut shown = Vec::new();
        for piece in report.as_bytes().chunks(4096) {
            shown.extend(buffer.push(piece));
        }
        assert_eq!(shown, [report.trim_end()]);
    }

    #[test]
    fn lines_without_end_are_bounded() {
        let mut buffer = LineBuffer::default();
        // An even number of two-byte characters after one byte: the limit falls inside a character.
        let long = format!("x{}", "\u{e9}".repeat(LINE_BYTES_MAX));
        let mut lines = buffer.push(long.as_bytes());
        assert!(buffer.bytes() <= LINE_BYTES_MAX);
        lines.extend(buffer.end());
        assert!(lines.len() > 1);
        assert_eq!(lines.concat(), long);

        let bar: String = (0..=1000).map(|percent| format!("\r{percent}%{}", " ".repeat(5000))).collect();
        assert_eq!(buffer.push(bar.as_bytes()), Vec::<String>::new());
        assert_eq!(buffer.end()[0].trim(), "1000%");
    }
}

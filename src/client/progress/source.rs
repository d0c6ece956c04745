//! Lines of a Dockerfile, as shown in an error.

use std::fmt;

use super::text::{one_line, source_line};
use crate::wire::v1;

const LINES_MAX: usize = 100;

/// Lines of a file, some of them marked. Safe for a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    file: String,
    start: i64,
    end: i64,
    first: i64,
    lines: Vec<String>,
}

impl Excerpt {
    /// Reads the lines from their wire form.
    pub fn new(source: &v1::SourceLines) -> Self {
        Self {
            file: one_line(&source.filename),
            start: source.start.into(),
            end: source.end.max(source.start).into(),
            first: source.first_text_line.into(),
            lines: source.text.iter().take(LINES_MAX).map(|line| source_line(line)).collect(),
        }
    }
}

/// Printed as in buildx.
impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}", self.file, self.start)?;
        if self.lines.is_empty() {
            return Ok(());
        }
        writeln!(f, "--------------------")?;
        for (number, line) in (self.first..).zip(&self.lines) {
            let mark = if (self.start..=self.end).contains(&number) { ">>>" } else { "   " };
            writeln!(f, "{}", format!(" {number:3} | {mark} {line}").trim_end())?;
        }
        writeln!(f, "--------------------")
    }
}

//! The rows of the live view: steps, their parts and their last lines of output.

use super::super::{
    model::Id,
    step::Vertex,
    text::{cut, untabbed, width},
};

/// No terminal shows more than this of a line.
const ROW_BYTES_MAX: usize = 4 * 1024;
/// The width of a bar.
pub(super) const BAR_COLUMNS: usize = 20;
/// The least width of a name before a bar; if there is no room for both, the bar is left out.
pub(super) const BAR_NAME_COLUMNS: usize = 19;

/// One row of the picture.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) left: String,
    pub(super) right: String,
    pub(super) color: Color,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A running step, which may show its output.
    Running(Id),
    /// A part of a running step.
    Moving,
    /// Something that has ended.
    Ended,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Color {
    None,
    Blue,
    Yellow,
    Red,
    Faint,
}

impl Row {
    pub(super) fn fill(&self, columns: usize) -> String {
        if self.right.is_empty() {
            return cut(&self.left, columns);
        }
        let left = cut(&self.left, columns.saturating_sub(self.right.len() + 1));
        let gap = columns.saturating_sub(width(&left) + self.right.len());
        cut(&format!("{left}{}{}", " ".repeat(gap), self.right), columns)
    }
}

impl Color {
    pub(super) fn sequence(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Blue => "\x1b[34m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }
}

/// Keeps at most `limit` rows: drops the oldest ended rows first, then parts.
pub(super) fn fit(rows: &mut Vec<Row>, limit: usize) {
    let mut excess = rows.len().saturating_sub(limit);
    for may_go in [|kind| kind == Kind::Ended, |kind| kind == Kind::Moving, |_| true] {
        rows.retain(|row| {
            let goes = excess > 0 && may_go(row.kind);
            excess -= usize::from(goes);
            !goes
        });
    }
}

/// The last lines of a step's output.
pub(super) fn window(vertex: &Vertex, rows_max: usize) -> Vec<Row> {
    let partial = vertex.partial_line();
    let lines = vertex.tail.lines.iter().chain(&partial);
    let mut rows: Vec<Row> = lines
        .rev()
        .filter(|line| !line.text.trim().is_empty())
        .take(rows_max)
        .map(|line| Row {
            left: format!(" => => # {}", untabbed(beginning(&line.text))),
            right: String::new(),
            color: Color::Faint,
            kind: Kind::Moving,
        })
        .collect();
    rows.reverse();
    rows
}

/// As much of a line as a terminal can show: the whole line may have a megabyte, and is drawn ten times a
/// second.
fn beginning(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ROW_BYTES_MAX)).unwrap_or(text)
}

pub(super) fn bar_of(current: u64, total: u64) -> String {
    let filled = u128::from(current.min(total)) * BAR_COLUMNS as u128;
    let filled = usize::try_from(filled / u128::from(total.max(1))).unwrap_or(BAR_COLUMNS);
    let head = if filled < BAR_COLUMNS { ">" } else { "" };
    format!("[{:<BAR_COLUMNS$}]", "=".repeat(filled) + head)
}

/// Twelve digits identify a layer well enough, and leave room for its bar.
pub(super) fn short_digest(name: &str) -> String {
    match name.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 => format!("sha256:{}", hex.get(..12).unwrap_or(hex)),
        _ => name.to_owned(),
    }
}

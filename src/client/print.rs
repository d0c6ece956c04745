//! Output of commands: results go to standard output, everything else to standard error.

use std::{
    fmt,
    io::{self, Write as _},
};

use super::{
    checkouts::Checkouts,
    env::{Env, WHARF_ERROR_FILE, WORKSPACE},
    exit::{Exit, Failure, Stop},
    files::Target,
};
use crate::names::{printable, shortened};

/// How much of a message is kept for other programs.
const KEPT_BYTES_MAX: usize = 1000;

/// Writes a line of the result.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Stop> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

/// Writes a result of several lines, unchanged.
pub(crate) fn text(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Docker puts three spaces between the widest cell of a column and the next column.
const GAP: usize = 3;

/// A table as docker prints it.
pub(crate) fn table<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let lines: Vec<[String; N]> = std::iter::once(columns.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut written = String::new();
        for (width, cell) in widths.iter().zip(line) {
            let width = width + GAP;
            written.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(written.trim_end());
        text.push('\n');
    }
    text
}

/// Interprets the result of a write to standard output.
pub(crate) fn written(result: io::Result<()>) -> Result<(), Stop> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::OutputClosed),
        Err(error) => {
            Err(Failure::new(Exit::Failed, format!("cannot write to standard output: {error}")).into())
        }
    }
}

/// Tells the user something that is not part of the result.
pub(crate) fn note(text: impl fmt::Display) {
    // If standard error is closed, nobody is reading.
    let _ = writeln!(io::stderr().lock(), "{}", printable(&text.to_string()));
}

/// Reports a failure.
pub(crate) fn failure(failure: &Failure) {
    note_lines("ERROR", &failure.text);
    keep(&failure.text);
    if let Some(hint) = &failure.hint {
        self::hint(hint);
    }
}

/// Writes the first line of a failure's message to the file that the environment names, for callers that show the
/// message elsewhere.
pub(crate) fn keep(text: &str) {
    let env = Env::of_process();
    let Some(path) = env.path(WHARF_ERROR_FILE) else { return };
    let first = printable(text.lines().next().unwrap_or_default());
    let line = format!("{}\n", shortened(first, KEPT_BYTES_MAX));
    let workspace = env.path(WORKSPACE);
    let target = Target::prepare(&path, &Checkouts::of(workspace.as_deref()));
    if let Err(failure) = target.and_then(|target| target.write(line.as_bytes())) {
        note_lines("WARN", &failure.text);
    }
}

/// Prints a hint.
pub(crate) fn hint(hint: &str) {
    note_lines("hint", hint);
}

/// Keeps the line breaks of `text`, and makes each line printable.
fn note_lines(label: &str, text: &str) {
    let mut lines = text.lines();
    note(format_args!("{label}: {}", lines.next().unwrap_or_default()));
    for line in lines {
        // Indented, so that text from outside cannot pass for a line of wharf's own.
        note(format_args!("  {line}"));
    }
}

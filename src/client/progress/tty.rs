//! Progress as a live view that is redrawn in place, for a person at a terminal.

mod rows;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{
    model::{Id, Model},
    step::{State, Status, Vertex, place},
    text::{amount, cut, width},
};
use rows::{BAR_COLUMNS, BAR_NAME_COLUMNS, Color, Kind, Row, bar_of, fit, short_digest, window};

/// The time between pictures: a person cannot read more than ten a second.
const FRAME: Duration = Duration::from_millis(100);
/// How many of its last lines a running step shows at most.
const WINDOW_ROWS_MAX: usize = 6;

/// Hides the cursor and turns wrapping off: a row that the terminal considers wider than we do must not wrap.
const BEGIN: &str = "\x1b[?25l\x1b[?7l\r";
/// Restores both after every picture, so that a killed client leaves the terminal in order.
const END: &str = "\x1b[J\x1b[?7h\x1b[?25h";

/// Draws a [`Model`] as a picture.
#[derive(Debug)]
pub(super) struct Tty {
    doing: &'static str,
    colors: bool,
    begun: Instant,
    now: Instant,
    drawn: Option<Instant>,
    /// The widths of the rows that stand above the cursor.
    rows: Vec<usize>,
    /// The terminal's width at that time.
    columns: usize,
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Size {
    /// The current size of the terminal at standard error.
    fn of_terminal() -> Self {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Self { columns: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => Self { columns: 80, rows: 24 },
        }
    }
}

impl Tty {
    pub(super) fn new(now: Instant, colors: bool) -> Self {
        Self { doing: "Building", colors, begun: now, now, drawn: None, rows: Vec::new(), columns: 0 }
    }

    pub(super) fn doing(&mut self, what: &'static str) {
        self.doing = what;
    }

    /// Advances the clock; returns the text that redraws the picture, if it is due.
    pub(super) fn frame(&mut self, model: &Model, now: Instant) -> String {
        self.now = now;
        if self.drawn.is_some_and(|drawn| now.saturating_duration_since(drawn) < FRAME) {
            return String::new();
        }
        self.drawn = Some(now);
        self.draw(model, Size::of_terminal())
    }

    /// Draws the last picture in full; the picture stays.
    pub(super) fn finish(&mut self, model: &Model) -> String {
        self.draw_last(model, Size::of_terminal())
    }

    pub(super) fn draw(&mut self, model: &Model, size: Size) -> String {
        let limit = size.rows.saturating_sub(2);
        let mut rows = self.rows_of(model, size);
        fit(&mut rows, limit);
        let mut free = limit.saturating_sub(rows.len());
        // The user is most likely waiting for the step that started last.
        for place in (0..rows.len()).rev() {
            let Some(Kind::Running(id)) = rows.get(place).map(|row| row.kind) else { continue };
            let window = model.vertex(id).map(|vertex| window(vertex, free.min(WINDOW_ROWS_MAX)));
            let window = window.unwrap_or_default();
            free -= window.len();
            rows.splice(place + 1..place + 1, window);
        }
        self.paint(model, size, &rows, "")
    }

    pub(super) fn draw_last(&mut self, model: &Model, size: Size) -> String {
        let states: Vec<State<'_>> = model.started().map(|(_, vertex)| vertex.state()).collect();
        let failed = states.iter().any(|state| matches!(state, State::Failed(_)));
        let stopped = states.contains(&State::Canceled) && !failed;
        let all = states.len() == model.total() && !states.contains(&State::Running) && !stopped;
        let rows = self.rows_of(model, size);
        let picture = self.paint(model, size, &rows, if all { " FINISHED" } else { "" });
        self.rows.clear();
        picture
    }

    fn rows_of(&self, model: &Model, size: Size) -> Vec<Row> {
        let mut rows = Vec::new();
        for (id, vertex) in model.started() {
            rows.push(self.row_of(model, id, vertex));
            for status in &vertex.statuses {
                rows.push(self.row_of_part(model, vertex, status, size));
            }
            for warning in model.warnings().iter().filter(|warning| warning.vertex == Some(id)) {
                rows.push(Row {
                    left: format!(" => => WARN: {}", warning.located()),
                    right: String::new(),
                    color: Color::Yellow,
                    kind: if vertex.is_ended() { Kind::Ended } else { Kind::Moving },
                });
            }
        }
        rows
    }

    fn row_of(&self, model: &Model, id: Id, vertex: &Vertex) -> Row {
        let (word, color, kind) = match vertex.state() {
            State::Waiting | State::Running => ("", Color::None, Kind::Running(id)),
            State::Done => ("", Color::Blue, Kind::Ended),
            State::Cached => ("CACHED ", Color::Blue, Kind::Ended),
            State::Canceled => ("CANCELED ", Color::Yellow, Kind::Ended),
            State::Failed(_) => ("ERROR ", Color::Red, Kind::Ended),
        };
        let time = model.elapsed(vertex, self.now).as_secs_f64();
        let place = vertex.ahead().map_or(String::new(), |ahead| format!(": {}", place(ahead)));
        Row { left: format!(" => {word}{}{place}", vertex.name), right: format!("{time:.1}s"), color, kind }
    }

    fn row_of_part(&self, model: &Model, vertex: &Vertex, status: &Status, size: Size) -> Row {
        let moving = !status.is_ended() && !vertex.is_ended();
        let right = format!("{:.1}s", model.moved(status, self.now).as_secs_f64());
        let amount = amount(status.current, status.total);
        // The size changes, so the name gives way to it.
        let room = size.columns.saturating_sub(" => => ".len() + amount.len() + right.len() + 2);
        let mut name = short_digest(&status.name);
        let mut bar = String::new();
        if moving && status.total > 0 && room >= BAR_NAME_COLUMNS + BAR_COLUMNS + 3 {
            name = cut(&name, room - BAR_COLUMNS - 3);
            bar = format!(" {}", bar_of(status.current, status.total));
        }
        let left = format!(" => => {}{bar}{amount}", cut(&name, room.max(1)));
        let (color, kind) = if moving { (Color::None, Kind::Moving) } else { (Color::Blue, Kind::Ended) };
        Row { left, right, color, kind }
    }

    fn paint(&mut self, model: &Model, size: Size, rows: &[Row], end: &str) -> String {
        // Keep the last column free: some terminals wrap as soon as it is written.
        let columns = size.columns.saturating_sub(1);
        let mut picture = BEGIN.to_owned();
        // A terminal that has become narrower has wrapped the rows that are now too wide.
        let above: usize = self.rows.iter().map(|width| width.div_ceil(size.columns.max(1)).max(1)).sum();
        if above > 0 {
            let _ = write!(picture, "\x1b[{above}A");
        }
        if self.columns != size.columns {
            // If the terminal became wider, it would join wrapped rows again.
            picture += "\x1b[J";
            self.columns = size.columns;
        }
        let ended = model.started().filter(|(_, vertex)| vertex.is_ended()).count();
        let seconds = self.now.saturating_duration_since(self.begun).as_secs_f64();
        let head = format!("[+] {} {seconds:.1}s ({ended}/{}){end}", self.doing, model.total());
        let head = Row { left: head, right: String::new(), color: Color::None, kind: Kind::Ended };
        self.rows.clear();
        for row in std::iter::once(&head).chain(rows) {
            let line = row.fill(columns);
            self.rows.push(width(&line));
            let color = if self.colors { row.color.sequence() } else { "" };
            let reset = if color.is_empty() { "" } else { "\x1b[0m" };
            let _ = writeln!(picture, "{color}{line}{reset}\x1b[K");
        }
        picture + END
    }
}

#[cfg(test)]
mod tests;

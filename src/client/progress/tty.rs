//! Progress as a picture that is redrawn in place: for a person at a terminal.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{
    model::{Id, Model, State, Status, Vertex},
    text::{bytes, cut, untabbed, width},
};

/// Ten pictures a second are as many as a person can read.
const FRAME: Duration = Duration::from_millis(100);
/// How many of its last lines a running step shows.
const WINDOW_ROWS_MAX: usize = 6;
const BAR_COLUMNS: usize = 20;
/// A name of at least this width stands before a bar; where there is no room, the bar goes.
const BAR_NAME_COLUMNS: usize = 19;

/// Without the cursor, and without wrapping: a row that a terminal takes for wider than we do must
/// not become two.
const BEGIN: &str = "\x1b[?25l\x1b[?7l\r";
/// All is as it was, after every picture: a client that is killed leaves a terminal in order.
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
}

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// One row of the picture.
#[derive(Debug)]
struct Row {
    left: String,
    right: String,
    color: Color,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A step that runs, and may show its output.
    Running(Id),
    /// A part of a step that runs.
    Moving,
    /// What has ended.
    Ended,
}

#[derive(Clone, Copy, Debug)]
enum Color {
    None,
    Blue,
    Yellow,
    Red,
    Faint,
}

impl Size {
    /// The size of the terminal that standard error is, now.
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
    pub(super) fn new(now: Instant) -> Self {
        // As https://no-color.org asks.
        let colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { doing: "Building", colors, begun: now, now, drawn: None, rows: Vec::new() }
    }

    pub(super) fn doing(&mut self, what: &'static str) {
        self.doing = what;
    }

    /// Time has passed: returns what draws the picture anew, if it is time.
    pub(super) fn frame(&mut self, model: &Model, now: Instant) -> String {
        self.now = now;
        if self.drawn.is_some_and(|drawn| now.saturating_duration_since(drawn) < FRAME) {
            return String::new();
        }
        self.drawn = Some(now);
        self.draw(model, Size::of_terminal())
    }

    /// Draws the last picture, whatever its height; it stays.
    pub(super) fn finish(&mut self, model: &Model) -> String {
        self.draw_last(model, Size::of_terminal())
    }

    pub(super) fn draw(&mut self, model: &Model, size: Size) -> String {
        let limit = size.rows.saturating_sub(2);
        let mut rows = self.rows_of(model, size);
        fit(&mut rows, limit);
        let mut free = limit.saturating_sub(rows.len());
        // The step that started last is the one that a person waits for.
        for place in (0..rows.len()).rev() {
            let Some(Kind::Running(id)) = rows.get(place).map(|row| row.kind) else { continue };
            let window = model.vertex(id).map(|vertex| window(vertex, free.min(WINDOW_ROWS_MAX)));
            let window = window.unwrap_or_default();
            free -= window.len();
            let parts = rows.iter().skip(place + 1).take_while(|row| row.kind == Kind::Moving).count();
            let after = place + 1 + parts;
            rows.splice(after..after, window);
        }
        self.paint(model, size, &rows, "")
    }

    pub(super) fn draw_last(&mut self, model: &Model, size: Size) -> String {
        let all = model.started().filter(|(_, vertex)| vertex.is_ended()).count() == model.total();
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
        Row { left: format!(" => {word}{}", vertex.name), right: format!("{time:.1}s"), color, kind }
    }

    fn row_of_part(&self, model: &Model, vertex: &Vertex, status: &Status, size: Size) -> Row {
        let moving = !status.is_ended() && !vertex.is_ended();
        let right = format!("{:.1}s", model.moved(status, self.now).as_secs_f64());
        let amount = match (status.current, status.total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", bytes(current)),
            (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
        };
        // The size is what moves: the name gives way to it.
        let room = size.columns.saturating_sub(" => => ".len() + amount.len() + right.len() + 2);
        let mut name = short_digest(&status.name);
        let mut bar = String::new();
        if moving && status.total > 0 && room >= BAR_NAME_COLUMNS + BAR_COLUMNS + 3 {
            name = cut(&name, room - BAR_COLUMNS - 3);
            bar = format!(" {}", bar_of(status));
        }
        let left = format!(" => => {}{bar}{amount}", cut(&name, room.max(1)));
        let (color, kind) = if moving { (Color::None, Kind::Moving) } else { (Color::Blue, Kind::Ended) };
        Row { left, right, color, kind }
    }

    fn paint(&mut self, model: &Model, size: Size, rows: &[Row], end: &str) -> String {
        // The last column stays free: some terminals wrap as soon as it is written.
        let columns = size.columns.saturating_sub(1);
        let mut picture = BEGIN.to_owned();
        // A terminal that became narrower has wrapped the rows that no longer fit.
        let above: usize = self.rows.iter().map(|width| width.div_ceil(size.columns.max(1)).max(1)).sum();
        if above > 0 {
            let _ = write!(picture, "\x1b[{above}A");
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

impl Row {
    fn fill(&self, columns: usize) -> String {
        if self.right.is_empty() {
            return cut(&self.left, columns);
        }
        let left = cut(&self.left, columns.saturating_sub(self.right.len() + 1));
        let gap = columns.saturating_sub(width(&left) + self.right.len());
        cut(&format!("{left}{}{}", " ".repeat(gap), self.right), columns)
    }
}

impl Color {
    fn sequence(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Blue => "\x1b[34m",
            Self::Yellow => "\x1b[33m",
            Self::Red => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }
}

/// Leaves at most `limit` rows: first the oldest of what has ended goes, then parts.
fn fit(rows: &mut Vec<Row>, limit: usize) {
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
fn window(vertex: &Vertex, rows_max: usize) -> Vec<Row> {
    let partial = vertex.partial_line();
    let lines = vertex.tail.lines.iter().chain(&partial);
    let mut rows: Vec<Row> = lines
        .rev()
        .filter(|line| !line.text.trim().is_empty())
        .take(rows_max)
        .map(|line| Row {
            left: format!(" => => # {}", untabbed(&line.text)),
            right: String::new(),
            color: Color::Faint,
            kind: Kind::Moving,
        })
        .collect();
    rows.reverse();
    rows
}

fn bar_of(status: &Status) -> String {
    let filled = u128::from(status.current.min(status.total)) * BAR_COLUMNS as u128;
    let filled = usize::try_from(filled / u128::from(status.total.max(1))).unwrap_or(BAR_COLUMNS);
    let head = if filled < BAR_COLUMNS { ">" } else { "" };
    format!("[{:<BAR_COLUMNS$}]", "=".repeat(filled) + head)
}

/// Twelve digits name a layer well enough, and leave room for its bar.
fn short_digest(name: &str) -> String {
    match name.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 => format!("sha256:{}", hex.get(..12).unwrap_or(hex)),
        _ => name.to_owned(),
    }
}

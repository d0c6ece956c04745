//! Progress as a picture that is redrawn in place, for a person at a terminal.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{
    model::{Id, Model},
    step::{State, Status, Vertex},
    text::{amount, cut, untabbed, width},
};

/// The time between pictures: a person cannot read more than ten a second.
const FRAME: Duration = Duration::from_millis(100);
/// How many of its last lines a running step shows at most.
const WINDOW_ROWS_MAX: usize = 6;
/// No terminal shows more than this of a line.
const ROW_BYTES_MAX: usize = 4 * 1024;
const BAR_COLUMNS: usize = 20;
/// The least width of a name before a bar; if there is no room for both, the bar is left out.
const BAR_NAME_COLUMNS: usize = 19;

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
    /// A running step, which may show its output.
    Running(Id),
    /// A part of a running step.
    Moving,
    /// Something that has ended.
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
        Row { left: format!(" => {word}{}", vertex.name), right: format!("{time:.1}s"), color, kind }
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

/// Keeps at most `limit` rows: drops the oldest ended rows first, then parts.
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

fn bar_of(current: u64, total: u64) -> String {
    let filled = u128::from(current.min(total)) * BAR_COLUMNS as u128;
    let filled = usize::try_from(filled / u128::from(total.max(1))).unwrap_or(BAR_COLUMNS);
    let head = if filled < BAR_COLUMNS { ">" } else { "" };
    format!("[{:<BAR_COLUMNS$}]", "=".repeat(filled) + head)
}

/// Twelve digits identify a layer well enough, and leave room for its bar.
fn short_digest(name: &str) -> String {
    match name.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 => format!("sha256:{}", hex.get(..12).unwrap_or(hex)),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::progress::facts::{Clock, Facts};

    /// A terminal on which a command was typed, with the picture below.
    struct Terminal {
        parser: vt100::Parser,
        size: Size,
        clock: Clock,
        model: Model,
        tty: Tty,
    }

    impl Terminal {
        fn new(columns: usize, rows: usize) -> Self {
            let clock = Clock::start();
            let tty = Tty::new(clock.at(0), true);
            let mut parser = vt100::Parser::new(cells(rows), cells(columns), 1000);
            parser.process(b"$ wharf build .\r\n");
            Self { parser, size: Size { columns, rows }, clock, model: Model::default(), tty }
        }

        fn resize(&mut self, columns: usize, rows: usize) {
            self.size = Size { columns, rows };
            self.parser.screen_mut().set_size(cells(rows), cells(columns));
        }

        /// Applies these facts, and draws the picture for this time.
        fn see(&mut self, millis: u64, facts: Facts) {
            self.model.apply(&facts.0);
            self.model.tick(self.clock.at(millis));
            self.tty.now = self.clock.at(millis);
            let picture = self.tty.draw(&self.model, self.size);
            self.show(&picture);
        }

        fn finish(&mut self) {
            let picture = self.tty.draw_last(&self.model, self.size);
            self.show(&picture);
        }

        fn show(&mut self, picture: &str) {
            // The kernel's terminal driver does this.
            self.parser.process(picture.replace('\n', "\r\n").as_bytes());
            assert!(!self.parser.screen().hide_cursor());
        }

        fn screen(&self) -> String {
            self.parser.screen().contents()
        }
    }

    fn cells(count: usize) -> std::num::NonZeroU16 {
        u16::try_from(count).unwrap().try_into().unwrap()
    }

    fn layers() -> Facts {
        let digest = format!("sha256:{}", "3f".repeat(32));
        Facts::new()
            .started("wharf:1", "pull docker.io/library/busybox:1", 100)
            .status("wharf:1", &digest, (12_345_678, 50_000_000), (100, None))
            .status("wharf:1", "config", (2_000, 2_000), (100, Some(300)))
    }

    #[test]
    fn a_running_build_looks_as_buildx_draws_it() {
        let mut terminal = Terminal::new(80, 24);
        let load = "[internal] load build context";
        terminal.see(
            50,
            Facts::new().announced("b", "[1/2] FROM busybox").done("a", load, 0, 40).status(
                "a",
                "transferring context:",
                (12_300_000, 0),
                (0, Some(40)),
            ),
        );
        terminal.see(1200, layers());
        terminal.see(
            1300,
            Facts::new().cached("b", "[1/2] FROM busybox", 1200).started("c", "[2/2] RUN make", 1250).log(
                "c",
                1300,
                "1\n2\n3\n4\n5\n\n\tsix\n\x1b[31mseven\x1b[0m\nlinking",
            ),
        );
        let expected = "\
$ wharf build .
[+] Building 1.3s (2/4)
 => [internal] load build context                                          0.0s
 => => transferring context: 12.30MB                                       0.0s
 => pull docker.io/library/busybox:1                                       1.2s
 => => sha256:3f3f3f3f3f3f [====>               ] 12.35MB / 50.00MB        1.2s
 => => config 2.00kB / 2.00kB                                              0.2s
 => CACHED [1/2] FROM busybox                                              0.0s
 => [2/2] RUN make                                                         0.1s
 => => # 3
 => => # 4
 => => # 5
 => => #         six
 => => # seven
 => => # linking
";
        assert_eq!(terminal.screen(), expected.trim_end());
        terminal.see(1400, Facts::new());
        terminal.see(1500, Facts::new().failed("c", "[2/2] RUN make", 1250, 1450, "exit code: 1"));
        terminal.see(1600, Facts::new().done("wharf:1", "pull docker.io/library/busybox:1", 100, 1600));
        terminal.finish();
        let expected = "\
$ wharf build .
[+] Building 1.6s (4/4) FINISHED
 => [internal] load build context                                          0.0s
 => => transferring context: 12.30MB                                       0.0s
 => pull docker.io/library/busybox:1                                       1.5s
 => => sha256:3f3f3f3f3f3f 12.35MB / 50.00MB                               1.5s
 => => config 2.00kB / 2.00kB                                              0.2s
 => CACHED [1/2] FROM busybox                                              0.0s
 => ERROR [2/2] RUN make                                                   0.2s
";
        assert_eq!(terminal.screen(), expected.trim_end());
        assert_eq!(terminal.parser.screen().cursor_position(), (9, 0));
    }

    #[test]
    fn many_steps_fit_the_height_and_all_stand_at_the_end() {
        let mut terminal = Terminal::new(60, 10);
        for step in 0..100 {
            let (digest, name) = (format!("d{step}"), format!("step {step}"));
            // The first two steps keep running.
            let facts = Facts::new().started(&digest, &name, step * 10);
            terminal.see(
                step * 10,
                if step < 2 { facts } else { facts.done(&digest, &name, step * 10, step * 10) },
            );
            let screen = terminal.screen();
            assert!(screen.contains("=> step 0 ") && (step < 1 || screen.contains("=> step 1 ")), "{screen}");
            assert_eq!(screen.matches("[+] Building").count(), 1, "{screen}");
        }
        let screen = terminal.screen();
        assert!(screen.contains("step 99 ") && !screen.contains("step 50 "), "{screen}");
        terminal.finish();
        terminal.parser.screen_mut().set_scrollback(1000);
        let mut seen = String::new();
        for offset in (0..200).rev() {
            terminal.parser.screen_mut().set_scrollback(offset);
            seen += &terminal.parser.screen().contents();
        }
        assert!((0..100).all(|step| seen.contains(&format!("=> step {step} "))));
    }

    #[test]
    fn output_yields_to_steps_and_steps_to_the_height() {
        let mut terminal = Terminal::new(60, 8);
        let mut facts = Facts::new();
        for step in 0..4 {
            let digest = format!("d{step}");
            facts = facts.started(&digest, &format!("step {step}"), 0).log(&digest, 0, "1\n2\n3\n4\n");
        }
        terminal.see(0, facts);
        let screen = terminal.screen();
        // Two rows are free for output, and the last step gets them.
        assert!(screen.ends_with("=> # 3\n => => # 4"), "{screen}");
        assert_eq!(screen.matches("=> #").count(), 2, "{screen}");
        for rows in 1..6 {
            terminal.resize(60, rows);
            terminal.see(0, Facts::new());
            assert!(terminal.tty.rows.len() < rows.max(2), "{rows}: {:?}", terminal.tty.rows);
        }
    }

    #[test]
    fn a_resized_terminal_is_drawn_anew() {
        let mut terminal = Terminal::new(80, 24);
        terminal.see(0, layers());
        for columns in [40, 100, 12, 5, 1, 30, 80] {
            terminal.resize(columns, 24);
            terminal.see(100, Facts::new());
            let screen = terminal.screen();
            if columns >= 12 {
                assert_eq!(screen.matches("[+] Buildi").count(), 1, "{columns}: {screen}");
            }
            assert!(
                terminal.tty.rows.iter().all(|width| *width < columns.max(1) || columns == 1),
                "{screen}"
            );
        }
        assert!(
            terminal.screen().contains("[>") || terminal.screen().contains("[==="),
            "{}",
            terminal.screen()
        );
    }

    #[test]
    fn a_narrow_terminals_wrapped_rows_are_all_taken_back() {
        let mut terminal = Terminal::new(80, 24);
        terminal.see(0, layers());
        assert_eq!(terminal.tty.rows, [23, 79, 79, 79]);
        let picture = terminal.tty.draw(&terminal.model, Size { columns: 40, rows: 24 });
        // tmux and most other terminals reflow like this: each full row has become two.
        assert!(picture.starts_with("\x1b[?25l\x1b[?7l\r\x1b[7A\x1b[J"), "{picture:?}");
    }

    #[test]
    fn wide_characters_count_twice() {
        let mut terminal = Terminal::new(40, 10);
        terminal
            .see(0, Facts::new().started("a", &"日本".repeat(20), 0).started("b", "e\u{301}te\u{301}", 0));
        let rows: Vec<String> = terminal.parser.screen().rows(0, 40).collect();
        assert!(rows[2].starts_with(" => 日本日本") && rows[2].ends_with("...  0.0s"), "{rows:?}");
        assert_eq!(terminal.tty.rows, [23, 39, 39]);
    }

    #[test]
    fn frames_are_not_drawn_faster_than_they_are_seen() {
        let clock = Clock::start();
        let mut tty = Tty::new(clock.at(0), true);
        let model = Model::default();
        let drawn = (0..1000).filter(|millis| !tty.frame(&model, clock.at(*millis)).is_empty()).count();
        assert_eq!(drawn, 10);
    }

    #[test]
    fn bars_fill() {
        assert_eq!(bar_of(0, 10), "[>                   ]");
        assert_eq!(bar_of(5, 10), "[==========>         ]");
        assert_eq!(bar_of(10, 10), "[====================]");
        assert_eq!(bar_of(u64::MAX, 1), "[====================]");
        assert_eq!(bar_of(u64::MAX - 1, u64::MAX), "[===================>]");
    }
}

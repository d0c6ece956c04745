//! One step: its state, the progress of its parts, its output.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::{lines::LineBuffer, model::Id};
use crate::wire::v1::LogStream;

/// How much of a step's output is kept, to be repeated if the step fails.
pub(super) const TAIL_LINES_MAX: usize = 200;
pub(super) const TAIL_BYTES_MAX: usize = 64 * 1024;
/// How much of a single line is kept.
const TAIL_LINE_BYTES_MAX: usize = 16 * 1024;
/// The end of BuildKit's errors for a step that was stopped by another step's failure or by a person.
pub(super) const CANCELED: &str = "context canceled";

/// The place of a build that waits for its turn.
pub(super) fn place(ahead: u32) -> String {
    match ahead {
        0 => "no build is ahead".to_owned(),
        1 => "1 build is ahead".to_owned(),
        more => format!("{more} builds are ahead"),
    }
}

/// A time of the engine's clock, since the Unix epoch.
pub(super) type Moment = Duration;

/// One step.
#[derive(Debug, Default)]
pub struct Vertex {
    /// From 1, in starting order; 0 if it has not started.
    pub number: usize,
    /// The name to show.
    pub name: String,
    pub(super) cached: bool,
    pub(super) error: String,
    /// The duration of the step's earlier runs: a step can start again.
    pub(super) before: Duration,
    pub(super) begin: Option<Moment>,
    pub(super) end: Option<Moment>,
    /// While the step waits for the build's turn: how many builds are ahead.
    pub(super) ahead: Option<u32>,
    /// Its parts that show progress.
    pub statuses: Vec<Status>,
    pub(super) status_ids: HashMap<String, usize>,
    /// The end of its output.
    pub tail: Tail,
    /// Standard output and standard error, each with its own unfinished line.
    pub(super) outputs: [Output; 2],
    /// The output that wrote last.
    pub(super) spoke_last: usize,
}

/// One of a step's output streams.
#[derive(Debug, Default)]
pub(super) struct Output {
    lines: LineBuffer,
    /// When the unfinished line began.
    since: Option<Moment>,
}

/// A line of output, and when it began.
pub(super) type Timed = (Option<Moment>, String);

/// The state of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// It has not started.
    Waiting,
    /// It runs.
    Running,
    /// It is done.
    Done,
    /// Its result came from the cache.
    Cached,
    /// It was stopped before its end.
    Canceled,
    /// It failed, with this error.
    Failed(&'a str),
}

/// A part of a step that shows progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The name to show.
    pub name: String,
    /// The progress so far, in bytes.
    pub current: u64,
    /// The expected total in bytes; 0 if unknown.
    pub total: u64,
    pub(super) begin: Option<Moment>,
    pub(super) end: Option<Moment>,
}

/// A line of a step's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The time since its step's start.
    pub after: Duration,
    /// Without its newline.
    pub text: Arc<str>,
}

/// The end of a step's output.
#[derive(Debug, Default)]
pub struct Tail {
    /// At most 200 lines and 64 KiB.
    pub lines: VecDeque<Line>,
    /// How many earlier lines have been dropped.
    pub forgotten: u64,
    pub(super) bytes: usize,
}

/// A warning about the Dockerfile or the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The step that it is about; `None` for the whole build.
    pub vertex: Option<Id>,
    /// The warning in a line.
    pub short: String,
    /// More lines.
    pub details: Vec<String>,
    /// A page with more information; may be empty.
    pub url: String,
    /// The first line of the Dockerfile that it is about, from 1; 0 if there is none.
    pub line: i32,
}

impl Vertex {
    /// The state of the step.
    pub fn state(&self) -> State<'_> {
        match self {
            Self { number: 0, .. } => State::Waiting,
            Self { end: None, .. } => State::Running,
            Self { error, .. } if error.ends_with(CANCELED) => State::Canceled,
            Self { error, .. } if !error.is_empty() => State::Failed(error),
            Self { cached: true, .. } => State::Cached,
            Self { .. } => State::Done,
        }
    }

    /// Whether it has ended, in whatever way.
    pub fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// How many builds are ahead, while the step waits for the build's turn.
    pub(super) fn ahead(&self) -> Option<u32> {
        self.ahead.filter(|_| !self.is_ended())
    }

    /// The unfinished line of the step's output; if both streams have one, the line of the stream that wrote
    /// last.
    pub fn partial_line(&self) -> Option<Line> {
        let [out, error] = &self.outputs;
        let streams = if self.spoke_last == 0 { [out, error] } else { [error, out] };
        let (output, text) = streams.into_iter().find_map(|output| Some((output, output.lines.peek()?)))?;
        let after = output.since.unwrap_or_default().saturating_sub(self.begin.unwrap_or_default());
        Some(Line { after, text: text.into() })
    }

    /// Takes in output of a stream; returns the lines that it completes.
    pub(super) fn write(&mut self, stream: LogStream, at: Option<Moment>, data: &[u8]) -> Vec<Timed> {
        self.spoke_last = usize::from(stream == LogStream::Stderr);
        let Some(output) = self.outputs.get_mut(self.spoke_last) else { return Vec::new() };
        // A line has the time at which it began.
        let mut since = output.since.or(at);
        let lines = output.lines.push(data).into_iter();
        let lines = lines.map(|line| (std::mem::replace(&mut since, at), line)).collect();
        output.since = if output.lines.is_empty() { None } else { since };
        lines
    }

    /// Ends the unfinished lines.
    pub(super) fn end_lines(&mut self) -> Vec<Timed> {
        let ended = |output: &mut Output| {
            let since = output.since.take();
            output.lines.end().into_iter().map(move |line| (since, line)).collect::<Vec<_>>()
        };
        let mut lines: Vec<Timed> = self.outputs.iter_mut().flat_map(ended).collect();
        lines.sort_by_key(|(since, _)| *since);
        lines
    }

    /// The memory that the unfinished lines take.
    pub(super) fn unfinished_bytes(&self) -> usize {
        self.outputs.iter().map(|output| output.lines.bytes()).sum()
    }
}

impl Status {
    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        self.end.is_some()
    }
}

impl Line {
    /// Its memory use. Even empty lines take memory.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

/// Preceded by its time, as in buildx: the later the time, the fewer digits.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.after.as_secs_f64();
        let digits = match self.after.as_secs() {
            0..10 => 3,
            10..100 => 2,
            _ => 1,
        };
        write!(f, "{seconds:.digits$} {}", self.text)
    }
}

impl Warning {
    /// `text (line 3)`.
    pub fn located(&self) -> String {
        let place = format!(" (line {})", self.line);
        // BuildKit's checks add this themselves.
        if self.line < 1 || self.short.ends_with(&place) {
            self.short.clone()
        } else {
            self.short.clone() + &place
        }
    }
}

impl Tail {
    pub(super) fn push(&mut self, mut line: Line) {
        if line.bytes() > TAIL_LINE_BYTES_MAX {
            // The end is at least as likely as the beginning to say why the step failed.
            let from = line.text.ceil_char_boundary(line.text.len().saturating_sub(TAIL_LINE_BYTES_MAX));
            line.text = format!("...{}", line.text.get(from..).unwrap_or_default()).into();
        }
        self.bytes += line.bytes();
        self.lines.push_back(line);
        self.shorten(TAIL_LINES_MAX, TAIL_BYTES_MAX);
    }

    pub(super) fn shorten(&mut self, lines_max: usize, bytes_max: usize) {
        while self.lines.len() > lines_max || self.bytes > bytes_max {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= line.bytes();
            self.forgotten += 1;
        }
    }
}

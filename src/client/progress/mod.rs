//! Shows a running build, push or pull. Owns the console while it runs.

mod lines;
mod model;
mod plain;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod text;
mod tty;
#[cfg(test)]
pub(super) mod updates;

use std::{
    io::{IsTerminal as _, Write},
    time::Instant,
};

pub use model::{Changes, Id, Model};
pub use source::Excerpt;
pub use step::{Line, State, Status, Tail, Vertex, Warning};
pub(in crate::client) use text::one_line;

use self::{plain::Plain, tty::Tty};
use super::summary;
use crate::wire::v1;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// `tty` if standard error is a terminal, else `plain`.
    #[default]
    Auto,
    /// Lines that stay, for a log.
    Plain,
    /// A live view of the build, redrawn in place.
    Tty,
    /// Nothing but the reason for a failure.
    Quiet,
}

/// Capabilities of standard error, if it is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// The terminal can show only lines.
    pub is_dumb: bool,
    /// The terminal can show colours.
    pub colors: bool,
}

/// The outcome of a build, push or pull.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Success.
    Done,
    /// The Dockerfile or one of its steps failed.
    Failed(&'a v1::BuildFailure),
    /// The work was stopped, or its call failed; the caller reports why.
    Stopped,
}

/// Shows progress on a console. Its owner calls [`update`](Self::update) with each message and
/// [`tick`](Self::tick) about ten times a second. Write errors are ignored: a closed console does not
/// stop a build.
#[derive(Debug)]
pub struct Progress<W> {
    model: Model,
    view: View,
    out: W,
}

#[derive(Debug)]
enum View {
    Plain(Plain),
    Tty(Tty),
    Quiet,
}

impl<W: Write + Send> Progress<W> {
    /// Shows progress on `out`, which is standard error or a stand-in for it.
    pub fn new(mode: Mode, out: W, console: Console) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !console.is_dumb;
        let now = Instant::now();
        let view = match mode {
            Mode::Auto if is_terminal => View::Tty(Tty::new(now, console.colors)),
            Mode::Auto | Mode::Plain => View::Plain(Plain::new(now)),
            Mode::Tty => View::Tty(Tty::new(now, console.colors)),
            Mode::Quiet => View::Quiet,
        };
        Self { model: Model::default(), view, out }
    }

    /// Sets the headline's verb; `Building` by default.
    #[must_use]
    pub fn doing(mut self, what: &'static str) -> Self {
        if let View::Tty(tty) = &mut self.view {
            tty.doing(what);
        }
        self
    }

    /// Takes in a message of progress.
    pub fn update(&mut self, update: &v1::Progress) {
        let changes = self.model.apply(update);
        if let View::Plain(plain) = &mut self.view {
            let text = plain.update(&self.model, changes);
            self.write(&text);
        }
    }

    /// Advances the clock.
    pub fn tick(&mut self, now: Instant) {
        self.model.tick(now);
        let text = match &mut self.view {
            View::Plain(plain) => plain.tick(&self.model, now),
            View::Tty(tty) => tty.frame(&self.model, now),
            View::Quiet => return,
        };
        self.write(&text);
    }

    /// Shows everything that is still unshown, the warnings, and the reason for a failure.
    pub fn finish(&mut self, outcome: Outcome<'_>) {
        let changes = match outcome {
            Outcome::Done | Outcome::Failed(_) => Changes::default(),
            Outcome::Stopped => self.model.cancel(),
        };
        let mut text = match &mut self.view {
            View::Plain(plain) => plain.update(&self.model, changes) + &plain.finish(&self.model),
            View::Tty(tty) => tty.finish(&self.model),
            View::Quiet => String::new(),
        };
        if !matches!(self.view, View::Quiet) {
            text += &summary::warnings(&self.model);
        }
        if let Outcome::Failed(failure) = outcome {
            text += &summary::failure(failure, &self.model);
        }
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}

//! How a running build, push or pull is shown. Owns the console while one runs.

#[cfg(test)]
pub(super) mod facts;
mod lines;
mod model;
mod plain;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod text;
mod tty;

use std::{
    io::{IsTerminal as _, Write},
    time::Instant,
};

pub use model::{Changes, Id, Model};
pub use source::Source;
pub use step::{Line, State, Status, Tail, Vertex, Warning};
pub(in crate::client) use text::one_line;

use self::{plain::Plain, tty::Tty};
use super::summary;
use crate::wire::v1;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// `tty` where standard error is a terminal, else `plain`.
    #[default]
    Auto,
    /// Lines that stay, for a log.
    Plain,
    /// A picture of the build, redrawn as it goes.
    Tty,
    /// Nothing, except why it failed.
    Quiet,
}

/// What standard error can show, if it is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Nothing but lines.
    pub is_dumb: bool,
    /// Colours.
    pub colors: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// As it should.
    Done,
    /// The Dockerfile or one of its steps failed.
    Failed(&'a v1::BuildFailure),
    /// It was stopped, or its call failed; the caller says why.
    Stopped,
}

/// Shows progress on a console. Its owner calls [`update`](Self::update) with what comes and
/// [`tick`](Self::tick) about ten times a second. What cannot be written is lost: a closed console
/// does not stop a build.
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
    /// Shows progress on `out`, which is standard error or stands for it.
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

    /// What is being done, for the headline: `Building` when not said.
    #[must_use]
    pub fn doing(mut self, what: &'static str) -> Self {
        if let View::Tty(tty) = &mut self.view {
            tty.doing(what);
        }
        self
    }

    /// Takes facts in.
    pub fn update(&mut self, facts: &v1::Progress) {
        let changes = self.model.apply(facts);
        if let View::Plain(plain) = &mut self.view {
            let text = plain.update(&self.model, changes);
            self.write(&text);
        }
    }

    /// Says what time it is.
    pub fn tick(&mut self, now: Instant) {
        self.model.tick(now);
        let text = match &mut self.view {
            View::Plain(plain) => plain.tick(&self.model, now),
            View::Tty(tty) => tty.frame(&self.model, now),
            View::Quiet => return,
        };
        self.write(&text);
    }

    /// Shows what has not been shown yet, the warnings, and why it failed.
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

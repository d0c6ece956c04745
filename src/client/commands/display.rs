//! Progress on standard error, while a call runs.

use std::{
    io::{Stderr, stderr},
    pin::pin,
    time::Duration,
};

use clap::ValueEnum as _;
use tokio::time::{self, Interval, MissedTickBehavior};
use tonic::Streaming;

use super::Call;
use crate::{
    client::{
        args::ProgressArgs,
        env,
        exit::Failure,
        progress::{Console, Mode, Outcome, Progress},
    },
    wire::v1,
};

/// How often a terminal is redrawn.
const TICK: Duration = Duration::from_millis(100);

/// The progress display, from before the call to its end.
pub(super) struct Display {
    progress: Progress<Stderr>,
    ticks: Interval,
}

/// A message of a call that reports progress.
pub(super) enum Message<R> {
    Progress(v1::Progress),
    Result(R),
}

impl Display {
    pub(super) fn new(console: Console, mode: Mode, doing: &'static str) -> Self {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { progress: Progress::new(mode, stderr(), console).doing(doing), ticks }
    }

    /// Keeps redrawing while waiting for `next`.
    pub(super) async fn during<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = pin!(next);
        loop {
            tokio::select! {
                value = &mut next => return value,
                now = self.ticks.tick() => self.progress.tick(now.into_std()),
            }
        }
    }

    /// Shows a stream of progress until its result comes.
    pub(super) async fn follow<M, R>(
        &mut self,
        mut messages: Streaming<M>,
        read: impl Fn(M) -> Option<Message<R>>,
    ) -> Result<R, Failure> {
        loop {
            match self.during(messages.message()).await?.and_then(&read) {
                Some(Message::Progress(update)) => self.update(&update),
                Some(Message::Result(result)) => return Ok(result),
                None => return Err(Failure::lost()),
            }
        }
    }

    pub(super) fn update(&mut self, update: &v1::Progress) {
        self.progress.update(update);
    }

    pub(super) fn finish(&mut self, outcome: Outcome<'_>) {
        self.progress.finish(outcome);
    }
}

/// The progress mode from the flags, else from the environment.
pub(super) fn mode(call: &Call, args: ProgressArgs, quiet: bool) -> Result<Mode, Failure> {
    if quiet {
        return match args.progress {
            None | Some(Mode::Auto | Mode::Quiet) => Ok(Mode::Quiet),
            Some(Mode::Plain | Mode::Tty) => {
                Err(Failure::usage("--quiet shows no progress: leave out --quiet or --progress"))
            }
        };
    }
    if let Some(mode) = args.progress {
        return Ok(mode);
    }
    for variable in [env::WHARF_PROGRESS, env::BUILDKIT_PROGRESS] {
        if let Some(value) = call.env.get(variable)? {
            return Mode::from_str(&value, true).map_err(|_| {
                Failure::usage(format!(
                    "{}: there is no style `{value}`; the styles are auto, plain, tty and quiet",
                    variable.name
                ))
            });
        }
    }
    Ok(Mode::Auto)
}

//! The signals that stop a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure, Stop};

/// SIGINT, SIGTERM and SIGHUP, from when it is made on.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes the signals over.
    pub(crate) fn take() -> Result<Self, Failure> {
        let take = || {
            Ok::<_, io::Error>(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
            })
        };
        take().map_err(|error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}")))
    }

    /// Waits for a signal, and says what to exit with.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.hang_up.recv() => Exit::HungUp,
        }
    }

    /// Runs `call`, dropped by a signal.
    pub(crate) async fn guard<T>(&mut self, call: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::select! {
            result = call => result,
            exit = self.next() => Err(Stop::Cancelled(exit)),
        }
    }
}

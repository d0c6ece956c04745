//! The signals that stop a command.

use std::{fs, future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure, Stop};

/// Catches SIGINT, SIGTERM and SIGHUP from its creation on. A SIGHUP that was ignored when the command
/// started stays ignored, as `nohup` intends.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Starts catching the signals.
    pub(crate) fn take() -> Result<Self, Failure> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let hang_up = SignalKind::hangup();
        let is_ignored = ignored >> (hang_up.as_raw_value() - 1) & 1 == 1;
        let all = || {
            Ok::<_, io::Error>(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: if is_ignored { None } else { Some(signal(hang_up)?) },
            })
        };
        all().map_err(|error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}")))
    }

    /// Waits for a signal; returns the exit status for it.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            () = received(self.hang_up.as_mut()) => Exit::HungUp,
        }
    }

    /// Runs `call`, and drops it when a signal comes.
    pub(crate) async fn guard<T>(&mut self, call: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::select! {
            result = call => result,
            exit = self.next() => Err(Stop::Cancelled(exit)),
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => future::pending().await,
    }
}

/// The mask of ignored signals (proc_pid_status(5)); bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        let status = "Name:\twharf\nSigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored(status), 0x1001, "SIGHUP and SIGPIPE");
        assert_eq!(ignored(""), 0);
    }
}

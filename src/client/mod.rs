//! The command line client, `wharf`.

mod args;

mod lacking;
mod options;
mod platform;
mod units;
mod unused;

mod connect;
mod env;
mod namespace;
mod remote;
mod token;

mod credentials;
mod secrets;

mod answers;
mod output;

pub mod context;
pub mod sync;

pub mod progress;
pub mod summary;

mod commands;

mod checkouts;
mod files;
mod temporary;

mod print;
mod signals;

mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzz;

use std::process::ExitCode;

use args::Cli;
use exit::{Exit, Failure, Stop};

use crate::names::print_usage;

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let words = std::env::args_os();
    let cli = match Cli::read(words) {
        Ok(cli) => cli,
        Err(error) => match lacking::explained(&error, std::env::args_os()) {
            Some(failure) => {
                print::failure(&failure);
                return failure.exit.into();
            }
            None => {
                if error.use_stderr() {
                    print::keep(error.to_string().trim_start_matches("error: "));
                }
                return ExitCode::from(print_usage(error));
            }
        },
    };
    let command = cli.command.name();
    let exit = match run(cli) {
        Ok(()) | Err(Stop::OutputClosed) => Exit::Done,
        Err(Stop::Failed(failure)) => {
            print::failure(&failure);
            failure.exit
        }
        Err(Stop::Reported(exit)) => exit,
        Err(Stop::Cancelled(exit)) => {
            print::failure(&Failure::new(exit, format!("{command} cancelled")));
            exit
        }
    };
    temporary::end();
    exit.into()
}

fn run(cli: Cli) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One thread reads and packs the context, the other serves the connection.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let result = runtime.block_on(commands::run(cli));
    // A blocked read of standard input or of a dead mount cannot be cancelled: leave it behind.
    runtime.shutdown_background();
    result
}

//! The daemon: the only holder of the engine's socket.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use tokio::runtime::Builder;
use wharf::{
    config::{Config, Flags},
    daemon::{self, Shutdown},
    fault::causes,
    firewall,
    names::print_usage,
    registry::LOOKUPS_MAX,
    telemetry,
};

/// The threads for everything that blocks but look-ups of names, which a job's name server can make slow.
const BLOCKING_THREADS: usize = 512;

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|word| word == firewall::COMMAND) {
        return firewall::run(env::args_os().skip(1));
    }
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => return ExitCode::from(print_usage(error)),
    };
    let config = match Config::load(flags.clone()) {
        Ok(config) => config,
        Err(error) => {
            let _ = writeln!(io::stderr(), "wharfd: {}", causes(&error));
            return ExitCode::from(2);
        }
    };
    telemetry::init(config.log_format, &config.log_level);
    let threads = BLOCKING_THREADS + LOOKUPS_MAX;
    let runtime = match Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(daemon::run(config, flags));
    // Do not wait for threads, such as one that still reads the store: their work is no longer needed.
    runtime.shutdown_background();
    match ended {
        Ok(Shutdown::Asked) => ExitCode::SUCCESS,
        Ok(Shutdown::Aborted(signal)) => {
            tracing::warn!(signal, "a second signal: ended at once");
            // Do not wait for running work: the second signal asks for exactly that.
            std::process::exit(128 + signal);
        }
        Err(error) => {
            tracing::error!("cannot start: {}", causes(&error));
            ExitCode::FAILURE
        }
    }
}

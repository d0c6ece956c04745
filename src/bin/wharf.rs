//! The client: what a job calls.

use std::process::ExitCode;

fn main() -> ExitCode {
    wharf::client::main()
}

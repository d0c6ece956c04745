//! The client that jobs call.

use std::process::ExitCode;

fn main() -> ExitCode {
    wharf::client::main()
}

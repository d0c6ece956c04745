//! The arguments of `wharf doctor`.

use clap::Args;

use super::TableFormat;

/// Check everything that builds need from here, and say what to do about what is wrong
///
/// It looks at the address and the socket, the connection, your identity, the namespace and its policy, the engine and its
/// disk, the clocks, and docker's config with its credential helpers. It changes nothing. Status 1 if a check fails;
/// a warning is not a failure.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// How to print: a table, or JSON, one object a line
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

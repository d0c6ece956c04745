//! The formats that `--format` names.

use clap::ValueEnum;

/// A format for a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// A table for people
    Table,
    /// JSON, one object a line
    Json,
}

/// A format for a single result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    /// Text for people
    Text,
    /// JSON
    Json,
}

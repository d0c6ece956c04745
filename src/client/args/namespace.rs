//! The commands of `wharf namespace`.

use clap::{Args, Subcommand};

use super::TableFormat;

/// List namespaces, and act on a whole one
#[derive(Args, Debug)]
pub(crate) struct NamespaceArgs {
    #[command(subcommand)]
    pub(crate) command: NamespaceCommand,
}

/// The action on a namespace.
#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    Ls(NamespaceLsArgs),
    Inspect(NamespaceInspectArgs),
    Rm(NamespaceRmArgs),
}

/// List the namespaces in which you may act
///
/// A namespace begins with its first build, pull or tag, and ends with `wharf namespace rm` or when nothing has
/// run in it for a day, unless the node's operator has chosen another time.
#[derive(Args, Debug)]
pub(crate) struct NamespaceLsArgs {
    /// Print names and nothing else, as `wharf namespace rm` reads them
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How to print: a table, or JSON, one object a line
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

/// Describe a namespace, its images, and the cache mounts of its job as JSON
#[derive(Args, Debug)]
pub(crate) struct NamespaceInspectArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
}

/// Remove everything that a namespace owns, and cancel its builds
///
/// An empty namespace is not an error, so a pipeline can always call this at its end.
#[derive(Args, Debug)]
pub(crate) struct NamespaceRmArgs {
    #[command(flatten)]
    pub(crate) named: NamedArgs,
    /// Also remove the job's cache mounts, which all its runs share; use it when the job will not be built
    /// again
    #[arg(long)]
    pub(crate) job: bool,
}

/// Which namespace.
#[derive(Args, Debug)]
pub(crate) struct NamedArgs {
    /// The namespace, for the node's operator with its issuer, `ISSUER:JOB#RUN` [default: the one from
    /// --namespace or the environment]
    #[arg(value_name = "JOB#RUN")]
    pub(crate) name: Option<String>,
    /// The issuer whose tokens prove the job, for the node's operator: a job itself needs only its token
    #[arg(long, value_name = "NAME")]
    pub(crate) issuer: Option<String>,
}

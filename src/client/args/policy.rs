//! The commands of `wharf policy`.

use clap::{Args, Subcommand};

use super::TableFormat;
use crate::{client::options, names::Reference};

/// Explain what jobs may do
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

/// The question about a policy.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Check(Box<PolicyCheckArgs>),
}

/// Say what the namespace's job may do, and which policy says so
///
/// Without a question it lists what the job's `[[policy]]` entry allows. With questions it answers each, and
/// ends with status 3 if anything asked is not allowed. Nothing is pulled, pushed, fetched or looked up.
#[derive(Args, Debug)]
pub(crate) struct PolicyCheckArgs {
    /// May the image be pulled from its registry? Repeatable, as are the others
    #[arg(long, value_name = "IMAGE", value_parser = options::reference)]
    pub(crate) pull: Vec<Reference>,
    /// May an image be pushed there?
    #[arg(long, value_name = "NAME", value_parser = options::tag)]
    pub(crate) push: Vec<Reference>,
    /// May builds use the image that the operator has put on the node?
    #[arg(long, value_name = "IMAGE", value_parser = options::reference)]
    pub(crate) node_image: Vec<Reference>,
    /// May `ADD` fetch the URL?
    #[arg(long, value_name = "URL")]
    pub(crate) add: Vec<String>,
    /// May `RUN` have the network, `default`, `none` or `host`?
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Vec<String>,
    /// Ask about another caller, for the node's operator: `uid 1000`, `token NAME`, `certificate NAME`, or `job
    /// ISSUER:JOB`, which needs no namespace
    #[arg(long = "as", value_name = "CALLER")]
    pub(crate) caller: Option<String>,
    /// How to print: a table, or JSON, one object a line
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

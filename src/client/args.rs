//! The command line, in the words of `docker` and `docker buildx`.

mod doctor;
mod format;
mod login;
mod namespace;
mod policy;

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::{
    credentials::LoginFlag,
    env, exit,
    options::{self, AddHost, BuildArg, Label, SecretSource},
    output::{Output, output},
    platform::{Platform, platform},
    progress::Mode,
    remote::TlsArgs,
    units,
    unused::UnusedArgs,
};
use crate::{names::Reference, wire::v1::Ulimit};
pub(crate) use doctor::DoctorArgs;
pub(crate) use format::{TableFormat, TextFormat};
pub(crate) use login::{LoginArgs, LogoutArgs};
pub(crate) use namespace::{
    NamedArgs, NamespaceArgs, NamespaceCommand, NamespaceInspectArgs, NamespaceLsArgs, NamespaceRmArgs,
};
pub(crate) use policy::{PolicyArgs, PolicyCheckArgs, PolicyCommand};

/// Build and push container images from a job, each job in a namespace of its own.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, after_help = exit::HELP, after_long_help = help(), disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print version
    #[arg(short, short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: (),
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn help() -> String {
    format!("{}\n\n{}", exit::HELP, env::help())
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// When it is wrong, or asks for help.
    pub(crate) fn read<W>(words: impl IntoIterator<Item = W>) -> Result<Self, clap::Error>
    where
        W: Into<std::ffi::OsString> + Clone,
    {
        Self::from_arg_matches(&Self::definition().try_get_matches_from(words)?)
    }

    /// The command tree, reading flags as docker's pflag does: a switch may have a value, and the last
    /// of several values wins.
    pub(crate) fn definition() -> clap::Command {
        as_pflag(Self::command())
    }
}

fn as_pflag(command: clap::Command) -> clap::Command {
    let command = command.args_override_self(true).mut_subcommands(as_pflag);
    command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .value_parser(options::switch)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .value_name("BOOL"),
        _ => arg,
    })
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where wharfd listens, unix:///PATH or tcp://HOST:PORT [env: WHARF_ADDR] [default:
    /// unix:///run/wharf/wharf.sock]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) addr: Option<String>,
    /// The namespace to act in, split at the last `#`; `JOB` alone is `JOB#local` [env:
    /// WHARF_NAMESPACE] [default: Jenkins' JOB_NAME#BUILD_NUMBER, else user/LOGIN#local]
    #[arg(long, global = true, value_name = "JOB#RUN")]
    pub(crate) namespace: Option<String>,
    /// File with the token that proves your identity [env: WHARF_TOKEN, the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(Box<BuildArgs>),
    Push(PushArgs),
    Pull(PullArgs),
    Tag(TagArgs),
    Save(SaveArgs),
    Images(ImagesArgs),
    Inspect(InspectArgs),
    Rmi(RmiArgs),
    Namespace(NamespaceArgs),
    Policy(PolicyArgs),
    Version(VersionArgs),
    Info(InfoArgs),
    Doctor(DoctorArgs),
    Completion(CompletionArgs),
    Man(ManArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
}

/// Build an image from a Dockerfile
///
/// The context is a directory, or, with `-`, a tar archive or a single Dockerfile on standard input. Only the
/// changes in a directory since the job's last build are sent.
///
/// A Dockerfile or .dockerignore that is a symlink must point to a file in the context or in its own
/// directory, and an ignore file must be readable if it exists; anything else is an error.
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// The build context: a directory, or `-` for standard input
    #[arg(value_name = "PATH|-")]
    pub(crate) context: PathBuf,
    /// Name the image, `[HOST/]NAME[:TAG]`; repeatable
    #[arg(short, long = "tag", value_name = "NAME", value_parser = options::tag)]
    pub(crate) tags: Vec<Reference>,
    /// The Dockerfile, or `-` for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "PATH", value_parser = options::path())]
    pub(crate) file: Option<PathBuf>,
    /// Set an ARG of the Dockerfile; without a value, it is taken from the environment, as
    /// SOURCE_DATE_EPOCH always is; repeatable
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]", value_parser = options::build_arg)]
    pub(crate) build_args: Vec<BuildArg>,
    /// Build this stage, not the last
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Set a label of the image; repeatable
    #[arg(long = "label", value_name = "KEY[=VALUE]", value_parser = options::label)]
    pub(crate) labels: Vec<Label>,
    /// Do not use results of earlier builds
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Ask the registry for every base image again
    #[arg(long)]
    pub(crate) pull: bool,
    /// Push every tag when the image is built
    #[arg(long)]
    pub(crate) push: bool,
    /// Keep the image on the node, as is done anyway without `--output`
    #[arg(long)]
    pub(crate) load: bool,
    /// The result of the build: the built stage's files in a directory (`DIR`, `type=local,dest=DIR`) or as a
    /// tar in a file or on standard output (`type=tar,dest=FILE`, `-`); an image on the node (`type=image`,
    /// the default), also pushed to a registry (`type=registry`), or in an archive (`type=docker,dest=FILE`,
    /// `type=oci,dest=FILE`); or nothing (`type=cacheonly`); repeatable
    #[arg(short, long = "output", value_name = "DIR|-|type=TYPE[,KEY=VALUE]", value_parser = output)]
    pub(crate) outputs: Vec<Output>,
    /// Print the image's id and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE", value_parser = options::path())]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write the build's result to a file, as JSON with buildx's keys
    #[arg(long, value_name = "FILE", value_parser = options::path())]
    pub(crate) metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
    /// Add a line to /etc/hosts of RUN steps, `HOST:IP` or `HOST=IP`, several with commas; repeatable
    #[arg(long = "add-host", value_name = "HOST:IP", value_delimiter = ',', value_parser = options::add_host)]
    pub(crate) add_hosts: Vec<AddHost>,
    /// The network of RUN steps: `default` or `none`
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// The size of /dev/shm in RUN steps: `64m`, `1g`
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub(crate) shm_size: Option<i64>,
    /// A limit of RUN steps, such as `nofile=1024:2048`; repeatable
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = options::ulimit)]
    pub(crate) ulimits: Vec<Ulimit>,
    /// A secret for RUN steps, from a file or an environment variable; repeatable
    #[arg(long = "secret", value_name = "id=ID[,src=PATH|,env=VAR]", value_parser = options::secret)]
    pub(crate) secrets: Vec<SecretSource>,
    /// The platform to build for, `OS/ARCH` or `local`; only the node's own is supported
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',', value_parser = platform)]
    pub(crate) platforms: Vec<Platform>,
    #[command(flatten)]
    pub(crate) logins: LoginsArgs,
    #[command(flatten)]
    pub(crate) unused: UnusedArgs,
}

/// Logins for this command only.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoginsArgs {
    /// Log in to a registry with the username and password in two environment variables; takes precedence
    /// over WHARF_LOGIN and docker's config; without HOST, the registry is that of the image's name;
    /// repeatable
    #[arg(long = "login", value_name = "[HOST=]USER_VAR:PASSWORD_VAR")]
    pub(crate) flags: Vec<LoginFlag>,
}

/// How progress is shown.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ProgressArgs {
    /// How progress is shown on standard error [env: WHARF_PROGRESS, BUILDKIT_PROGRESS] [default:
    /// auto]
    #[arg(long, value_enum, value_name = "STYLE")]
    pub(crate) progress: Option<Mode>,
}

/// Push images of the namespace to their registries
///
/// Several names are pushed one after the other. The first push that fails ends the command; the names before
/// it stay in their registries.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// The image's name, `[HOST/]NAME[:TAG]`; several are pushed in this order
    #[arg(value_name = "NAME", required = true, value_parser = options::reference)]
    pub(crate) references: Vec<Reference>,
    /// Print the names and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write the push's result to a file, as JSON with buildx's keys; for several names, a list
    #[arg(long, value_name = "FILE", value_parser = options::path())]
    pub(crate) metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) logins: LoginsArgs,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
}

/// Bring an image from a registry into the namespace
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// The image's name, `[HOST/]NAME[:TAG|@DIGEST]`
    #[arg(value_name = "NAME", value_parser = options::reference)]
    pub(crate) reference: Reference,
    /// Print the name and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) logins: LoginsArgs,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
}

/// Give an image of the namespace another name
#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// The image: a name or an id
    #[arg(value_name = "IMAGE", value_parser = options::image)]
    pub(crate) source: String,
    /// The new name, `[HOST/]NAME[:TAG]`
    #[arg(value_name = "NAME", value_parser = options::tag)]
    pub(crate) target: Reference,
}

/// Save images of the namespace to a tar archive
///
/// The archive is an OCI image layout that `docker load` reads as well. It goes to standard output unless
/// `-o` names a file, and names each image as on the command line; an image given by its id stays unnamed.
#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// The images: names or ids
    #[arg(value_name = "IMAGE", required = true, value_parser = options::image)]
    pub(crate) images: Vec<String>,
    /// Write to a file, which appears only once it is complete
    #[arg(short, long, value_name = "FILE", value_parser = options::path())]
    pub(crate) output: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) progress: ProgressArgs,
}

/// List the images of the namespace
#[derive(Args, Debug)]
pub(crate) struct ImagesArgs {
    /// Only images of this repository, or with this tag
    #[arg(value_name = "NAME", value_parser = options::repository)]
    pub(crate) reference: Option<Reference>,
    /// Print ids and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// How to print: a table, or JSON, one object a line
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
}

/// Describe images of the namespace as JSON, as `docker inspect` does
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// The images: names or ids
    #[arg(value_name = "IMAGE", required = true, value_parser = options::image)]
    pub(crate) images: Vec<String>,
}

/// Remove images from the namespace
#[derive(Args, Debug)]
pub(crate) struct RmiArgs {
    /// The images: names or ids
    #[arg(value_name = "IMAGE", required = true, value_parser = options::image)]
    pub(crate) images: Vec<String>,
    /// Remove an image given by its id even if it has several names
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Show the versions of wharf and wharfd
#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) format: TextFormat,
}

/// Show your identity at wharfd, your namespace's policy, and the engine that serves you
#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) format: TextFormat,
}

/// Print a shell's completion script for wharf
///
/// For bash: `wharf completion bash > /etc/bash_completion.d/wharf`.
#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Write the man pages to a directory, such as /usr/local/share/man/man1
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The directory
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}

impl Command {
    /// The command's name in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Build(_) => "build",
            Self::Push(_) => "push",
            Self::Pull(_) => "pull",
            Self::Tag(_) => "tag",
            Self::Save(_) => "save",
            Self::Images(_) => "images",
            Self::Inspect(_) => "inspect",
            Self::Rmi(_) => "rmi",
            Self::Namespace(_) => "namespace",
            Self::Policy(_) => "policy",
            Self::Version(_) => "version",
            Self::Info(_) => "info",
            Self::Doctor(_) => "doctor",
            Self::Completion(_) => "completion",
            Self::Man(_) => "man",
            Self::Login(_) => "login",
            Self::Logout(_) => "logout",
        }
    }
}

#[cfg(test)]
mod tests;

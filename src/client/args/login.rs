//! `wharf login` and `wharf logout`.

use clap::Args;

/// Save a login for a registry in docker's config
///
/// This is ~/.docker/config.json, or config.json in DOCKER_CONFIG, or the credential helper that it names.
/// For a login that lasts for one command, see `--login` of build, push and pull.
#[derive(Args, Debug)]
pub(crate) struct LoginArgs {
    /// The registry, `HOST[:PORT]` [default: Docker Hub]
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// The username
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// Remove the login for a registry from docker's config
#[derive(Args, Debug)]
pub(crate) struct LogoutArgs {
    /// The registry, `HOST[:PORT]` [default: Docker Hub]
    #[arg(value_name = "HOST")]
    pub(crate) host: Option<String>,
}

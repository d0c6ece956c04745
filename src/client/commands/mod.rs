//! The commands.

mod build;
mod display;
mod doctor;
mod images;
mod info;
mod inspect;
mod json;
mod login;
mod metadata;
mod namespace;
mod pages;
mod policy;
mod pull;
mod push;
mod rmi;
mod save;
mod tag;
mod version;

use std::{env as process, path::Path};

use super::{
    args::{Cli, Command, Global, NamespaceCommand, PolicyCommand},
    checkouts::Checkouts,
    connect::{Address, Connection, MESSAGE_BYTES_MAX},
    context::stay_with,
    env::{self, Env},
    exit::{Failure, Stop},
    namespace::{self as names, Named, Proof},
    signals::Signals,
    token::Token,
};
use crate::wire::v1::image_service_client::ImageServiceClient;

/// The input of every command.
struct Call {
    env: Env,
    global: Global,
    signals: Signals,
}

impl Call {
    fn address(&self) -> Result<Address, Failure> {
        Address::resolve(self.global.addr.as_deref(), &self.global.tls, &self.env)
    }

    /// The directories in which a link may be anyone's, that of a build's context among them.
    fn checkouts(&self, context: Option<&Path>) -> Checkouts {
        Checkouts::of(self.env.path(env::WORKSPACE).as_deref().into_iter().chain(context))
    }

    /// Refuses a current directory to which a link of the workspace's has led: all relative paths begin there.
    fn stay_in_workspace(&self) -> Result<(), Failure> {
        let (pwd, workspace) = (self.env.path(env::PWD), self.env.path(env::WORKSPACE));
        let (Some(pwd), Some(workspace), Ok(current)) = (pwd, workspace, process::current_dir()) else {
            return Ok(());
        };
        stay_with(&pwd, &current, &workspace).map_err(|error| Failure::usage(error.to_string()))
    }

    fn namespace(&self) -> Result<Named, Failure> {
        let proof = if self.has_token()? {
            Proof::Token
        } else if self.address()?.is_of_pod() {
            Proof::Socket
        } else {
            Proof::None
        };
        names::resolve(self.global.namespace.as_deref(), &self.env, proof)
    }

    fn has_token(&self) -> Result<bool, Failure> {
        Token::is_given(self.global.token_file.as_deref(), &self.env)
    }

    fn token(&self) -> Result<Token, Failure> {
        Token::resolve(self.global.token_file.as_deref(), &self.env)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let token = self.token()?;
        self.address()?.connect(token).await
    }

    /// A client of the image service.
    async fn images(&self) -> Result<ImageServiceClient<Connection>, Failure> {
        Ok(ImageServiceClient::new(self.connect().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// Runs the command.
pub(super) async fn run(cli: Cli) -> Result<(), Stop> {
    let call = Call { env: Env::of_process(), global: cli.global, signals: Signals::take()? };
    let names_no_file = matches!(
        cli.command,
        Command::Version(_)
            | Command::Info(_)
            | Command::Doctor(_)
            | Command::Completion(_)
            | Command::Man(_)
    );
    if !names_no_file {
        call.stay_in_workspace()?;
    }
    match cli.command {
        Command::Build(args) => Box::pin(build::run(call, *args)).await,
        Command::Push(args) => push::run(call, args).await,
        Command::Pull(args) => pull::run(call, args).await,
        Command::Tag(args) => tag::run(call, args).await,
        Command::Save(args) => save::run(call, args).await,
        Command::Images(args) => images::run(call, args).await,
        Command::Inspect(args) => inspect::run(call, args).await,
        Command::Rmi(args) => rmi::run(call, args).await,
        Command::Namespace(args) => match args.command {
            NamespaceCommand::Ls(args) => namespace::ls(call, args).await,
            NamespaceCommand::Inspect(args) => namespace::inspect(call, args).await,
            NamespaceCommand::Rm(args) => namespace::rm(call, args).await,
        },
        Command::Policy(args) => match args.command {
            PolicyCommand::Check(args) => policy::check(call, *args).await,
        },
        Command::Version(args) => version::run(call, args).await,
        Command::Info(args) => info::run(call, args).await,
        Command::Doctor(args) => Box::pin(doctor::run(call, args)).await,
        Command::Completion(args) => pages::completion(&args),
        Command::Man(args) => pages::man(&args),
        Command::Login(args) => login::login(call, args).await,
        Command::Logout(args) => login::logout(call, args).await,
    }
}

//! The commands.

mod build;
mod display;
mod images;
mod info;
mod inspect;
mod json;
mod login;
mod metadata;
mod namespace;
mod pages;
mod pull;
mod push;
mod rmi;
mod tag;
mod version;

use tonic::transport::Channel;

use super::{
    args::{Cli, Command, Global, NamespaceCommand},
    connect::{Address, MESSAGE_BYTES_MAX},
    env::Env,
    exit::{Failure, Stop},
    namespace as names,
    signals::Signals,
};
use crate::{names::Namespace, wire::v1::image_service_client::ImageServiceClient};

/// The input of every command.
struct Call {
    env: Env,
    global: Global,
    signals: Signals,
}

impl Call {
    fn address(&self) -> Result<Address, Failure> {
        Address::resolve(self.global.addr.as_deref(), &self.env)
    }

    fn namespace(&self) -> Result<Namespace, Failure> {
        names::resolve(self.global.namespace.as_deref(), &self.env)
    }

    /// A client of the image service.
    async fn images(&self) -> Result<ImageServiceClient<Channel>, Failure> {
        let channel = self.address()?.connect().await?;
        Ok(ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// Runs the command.
pub(super) async fn run(cli: Cli) -> Result<(), Stop> {
    let call = Call { env: Env::of_process(), global: cli.global, signals: Signals::take()? };
    match cli.command {
        Command::Build(args) => Box::pin(build::run(call, *args)).await,
        Command::Push(args) => push::run(call, args).await,
        Command::Pull(args) => pull::run(call, args).await,
        Command::Tag(args) => tag::run(call, args).await,
        Command::Images(args) => images::run(call, args).await,
        Command::Inspect(args) => inspect::run(call, args).await,
        Command::Rmi(args) => rmi::run(call, args).await,
        Command::Namespace(args) => match args.command {
            NamespaceCommand::Rm(args) => namespace::run(call, args).await,
        },
        Command::Version(args) => version::run(call, args).await,
        Command::Info(args) => info::run(call, args).await,
        Command::Completion(args) => pages::completion(&args),
        Command::Man(args) => pages::man(&args),
        Command::Login(args) => login::login(call, args).await,
        Command::Logout(args) => login::logout(call, args).await,
    }
}

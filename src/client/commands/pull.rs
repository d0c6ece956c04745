//! `wharf pull`.

use super::{
    Call, display,
    display::{Display, Message},
    info,
};
use crate::{
    client::{
        args::PullArgs,
        credentials::DockerConfig,
        env::DOCKER_DEFAULT_PLATFORM,
        exit::{Exit, Failure, Stop},
        platform::{self, Platform, platform},
        print,
        progress::{Mode, Outcome},
    },
    names::printable,
    wire::v1::{GetInfoResponse, PullImageRequest, PullImageResponse, pull_image_response::Response},
};

pub(super) async fn run(mut call: Call, args: PullArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let named = std::slice::from_ref(&args.reference);
    let docker = DockerConfig::read(&call.env)?.with_logins(&args.logins.flags, named, &call.env)?;
    let host = args.reference.host();
    let platforms = platform::of_environment(&call.env)?;
    if !platforms.is_empty() {
        let info = info::get(&mut call, namespace.to_wire()).await?;
        is_own(&platforms, &info)?;
    }
    let mut images = call.images().await?;
    let mut display = Display::new(call.env.console(), mode, "Pulling");
    let pulling = async {
        let request = PullImageRequest {
            namespace: namespace.to_wire(),
            reference: args.reference.to_string(),
            credentials: docker.of(host).await?.map(|credentials| credentials.to_wire(host)),
        };
        let responses = images.pull_image(request).await?.into_inner();
        let read = |message: PullImageResponse| {
            Some(match message.response? {
                Response::Progress(update) => Message::Progress(update),
                Response::Result(result) => Message::Result(result),
            })
        };
        Ok(display.follow(responses, read).await?)
    };
    let result = call.signals.guard(pulling).await;
    display.finish(if result.is_ok() { Outcome::Done } else { Outcome::Stopped });
    let result = result?;
    // An image that the operator has put on the node may have no digest at a registry.
    if mode != Mode::Quiet && !result.digest.is_empty() {
        print::line(format_args!("Digest: {}", printable(&result.digest)))?;
    }
    print::line(printable(&result.reference))
}

/// Refuses other platforms than the engine's own, the only one that is pulled.
fn is_own(asked: &[Platform], info: &GetInfoResponse) -> Result<(), Failure> {
    let own =
        info.engines.iter().find(|engine| engine.name == info.engine).map(|engine| engine.platform.as_str());
    let Some(own) = own.filter(|own| !own.is_empty()) else { return Ok(()) };
    let is_other =
        |asked: &&Platform| !matches!(asked, Platform::Local) && Ok(*asked) != platform(own).as_ref();
    let Some(Platform::Named(other)) = asked.iter().find(is_other) else { return Ok(()) };
    let name = DOCKER_DEFAULT_PLATFORM.name;
    let text = format!("{name} asks for `{other}`, but images are pulled for the engine's platform, `{own}`");
    Err(Failure::new(Exit::Denied, text).hint("unset it, or pull on a node of that platform"))
}

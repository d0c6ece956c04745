//! `wharf pull`.

use super::{
    Call, display,
    display::{Display, Message},
};
use crate::{
    client::{
        args::PullArgs,
        credentials::DockerConfig,
        exit::Stop,
        print,
        progress::{Mode, Outcome},
    },
    names::printable,
    wire::v1::{PullImageRequest, PullImageResponse, pull_image_response::Response},
};

pub(super) async fn run(mut call: Call, args: PullArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let named = std::slice::from_ref(&args.reference);
    let docker = DockerConfig::read(&call.env)?.with_logins(&args.logins.flags, named, &call.env)?;
    let host = args.reference.host();
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

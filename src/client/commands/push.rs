//! `wharf push`.

use super::{Call, display, display::Display, metadata::Metadata};
use crate::{
    client::{
        args::PushArgs,
        credentials::DockerConfig,
        exit::{Failure, Stop},
        files,
        namespace::to_wire,
        print,
        progress::{Mode, Outcome},
    },
    names::printable,
    wire::v1::{PushImageRequest, PushImageResult, push_image_response::Response},
};

pub(super) async fn run(mut call: Call, args: PushArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let docker = DockerConfig::read(&call.env)?;
    if let Some(path) = &args.metadata_file {
        files::prepare(path)?;
    }
    let host = args.reference.host();
    let mut images = call.images().await?;
    let mut display = Display::new(mode, "Pushing");
    let pushing = async {
        let request = PushImageRequest {
            namespace: Some(to_wire(&namespace)),
            reference: args.reference.to_string(),
            credentials: docker.of(host).await?.map(|credentials| credentials.to_wire(host)),
        };
        let mut responses = images.push_image(request).await?.into_inner();
        loop {
            match display.during(responses.message()).await?.and_then(|message| message.response) {
                Some(Response::Progress(facts)) => display.update(&facts),
                Some(Response::Result(result)) => return Ok(result),
                None => return Err(Failure::lost().into()),
            }
        }
    };
    let result: Result<PushImageResult, Stop> = call.signals.guard(pushing).await;
    display.finish(if result.is_ok() { Outcome::Done } else { Outcome::Stopped });
    let result = result?;
    if let Some(path) = &args.metadata_file {
        let names = std::slice::from_ref(&result.reference);
        Metadata { digest: &result.digest, names, ..Metadata::default() }.write(path)?;
    }
    match mode {
        Mode::Quiet => print::line(printable(&result.reference)),
        Mode::Auto | Mode::Plain | Mode::Tty => {
            let tag = args.reference.tag().unwrap_or_default();
            print::line(format_args!("{tag}: digest: {}", printable(&result.digest)))
        }
    }
}

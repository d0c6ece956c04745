//! `wharf push`.

use super::{
    Call, display,
    display::{Display, Message},
    metadata::Metadata,
};
use crate::{
    client::{
        args::PushArgs,
        credentials::DockerConfig,
        exit::Stop,
        files::Target,
        options::given,
        print,
        progress::{Mode, Outcome},
    },
    names::printable,
    wire::v1::{PushImageRequest, PushImageResponse, push_image_response::Response},
};

pub(super) async fn run(mut call: Call, args: PushArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let named = std::slice::from_ref(&args.reference);
    let docker = DockerConfig::read(&call.env)?.with_logins(&args.logins.flags, named, &call.env)?;
    let prepare = |path| Target::prepare(path, &call.checkouts(None));
    let metadata = given(args.metadata_file.as_deref()).map(prepare).transpose()?;
    let host = args.reference.host();
    let mut images = call.images().await?;
    let mut display = Display::new(call.env.console(), mode, "Pushing");
    let pushing = async {
        let request = PushImageRequest {
            namespace: namespace.to_wire(),
            reference: args.reference.to_string(),
            credentials: docker.of(host).await?.map(|credentials| credentials.to_wire(host)),
        };
        let responses = images.push_image(request).await?.into_inner();
        let read = |message: PushImageResponse| {
            Some(match message.response? {
                Response::Progress(update) => Message::Progress(update),
                Response::Result(result) => Message::Result(result),
            })
        };
        Ok(display.follow(responses, read).await?)
    };
    let result = call.signals.guard(pushing).await;
    display.finish(if result.is_ok() { Outcome::Done } else { Outcome::Stopped });
    let result = result?;
    if let Some(target) = metadata {
        let names = std::slice::from_ref(&result.reference);
        let pushed = Some((result.reference.as_str(), result.digest.as_str()));
        Metadata { digest: &result.digest, names, pushed, ..Metadata::default() }.write(&target)?;
    }
    match mode {
        Mode::Quiet => print::line(printable(&result.reference)),
        Mode::Auto | Mode::Plain | Mode::Tty => {
            let tag = args.reference.tag().unwrap_or_default();
            print::line(format_args!("{tag}: digest: {}", printable(&result.digest)))
        }
    }
}

//! `wharf push`.

use super::{
    Call, display,
    display::{Display, Message},
    metadata::{self, Metadata},
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
    names::{Reference, printable},
    wire::v1::{PushImageRequest, PushImageResponse, PushImageResult, push_image_response::Response},
};

pub(super) async fn run(mut call: Call, args: PushArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let names = &args.references;
    let docker = DockerConfig::read(&call.env)?.with_logins(&args.logins.flags, names, &call.env)?;
    let prepare = |path| Target::prepare(path, &call.checkouts(None));
    let file = given(args.metadata_file.as_deref()).map(prepare).transpose()?;
    let mut images = call.images().await?;
    let mut results = Vec::new();
    for name in names {
        let mut display = Display::new(call.env.console(), mode, "Pushing");
        let pushing = async {
            let request = PushImageRequest {
                namespace: namespace.to_wire(),
                reference: name.to_string(),
                credentials: docker.of(name.host()).await?.map(|login| login.to_wire(name.host())),
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
        say(mode, name, names.len() == 1, &result)?;
        results.push(result);
    }
    let Some(file) = file else { return Ok(()) };
    let results: Vec<_> = results.iter().map(described).collect();
    match results.as_slice() {
        [one] => one.write(&file)?,
        several => metadata::write_list(several, &file)?,
    }
    Ok(())
}

fn say(mode: Mode, name: &Reference, is_alone: bool, result: &PushImageResult) -> Result<(), Stop> {
    if mode == Mode::Quiet {
        return print::line(printable(&result.reference));
    }
    let digest = printable(&result.digest);
    // The line that docker ends a push with.
    let docker = name.tag().filter(|_| is_alone).map(str::to_owned);
    print::line(format_args!("{}: digest: {digest}", docker.unwrap_or_else(|| name.familiar())))
}

fn described(result: &PushImageResult) -> Metadata<'_> {
    Metadata {
        id: &result.image_id,
        digest: &result.digest,
        names: std::slice::from_ref(&result.reference),
        pushed: Some((&result.reference, &result.digest)),
        ..Metadata::default()
    }
}

//! `wharf save`.

use super::{Call, display, display::Display};
use crate::{
    client::{
        args::SaveArgs,
        exit::{Failure, Stop},
        options::given,
        output::Out,
        progress::Outcome,
    },
    wire::v1::{SaveImagesRequest, save_images_response::Response},
};

/// As `docker save` has it: an image can be a private one.
const MODE: u32 = 0o600;

pub(super) async fn run(mut call: Call, args: SaveArgs) -> Result<(), Stop> {
    let mode = display::mode(&call, args.progress, args.quiet)?;
    let namespace = call.namespace()?;
    let mut output =
        Out::open(given(args.output.as_deref()), MODE, &call.checkouts(None), "an archive", "-o")?;
    let mut images = call.images().await?;
    let mut display = Display::new(call.env.console(), mode, "Saving");
    let saving = async {
        let request = SaveImagesRequest { namespace: namespace.to_wire(), images: args.images };
        let mut responses = images.save_images(request).await?.into_inner();
        while let Some(message) = display.during(responses.message()).await? {
            match message.response {
                Some(Response::Progress(update)) => display.update(&update),
                Some(Response::Piece(piece)) => display.during(output.write(&piece)).await?,
                None => return Err(Failure::lost().into()),
            }
        }
        Ok(display.during(output.end()).await?.appear()?)
    };
    let saved = call.signals.guard(saving).await;
    display.finish(if saved.is_ok() { Outcome::Done } else { Outcome::Stopped });
    saved
}

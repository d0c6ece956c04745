//! `wharf tag`.

use super::Call;
use crate::{
    client::{args::TagArgs, exit::Stop},
    wire::v1::TagImageRequest,
};

pub(super) async fn run(mut call: Call, args: TagArgs) -> Result<(), Stop> {
    let request = TagImageRequest {
        namespace: call.namespace()?.to_wire(),
        source: args.source,
        target: args.target.to_string(),
    };
    let mut images = call.images().await?;
    call.signals.guard(async { Ok(images.tag_image(request).await?) }).await?;
    Ok(())
}

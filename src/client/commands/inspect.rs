//! `wharf inspect`.

use super::{Call, json};
use crate::{
    client::{args::InspectArgs, exit::Stop, print},
    wire::v1::InspectImageRequest,
};

pub(super) async fn run(mut call: Call, args: InspectArgs) -> Result<(), Stop> {
    let namespace = call.namespace()?.to_wire();
    let mut images = call.images().await?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for reference in args.images {
        let request = InspectImageRequest { namespace: namespace.clone(), reference };
        let answer =
            call.signals.guard(async { Ok(images.inspect_image(request).await?.into_inner()) }).await;
        match answer {
            Ok(answer) => found.push(answer.json),
            Err(Stop::Failed(failure)) => failures.push(failure),
            Err(stop) => return Err(stop),
        }
    }
    // As in docker: the images that were found are printed even if others were not found.
    print::line(json::indented(&format!("[{}]", found.join(",")), "    ")?)?;
    for failure in &failures {
        print::failure(failure);
    }
    failures.first().map_or(Ok(()), |failure| Err(Stop::Reported(failure.exit)))
}

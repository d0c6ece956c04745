//! `wharf rmi`.

use super::Call;
use crate::{
    client::{args::RmiArgs, exit::Stop, print},
    names::{Reference, printable},
    wire::v1::RemoveImageRequest,
};

pub(super) async fn run(mut call: Call, args: RmiArgs) -> Result<(), Stop> {
    let namespace = call.namespace()?.to_wire();
    let mut images = call.images().await?;
    let mut first = None;
    for reference in args.images {
        let request = RemoveImageRequest { namespace: namespace.clone(), reference, force: args.force };
        let removed =
            call.signals.guard(async { Ok(images.remove_image(request).await?.into_inner()) }).await;
        match removed {
            Ok(removed) => {
                for reference in &removed.untagged {
                    print::line(format_args!("Untagged: {}", familiar(reference)))?;
                }
                for id in &removed.deleted {
                    print::line(format_args!("Deleted: {}", printable(id)))?;
                }
            }
            // As in docker: a failure does not keep the other images from being removed.
            Err(Stop::Failed(failure)) => {
                print::failure(&failure);
                first.get_or_insert(failure.exit);
            }
            Err(stop) => return Err(stop),
        }
    }
    first.map_or(Ok(()), |exit| Err(Stop::Reported(exit)))
}

/// A reference as docker shows it.
pub(super) fn familiar(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| printable(reference), |reference| reference.familiar())
}

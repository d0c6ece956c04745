//! `wharf namespace rm`.

use super::{Call, rmi::familiar};
use crate::{
    client::{
        args::NamespaceRmArgs,
        exit::{Failure, Stop},
        namespace::Named,
        print,
    },
    names::Namespace,
    wire::v1::{DeleteNamespaceRequest, namespace_service_client::NamespaceServiceClient},
};

pub(super) async fn run(mut call: Call, args: NamespaceRmArgs) -> Result<(), Stop> {
    let namespace = match args.name {
        // clap does not detect this conflict, since the flag stands before the command.
        Some(_) if call.global.namespace.is_some() => {
            return Err(Failure::usage("two namespaces are named: leave out --namespace").into());
        }
        Some(name) => Named::Given(Namespace::parse(&name).map_err(Failure::from)?),
        None => call.namespace()?,
    };
    let namespace = match args.issuer {
        Some(issuer) => namespace.issued_by(issuer)?,
        None => namespace,
    };
    let mut client = NamespaceServiceClient::new(call.connect().await?);
    let request = DeleteNamespaceRequest { namespace: namespace.to_wire() };
    let deleted =
        call.signals.guard(async { Ok(client.delete_namespace(request).await?.into_inner()) }).await?;
    for reference in &deleted.references {
        print::line(format_args!("Untagged: {}", familiar(reference)))?;
    }
    if deleted.cancelled_builds > 0 {
        print::line(format_args!("Cancelled builds: {}", deleted.cancelled_builds))?;
    }
    if deleted.images == 0 && deleted.references.is_empty() && deleted.cancelled_builds == 0 {
        // Not a failure: a pipeline runs this command at its end whether or not it has built anything.
        return print::line(format_args!("Nothing to delete: {namespace} has no images and no builds"));
    }
    print::line(format_args!("Deleted: {namespace}"))
}

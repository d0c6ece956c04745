//! `wharf namespace`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Call, json, rmi::familiar};
use crate::{
    client::{
        args::{NamedArgs, NamespaceInspectArgs, NamespaceLsArgs, NamespaceRmArgs, TableFormat},
        exit::{Exit, Failure, Stop},
        namespace::{Named, listed_as, parse_listed},
        print, units,
    },
    names::{Namespace, printable_json},
    wire::v1::{
        self, DeleteNamespaceRequest, ListImagesRequest, ListNamespacesRequest, NamespaceInfo,
        namespace_service_client::NamespaceServiceClient,
    },
};

const COLUMNS: [&str; 5] = ["NAMESPACE", "CREATED", "LAST USED", "IMAGES", "SIZE"];
/// A namespace whose name wharfd has lost.
const NONE: &str = "<none>";

pub(super) async fn ls(mut call: Call, args: NamespaceLsArgs) -> Result<(), Stop> {
    let listed = list(&mut call, ListNamespacesRequest::default()).await?;
    if args.quiet {
        let named = listed.iter().filter_map(|info| info.namespace.as_ref());
        return named.into_iter().try_for_each(|namespace| print::line(listed_as(namespace)));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match args.format {
        TableFormat::Table => print::text(&print::table(
            COLUMNS,
            listed.iter().map(|info| {
                let namespace = info.namespace.as_ref();
                [
                    // As `namespace rm` reads it: a part of it could be another's.
                    namespace.map_or_else(|| NONE.to_owned(), listed_as),
                    units::since(seconds(info.created), now),
                    units::since(seconds(info.last_used), now),
                    info.images.to_string(),
                    units::human_size(info.size),
                ]
            }),
        )),
        TableFormat::Json => listed.iter().try_for_each(|info| {
            let namespace = info.namespace.as_ref();
            let row = json!({
                "Job": namespace.map(|namespace| &namespace.job),
                "Run": namespace.map(|namespace| &namespace.run),
                "Issuer": issuer(info),
                "CreatedAt": units::rfc3339(seconds(info.created)),
                "LastUsedAt": units::rfc3339(seconds(info.last_used)),
                "Images": info.images,
                "Size": units::human_size(info.size),
            });
            print::line(printable_json(&row.to_string()))
        }),
    }
}

async fn list(call: &mut Call, request: ListNamespacesRequest) -> Result<Vec<NamespaceInfo>, Stop> {
    let client = NamespaceServiceClient::new(call.connect().await?);
    // A node has some thousands, whose names the jobs choose.
    let mut client = client.max_decoding_message_size(usize::MAX);
    let listing = async { Ok(client.list_namespaces(request).await?.into_inner().namespaces) };
    call.signals.guard(listing).await
}

fn seconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

pub(super) async fn inspect(mut call: Call, args: NamespaceInspectArgs) -> Result<(), Stop> {
    let named = named(&call, args.named)?;
    // A token's caller sees its own namespace alone.
    let request = ListNamespacesRequest { namespace: named.to_wire(), cache_mounts: true };
    let info = list(&mut call, request).await?.into_iter().next().ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no such namespace: {named}"))
            .hint("it has not begun, or has ended; `wharf namespace ls` lists those in which you may act")
    })?;
    let request = ListImagesRequest { namespace: info.namespace.clone(), reference: String::new() };
    let mut images = call.images().await?;
    let listing = async { Ok(images.list_images(request).await?.into_inner().images) };
    let images: Vec<_> = call.signals.guard(listing).await?.into_iter().map(image).collect();
    let namespace = info.namespace.as_ref();
    let described = json!([{
        "Job": namespace.map(|namespace| &namespace.job),
        "Run": namespace.map(|namespace| &namespace.run),
        "Issuer": issuer(&info),
        "CreatedAt": units::rfc3339(seconds(info.created)),
        "LastUsedAt": units::rfc3339(seconds(info.last_used)),
        "Size": info.size,
        "Images": images,
        "CacheMounts": info.cache_mounts.iter().map(cache_mount).collect::<Vec<_>>(),
        "MoreCacheMounts": info.more_cache_mounts,
    }]);
    print::line(json::indented(&described.to_string(), "    ")?)
}

fn image(image: v1::Image) -> Value {
    json!({
        "Id": image.id,
        "References": image.references.iter().map(|reference| familiar(reference)).collect::<Vec<_>>(),
        "Created": units::rfc3339(seconds(image.created)),
        "Size": image.size,
    })
}

fn cache_mount(mount: &v1::CacheMount) -> Value {
    json!({
        "Id": mount.id,
        "Size": mount.size,
        "LastUsedAt": units::rfc3339(seconds(mount.last_used)),
        "InUse": mount.in_use,
    })
}

/// The namespace that a command is about.
fn named(call: &Call, args: NamedArgs) -> Result<Named, Failure> {
    let namespace = match args.name {
        // clap does not detect this conflict, since the flag stands before the command.
        Some(_) if call.global.namespace.is_some() => {
            return Err(Failure::usage("two namespaces are named: leave out --namespace"));
        }
        // With `--issuer` the whole name is the job's.
        Some(name) if args.issuer.is_some() => Named::Given(Namespace::parse(&name)?),
        Some(name) => Named::Given(parse_listed(&name)?),
        None => call.namespace()?,
    };
    match args.issuer {
        Some(issuer) => namespace.issued_by(issuer),
        None => Ok(namespace),
    }
}

fn issuer(info: &NamespaceInfo) -> Option<&str> {
    info.namespace.as_ref().map(|namespace| namespace.issuer.as_str()).filter(|issuer| !issuer.is_empty())
}

pub(super) async fn rm(mut call: Call, args: NamespaceRmArgs) -> Result<(), Stop> {
    let namespace = named(&call, args.named)?;
    let mut client = NamespaceServiceClient::new(call.connect().await?);
    let request = DeleteNamespaceRequest { namespace: namespace.to_wire(), job: args.job };
    let deleted =
        call.signals.guard(async { Ok(client.delete_namespace(request).await?.into_inner()) }).await?;
    for reference in &deleted.references {
        print::line(format_args!("Untagged: {}", familiar(reference)))?;
    }
    if deleted.cancelled_builds > 0 {
        print::line(format_args!("Cancelled builds: {}", deleted.cancelled_builds))?;
    }
    if deleted.cache_mounts > 0 {
        let size = units::human_size(deleted.cache_mounts_size);
        print::line(format_args!("Cache mounts of the job: {} ({size})", deleted.cache_mounts))?;
    }
    if deleted.cache_mounts_left {
        print::line("Cache mounts of the job that are left are removed when no build of the job runs")?;
    }
    let has_mounts = deleted.cache_mounts > 0 || deleted.cache_mounts_left;
    if !has_mounts && deleted.images == 0 && deleted.references.is_empty() && deleted.cancelled_builds == 0 {
        // Not a failure: a pipeline runs this command at its end whether or not it has built anything.
        return print::line(format_args!("Nothing to delete: {namespace} has no images and no builds"));
    }
    print::line(format_args!("Deleted: {namespace}"))
}

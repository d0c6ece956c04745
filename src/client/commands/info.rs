//! `wharf info`.

use serde_json::json as object;

use super::{Call, json};
use crate::{
    client::{
        args::{InfoArgs, TextFormat},
        exit::Stop,
        print,
    },
    names::printable,
    wire::v1::{GetInfoRequest, GetInfoResponse, node_service_client::NodeServiceClient},
};

pub(super) async fn run(mut call: Call, args: InfoArgs) -> Result<(), Stop> {
    let namespace = call.namespace()?.to_string();
    let address = call.address()?;
    let info = get(&mut call).await?;
    match args.format {
        TextFormat::Json => {
            let value = object!({
                "Address": address.to_string(),
                "Namespace": namespace,
                "Caller": info.caller,
                "Namespaces": info.namespaces,
                "ServerVersion": info.version,
                "ApiVersions": info.api_versions,
                "Engine": {
                    "Name": info.engine,
                    "Version": info.engine_version,
                    "ApiVersion": info.engine_api_version,
                    "Platform": info.platform,
                    "ImageStore": info.image_store,
                },
            });
            print::line(json::indented(&value.to_string(), "  ")?)
        }
        TextFormat::Text => {
            let versions = info.api_versions.join(", ");
            let fields = [
                ("Client:", ""),
                (" Address", &address.to_string()),
                (" Namespace", &namespace),
                ("Server:", ""),
                (" Version", &info.version),
                (" API versions", &versions),
                (" You are", &info.caller),
                (" Your namespaces", &info.namespaces),
                (" Engine", &info.engine),
                (" Engine version", &info.engine_version),
                (" Engine API version", &info.engine_api_version),
                (" Platform", &info.platform),
                (" Image store", &info.image_store),
            ];
            print::text(&listing(&fields))
        }
    }
}

/// Asks wharfd about the node.
pub(super) async fn get(call: &mut Call) -> Result<GetInfoResponse, Stop> {
    let mut client = NodeServiceClient::new(call.address()?.connect().await?);
    let asked = async { Ok(client.get_info(GetInfoRequest {}).await?.into_inner()) };
    call.signals.guard(asked).await
}

/// Formats lines of a name and a value; a heading has no value.
pub(super) fn listing(fields: &[(&str, &str)]) -> String {
    let line = |(name, value): &(&str, &str)| {
        if value.is_empty() { format!("{name}\n") } else { format!("{name}: {}\n", printable(value)) }
    };
    fields.iter().map(line).collect()
}

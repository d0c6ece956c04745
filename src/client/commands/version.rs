//! `wharf version`.

use serde_json::json as object;

use super::{Call, info, json};
use crate::client::{
    args::{TextFormat, VersionArgs},
    exit::Stop,
    print,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const API_VERSION: &str = "wharf.v1";

pub(super) async fn run(mut call: Call, args: VersionArgs) -> Result<(), Stop> {
    call.address()?;
    // As in docker: the client's own version is printed even if no server answers.
    let info = info::get(&mut call, None).await;
    let server = info.as_ref().ok();
    match args.format {
        TextFormat::Json => {
            let value = object!({
                "Client": { "Version": VERSION, "ApiVersion": API_VERSION },
                "Server": server.map(|info| object!({
                    "Version": info.version,
                    "ApiVersions": info.api_versions,
                    "Engine": { "Version": info.engine_version, "ApiVersion": info.engine_api_version },
                })),
            });
            print::line(json::indented(&value.to_string(), "  ")?)?;
        }
        TextFormat::Text => {
            let client = [("Client:", ""), (" Version", VERSION), (" API version", API_VERSION)];
            print::text(&info::listing(&client))?;
            if let Some(info) = server {
                let fields = [
                    ("Server:", ""),
                    (" Version", info.version.as_str()),
                    (" API versions", &info.api_versions.join(", ")),
                    (" Engine version", &info.engine_version),
                    (" Engine API version", &info.engine_api_version),
                ];
                // The version of an engine that is down is unknown.
                let known: Vec<_> = fields
                    .into_iter()
                    .filter(|(name, value)| name.ends_with(':') || !value.is_empty())
                    .collect();
                print::text(&info::listing(&known))?;
            }
        }
    }
    info.map(drop)
}

//! `wharf info`.

use serde_json::json as object;

use super::{Call, json};
use crate::{
    client::{
        args::{InfoArgs, TextFormat},
        exit::{Exit, Failure, Stop},
        print, units,
    },
    names::printable,
    wire::v1::{
        self, EngineBuilds, EngineDisk, EngineInfo, EngineState, GetInfoRequest, GetInfoResponse,
        node_service_client::NodeServiceClient,
    },
};

pub(super) async fn run(mut call: Call, args: InfoArgs) -> Result<(), Stop> {
    let namespace = call.namespace()?;
    let address = call.address()?;
    let info = get(&mut call, namespace.to_wire()).await?;
    let namespace = namespace.to_string();
    let policy = Some(info.policy.as_str()).filter(|policy| !policy.is_empty());
    let own = info.engines.iter().find(|engine| engine.name == info.engine);
    match args.format {
        TextFormat::Json => {
            let value = object!({
                "Address": address.to_string(),
                "Namespace": namespace,
                "Caller": info.caller,
                "Namespaces": info.namespaces,
                "Policy": policy,
                "ServerVersion": info.version,
                "ApiVersions": info.api_versions,
                "Engine": own.map(engine_object),
                "Engines": info.engines.iter().map(engine_object).collect::<Vec<_>>(),
            });
            print::line(json::indented(&value.to_string(), "  ")?)?;
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
                (" Your engine", &info.engine),
            ];
            let mut text = listing(&fields);
            if let Some(policy) = policy {
                text.push_str(&listing(&[(" Policy", policy)]));
            }
            for engine in &info.engines {
                text.push_str(&format!("Engine {}:\n", printable(&engine.name)));
                text.push_str(&engine_text(engine));
            }
            print::text(&text)?;
        }
    }
    match own {
        Some(own) if own.state() == EngineState::Down => Err(down(own).into()),
        _ => Ok(()),
    }
}

/// The exit status tells a node's health probe that the engine is down.
pub(super) fn down(engine: &EngineInfo) -> Failure {
    let text = format!("your engine, `{}`, is down: {}", engine.name, engine.cause);
    Failure::new(Exit::Unavailable, text).hint(
        "wharfd reconnects as soon as the engine answers; wharfd's log has the details for the node's operator",
    )
}

fn state(engine: &EngineInfo) -> &'static str {
    match engine.state() {
        EngineState::Up => "up",
        EngineState::Down => "down",
        EngineState::Unspecified => "unknown",
    }
}

fn engine_object(engine: &EngineInfo) -> serde_json::Value {
    object!({
        "Name": engine.name,
        "State": state(engine),
        "Cause": engine.cause,
        "Version": engine.version,
        "ApiVersion": engine.api_version,
        "Platform": engine.platform,
        "ImageStore": engine.image_store,
        "Builds": engine.builds.map(|builds| object!({
            "Running": builds.running,
            "Waiting": builds.waiting,
            "Max": builds.max,
        })),
        "Disk": engine.disk.as_ref().map(|disk| object!({
            "Free": disk.free,
            "Total": disk.total,
            "Low": disk.low,
            "Full": disk.full,
            "Cause": disk.cause,
        })),
        "RefusesBuilds": engine.refuses_builds,
        "Firewall": engine.firewall,
    })
}

/// An engine's lines; values that are unknown while the engine is down are omitted.
fn engine_text(engine: &EngineInfo) -> String {
    let builds = match engine.builds {
        Some(EngineBuilds { running, waiting, .. }) => format!("{running} running, {waiting} waiting"),
        None => String::new(),
    };
    let disk = engine.disk.as_ref().map(disk).unwrap_or_default();
    let fields = [
        (" State", state(engine)),
        (" Cause", &engine.cause),
        (" Version", &engine.version),
        (" API version", &engine.api_version),
        (" Platform", &engine.platform),
        (" Image store", &engine.image_store),
        (" Builds", &builds),
        (" Disk", &disk),
        (" Refuses builds", &engine.refuses_builds),
        (" Firewall", if engine.firewall { "of wharfd" } else { "none known" }),
    ];
    let known: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    listing(&known)
}

pub(super) fn disk(disk: &EngineDisk) -> String {
    if !disk.cause.is_empty() {
        return format!("not watched: {}", disk.cause);
    }
    if disk.total == 0 {
        return String::new();
    }
    let size = |bytes| units::human_size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let (free, total, low, full) = (size(disk.free), size(disk.total), size(disk.low), size(disk.full));
    format!("{free} of {total} free; low below {low}, full below {full}")
}

/// Asks wharfd for information about the node.
pub(super) async fn get(call: &mut Call, namespace: Option<v1::Namespace>) -> Result<GetInfoResponse, Stop> {
    let mut client = NodeServiceClient::new(call.connect().await?);
    let asked = async { Ok(client.get_info(GetInfoRequest { namespace }).await?.into_inner()) };
    call.signals.guard(asked).await
}

/// Formats pairs of a name and a value as lines; a heading has no value.
pub(super) fn listing(fields: &[(&str, &str)]) -> String {
    let line = |(name, value): &(&str, &str)| {
        if value.is_empty() { format!("{name}\n") } else { format!("{name}: {}\n", printable(value)) }
    };
    fields.iter().map(line).collect()
}

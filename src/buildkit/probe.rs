//! Probes an engine's BuildKit when wharfd connects to the engine.

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::{InfoRequest, SolveRequest, frontend::PingRequest};
use tokio::time::timeout;
use tonic::{Status, metadata::AsciiMetadataValue};

use super::{
    connection::{Connection, Dialling},
    solve::{of_build, once_known},
};
use crate::{
    fault::{Fault, Reason},
    tasks::Group,
};

/// The LLB capabilities that wharfd requires, each with the first engine that has it.
const NEEDED: [(&str, &str); 1] = [("source.policy", "26.1")];
/// How long BuildKit may take for an answer that costs it nothing. The start must not wait for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A BuildKit as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Probed {
    /// How to reach it.
    pub dialling: Dialling,
    /// Its version, major and minor, unless it was built without one.
    pub version: Option<(u32, u32)>,
}

/// Determines how to reach BuildKit at `socket`, which belongs to an engine of `version`, and checks that it has
/// the capabilities wharfd needs, and no fault that every build of wharfd's would meet.
pub async fn probe(engine: &str, version: &str, socket: &Path, tasks: &Group) -> Result<Probed, Fault> {
    let dialling = dialling(engine, socket, tasks).await?;
    let connection = Connection::dial(socket, dialling, tasks).await?;
    let own = answer(async { connection.control().info(InfoRequest {}).await }).await;
    let own = own.ok().and_then(|answer| answer.into_inner().buildkit_version);
    let own = self::version(&own.map(|own| own.version).unwrap_or_default());
    if writes_policies_at_once(own, version) {
        let text = format!("the builder of the engine `{engine}` crashes on Dockerfiles with several images");
        return Err(Fault::new(Reason::EngineLacks, text)
            .hint("BuildKit 0.26 (Docker Engine 29.1) has that fault: upgrade the engine"));
    }
    let capabilities = answer(capabilities(&connection)).await.map_err(|status| {
        Fault::new(
            Reason::EngineUnavailable,
            format!("the builder of the engine `{engine}` does not list its capabilities"),
        )
        .caused_by(status)
    })?;
    for (needed, since) in NEEDED {
        if !capabilities.iter().any(|capability| capability == needed) {
            let text = format!("the builder of the engine `{engine}` lacks `{needed}`");
            return Err(Fault::new(Reason::EngineLacks, text)
                .hint(format!("Docker Engine {since} and newer have it: upgrade the engine")));
        }
    }
    Ok(Probed { dialling, version: own })
}

/// BuildKit's version, major and minor; `v0.0.0` means that it was built without one.
fn version(own: &str) -> Option<(u32, u32)> {
    major_and_minor(own).filter(|own| *own != (0, 0))
}

/// The first two numbers of a version such as `v0.33.0-rc1`.
fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether it is BuildKit 0.26, which judges all sources of a graph at once, and writes one map as it does
/// (`sourcepolicy`, fixed in 0.27): Go then ends the engine. A BuildKit that was built without its version is
/// known by its engine's.
fn writes_policies_at_once(own: Option<(u32, u32)>, engine: &str) -> bool {
    match own {
        None => major_and_minor(engine) == Some((29, 1)),
        Some(known) => known == (0, 26),
    }
}

/// The first way of connecting on which BuildKit answers.
async fn dialling(engine: &str, socket: &Path, tasks: &Group) -> Result<Dialling, Fault> {
    let mut last = None;
    for dialling in [Dialling::PriorKnowledge, Dialling::Upgrade] {
        match Connection::dial(socket, dialling, tasks).await?.answers().await {
            Ok(()) => return Ok(dialling),
            Err(status) => {
                tracing::debug!(?dialling, %status, "BuildKit does not answer this way");
                last = Some(status);
            }
        }
    }
    let text = format!("the builder of the engine `{engine}` does not answer");
    let fault =
        Fault::new(Reason::EngineLacks, text).hint("wharfd needs Docker Engine 26.1 or newer, with BuildKit");
    Err(match last {
        Some(status) => fault.caused_by(status),
        None => fault,
    })
}

async fn answer<T>(question: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    timeout(ANSWER_TIMEOUT, question).await.unwrap_or_else(late)
}

/// Asks for the capabilities, which BuildKit reports only to the frontend of a running build.
async fn capabilities(connection: &Connection) -> Result<Vec<String>, Status> {
    // The build exists only for this question. Its name is random, since several wharfd may ask the
    // same engine at once and the names of builds are unique there.
    let number = getrandom::u64().map_err(|error| Status::internal(error.to_string()))?;
    let reference = format!("wharf-probe-{number:016x}");
    let mut control = connection.control();
    let solve =
        control.solve(SolveRequest { r#ref: reference.clone(), internal: true, ..SolveRequest::default() });
    let build: AsciiMetadataValue =
        reference.parse().map_err(|_| Status::internal("a build's name is no header"))?;
    let never = AtomicBool::new(false);
    let ping = once_known(&reference, &never, || {
        let request = of_build(&build, PingRequest {});
        let mut gateway = connection.gateway();
        async move { gateway.ping(request).await }
    });
    tokio::select! {
        // The solve waits for the frontend's result, which never comes; dropping the call ends it.
        ended = solve => match ended {
            Ok(_) => Err(Status::internal("the probe ended before it began")),
            Err(status) => Err(status),
        },
        pong = ping => {
            let capabilities = pong?.into_inner().llb_caps;
            Ok(capabilities.into_iter().filter(|capability| capability.enabled).map(|capability| capability.id).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_that_every_build_may_end_is_known_by_its_version() {
        for (own, engine) in [
            ("v0.26.1", "29.1.0"),
            ("v0.26.0-rc1", "30.0.0"),
            ("v0.0.0+unknown", "29.1.3"),
            ("", "29.1.0-rc.1"),
        ] {
            assert!(writes_policies_at_once(version(own), engine), "{own} {engine}");
        }
        for (own, engine) in [
            ("v0.25.2", "29.0.0"),
            ("v0.27.0", "29.1.9"),
            ("v0.13.2", "26.1.5"),
            ("v0.0.0+unknown", "26.1.5"),
            ("", "29.2.0"),
            ("v0.2.6", "dev"),
        ] {
            assert!(!writes_policies_at_once(version(own), engine), "{own} {engine}");
        }
    }
}

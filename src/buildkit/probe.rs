//! Probes a BuildKit: how it is reached, its version, and its capabilities.

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::{InfoRequest, SolveRequest, frontend::PingRequest};
use tokio::time::timeout;
use tonic::{Status, metadata::AsciiMetadataValue};

use super::{
    connection::{Connection, Dialling},
    solve::{of_build, once_known},
};
use crate::{fault::Fault, tasks::Group};

/// How long BuildKit may take for an answer that costs it nothing. The start must not wait for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A BuildKit that answers.
#[derive(Debug)]
pub struct Probed {
    /// How to reach it.
    pub dialling: Dialling,
    /// Its version, major and minor, unless it was built without one.
    pub version: Option<(u32, u32)>,
    connection: Connection,
}

/// Why a BuildKit cannot be used.
#[derive(Debug)]
pub enum Unanswered {
    /// There is no connection to it.
    Unreachable(Fault),
    /// It answers on no kind of connection; its status on the last one.
    Silent(Status),
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Self::Unreachable(fault)
    }
}

/// Determines how to reach BuildKit at `socket`, and its version.
pub async fn probe(socket: &Path, tasks: &Group) -> Result<Probed, Unanswered> {
    let dialling = match answers(socket, Dialling::PriorKnowledge, tasks).await? {
        Ok(()) => Dialling::PriorKnowledge,
        Err(_) => match answers(socket, Dialling::Upgrade, tasks).await? {
            Ok(()) => Dialling::Upgrade,
            Err(status) => return Err(Unanswered::Silent(status)),
        },
    };
    let connection = Connection::dial(socket, dialling, tasks).await?;
    let own = answer(async { connection.control().info(InfoRequest {}).await }).await;
    let own = own.ok().and_then(|answer| answer.into_inner().buildkit_version);
    let version = version(&own.map(|own| own.version).unwrap_or_default());
    Ok(Probed { dialling, version, connection })
}

impl Probed {
    /// Its LLB capabilities, which BuildKit reports only to the frontend of a running build.
    pub async fn capabilities(&self) -> Result<Vec<String>, Status> {
        answer(capabilities(&self.connection)).await
    }
}

/// BuildKit's version, major and minor; `v0.0.0` means that it was built without one.
pub(crate) fn version(own: &str) -> Option<(u32, u32)> {
    major_and_minor(own).filter(|own| *own != (0, 0))
}

/// The first two numbers of a version such as `v0.33.0-rc1`.
pub(crate) fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether BuildKit answers on a connection that is made in this way.
async fn answers(socket: &Path, dialling: Dialling, tasks: &Group) -> Result<Result<(), Status>, Fault> {
    let answered = Connection::dial(socket, dialling, tasks).await?.answers().await;
    if let Err(status) = &answered {
        tracing::debug!(?dialling, %status, "BuildKit does not answer this way");
    }
    Ok(answered)
}

async fn answer<T>(question: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    timeout(ANSWER_TIMEOUT, question).await.unwrap_or_else(late)
}

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

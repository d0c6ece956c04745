//! The health check, `grpc.health.v1`: whether wharfd lives, and which engines can build.
//!
//! | service | serving |
//! | --- | --- |
//! | `""` | wharfd takes new work |
//! | `engine/NAME` | this engine can be used |
//! | `engine/NAME/builds` | this engine can be used, and its disk has space for builds |
//! | `wharf.v1.BuildService` | the default engine can be used, and its disk has space for builds |
//! | `wharf.v1.ImageService`, `wharf.v1.NamespaceService` | the default engine can be used |
//! | `wharf.v1.NodeService`, `wharf.v1.PolicyService` | always |

use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};

use super::{build, image, namespace, node, policy};
use crate::{
    engines::Handle,
    front::Front,
    names::EngineName,
    tasks::{Cause, Group},
    wire::v1::{
        build_service_server::BuildServiceServer, image_service_server::ImageServiceServer,
        namespace_service_server::NamespaceServiceServer, node_service_server::NodeServiceServer,
        policy_service_server::PolicyServiceServer,
    },
};

/// The service name for wharfd as a whole.
const WHARFD: &str = "";
/// The services that need none.
const ALWAYS: [&str; 2] =
    [NodeServiceServer::<node::Node>::NAME, PolicyServiceServer::<policy::Policy>::NAME];
/// The service that needs an engine with space for builds, and those that need an engine.
const BUILD: &str = BuildServiceServer::<build::Build>::NAME;
const BY_ENGINE: [&str; 2] =
    [ImageServiceServer::<image::Images>::NAME, NamespaceServiceServer::<namespace::Namespaces>::NAME];

/// The health check.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    /// The tasks that follow the engines.
    following: Group,
    names: Vec<String>,
}

impl Health {
    /// Makes a health check that follows the engines in `tasks`, and the service that answers it.
    pub(super) async fn follow(
        front: &Front,
        default: &EngineName,
        tasks: &Group,
    ) -> (Self, tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>)
    {
        let (reporter, server) = health_reporter();
        let following = tasks.child("health");
        // wharfd serves as soon as it listens.
        for name in [WHARFD, BUILD].into_iter().chain(ALWAYS).chain(BY_ENGINE) {
            reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        let own = [WHARFD, BUILD].into_iter().chain(ALWAYS).chain(BY_ENGINE);
        let mut all: Vec<String> = own.map(str::to_owned).collect();
        for engine in front.engines() {
            let mut names = Names {
                usable: vec![format!("engine/{}", engine.name())],
                builds: vec![format!("engine/{}/builds", engine.name())],
            };
            all.extend(names.usable.iter().chain(&names.builds).cloned());
            if engine.name() == default {
                names.usable.extend(BY_ENGINE.map(str::to_owned));
                names.builds.push(BUILD.to_owned());
            }
            let now = can(engine);
            names.report(&reporter, now).await;
            let (reporter, group, engine) = (reporter.clone(), following.clone(), engine.clone());
            drop(following.spawn("health", async move {
                let _ = group.unless_cancelled(follow(reporter, names, engine, now)).await;
            }));
        }
        (Self { reporter, following, names: all }, server)
    }

    /// Reports that wharfd takes no new work.
    pub async fn draining(&self) {
        self.following.cancel(Cause::ShuttingDown);
        self.following.close_and_wait().await;
        report(&self.reporter, &self.names, false).await;
    }
}

/// The names that depend on an engine: whether it is usable, and whether it takes builds.
struct Names {
    usable: Vec<String>,
    builds: Vec<String>,
}

impl Names {
    async fn report(&self, reporter: &HealthReporter, (is_up, takes_builds): (bool, bool)) {
        report(reporter, &self.usable, is_up).await;
        report(reporter, &self.builds, is_up && takes_builds).await;
    }
}

/// Whether the engine is usable, and has space for builds.
fn can(engine: &Handle) -> (bool, bool) {
    (engine.states().borrow().is_up(), engine.has_room().is_ok())
}

/// Reports what the engine can do, each time this changes.
async fn follow(reporter: HealthReporter, names: Names, engine: Handle, mut before: (bool, bool)) {
    let (mut states, mut disk) = (engine.states(), engine.disk());
    loop {
        let now = can(&engine);
        if now != before {
            names.report(&reporter, now).await;
            before = now;
        }
        let changed = tokio::select! {
            changed = states.changed() => changed,
            changed = disk.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn report(reporter: &HealthReporter, names: &[String], is_serving: bool) {
    let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in names {
        reporter.set_service_status(name, status).await;
    }
}

//! The health check, `grpc.health.v1`: whether wharfd lives, and which engines can build.
//!
//! | service | serving |
//! | --- | --- |
//! | `""` | wharfd takes new work |
//! | `engine/NAME` | this engine can be used |
//! | `wharf.v1.BuildService`, `…ImageService`, `…NamespaceService` | the default engine can be used |
//! | `wharf.v1.NodeService`, `wharf.v1.PolicyService` | always |

use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};

use super::{build, image, namespace, node, policy};
use crate::{
    engines::{Handle, State},
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
/// The services that need an engine.
const BY_ENGINE: [&str; 3] = [
    BuildServiceServer::<build::Build>::NAME,
    ImageServiceServer::<image::Images>::NAME,
    NamespaceServiceServer::<namespace::Namespaces>::NAME,
];

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
        for name in [WHARFD].into_iter().chain(ALWAYS).chain(BY_ENGINE) {
            reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        let own = [WHARFD].into_iter().chain(ALWAYS).chain(BY_ENGINE);
        let mut all: Vec<String> = own.map(str::to_owned).collect();
        for engine in front.engines() {
            let mut names = vec![format!("engine/{}", engine.name())];
            all.extend(names.clone());
            if engine.name() == default {
                names.extend(BY_ENGINE.map(str::to_owned));
            }
            let is_up = engine.states().borrow().is_up();
            report(&reporter, &names, is_up).await;
            let (reporter, group, engine) = (reporter.clone(), following.clone(), engine.clone());
            drop(following.spawn("health", async move {
                let _ = group.unless_cancelled(follow(reporter, names, engine, is_up)).await;
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

/// Reports under `names` whether the engine is usable, each time this changes.
async fn follow(reporter: HealthReporter, names: Vec<String>, engine: Handle, mut was_up: bool) {
    let mut states = engine.states();
    while let Ok(is_up) =
        states.wait_for(|state| state.is_up() != was_up).await.map(|state| State::is_up(&state))
    {
        report(&reporter, &names, is_up).await;
        was_up = is_up;
    }
}

async fn report(reporter: &HealthReporter, names: &[String], is_serving: bool) {
    let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in names {
        reporter.set_service_status(name, status).await;
    }
}

//! `NodeService`: information about the node for its callers.

use std::sync::Arc;

use futures_util::future::join_all;
use tonic::{Request, Response, Status};

use super::{accept, look, named};
use crate::{
    engine::Engine,
    engines::Handle,
    fault::{Fault, causes},
    front::{Builds, Front},
    wire::v1::{self, EngineState, GetInfoRequest, GetInfoResponse, node_service_server::NodeService},
};

/// `NodeService`.
#[derive(Debug)]
pub(super) struct Node {
    front: Arc<Front>,
}

impl Node {
    pub(super) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    async fn get_info(&self, request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let call = accept(&self.front, &request, "NodeService/GetInfo")?;
        look(&self.front, &call, async {
            let caller = call.caller();
            let named = named(request.into_inner().namespace)?;
            // A caller that may act in no namespace still gets an answer, as a health probe does.
            let permit = caller.namespace(named).ok();
            if let Some(permit) = &permit {
                call.acts_in(permit);
            }
            let shown = |engine: &&Handle| engine.name() == caller.engine() || caller.is_operator();
            let builds = |engine: &Handle| caller.is_operator().then(|| self.front.builds(engine.name()));
            let engines = self.front.engines().filter(shown).map(|engine| told(engine, builds(engine)));
            let engines = join_all(engines).await;
            let own = engines.iter().find(|engine| engine.name == caller.engine().as_str());
            let own = own.cloned().unwrap_or_default();
            Ok(GetInfoResponse {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                api_versions: vec!["wharf.v1".to_owned()],
                caller: caller.to_string(),
                engine: own.name,
                engine_version: own.version,
                engine_api_version: own.api_version,
                platform: own.platform,
                image_store: own.image_store,
                namespaces: caller.namespaces(),
                engines,
                policy: permit.map(|permit| permit.policy()).unwrap_or_default(),
            })
        })
        .await
    }
}

/// Information about an engine; only the node's operator also gets its builds, and the cause of a failure.
async fn told(handle: &Handle, builds: Option<Builds>) -> v1::EngineInfo {
    let name = handle.name().to_string();
    let on = handle.disk().borrow().clone();
    let refuses_builds = on.refusal().map(|fault| fault.text().to_owned()).unwrap_or_default();
    let disk = builds.is_some().then(|| v1::EngineDisk {
        free: on.space.free,
        total: on.space.total,
        low: on.marks.0,
        full: on.marks.1,
        cause: on.cause.unwrap_or_default(),
    });
    let is_operator = builds.is_some();
    let firewall = handle.has_firewall().await;
    let builds = builds.map(|Builds { running, waiting, places, .. }| {
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        v1::EngineBuilds { running: count(running), waiting: count(waiting), max: count(places) }
    });
    match found(handle).await {
        Ok(engine) => {
            let (major, minor) = engine.api_version();
            v1::EngineInfo {
                name,
                state: EngineState::Up.into(),
                cause: String::new(),
                version: engine.version().to_owned(),
                api_version: format!("{major}.{minor}"),
                platform: engine.platform().to_string(),
                image_store: engine.image_store().name().to_owned(),
                builds,
                disk,
                refuses_builds,
                firewall,
            }
        }
        Err(fault) => v1::EngineInfo {
            name,
            state: EngineState::Down.into(),
            cause: if is_operator { causes(&fault) } else { fault.text().to_owned() },
            builds,
            disk,
            firewall,
            ..v1::EngineInfo::default()
        },
    }
}

/// The engine, if it answers.
async fn found(handle: &Handle) -> Result<Engine, Fault> {
    let engine = handle.images().await?.engine().clone();
    engine.check().await?;
    Ok(engine)
}

//! `NodeService`: the node, as its caller may know it.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{accept, answer};
use crate::{
    front::Front,
    wire::v1::{GetInfoRequest, GetInfoResponse, node_service_server::NodeService},
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
        let (caller, engine) = (call.caller(), call.engine());
        let (major, minor) = engine.api_version();
        let info = GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_versions: vec!["wharf.v1".to_owned()],
            caller: caller.to_string(),
            engine: engine.name().to_owned(),
            engine_version: engine.version().to_owned(),
            engine_api_version: format!("{major}.{minor}"),
            platform: engine.platform().to_string(),
            image_store: engine.image_store().to_string(),
            namespaces: caller.rules().namespaces().to_string(),
        };
        answer(&call, async {
            engine.check().await?;
            Ok(info)
        })
        .await
    }
}

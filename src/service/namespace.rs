//! `NamespaceService`: the namespaces that there are, and the end of one.

use std::sync::Arc;

use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{accept, answer, look, named};
use crate::{
    front::{Front, Look},
    wire::v1::{
        DeleteNamespaceRequest, DeleteNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
        NamespaceInfo, namespace_service_server::NamespaceService,
    },
};

/// `NamespaceService`.
#[derive(Debug)]
pub(super) struct Namespaces {
    front: Arc<Front>,
}

impl Namespaces {
    pub(super) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

#[tonic::async_trait]
impl NamespaceService for Namespaces {
    async fn list_namespaces(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let call = accept(&self.front, &request, "NamespaceService/ListNamespaces")?;
        look(&self.front, &call, async {
            let images = call.images().await?;
            let leases = self.front.namespaces(&call).await?;
            let mut owned = images.possessions().await?;
            let info = leases.into_iter().map(|lease| {
                let owned = owned.remove(&lease.opaque).unwrap_or_default();
                NamespaceInfo {
                    namespace: lease.namespace.as_ref().map(Into::into),
                    created: Some(Timestamp { seconds: lease.begun, nanos: 0 }),
                    last_used: Some(Timestamp { seconds: lease.used, nanos: 0 }),
                    images: u32::try_from(owned.images()).unwrap_or(u32::MAX),
                    size: owned.size(),
                }
            });
            Ok(ListNamespacesResponse { namespaces: info.collect() })
        })
        .await
    }

    async fn delete_namespace(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<DeleteNamespaceResponse>, Status> {
        let call = accept(&self.front, &request, "NamespaceService/DeleteNamespace")?;
        answer(&call, async {
            let permit = call.authorize(named(request.into_inner().namespace)?)?;
            let (images, name) = (call.images().await?, call.engine_name().clone());
            let work = Arc::clone(self.front.work());
            let Some(share) = self.front.begin_end(&call, &permit).await? else {
                return Ok(DeleteNamespaceResponse::default());
            };
            let (front, ending) = (Arc::clone(&self.front), call.clone());
            // This task cancels the namespace's group, so it runs outside it. It runs to its end even if
            // the client disconnects.
            let tasks = work.group().enter("delete namespace")?;
            tasks
                .spawn("delete namespace", async move {
                    let end = work.end(&name, &permit).await;
                    let look = front.look(&ending, Look::Work).await;
                    let (images, references) = images.delete_namespace(&permit).await?;
                    front.has_ended(&permit).await?;
                    drop((look, share));
                    references.iter().for_each(|reference| ending.details().untagged(reference));
                    ending.details().ended(images, end.builds());
                    Ok(DeleteNamespaceResponse {
                        references: references.iter().map(ToString::to_string).collect(),
                        cancelled_builds: end.builds(),
                        images: u32::try_from(images).unwrap_or(u32::MAX),
                    })
                })
                .await?
        })
        .await
    }
}

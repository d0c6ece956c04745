//! `NamespaceService`: the namespaces that there are, and the end of one.

use std::{collections::HashMap, sync::Arc};

use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{accept, answer, look, named};
use crate::{
    buildkit::cache::CacheMount,
    front::{Front, Look},
    images::caches::RemovedMounts,
    wire::v1::{
        self, DeleteNamespaceRequest, DeleteNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
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
        let with_mounts = request.get_ref().cache_mounts;
        look(&self.front, &call, async {
            let images = call.images().await?;
            let leases = self.front.namespaces(&call).await?;
            let mut owned = images.possessions().await?;
            let mounts = if with_mounts { Box::pin(images.cache_mounts()).await? } else { HashMap::new() };
            let info = leases.into_iter().map(|lease| {
                let owned = owned.remove(&lease.opaque).unwrap_or_default();
                let job = lease.namespace.as_ref().map(|namespace| images.keys().mounts_of(namespace.job()));
                let mounts = job.and_then(|job| mounts.get(&job)).map(Vec::as_slice).unwrap_or_default();
                NamespaceInfo {
                    cache_mounts: mounts.iter().map(cache_mount).collect(),
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
            let DeleteNamespaceRequest { namespace, job } = request.into_inner();
            let permit = call.authorize(named(namespace)?)?;
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
                    let deleting = ending.clone();
                    let deleted = async move {
                        // First, so that the next wharfd knows it if this one ends meanwhile.
                        let job = if job { Some(front.end_job(&ending, &permit).await?) } else { None };
                        let end = work.end(&name, &permit).await;
                        let look = front.look(&ending, Look::Work).await;
                        let engine = images;
                        let (images, references) = engine.delete_namespace(&permit).await?;
                        front.has_ended(&permit).await?;
                        let (mut mounts, mut is_left) = (RemovedMounts::default(), false);
                        if let Some(job) = job {
                            // Otherwise another run of the job builds, and the janitor removes them later.
                            if let Some(_retiring) = work.retire_job(&name, &job) {
                                let store = engine.store().of(permit.caller());
                                mounts = engine.retire_job(&store, &job, None).await?;
                                is_left = mounts.in_use > 0;
                            } else {
                                is_left = true;
                            }
                            ending.details().retired(mounts.count, mounts.size);
                        }
                        drop((look, share));
                        references.iter().for_each(|reference| ending.details().untagged(reference));
                        ending.details().ended(images, end.builds());
                        Ok(DeleteNamespaceResponse {
                            references: references.iter().map(ToString::to_string).collect(),
                            cancelled_builds: end.builds(),
                            images: u32::try_from(images).unwrap_or(u32::MAX),
                            cache_mounts: u32::try_from(mounts.count).unwrap_or(u32::MAX),
                            cache_mounts_size: mounts.size,
                            cache_mounts_in_use: is_left,
                        })
                    };
                    let deleted = deleted.await;
                    // The end is done, whether or not its client is still there.
                    deleting.ended_with(&deleted);
                    deleted
                })
                .await?
        })
        .await
    }
}

fn cache_mount(mount: &CacheMount) -> v1::CacheMount {
    v1::CacheMount {
        id: mount.id.clone(),
        size: mount.size,
        last_used: Some(Timestamp { seconds: mount.used, nanos: 0 }),
        in_use: mount.is_in_use,
    }
}

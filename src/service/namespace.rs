//! `NamespaceService`: the namespaces that there are, and the end of one.

use std::sync::Arc;

use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{accept, answer, look, named};
use crate::{
    buildkit::cache::CacheMount,
    fault::{Fault, causes},
    front::{Front, Look, Retirement, too_old},
    images::{
        Images,
        caches::{Mounts, RemovedMounts},
    },
    names::Namespace,
    naming::MountsKey,
    policy::Permit,
    telemetry::each_second,
    wire::v1::{
        self, DeleteNamespaceRequest, DeleteNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
        NamespaceInfo, namespace_service_server::NamespaceService,
    },
};

/// How many cache mounts of a job are listed: a Dockerfile has some ten.
const MOUNTS_MAX: usize = 1000;

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
        let ListNamespacesRequest { namespace, cache_mounts } = request.get_ref().clone();
        look(&self.front, &call, async {
            let only = named(namespace)?;
            // Otherwise the mounts of all jobs would go through wharfd's memory.
            if cache_mounts && only.is_none() && call.caller().proven_at().is_none() {
                let text = "the cache mounts of one namespace's job are listed at once: name it";
                return Err(Fault::invalid("namespace", text));
            }
            let images = call.images().await?;
            let mut leases = self.front.namespaces(&call).await?;
            leases.retain(|lease| only.is_none() || lease.namespace == only);
            let listed = leases.first().and_then(|lease| lease.namespace.as_ref()).filter(|_| cache_mounts);
            let mut mounts = match listed {
                Some(namespace) => {
                    let name = images.keys().mounts_of(namespace.job());
                    Some(Box::pin(images.cache_mounts(&name)).await)
                }
                None => None,
            };
            let mut owned = images.possessions().await?;
            let info = leases.into_iter().map(|lease| {
                let owned = owned.remove(&lease.opaque).unwrap_or_default();
                let Mounts { mounts, is_partial } = mounts.take().unwrap_or_default();
                NamespaceInfo {
                    more_cache_mounts: is_partial || mounts.len() > MOUNTS_MAX,
                    cache_mounts: mounts.iter().take(MOUNTS_MAX).map(cache_mount).collect(),
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
                // Without a word its cache mounts would stay.
                return if job {
                    Err(too_old(permit.subject()))
                } else {
                    Ok(DeleteNamespaceResponse::default())
                };
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
                        let mounts = if job { front.end_job(&ending, &permit).await? } else { None };
                        let end = work.end(&name, &permit).await;
                        let look = front.look(&ending, Look::Work).await;
                        let engine = images;
                        let (images, references) = engine.delete_namespace(&permit).await?;
                        // At once: they are gone, whatever comes.
                        references.iter().for_each(|reference| ending.details().untagged(reference));
                        ending.details().ended(images, end.builds());
                        front.has_ended(&permit).await?;
                        drop(look);
                        let removed = match &mounts {
                            Some((mounts, retirement)) => retire(&engine, retirement, &permit, mounts).await,
                            None => RemovedMounts::default(),
                        };
                        if job {
                            ending.details().retired(removed.count, removed.size);
                        }
                        drop(share);
                        Ok(DeleteNamespaceResponse {
                            references: references.iter().map(ToString::to_string).collect(),
                            cancelled_builds: end.builds(),
                            images: u32::try_from(images).unwrap_or(u32::MAX),
                            cache_mounts: u32::try_from(removed.count).unwrap_or(u32::MAX),
                            cache_mounts_size: removed.size,
                            cache_mounts_left: removed.is_left,
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

/// Removes the cache mounts of a job that is ended. What is left goes later: the janitor looks for it.
async fn retire(
    images: &Images,
    retirement: &Retirement,
    permit: &Permit<Namespace>,
    mounts: &MountsKey,
) -> RemovedMounts {
    let Some(_no_builds) = retirement.without_builds() else {
        // Another run of the job builds.
        return RemovedMounts { is_left: true, ..RemovedMounts::default() };
    };
    let (removed, fault) = images.retire_job(&images.store().of(permit.caller()), mounts).await;
    if let Some(fault) = fault {
        each_second!(warn, engine = %images.engine().name(), cause = causes(&fault), "the cache mounts of a job cannot be removed");
    }
    removed
}

fn cache_mount(mount: &CacheMount) -> v1::CacheMount {
    v1::CacheMount {
        id: mount.id.clone(),
        size: mount.size,
        last_used: Some(Timestamp { seconds: mount.used, nanos: 0 }),
        in_use: mount.is_in_use,
    }
}

//! Serves the pods of a Kubernetes node: runs the driver for the kubelet, and serves the sockets that it
//! makes.

use std::sync::Arc;

use super::{client_dir, error::StartError};
use crate::{
    audit::Trail,
    config::Csi,
    csi::{self, Driver, Resources},
    front::Front,
    identity::Served,
    store::Store,
    tasks::Group,
    transport::{ConnectionLimits, Protocol, Server},
};

/// The parts of wharfd that the driver works with.
pub(super) struct Parts<'a> {
    pub(super) served: &'a Arc<Served>,
    pub(super) front: &'a Arc<Front>,
    pub(super) store: Store,
    pub(super) trail: &'a Trail,
    pub(super) limits: ConnectionLimits,
}

/// Takes up the pods of before, whose sockets `server` serves, and serves the kubelet.
pub(super) async fn serve<P: Protocol + Sync>(
    csi: &Csi,
    parts: Parts<'_>,
    server: &Server<P>,
    connections: &Group,
    process: &Group,
) -> Result<(), StartError> {
    let server = server.clone();
    let means = Resources {
        pods_dir: csi.pods_dir(),
        client: client_dir::program()?,
        served: Arc::clone(parts.served),
        front: Arc::clone(parts.front),
        store: parts.store,
        trail: parts.trail.clone(),
        open: Arc::new(move |listener, group: Group| {
            let (server, owner) = (server.clone(), group.clone());
            drop(group.spawn("accept", async move { server.serve(vec![listener], owner).await }));
        }),
        connections: connections.clone(),
        tasks: process.child("csi"),
    };
    let driver = Driver::start(means).await?;
    csi::serve(driver, csi, parts.limits, connections).await.map_err(StartError::Kubelet)
}

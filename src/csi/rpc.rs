//! The driver's two sockets, and the calls that the kubelet makes there.

use std::{convert::Infallible, sync::Arc};

use http::Request as HttpRequest;
use hyper::body::Incoming;
use tonic::{Code, Request, Response, Status, service::Routes};
use tower::{Service, ServiceExt as _};

use super::{
    Driver, Refusal, Shared,
    api::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodePublishVolumeRequest, NodePublishVolumeResponse, NodeUnpublishVolumeRequest,
        NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
        identity_server::{Identity, IdentityServer},
        node_server::{Node, NodeServer},
    },
    place::Place,
    registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::{Registration, RegistrationServer},
    },
    request,
};
use crate::{
    config::{Csi, DRIVER},
    fault::{Reason, causes},
    names::{CallerId, ListenAddress, printable, shortened},
    tasks::Group,
    telemetry::each_second,
    transport::{BindError, ConnectionLimits, Http2, Listener, Peer, Server, Standing},
};

/// Only the kubelet's user may open the sockets.
const MODE: u32 = 0o600;
/// A request names a volume, a path and a handful of attributes.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
const SHOWN_BYTES_MAX: usize = 500;
/// The version of the specification that the kubelet asks for.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// Serves `driver` on its socket, and makes it known to the kubelet, until `connections` is cancelled.
pub async fn serve(
    driver: Shared,
    csi: &Csi,
    limits: ConnectionLimits,
    connections: &Group,
) -> Result<(), BindError> {
    let routes = Routes::new(IdentityServer::new(Plugin).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(
            NodeServer::new(Volumes { driver: Arc::clone(&driver) })
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .prepare();
    open(&ListenAddress::Unix(csi.socket.clone()), routes, limits, connections).await?;
    // Last: the kubelet comes as soon as it finds this socket.
    let endpoint = csi.socket.as_path().display().to_string();
    let registration = RegistrationServer::new(Known { endpoint, driver });
    let routes = Routes::new(registration.max_decoding_message_size(MESSAGE_BYTES_MAX)).prepare();
    open(&ListenAddress::Unix(csi.registration.clone()), routes, limits, connections).await
}

async fn open(
    address: &ListenAddress,
    routes: Routes,
    limits: ConnectionLimits,
    connections: &Group,
) -> Result<(), BindError> {
    let listener = Listener::bind(address, MODE, None, None).await?;
    tracing::info!(socket = %listener, "listening for the kubelet");
    let service = tower::service_fn(move |request| answer(routes.clone(), request));
    let server = Server::new(Arc::new(standing), limits, Http2::new(service, limits));
    let group = connections.clone();
    drop(connections.spawn("kubelet", async move { server.serve(vec![listener], group).await }));
    Ok(())
}

/// The kubelet is root, or of wharfd's own user.
fn standing(peer: &Peer) -> Standing {
    match peer {
        Peer::User { uid, .. } if *uid == 0 || *uid == rustix::process::geteuid().as_raw() => {
            Standing::Served(CallerId::Uid(*uid))
        }
        Peer::User { .. } | Peer::Pod(_) | Peer::Remote { .. } => Standing::Stranger,
    }
}

async fn answer<S>(
    service: S,
    request: HttpRequest<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible>
where
    S: Service<HttpRequest<Incoming>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
{
    let served = request.extensions().get::<Peer>().map(standing);
    match served {
        Some(Standing::Served(_)) => service.oneshot(request).await,
        Some(Standing::Unproven | Standing::Stranger) | None => {
            Ok(Status::permission_denied("only the kubelet is served here").into_http())
        }
    }
}

fn status(refusal: &Refusal) -> Status {
    // The kubelet shows the text to those who may see the pod's events: it names nothing of others.
    let text = shortened(printable(&refusal.to_string()), SHOWN_BYTES_MAX);
    match refusal {
        Refusal::Invalid(_) => Status::invalid_argument(text),
        Refusal::Another(_) => Status::already_exists(text),
        Refusal::Later(fault) => {
            let hint = fault.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
            // With any other code the kubelet may take a half-made volume for one that was never made, and never remove it.
            let code = match fault.reason() {
                Reason::UnknownCaller => Code::PermissionDenied,
                _ => Code::Unavailable,
            };
            Status::new(code, format!("{text}{hint}"))
        }
    }
}

fn refused(method: &'static str, refusal: &Refusal) -> Status {
    each_second!(warn, method, cause = causes(refusal), "the kubelet is refused");
    status(refusal)
}

/// `csi.v1.Identity`.
struct Plugin;

#[tonic::async_trait]
impl Identity for Plugin {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let (name, vendor_version) = (DRIVER.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Ok(Response::new(GetPluginInfoResponse { name, vendor_version }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

/// `csi.v1.Node`.
struct Volumes {
    driver: Arc<Driver>,
}

#[tonic::async_trait]
impl Node for Volumes {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let wanted = request::judge(self.driver.pods_dir(), request.get_ref());
        let made = match wanted {
            Ok(wanted) => {
                // To its end, even if the kubelet does not wait: half a volume helps nobody.
                let driver = Arc::clone(&self.driver);
                let publishing =
                    self.driver.tasks().spawn("publish", async move { driver.publish(wanted).await });
                publishing.await.unwrap_or_else(|panicked| Err(Refusal::Later(panicked.into())))
            }
            Err(text) => Err(Refusal::Invalid(text)),
        };
        made.map_err(|refusal| refused("NodePublishVolume", &refusal))?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request.into_inner();
        let named = request::volume_id(&volume_id).map(str::to_owned);
        let named = named.and_then(|id| Ok((id, Place::read(self.driver.pods_dir(), &target_path)?)));
        let removed = match named {
            Ok((id, place)) => {
                // The kubelet waits for two minutes, and asks again: that call finds how far this one has come.
                let driver = Arc::clone(&self.driver);
                let removing = async move { driver.unpublish(&id, &place).await };
                let removing = self.driver.tasks().spawn("unpublish", removing);
                removing.await.unwrap_or_else(|panicked| Err(Refusal::Later(panicked.into())))
            }
            Err(text) => Err(Refusal::Invalid(text)),
        };
        removed.map_err(|refusal| refused("NodeUnpublishVolume", &refusal))?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        // Nothing is attached to a node, so the name means nothing; the kubelet wants one.
        let node_id = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Response::new(NodeGetInfoResponse { node_id }))
    }
}

/// `pluginregistration.Registration`.
struct Known {
    endpoint: String,
    driver: Shared,
}

#[tonic::async_trait]
impl Registration for Known {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        let supported_versions = VERSIONS.map(str::to_owned).to_vec();
        let (r#type, name) = ("CSIPlugin".to_owned(), DRIVER.to_owned());
        Ok(Response::new(PluginInfo { r#type, name, endpoint: self.endpoint.clone(), supported_versions }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!(driver = DRIVER, "the kubelet has registered the driver");
            self.driver.is_known();
        } else {
            let error = shortened(printable(&error), SHOWN_BYTES_MAX);
            tracing::error!(driver = DRIVER, error, "the kubelet does not register the driver");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

//! The gRPC front door. A handler accepts, authorizes, does its work, answers.

mod build;
mod call;
mod image;
mod namespace;
mod node;
mod status;
mod stream;
mod work;

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{body::Body, service::Routes};
use tower::{Service, ServiceExt};

pub use call::Call;
pub use status::refuse;
pub use work::{Kind, Member, Work};

use crate::{
    identity::Identities,
    images::Images,
    names::EngineName,
    wire::v1::{
        self, build_service_server::BuildServiceServer, image_service_server::ImageServiceServer,
        namespace_service_server::NamespaceServiceServer, node_service_server::NodeServiceServer,
    },
};

/// A message of a build: a piece of its tar, what its steps are told, a file's attributes.
const BUILD_MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Any request but a build's: a namespace, a reference, a login. Such a request is read before it is
/// known who asks, and each of a user's streams may hold one.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What all handlers share.
#[derive(Debug)]
pub struct Front {
    identities: Identities,
    engines: BTreeMap<EngineName, Images>,
    work: Arc<Work>,
}

impl Front {
    /// A front door for `identities`; `engines` has every engine that they name.
    pub fn new(identities: Identities, engines: BTreeMap<EngineName, Images>, work: Arc<Work>) -> Arc<Self> {
        Arc::new(Self { identities, engines, work })
    }

    /// The work that runs.
    pub fn work(&self) -> &Arc<Work> {
        &self.work
    }
}

/// What the health check answers: for `""`, whether wharfd takes new work.
#[derive(Clone, Debug)]
pub struct Health(tonic_health::server::HealthReporter);

impl Health {
    /// wharfd takes no new work any more.
    pub async fn draining(&self) {
        self.0.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    }
}

/// All services of the API, the health check (`grpc.health.v1`) and reflection
/// (`grpc.reflection.v1`, and the `v1alpha` that many clients still speak), as what a connection is served with.
pub async fn services(
    front: Arc<Front>,
) -> Result<
    (
        impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
        Health,
    ),
    tonic_reflection::server::Error,
> {
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let node = NodeServiceServer::from_arc(Arc::new(node::Node::new(Arc::clone(&front))))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let build = BuildServiceServer::from_arc(Arc::new(build::Build::new(Arc::clone(&front))))
        .max_decoding_message_size(BUILD_MESSAGE_BYTES_MAX);
    let image = ImageServiceServer::from_arc(Arc::new(image::Images::new(Arc::clone(&front))))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let namespace = NamespaceServiceServer::from_arc(Arc::new(namespace::Namespaces::new(front)))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    let health = health.max_decoding_message_size(REQUEST_BYTES_MAX);
    // What listens serves: the engines were reached before.
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    reporter.set_serving::<NodeServiceServer<node::Node>>().await;
    reporter.set_serving::<BuildServiceServer<build::Build>>().await;
    reporter.set_serving::<ImageServiceServer<image::Images>>().await;
    reporter.set_serving::<NamespaceServiceServer<namespace::Namespaces>>().await;
    let routes = Routes::new(node)
        .add_service(build)
        .add_service(image)
        .add_service(namespace)
        .add_service(health)
        .add_service(described().build_v1()?.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(described().build_v1alpha()?.max_decoding_message_size(REQUEST_BYTES_MAX))
        .prepare();
    Ok((ServiceExt::<Request<Incoming>>::map_response(routes, status::complete), Health(reporter)))
}

#[cfg(test)]
mod tests;

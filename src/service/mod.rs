//! The gRPC door. A handler accepts, authorizes, does its work, answers.

mod attach;
mod build;
mod caller;
mod credentials;
mod health;
mod image;
mod namespace;
mod node;
mod outcome;
mod policy;
mod spec;
mod status;
mod stream;

use std::{convert::Infallible, future::Future, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{Status, body::Body, service::Routes};
use tower::{Service, ServiceExt};

pub use health::Health;

use crate::{
    fault::Fault,
    front::{Call, Front, Look},
    identity::Caller,
    names::{EngineName, Namespace},
    policy::Permit,
    tasks::Group,
    transport::UntilTaken,
    wire::v1::{
        self, build_service_server::BuildServiceServer, image_service_server::ImageServiceServer,
        namespace_service_server::NamespaceServiceServer, node_service_server::NodeServiceServer,
        policy_service_server::PolicyServiceServer,
    },
};

/// The largest message of a build: a piece of its tar, its arguments, a file's attributes.
const BUILD_MESSAGE_BYTES_MAX: usize = 2 << 20;
/// The largest health check, which anybody may send: a service's name.
const HEALTH_BYTES_MAX: usize = 1 << 10;
/// The largest of all other requests: a namespace, a reference, a login. Each of a caller's streams may hold
/// one.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Accepts a call of `method`, `SERVICE/METHOD`.
fn accept<T>(front: &Front, request: &tonic::Request<T>, method: &'static str) -> Result<Call, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Fault::internal("a call without a caller has reached a handler"));
    caller.and_then(|caller| front.accept(caller, method)).map_err(|fault| status::from_fault(&fault))
}

/// Allows the call to act in the namespace that its request names.
async fn authorize(
    front: &Front,
    call: &Call,
    namespace: Option<v1::Namespace>,
) -> Result<Permit<Namespace>, Fault> {
    front.authorize(call, named(namespace)?).await
}

/// The namespace that a request names, if it does.
fn named(namespace: Option<v1::Namespace>) -> Result<Option<Namespace>, Fault> {
    let Some(v1::Namespace { job, run, issuer }) = namespace else { return Ok(None) };
    let namespace =
        Namespace::new(job, run).map_err(|error| Fault::invalid("namespace", error.to_string()))?;
    if issuer.is_empty() {
        return Ok(Some(namespace));
    }
    let issuer = issuer.try_into().map_err(|error: String| Fault::invalid("namespace.issuer", error))?;
    Ok(Some(namespace.issued_by(issuer)))
}

/// Does a call's work and answers with its result.
async fn answer<T>(
    call: &Call,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<tonic::Response<T>, Status> {
    call.answer(work).await.map(tonic::Response::new).map_err(|fault| status::from_fault(&fault))
}

/// The same for a call that looks at images: its answer is one of the caller's looks until the client has it.
async fn look<T>(
    front: &Front,
    call: &Call,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<tonic::Response<T>, Status> {
    let looked = async {
        let looking = front.look(call, Look::Answer).await;
        Ok((looking, work.await?))
    };
    let (looking, answer) = call.answer(looked).await.map_err(|fault| status::from_fault(&fault))?;
    let mut response = tonic::Response::new(answer);
    response.extensions_mut().insert(UntilTaken(Arc::new(looking)));
    Ok(response)
}

/// Begins a call whose answer is a stream; the stream records how the call ends.
async fn begin<T>(
    call: &Call,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<tonic::Response<T>, Status> {
    call.begin(work).await.map(tonic::Response::new).map_err(|fault| status::from_fault(&fault))
}

/// The service for connections: all services of the API, the health check (`grpc.health.v1`) and reflection
/// (`grpc.reflection.v1`, and `v1alpha`, which many clients still use). `default` is the engine for users
/// whose entry names none; the tasks that follow the engines run in `tasks`.
pub async fn services(
    front: Arc<Front>,
    default: &EngineName,
    tasks: &Group,
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
    let (identifying, completing) = (Arc::clone(&front), Arc::clone(&front));
    let (health, health_check) = Health::follow(&front, default, tasks).await;
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
    let policy = PolicyServiceServer::from_arc(Arc::new(policy::Policy::new(Arc::clone(&front))))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let namespace = NamespaceServiceServer::from_arc(Arc::new(namespace::Namespaces::new(front)))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let health_check = health_check.max_decoding_message_size(HEALTH_BYTES_MAX);
    let routes = Routes::new(node)
        .add_service(build)
        .add_service(image)
        .add_service(namespace)
        .add_service(policy)
        .add_service(health_check)
        .add_service(described().build_v1()?.max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(described().build_v1alpha()?.max_decoding_message_size(REQUEST_BYTES_MAX))
        .prepare();
    let complete = move |response| status::complete(response, |fault| completing.refused(fault));
    let routes = ServiceExt::<Request<Incoming>>::map_response(routes, complete);
    let identified = tower::service_fn(move |request| {
        caller::identified(Arc::clone(&identifying), request, routes.clone())
    });
    Ok((identified, health))
}

#[cfg(test)]
mod tests;

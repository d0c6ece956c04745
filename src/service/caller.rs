//! Identifies the caller of every call before its message is read.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response, header::AUTHORIZATION};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::status;
use crate::{
    fault::{Fault, Reason},
    front::{Front, Running},
    identity::{Caller, Presented},
    transport::{Peer, Proven, UntilTaken},
};

/// Health checks come from those who have no identity of Wharf's: a kubelet, a load balancer. They learn whether
/// wharfd and its engines are well.
const OPEN_TO_ALL: &str = "/grpc.health.v1.Health/Check";

/// Answers a call by `service` once its caller is identified; the request carries the [`Caller`].
pub(super) async fn identified<S, B>(
    front: Arc<Front>,
    mut request: Request<B>,
    service: S,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    if request.uri().path() == OPEN_TO_ALL {
        return service.oneshot(request).await;
    }
    let (caller, running) = match identify(&front, &request) {
        Ok(identified) => identified,
        Err(fault) => return Ok(status::refuse(&fault)),
    };
    if let Some(proven) = request.extensions().get::<Proven>() {
        proven.set();
    }
    // No handler needs what proves the caller.
    request.headers_mut().remove(AUTHORIZATION);
    request.extensions_mut().insert(caller);
    let mut response = service.oneshot(request).await?;
    // The call counts as running until its answer ends.
    let held = response.extensions_mut().remove::<UntilTaken>();
    response.extensions_mut().insert(UntilTaken(Arc::new((running, held))));
    Ok(response)
}

fn identify<B>(front: &Front, request: &Request<B>) -> Result<(Caller, Running), Fault> {
    let no_peer = || Fault::new(Reason::UnknownCaller, "this connection has no verified peer");
    let peer = request.extensions().get::<Peer>().ok_or_else(no_peer)?;
    let mut given = request.headers().get_all(AUTHORIZATION).iter();
    let presented = Presented { peer, authorization: given.next() };
    if given.next().is_some() {
        return Err(Fault::new(Reason::UnknownCaller, "the call has more than one `authorization`"));
    }
    front.identify(&presented, request.uri().path())
}

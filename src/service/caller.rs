//! Identifies the caller of every call before its message is read.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use sha2::{Digest as _, Sha256};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::status;
use crate::{
    fault::{Fault, Reason},
    front::{Front, Running},
    identity::{Caller, Presented},
    transport::{Peer, Seat, UntilTaken},
};

/// Health checks come from those who have no identity of Wharf's: a kubelet, a load balancer. They learn whether
/// wharfd and its engines are well.
const OPEN_TO_ALL: &str = "/grpc.health.v1.Health/Check";
/// How long a health check may take to send its few bytes.
const OPEN_TO_ALL_WITHIN: Duration = Duration::from_secs(10);
/// The streams of a build that runs. It may last longer than the token that began it, and must not fail for that.
const PART_OF_A_BUILD: &str = "/wharf.v1.BuildService/Attach";

/// Answers a call by `service` once its caller is identified; the request carries the [`Caller`].
pub(super) async fn identified<S, B>(
    front: Arc<Front>,
    mut request: Request<B>,
    service: S,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    let path = request.uri().path().to_owned();
    let is_open = path == OPEN_TO_ALL;
    let begun = if is_open {
        peer(&request).and_then(|peer| front.anyone(peer, &path))
    } else {
        identify(&front, &mut request)
    };
    let running = match begun {
        Ok(running) => running,
        Err(fault) => return Ok(status::refuse(&fault)),
    };
    let answering = service.oneshot(request);
    let mut response = if is_open {
        match tokio::time::timeout(OPEN_TO_ALL_WITHIN, answering).await {
            Ok(response) => response?,
            Err(_) => {
                let text = "the request did not arrive in time";
                return Ok(status::refuse(&Fault::new(Reason::Cancelled, text)));
            }
        }
    } else {
        answering.await?
    };
    // The call counts as running until its answer ends.
    let held = response.extensions_mut().remove::<UntilTaken>();
    response.extensions_mut().insert(UntilTaken(Arc::new((running, held))));
    Ok(response)
}

/// A build may wait for its turn, and is then authorized again.
const BUILD: &str = "/wharf.v1.BuildService/Build";

/// The last token of a connection: its hash, and the caller that it proved.
struct Proof {
    authorization: [u8; 32],
    caller: Caller,
}

fn peer<B>(request: &Request<B>) -> Result<&Peer, Fault> {
    let no_peer = || Fault::new(Reason::UnknownCaller, "this connection has no verified peer");
    request.extensions().get::<Peer>().ok_or_else(no_peer)
}

/// Finds out who calls, and leaves the answer in the request.
fn identify<B>(front: &Front, request: &mut Request<B>) -> Result<Running, Fault> {
    let path = request.uri().path().to_owned();
    let mut given = request.headers().get_all(AUTHORIZATION).iter();
    let presented =
        Presented { peer: peer(request)?, authorization: given.next(), is_alone: given.next().is_none() };
    let seat = request.extensions().get::<Seat>().cloned();
    let token = presented.authorization.map(|value: &HeaderValue| Sha256::digest(value.as_bytes()).into());
    let kept = seat.as_ref().filter(|_| path == PART_OF_A_BUILD && presented.is_alone).and_then(Seat::kept);
    let kept = kept.as_ref().and_then(|kept| kept.downcast_ref::<Proof>());
    let caller = match kept.filter(|proof| Some(proof.authorization) == token) {
        Some(proof) => proof.caller.clone(),
        None => front.identify(&presented, &path)?,
    };
    let running = front.begin_call(&caller, &path)?;
    if let Some(seat) = &seat {
        if !seat.prove(caller.id()) {
            return Err(front.too_many_connections(&caller, &path));
        }
        if let Some(authorization) = token {
            seat.keep(Arc::new(Proof { authorization, caller: caller.clone() }));
        }
    }
    let to_keep = (path == BUILD).then(|| presented.kept()).flatten();
    // No other handler needs the proof itself.
    request.headers_mut().remove(AUTHORIZATION);
    request.extensions_mut().insert(caller);
    if let Some(kept) = to_keep {
        request.extensions_mut().insert(kept);
    }
    Ok(running)
}

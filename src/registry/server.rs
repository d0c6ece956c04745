//! One server of a registry: how wharfd connects to it, who sees a login, and where it may send wharfd.
//!
//! A login goes to the server itself, over TLS or, if the engine accepts that, without TLS. It also goes to
//! the token server that the server names, over verified TLS or by the same rule. A redirect to another
//! server carries no login, and no redirect leads further inwards than the registry itself is.

mod authorize;
mod place;
mod send;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};

use super::{
    again::Tries,
    answer::{Answer, Body, Moving, empty, exchange},
    certs::{Certs, Verify},
    challenge::Challenge,
    connect::{self, Inwards, Io},
    error::{Error, Kind},
    lookups::Resolver,
    reach::{Endpoint, Origin, Reach},
};
use crate::{
    names::{Login, printable},
    policy,
};
pub(super) use {place::Place, send::At};

/// The engine follows as many, and no registry needs more.
const REDIRECTS_MAX: usize = 5;
/// A server that takes longer to fail is not asked again: somebody waits.
const AT_ONCE: Duration = Duration::from_secs(5);
pub(super) const USER_AGENT: &str = concat!("wharfd/", env!("CARGO_PKG_VERSION"));

/// The access to a repository, in the words of token servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// A server, and everything learnt about it.
#[derive(Clone)]
pub(super) struct Server {
    certs: Arc<Certs>,
    names: Resolver,
    reach: Reach,
    endpoint: Endpoint,
    /// The repository's path.
    path: String,
    access: Access,
    login: Option<Login>,
    reached: Option<Reached>,
}

/// How the server was reached.
#[derive(Clone, Debug)]
struct Reached {
    origin: Origin,
    insecure: bool,
    inwards: Inwards,
    /// The addresses of its name at that time; empty behind a proxy.
    addresses: Vec<IpAddr>,
    authorization: Option<HeaderValue>,
    /// The challenge that the authorization answers, and when the authorization was given.
    challenge: Option<(Challenge, Instant)>,
}

impl Server {
    pub(super) fn new(
        certs: Arc<Certs>,
        names: Resolver,
        reach: Reach,
        endpoint: Endpoint,
        path: &str,
        access: Access,
        login: Option<Login>,
    ) -> Self {
        Self { certs, names, reach, endpoint, path: path.to_owned(), access, login, reached: None }
    }

    /// Gets a manifest or a blob: `manifests/latest`. Asks again if the server fails at once, as behind a load balancer
    /// that has just lost one of its servers.
    pub(super) async fn get(&mut self, what: &str, accept: Option<&'static str>) -> Result<Answer, Error> {
        let mut tries = Tries::default();
        loop {
            let begun = Instant::now();
            let got = self.get_once(what, accept).await;
            let failed = got.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable);
            if !failed || begun.elapsed() > AT_ONCE || !tries.again().await {
                return got;
            }
        }
    }

    async fn get_once(&mut self, what: &str, accept: Option<&'static str>) -> Result<Answer, Error> {
        let accept = accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept)));
        self.fetch(what, accept).await?.ok().await
    }

    /// The rest of a blob, from byte `start` on. Any answer: not every server knows ranges.
    pub(super) async fn get_from(&mut self, what: &str, start: u64) -> Result<Answer, Error> {
        let range = HeaderValue::from_str(&format!("bytes={start}-"));
        let range = range.map_err(|_| Error::bad_address(what))?;
        self.fetch(what, Some((header::RANGE, range))).await
    }

    async fn fetch(
        &mut self,
        what: &str,
        header: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Answer, Error> {
        let path = format!("{}/v2/{}/{what}", self.endpoint.prefix, self.path);
        let headers = HeaderMap::from_iter(header);
        let (reached, answer) = self.ask(&Method::GET, &path, &headers).await?;
        self.redirected(&reached, answer, &Method::GET, &path, &headers).await
    }

    async fn reached(&mut self) -> Result<Reached, Error> {
        match &self.reached {
            Some(reached) => Ok(reached.clone()),
            None => {
                let (reached, _) = self.open().await?;
                Ok(self.reached.insert(reached).clone())
            }
        }
    }

    /// Sends a request without a body; after a 401 it authorizes and sends it again.
    async fn ask(
        &mut self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(Reached, Answer), Error> {
        let (mut reached, link) = match self.reached.take() {
            Some(reached) => (reached, None),
            None => {
                let (reached, link) = self.open().await?;
                (reached, Some(link))
            }
        };
        self.reached = Some(reached.clone());
        let asked =
            |reached: &Reached| request(method, path, headers, reached.authorization.as_ref(), empty());
        let mut answer = self.call(&reached, link, asked(&reached)?, None).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && self.authorize_for(&mut reached, &answer.headers).await?
        {
            answer = self.call(&reached, None, asked(&reached)?, None).await?;
        }
        Ok((reached, answer))
    }

    /// Connects over TLS, or without TLS if the engine accepts that.
    async fn open(&self) -> Result<(Reached, Box<dyn Io>), Error> {
        let origin = self.endpoint.origin.clone();
        let proxied = self.reach.proxies.for_origin(&origin).is_some();
        let mut addresses = match self.names.lookup(&origin.host).await {
            Ok(addresses) => addresses,
            // The proxy may be able to resolve the name.
            Err(_) if proxied => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        // The operator has chosen the mirrors.
        if let Some(odd) = addresses.first().copied().filter(|_| !self.endpoint.is_mirror) {
            addresses.retain(|address| !policy::is_no_server(*address));
            if addresses.is_empty() {
                return Err(Error::new(Kind::Misled, format!("no registry may have its address, {odd}")));
            }
        }
        let insecure = self.reach.is_insecure(&self.endpoint.name, &addresses);
        let reached = |origin, address: Option<IpAddr>| {
            // Behind a proxy, a server is not on the node's network.
            let inwards = address.map_or(Inwards::Public, Inwards::of);
            // Keep only addresses that lead no further inwards than the one that answered.
            let no_further = |other: &IpAddr| address == Some(*other) || inwards.admits(*other);
            let addresses = addresses.iter().copied().filter(no_further).collect();
            Reached { origin, insecure, inwards, addresses, authorization: None, challenge: None }
        };
        match self.connect(&origin, &addresses, self.verify(insecure), true).await {
            Ok((link, address)) => Ok((reached(origin, address), link)),
            Err(error) if insecure && origin.secure && error.kind() == Kind::Unreachable => {
                let plain = origin.plain();
                match self.connect(&plain, &addresses, Verify::No, false).await {
                    Ok((link, address)) => Ok((reached(plain, address), link)),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn verify(&self, insecure: bool) -> Verify {
        if insecure { Verify::No } else { Verify::Yes }
    }

    /// Connects; returns the address as well, unless a proxy connects.
    async fn connect(
        &self,
        origin: &Origin,
        addresses: &[IpAddr],
        verify: Verify,
        with_key: bool,
    ) -> Result<(Box<dyn Io>, Option<IpAddr>), Error> {
        let (stream, address): (Box<dyn Io>, _) = match self.reach.proxies.for_origin(origin) {
            Some(proxy) => {
                // The proxy is not a registry: none of the engine's certificates for registries apply.
                let roots = self.certs.config("", Verify::Yes, false)?;
                (connect::through(&self.names, proxy, origin, roots).await?, None)
            }
            None => {
                let (stream, address) = connect::tcp(addresses, origin.port).await?;
                (Box::new(stream), Some(address))
            }
        };
        if !origin.secure {
            return Ok((stream, address));
        }
        let config = self.certs.config(&self.endpoint.name, verify, with_key)?;
        let speaking = connect::tls(stream, &origin.host, config).await;
        Ok((speaking.map_err(connect::of_registry)?, address))
    }

    /// Sends a request to the server itself.
    async fn call(
        &self,
        reached: &Reached,
        link: Option<Box<dyn Io>>,
        request: Request<Body>,
        moving: Option<&Moving>,
    ) -> Result<Answer, Error> {
        let link = match link {
            Some(link) => link,
            None => {
                let verify = self.verify(reached.insecure);
                self.connect(&reached.origin, &reached.addresses, verify, true).await?.0
            }
        };
        self.exchange(link, &reached.origin, request, moving).await
    }

    async fn addresses(&self, origin: &Origin) -> Result<Vec<IpAddr>, Error> {
        match self.reach.proxies.for_origin(origin) {
            Some(_) => Ok(Vec::new()),
            None => Ok(self.names.lookup(&origin.host).await?),
        }
    }

    /// Sends a request whose URI is a path.
    async fn exchange(
        &self,
        link: Box<dyn Io>,
        origin: &Origin,
        mut request: Request<Body>,
        moving: Option<&Moving>,
    ) -> Result<Answer, Error> {
        let host =
            HeaderValue::from_str(&origin.authority()).map_err(|_| Error::bad_address(&origin.host))?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(proxy) = self.reach.proxies.for_origin(origin).filter(|_| !origin.secure) {
            let whole = format!("http://{}{}", origin.authority(), request.uri());
            *request.uri_mut() = whole.parse().map_err(|_| Error::bad_address(&origin.host))?;
            if let Some(authorization) = &proxy.authorization {
                request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        exchange(link, request, moving, self.login.as_ref()).await
    }

    /// Whether the engine would accept this server without a valid certificate: it is the registry's own
    /// host, or is itself configured as insecure.
    fn is_insecure_hop(&self, reached: &Reached, origin: &Origin) -> bool {
        let literal: Vec<IpAddr> = origin.host.parse().into_iter().collect();
        reached.insecure
            && (origin.host == reached.origin.host || self.reach.is_insecure(&origin.authority(), &literal))
    }

    /// Follows redirects.
    async fn redirected(
        &self,
        reached: &Reached,
        mut answer: Answer,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, Error> {
        let mut at = Place { origin: reached.origin.clone(), path: path.to_owned() };
        let mut left = REDIRECTS_MAX;
        loop {
            let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location.filter(|_| answer.status.is_redirection()) else {
                return Ok(answer);
            };
            if left == 0 {
                return Err(Error::new(Kind::Misled, "its redirects do not end"));
            }
            left -= 1;
            let from = Reached { origin: at.origin.clone(), ..reached.clone() };
            at = Place::to(&from, &at.path, location)?;
            self.check_tls(reached, &at.origin)?;
            let authorization = reached.authorization.as_ref().filter(|_| at.origin == reached.origin);
            let request = request(method, &at.path, headers, authorization, empty())?;
            answer = if at.origin == reached.origin {
                self.call(reached, None, request, None).await?
            } else {
                self.hop(reached, &at.origin, request, None).await?
            };
        }
    }

    fn check_tls(&self, reached: &Reached, origin: &Origin) -> Result<(), Error> {
        if origin.secure || self.is_insecure_hop(reached, origin) {
            return Ok(());
        }
        Err(Error::new(Kind::Misled, "it sends wharfd to a server without TLS"))
    }

    /// Sends a request to a server that the registry names, unless that server is further inwards than the
    /// registry.
    async fn hop(
        &self,
        reached: &Reached,
        origin: &Origin,
        request: Request<Body>,
        moving: Option<&Moving>,
    ) -> Result<Answer, Error> {
        let own = origin.host == reached.origin.host;
        let mut addresses = self.addresses(origin).await?;
        // The registry's own host is checked like any other, since its name may have more addresses than the
        // one that answered, or other ones by now. Behind a proxy, the registry's own address is not checked.
        let literal: Vec<IpAddr> = origin.host.parse().into_iter().filter(|_| !own).collect();
        let judged = if addresses.is_empty() { &literal } else { &addresses };
        let far = judged.iter().find(|address| !reached.inwards.admits(**address)).copied();
        addresses.retain(|address| reached.inwards.admits(*address));
        if let Some(far) = far.filter(|_| addresses.is_empty()) {
            return Err(Error::refused_address(&origin.host, far));
        }
        let verify = self.verify(self.is_insecure_hop(reached, origin));
        // The engine's certificates in `certs.d` are for a host with its port.
        let with_key = own && origin.port == reached.origin.port;
        let (link, _) = self.connect(origin, &addresses, verify, with_key).await.map_err(|error| {
            let text =
                format!("{}, to which it sends wharfd: {}", printable(&origin.authority()), error.text());
            Error::new(error.kind(), text).caused_by(error)
        })?;
        self.exchange(link, origin, request, moving).await
    }
}

fn request(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    authorization: Option<&HeaderValue>,
    body: Body,
) -> Result<Request<Body>, Error> {
    let mut request =
        Request::builder().method(method).uri(path).body(body).map_err(|_| Error::bad_address(path))?;
    request.headers_mut().extend(headers.clone());
    if let Some(authorization) = authorization {
        request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
    }
    Ok(request)
}

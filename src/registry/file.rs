//! Files by URL, for `ADD`: wharfd asks their servers itself, and the engine's builder never does.
//!
//! A job chooses the URL, and the server that it chose may send wharfd anywhere. So policy permits each URL on the way
//! and each address of its host, and wharfd connects to one of these addresses and to nothing else. Nobody's login is
//! sent: only what the URL itself has, to the URL's own server.

mod body;
mod place;

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use super::{
    answer::{Answer, Body, empty, exchange},
    certs::{Certs, Verify},
    client::Client,
    connect::{self, Io},
    error::{Error, Kind},
    lookups::Resolver,
    reach::Reach,
    server::USER_AGENT,
};
use crate::{
    fault::{Fault, Reason},
    names::{Namespace, printable, printable_url},
    policy::{Fetch, Permit},
};
use body::Content;
use place::Place;

/// How many servers are asked for a file, one after the other: as many as Go's client asks.
const REQUESTS_MAX: usize = 10;
/// Longer validators are not kept. Real ones have less than half of it.
const VALIDATOR_BYTES_MAX: usize = 256;

/// The client for the files of one namespace's builds.
#[derive(Clone)]
pub struct Files {
    certs: Arc<Certs>,
    names: Resolver,
    reach: Reach,
    namespace: Permit<Namespace>,
}

/// By what a server tells whether a file has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    etag: Option<HeaderValue>,
    modified: Option<HeaderValue>,
}

/// A server's answer.
#[derive(Debug)]
pub enum Got {
    /// It has the file that these validators are of.
    Unchanged,
    /// Another file, or one that was not asked for before.
    File(Box<File>),
}

/// The reason why there is no file.
#[derive(Debug)]
pub enum NotGot {
    /// A rule does not allow the URL, or one to which its server sends wharfd.
    Denied(Fault),
    /// It cannot be fetched.
    Error(Error),
}

/// A file whose content has not been read.
pub struct File {
    content: Content,
    validators: Validators,
}

impl From<Error> for NotGot {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Client {
    /// The client for the files of the namespace's builds, on an engine with this reach.
    pub fn files(&self, reach: Reach, namespace: &Permit<Namespace>) -> Files {
        let names = self.lookups.of(namespace.caller());
        Files { certs: Arc::clone(&self.certs), names, reach, namespace: namespace.clone() }
    }
}

impl Files {
    /// Asks for the file at `url`, unless it is still the one that `before` is of.
    pub async fn get(&self, url: &str, before: Option<&Validators>) -> Result<Got, NotGot> {
        // Whether its host may be asked at all comes first: nothing else is said of a URL that is denied.
        self.namespace.fetch_from(url).map_err(NotGot::Denied)?;
        let mut place = Place::read(url).ok_or_else(|| NotGot::Denied(no_url(url)))?;
        let mut redirected = false;
        for _ in 0..REQUESTS_MAX {
            let asked = self.ask(url, &place, redirected, before).await;
            let answer = asked.map_err(|not| if redirected { not.of_redirect(url, &place) } else { not })?;
            let Some(location) = answer.headers.get(header::LOCATION).filter(|_| is_redirect(answer.status))
            else {
                return self.read(answer, before).map_err(|error| match redirected {
                    true => NotGot::Error(error).of_redirect(url, &place),
                    false => error.into(),
                });
            };
            place = place.to(location.as_bytes()).ok_or_else(|| {
                Error::new(Kind::Misled, "it redirects to an address that is not the URL of a server")
            })?;
            redirected = true;
        }
        Err(Error::new(Kind::Misled, format!("it redirects {REQUESTS_MAX} times and more")).into())
    }

    async fn ask(
        &self,
        url: &str,
        place: &Place,
        redirected: bool,
        before: Option<&Validators>,
    ) -> Result<Answer, NotGot> {
        // No pattern looks at a query, which may have a secret of the server's.
        let named = if redirected { place.bare() } else { url.to_owned() };
        let permit = self.namespace.fetch_from(&named).map_err(NotGot::Denied)?;
        let addresses = self.names.lookup(&place.origin.host).await.map_err(Error::from)?;
        let permit = permit.at(&addresses).map_err(NotGot::Denied)?;
        let link = self.connect(place, &permit).await?;
        Ok(exchange(link, self.request(place, before)?, None, None).await?)
    }

    /// Connects to the place's server, at the addresses that are permitted.
    async fn connect(&self, place: &Place, permit: &Permit<Fetch>) -> Result<Box<dyn Io>, Error> {
        let origin = &place.origin;
        // None of the engine's certificates for registries apply.
        let roots = || self.certs.config("", Verify::Yes, false);
        let stream: Box<dyn Io> = match self.reach.proxies.for_origin(origin) {
            Some(proxy) => connect::through(&self.names, proxy, origin, roots()?).await?,
            None => Box::new(connect::tcp(permit.subject().addresses(), origin.port).await?.0),
        };
        if !origin.secure {
            return Ok(stream);
        }
        connect::tls(stream, &origin.host, roots()?).await
    }

    fn request(&self, place: &Place, before: Option<&Validators>) -> Result<Request<Body>, Error> {
        let origin = &place.origin;
        let bad = || Error::bad_address(&origin.host);
        let proxy = self.reach.proxies.for_origin(origin).filter(|_| !origin.secure);
        let target = match proxy {
            Some(_) => format!("http://{}{}", origin.authority(), place.path),
            None => place.path.clone(),
        };
        let mut request = Request::get(target).body(empty()).map_err(|_| bad())?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&origin.authority()).map_err(|_| bad())?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut set = |name: HeaderName, value: Option<HeaderValue>| {
            value.and_then(|value| headers.insert(name, value));
        };
        set(header::AUTHORIZATION, place.authorization());
        set(header::PROXY_AUTHORIZATION, proxy.and_then(|proxy| proxy.authorization.clone()));
        if let Some(Validators { etag, modified }) = before {
            set(header::IF_NONE_MATCH, etag.clone());
            // Of both, the first counts (RFC 9110, 13.2.2).
            set(header::IF_MODIFIED_SINCE, modified.clone().filter(|_| etag.is_none()));
        }
        Ok(request)
    }

    fn read(&self, answer: Answer, before: Option<&Validators>) -> Result<Got, Error> {
        let status = answer.status;
        let validators = Validators::of(&answer.headers);
        let known = before.is_some_and(|before| {
            status == StatusCode::NOT_MODIFIED
                // Not every server that gives tags also compares them.
                || (status.is_success() && before.tag().is_some() && before.tag() == validators.tag())
        });
        if known {
            return Ok(Got::Unchanged);
        }
        if status.is_success() {
            return Ok(Got::File(Box::new(File { content: Content::of(answer), validators })));
        }
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => Kind::Busy,
            status if status.is_server_error() => Kind::Unavailable,
            _ => Kind::Other,
        };
        let reason = status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
        Err(Error::new(kind, format!("it answers {}{reason}", status.as_u16())))
    }
}

/// The statuses after which Go's client asks another server.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The fault of a text that is not a URL which a file may have.
fn no_url(url: &str) -> Fault {
    let text = format!("`ADD {}` is not allowed: it is not a URL with a host", printable_url(url));
    Fault::new(Reason::SourceDenied, text).hint("copy the file into the build context instead")
}

impl NotGot {
    /// With the place to which the server of `url` has sent wharfd.
    fn of_redirect(self, url: &str, place: &Place) -> Self {
        match self {
            Self::Denied(fault) => {
                let text = format!("`ADD {}` is redirected: {}", printable_url(url), fault.text());
                Self::Denied(fault.reworded(text))
            }
            Self::Error(error) => {
                let host = printable(&place.origin.authority());
                let text = format!("it redirects to {host}: {}", error.text());
                Self::Error(Error::new(error.kind(), text).caused_by(error))
            }
        }
    }
}

impl Validators {
    fn of(headers: &HeaderMap) -> Self {
        let of = |name: HeaderName| {
            headers.get(name).filter(|value| !value.is_empty() && value.len() <= VALIDATOR_BYTES_MAX).cloned()
        };
        Self { etag: of(header::ETAG), modified: of(header::LAST_MODIFIED) }
    }

    /// The tag without the mark of a weak one, as BuildKit compares it.
    fn tag(&self) -> Option<&[u8]> {
        let tag = self.etag.as_ref()?.as_bytes();
        Some(tag.strip_prefix(b"W/").unwrap_or(tag))
    }

    /// Whether the server can tell by them that the file is still the same.
    pub fn are_some(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }

    /// When the file was modified, as far as the server says so.
    pub fn modified(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.modified.as_ref()?.to_str().ok()?).ok()
    }
}

impl File {
    /// The validators of the file.
    pub fn validators(&self) -> &Validators {
        &self.validators
    }

    /// The next piece of its content; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.content.next().await
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("validators", &self.validators).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

#[cfg(test)]
mod tests;

//! The reasons why a request to a registry fails.

use std::{fmt, io, net::IpAddr};

use http::StatusCode;

use super::lookups::LookupError;
use crate::{
    engine::docker::fault,
    fault::{Fault, Reason},
    names::{Reference, Secret, printable, shortened},
};

/// How much of the registry's own message is shown.
const SAYS_BYTES_MAX: usize = 200;

/// The kind of a failure, as far as callers treat it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing answered: no address, no connection, or no TLS.
    Unreachable,
    /// The registry answers, but cannot serve now: 5xx, or a connection that breaks or is too slow.
    Unavailable,
    /// The registry serves others, but limits this client's requests: 429.
    Busy,
    /// The login is missing or wrong: 401.
    Unauthorized,
    /// Access is forbidden, for this login or for everyone: 403.
    Denied,
    /// 404.
    NotFound,
    /// The answer is not something that an image can be made of.
    Unsupported,
    /// A layer does not match the image's config.
    Forged,
    /// The registry sends wharfd to a place where wharfd does not go.
    Misled,
    /// Anything else.
    Other,
}

/// A failed request to a registry.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    /// A clause: "it answers 503".
    text: String,
    says: Option<String>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl From<LookupError> for Error {
    fn from(error: LookupError) -> Self {
        Self::new(Kind::Unreachable, error.to_string()).caused_by(error)
    }
}

impl Error {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), says: None, cause: None }
    }

    #[must_use]
    pub(super) fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same error with another kind.
    #[must_use]
    pub(super) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub(super) fn bad_address(host: &str) -> Self {
        Self::new(Kind::Other, format!("`{}` is not the address of a server", printable(host)))
    }

    pub(super) fn stalled() -> Self {
        Self::new(Kind::Unavailable, "it does not answer in time")
    }

    pub(super) fn broken(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Kind::Unavailable, "it closed the connection").caused_by(cause)
    }

    pub(super) fn too_large(what: &str, max: usize) -> Self {
        Self::new(Kind::Unsupported, format!("{what} is larger than {} MiB", max >> 20))
    }

    pub(super) fn wrong_digest(what: &str) -> Self {
        Self::new(Kind::Unavailable, format!("the bytes of its {what} do not match the digest"))
    }

    pub(super) fn refused_address(host: &str, address: IpAddr) -> Self {
        let text = format!("it sends wharfd to {} ({address}), on the node's own network", printable(host));
        Self::new(Kind::Misled, text)
    }

    /// The error for a connection that could not be made.
    pub(super) fn unreachable(cause: io::Error) -> Self {
        let text = match cause.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused",
            io::ErrorKind::NetworkUnreachable => "the network is unreachable",
            io::ErrorKind::HostUnreachable => "no route to host",
            io::ErrorKind::TimedOut => "it does not answer in time",
            _ => "cannot connect to it",
        };
        Self::new(Kind::Unreachable, text).caused_by(cause)
    }

    /// The error for a status, with the registry's own message, unless that repeats a secret of the request.
    pub(super) fn of_status(status: StatusCode, body: &[u8], secrets: &[Secret<String>]) -> Self {
        let (kind, text) = match status {
            StatusCode::UNAUTHORIZED => (Kind::Unauthorized, "it requires credentials".to_owned()),
            StatusCode::FORBIDDEN => (Kind::Denied, "it refuses".to_owned()),
            StatusCode::NOT_FOUND => (Kind::NotFound, "it has no such image".to_owned()),
            StatusCode::TOO_MANY_REQUESTS => {
                (Kind::Busy, "it serves no more requests for now (429)".to_owned())
            }
            _ if status.is_server_error() => {
                (Kind::Unavailable, format!("it answers with an error ({})", status.as_u16()))
            }
            _ => (Kind::Other, format!("it answers {}", status.as_u16())),
        };
        let (code, says) = said(body, secrets);
        // Some registries send these codes with 401 or 400.
        let kind = match (kind, code.as_deref()) {
            (_, Some("TOOMANYREQUESTS")) => Kind::Busy,
            (Kind::Other, Some("MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN")) => Kind::NotFound,
            (Kind::Other, Some("DENIED")) => Kind::Denied,
            (kind, _) => kind,
        };
        Self { kind, text, says, cause: None }
    }

    /// The kind of the failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The failure as a clause: "connection refused".
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The fault of a failed request for `reference`.
    pub fn fault(self, reference: &Reference, logged_in: bool) -> Fault {
        let host = reference.host();
        let name = fault::in_registry(reference);
        let says = self.says.as_ref().map(|says| format!("; the registry says: {says}")).unwrap_or_default();
        let text = &self.text;
        let fault = match self.kind {
            Kind::Unreachable => {
                let text = format!("the registry {host} is not available for {name}: {text}");
                Fault::new(Reason::RegistryUnavailable, text).hint(
                    "wharfd, not the engine, contacts registries: if other machines reach this one, ask the \
                     node's operator (docs/operating.md, \"Registries\")",
                )
            }
            Kind::Unavailable | Kind::Busy => {
                let text = format!("the registry {host} is not available for {name}: {text}{says}");
                Fault::new(Reason::RegistryUnavailable, text)
            }
            Kind::Unauthorized if logged_in => {
                let text = format!("the registry {host} refused your credentials for {name}{says}");
                Fault::new(Reason::RegistryDenied, text).log_in(host)
            }
            Kind::Unauthorized => {
                let text = format!("the registry {host} does not serve {name} without credentials{says}");
                Fault::new(Reason::RegistryDenied, text).log_in(host)
            }
            Kind::Denied => {
                let text = format!("the registry {host} refuses {name}{says}");
                let fault = Fault::new(Reason::RegistryDenied, text);
                if logged_in { fault } else { fault.log_in(host) }
            }
            Kind::NotFound => return fault::not_found(reference).caused_by(self),
            Kind::Forged => return fault::forged(reference).caused_by(self),
            Kind::Unsupported => {
                let text = format!("the registry {host} returned no usable image for {name}: {text}");
                Fault::new(Reason::ImageUnsupported, text)
            }
            Kind::Misled => {
                let text = format!("the registry {host} is not asked for {name}: {text}");
                Fault::new(Reason::RegistryDenied, text)
            }
            Kind::Other => {
                let text = format!("the registry {host} does not serve {name}: {text}{says}");
                Fault::new(Reason::RegistryDenied, text)
            }
        };
        let fault = match fault.reason() {
            Reason::RegistryDenied | Reason::RegistryUnavailable => fault::hub_named(reference, fault),
            _ => fault,
        };
        fault.caused_by(self)
    }
}

impl Error {
    /// The fault of a failed push to `target`.
    pub fn push_fault(self, target: &Reference, logged_in: bool) -> Fault {
        let (host, name) = (target.host(), fault::in_registry(target));
        let says = self.says.as_ref().map(|says| format!("; the registry says: {says}")).unwrap_or_default();
        match self.kind {
            Kind::NotFound => {
                let text = format!("the registry {host} has no repository for {name}{says}");
                Fault::new(Reason::BaseImageNotFound, text).caused_by(self)
            }
            Kind::Unsupported | Kind::Other => {
                let text = format!("the registry {host} does not accept {name}: {}{says}", self.text);
                Fault::new(Reason::RegistryDenied, text).caused_by(self)
            }
            _ => self.fault(target, logged_in),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.says.as_ref().map_or(Ok(()), |says| write!(f, " ({says})"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause.as_ref() as &(dyn std::error::Error + 'static))
    }
}

/// The first error in a body, in the form of the distribution specification: its code, and its message on one
/// line, without markup and URLs.
fn said(body: &[u8], secrets: &[Secret<String>]) -> (Option<String>, Option<String>) {
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else { return (None, None) };
    let first = document.pointer("/errors/0");
    let of = |name: &str| Some(first?.get(name)?.as_str()?.to_owned());
    // Token servers send neither a list nor a code.
    let message = of("message").or_else(|| {
        let text = document.get("details").or_else(|| document.get("error_description"))?;
        Some(text.as_str()?.to_owned())
    });
    let repeats = |message: &String| secrets.iter().any(|secret| message.contains(secret.expose().as_str()));
    let sentence = message.filter(|message| !repeats(message)).and_then(|message| {
        let words = message.split_whitespace().filter(|word| !word.contains("://"));
        let sentence = words.collect::<Vec<_>>().join(" ");
        let plain = !sentence.is_empty() && !sentence.contains(['<', '>']);
        plain.then(|| shortened(printable(&sentence), SAYS_BYTES_MAX))
    });
    (of("code"), sentence)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn fault(status: u16, body: &str, logged_in: bool) -> Fault {
        let reference = Reference::parse("reg.example/denied/app:1").unwrap();
        Error::of_status(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &[])
            .fault(&reference, logged_in)
    }

    #[test]
    fn what_a_registry_answers_is_told_apart_by_status_and_code() {
        let errors = |code: &str, message: &str| {
            serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string()
        };
        for (status, body, reason) in [
            (401, String::new(), Reason::RegistryDenied),
            (403, errors("DENIED", "blocked by policy"), Reason::RegistryDenied),
            (404, errors("MANIFEST_UNKNOWN", "manifest unknown"), Reason::BaseImageNotFound),
            (400, errors("NAME_UNKNOWN", "x"), Reason::BaseImageNotFound),
            (429, errors("TOOMANYREQUESTS", "pull rate limit"), Reason::RegistryUnavailable),
            (403, errors("TOOMANYREQUESTS", "pull rate limit"), Reason::RegistryUnavailable),
            (500, "<html>".to_owned(), Reason::RegistryUnavailable),
            (503, String::new(), Reason::RegistryUnavailable),
            (418, String::new(), Reason::RegistryDenied),
        ] {
            assert_eq!(fault(status, &body, true).reason(), reason, "{status} {body}");
        }
        assert_eq!(fault(401, "", false).login(), Some("reg.example"));
        assert_eq!(fault(403, "", true).login(), None);
    }

    #[test]
    fn the_registrys_own_sentence_is_one_printable_line() {
        let long = "a".repeat(500);
        for (message, told) in [
            ("pull rate\nlimit,\tsee https://evil.example/x now", Some("pull rate limit, see now")),
            ("\u{1b}[2Jx", Some("\\u{1b}[2Jx")),
            ("<b>bold</b>", None),
            ("", None),
            (long.as_str(), Some("aaaa")),
        ] {
            let body = serde_json::json!({"errors": [{"code": "X", "message": message}]}).to_string();
            let text = fault(429, &body, false).text().to_owned();
            match told {
                Some(told) => assert!(text.contains(&format!("the registry says: {told}")), "{text}"),
                None => assert!(!text.contains("the registry says"), "{text}"),
            }
            assert!(text.len() < 400 && !text.contains('\n'), "{text}");
        }
    }
}

//! Faults for the engine's errors. The engine's own texts name private images and go only to the log.

use bollard::errors::Error;

use crate::{
    engine::Platform,
    fault::{Fault, Reason},
    names::Reference,
};

/// The kinds of failures that callers distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 404.
    NotFound,
    /// 409: the image is in use.
    Conflict,
    /// The engine cannot be reached, or ended during the call.
    Unavailable,
    /// Anything else.
    Other,
}

pub(crate) fn kind(error: &Error) -> Kind {
    if let Error::DockerResponseServerError { status_code, .. } = error {
        return match status_code {
            404 => Kind::NotFound,
            409 => Kind::Conflict,
            _ => Kind::Other,
        };
    }
    let gone = matches!(
        error,
        Error::RequestTimeoutError
            | Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::SocketNotFoundError(_)
    );
    if gone { Kind::Unavailable } else { Kind::Other }
}

/// The cause when an engine does not answer the first questions; bollard's texts speak of its own client.
pub(crate) fn no_answer(error: Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::HyperResponseError { .. } => {
            "the server there is not a Docker Engine".into()
        }
        Error::HyperLegacyError { err } => err.into(),
        other => other.into(),
    }
}

/// The fault of a call that should have succeeded; `doing` completes "the engine failed to …".
pub(crate) fn unexpected(doing: &str, error: Error) -> Fault {
    match kind(&error) {
        Kind::Unavailable => {
            Fault::new(Reason::EngineUnavailable, format!("the engine does not answer: it failed to {doing}"))
                .hint("it may be restarting; try again")
                .caused_by(error)
        }
        Kind::NotFound | Kind::Conflict | Kind::Other => {
            Fault::new(Reason::EngineFailed, format!("the engine failed to {doing}; wharfd's log says why"))
                .caused_by(error)
        }
    }
}

/// Words by which a registry's error is recognised in the engine's answer. They take precedence over the
/// status: engines answer most of them with 500, or with 200 and a line of text.
const REFUSED: [&str; 5] = [
    "no basic auth credentials",
    "unauthorized",
    "authentication required",
    "authorization failed",
    "denied",
];
const ABSENT: [&str; 5] =
    ["manifest unknown", "name unknown", "not found: manifest", "repository name not known", ": not found"];
const OTHER_PLATFORM: [&str; 3] =
    ["no matching manifest", "no match for platform", "does not match the specified platform"];
const FORGED: [&str; 5] = [
    "layers from manifest don't match image configuration",
    "number of layers and diffids don't match",
    "wrong diff id",
    "mismatched image rootfs",
    "filesystem layer verification failed",
];
const DISK_FULL: [&str; 1] = ["no space left on device"];
/// Causes for which a registry did not answer, with the words to show.
const CAUSES: [(&str, &str); 16] = [
    ("connection refused", "connection refused"),
    ("no such host", "its name does not resolve"),
    ("network is unreachable", "the network is unreachable"),
    ("no route to host", "no route to host"),
    ("certificate", "its certificate is not trusted"),
    (
        "http response to https client",
        "it does not speak HTTPS and is not among the engine's insecure registries",
    ),
    ("timeout", "it does not answer in time"),
    ("deadline exceeded", "it does not answer in time"),
    ("server misbehaving", "its name does not resolve"),
    ("connection reset", "it closed the connection"),
    ("eof", "it closed the connection"),
    ("unexpected http status: 5", "it answers with an error of its own (5xx)"),
    // containerd: `unexpected status from HEAD request to URL: 503 Service Unavailable`.
    (": 500 internal server error", "it answers with an error of its own (500)"),
    (": 502 bad gateway", "it answers with an error of its own (502)"),
    (": 503 service unavailable", "it answers with an error of its own (503)"),
    (": 504 gateway timeout", "it answers with an error of its own (504)"),
];

/// The fault when asking a registry about `reference`, pulling it or pushing it fails.
pub(crate) fn registry(reference: &Reference, platform: &Platform, logged_in: bool, error: Error) -> Fault {
    let (status, message) = if let Error::DockerResponseServerError { status_code, message } = &error {
        (*status_code, message.to_lowercase())
    } else if let Error::DockerStreamError { error } = &error {
        (200, error.to_lowercase())
    } else {
        return unexpected(&format!("ask the registry about {}", reference.familiar()), error);
    };
    // The repository's own name may contain such a word, say `denied`.
    let message = message.replace(reference.path(), "");
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let name = in_registry(reference);
    let host = reference.host();
    let fault = if says(&FORGED) {
        forged(reference)
    } else if says(&DISK_FULL) {
        Fault::new(
            Reason::EngineFailed,
            format!("cannot store {}: the engine's disk is full", reference.familiar()),
        )
    } else if says(&OTHER_PLATFORM) {
        wrong_platform(reference, platform)
    } else if matches!(status, 401 | 403) || says(&REFUSED) {
        let text = if logged_in {
            format!("the registry {host} refused your credentials for {name}")
        } else {
            format!("the registry {host} does not serve {name} without credentials")
        };
        Fault::new(Reason::RegistryDenied, text).log_in(host)
    } else if status == 404 || says(&ABSENT) {
        not_found(reference)
    } else if let Some((_, cause)) = CAUSES.iter().find(|(word, _)| message.contains(word)) {
        Fault::new(
            Reason::RegistryUnavailable,
            format!("the registry {host} is not available for {name}: {cause}"),
        )
    } else if status >= 500 {
        let text = format!("the registry {host} is not available for {name}; wharfd's log says why");
        Fault::new(Reason::RegistryUnavailable, text)
    } else {
        let text = format!("the engine failed on {name} at {host}; wharfd's log says why");
        Fault::new(Reason::EngineFailed, text)
    };
    let fault = match fault.reason() {
        Reason::RegistryDenied | Reason::RegistryUnavailable => hub_named(reference, fault),
        _ => fault,
    };
    fault.caused_by(error)
}

/// The fault when a push fails: for a push, "not found" means the repository.
pub(crate) fn push(target: &Reference, platform: &Platform, logged_in: bool, error: Error) -> Fault {
    let fault = registry(target, platform, logged_in, error);
    match fault.reason() {
        Reason::BaseImageNotFound => {
            let text =
                format!("the registry {} has no repository for {}", target.host(), in_registry(target));
            Fault::new(Reason::BaseImageNotFound, text).caused_by(fault)
        }
        _ => fault,
    }
}

/// The registry stopped making progress without breaking the connection.
pub(crate) fn stalled(reference: &Reference) -> Fault {
    let text =
        format!("the registry {} stopped in the middle of {}", reference.host(), in_registry(reference));
    Fault::new(Reason::RegistryUnavailable, text).hint("try again; if it stays so, look at the registry")
}

/// The registry has no such image.
pub(crate) fn not_found(reference: &Reference) -> Fault {
    hub_named(reference, Fault::new(Reason::BaseImageNotFound, format!("no such image: {reference}")))
}

/// The name within its registry, for a sentence that also names the registry.
pub(crate) fn in_registry(reference: &Reference) -> String {
    let familiar = reference.familiar();
    let within = familiar.strip_prefix(reference.host()).and_then(|rest| rest.strip_prefix('/'));
    within.map(str::to_owned).unwrap_or(familiar)
}

/// Adds a hint to the fault of a Docker Hub image: a name without a registry means Docker Hub.
pub(crate) fn hub_named(reference: &Reference, fault: Fault) -> Fault {
    if reference.host() != "docker.io" {
        return fault;
    }
    let hub = format!(
        "a name without a registry means Docker Hub, here {reference}; for another registry, begin with its host, \
         as in registry.example.com/{}",
        reference.familiar()
    );
    let hint = fault.hint_text().map_or_else(|| hub.clone(), |said| format!("{said}; {hub}"));
    fault.hint(hint)
}

/// The image is for other platforms.
pub(crate) fn wrong_platform(reference: &Reference, platform: &Platform) -> Fault {
    let text = format!("{} has no image for {platform}, the engine's platform", reference.familiar());
    Fault::new(Reason::BaseImageNotFound, text)
}

/// The image's index lists another index.
pub(crate) fn nested(reference: &Reference) -> Fault {
    let text = format!(
        "{} is an index within an index, whose layers the engine does not show",
        reference.familiar()
    );
    Fault::new(Reason::ImageUnsupported, text)
        .hint("use the inner index or the image itself, by its digest: `docker buildx imagetools inspect` shows both")
}

/// The image's index lists more images than there are platforms.
pub(crate) fn too_many_manifests(reference: &Reference, count: usize, max: usize) -> Fault {
    let text = format!("{} is an index of {count} images; at most {max} are supported", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint("use one of them by its digest")
}

/// The image's config lies about its layers.
pub(crate) fn forged(reference: &Reference) -> Fault {
    let text = format!("{} is refused: its config does not match its layers", reference.familiar());
    Fault::new(Reason::ImageForged, text)
        .hint("build and push the image again with the usual tools; their images have no such fault")
}

/// The image has layers of a media type that engines cannot unpack.
pub(crate) fn unknown_layers(reference: &Reference) -> Fault {
    let text = format!("{} has layers of an unknown media type", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint("use a container image whose layers are not encrypted")
}

/// Parts of the image would be fetched from servers that the image itself chooses.
pub(crate) fn elsewhere(reference: &Reference) -> Fault {
    let text = format!("{} has parts that are not in its registry (`urls`)", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint("push the image with all its layers to a registry")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(status_code: u16, message: &str) -> Reason {
        let reference = Reference::parse("127.0.0.1:5000/app:1").unwrap();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let error = match status_code {
            200 => Error::DockerStreamError { error: message.into() },
            _ => Error::DockerResponseServerError { status_code, message: message.into() },
        };
        let fault = registry(&reference, &platform, true, error);
        assert!(fault.text().contains("127.0.0.1:5000"), "{fault}");
        fault.reason()
    }

    /// The texts of engines 26.1 and 29.
    #[test]
    fn what_registries_say_is_told_apart() {
        let head = "Head \"http://127.0.0.1:5000/v2/app/manifests/1\": ";
        assert_eq!(reason(500, &format!("{head}no basic auth credentials")), Reason::RegistryDenied);
        assert_eq!(reason(401, "unauthorized: authentication required"), Reason::RegistryDenied);
        assert_eq!(
            reason(
                500,
                "failed to resolve reference \"x\": pull access denied, repository does not exist or may require \
                 authorization: authorization failed: no basic auth credentials"
            ),
            Reason::RegistryDenied
        );
        assert_eq!(reason(404, "manifest unknown: manifest unknown"), Reason::BaseImageNotFound);
        assert_eq!(reason(404, "failed to resolve reference \"x\": x: not found"), Reason::BaseImageNotFound);
        assert_eq!(
            reason(200, "no matching manifest for linux/s390x in the manifest list entries"),
            Reason::BaseImageNotFound
        );
        assert_eq!(reason(200, "layers from manifest don't match image configuration"), Reason::ImageForged);
        assert_eq!(
            reason(
                500,
                "Get \"http://127.0.0.1:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused"
            ),
            Reason::RegistryUnavailable
        );
        assert_eq!(
            reason(500, "dial tcp: lookup registry.example: no such host"),
            Reason::RegistryUnavailable
        );
        assert_eq!(
            reason(
                200,
                "unknown: unexpected status from HEAD request to http://127.0.0.1:5000/v2/app/blobs/sha256:7: 503 Service Unavailable"
            ),
            Reason::RegistryUnavailable
        );
        assert_eq!(
            reason(500, "received unexpected HTTP status: 503 Service Unavailable"),
            Reason::RegistryUnavailable
        );
        assert_eq!(reason(200, "write /x: no space left on device"), Reason::EngineFailed);
        assert_eq!(reason(200, "something new"), Reason::EngineFailed);
        assert_eq!(reason(200, "number of layers and diffIDs don't match: 2 != 1"), Reason::ImageForged);
        assert_eq!(reason(200, "unexpected EOF"), Reason::RegistryUnavailable);
    }

    #[test]
    fn an_engine_that_is_gone_is_not_the_callers_fault() {
        let gone = || Error::IOError { err: std::io::ErrorKind::ConnectionRefused.into() };
        assert_eq!(unexpected("list images", gone()).reason(), Reason::EngineUnavailable);
        let reference = Reference::parse("app").unwrap();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        assert_eq!(registry(&reference, &platform, false, gone()).reason(), Reason::EngineUnavailable);
    }
}

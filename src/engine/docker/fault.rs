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

/// The engine's own error texts about a fetched image, sent with status 500, or with 200 and an error line.
/// Registries' errors come from the relay instead.
const OTHER_PLATFORM: [&str; 3] =
    ["no matching manifest", "no match for platform", "does not match the specified platform"];
const FORGED: [&str; 5] = [
    "layers from manifest don't match image configuration",
    "number of layers and diffids don't match",
    "wrong diff id",
    "mismatched image rootfs",
    "filesystem layer verification failed",
];
/// Of a config whose fields Go cannot read, or whose history has more layers than the image.
const UNREADABLE: [&str; 5] = [
    "cannot unmarshal",
    "parsing time",
    "invalid character",
    "unexpected end of json",
    "too many non-empty layers in history",
];
/// Of the classic store's drivers; overlay2 has 128 layers at most.
const TOO_DEEP: &str = "max depth exceeded";
const DISK_FULL: &str = "no space left on device";

/// The fault when the engine itself fails to pull `reference`.
pub(crate) fn pull(reference: &Reference, platform: &Platform, error: Error) -> Fault {
    transfer(reference, platform, error, &UNREADABLE)
}

/// The fault when the engine itself fails to push `reference`.
pub(crate) fn push(reference: &Reference, platform: &Platform, error: Error) -> Fault {
    transfer(reference, platform, error, &[])
}

/// The fault of a transfer. `unreadable` are the words by which the engine says that it cannot read the image's config.
fn transfer(reference: &Reference, platform: &Platform, error: Error, unreadable: &[&str]) -> Fault {
    let (Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message }) =
        &error
    else {
        return unexpected(&format!("pull or push {}", reference.familiar()), error);
    };
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let name = reference.familiar();
    let fault = if says(&FORGED) {
        forged(reference)
    } else if says(&OTHER_PLATFORM) {
        wrong_platform(reference, platform)
    } else if says(unreadable) {
        self::unreadable(reference)
    } else if says(&[TOO_DEEP]) {
        let text = format!("{name} has more layers than the engine's storage takes");
        Fault::new(Reason::ImageUnsupported, text).hint("join its layers: copy its files to a further stage")
    } else if says(&[DISK_FULL]) {
        Fault::new(Reason::EngineFailed, format!("cannot store {name}: the engine's disk is full"))
    } else {
        Fault::new(Reason::EngineFailed, format!("the engine failed on {name}; wharfd's log says why"))
    };
    fault.caused_by(error)
}

/// The registry stopped making progress without breaking the connection.
pub(crate) fn stalled(reference: &Reference) -> Fault {
    let text =
        format!("the registry {} stopped in the middle of {}", reference.host(), in_registry(reference));
    Fault::new(Reason::RegistryUnavailable, text).hint("try again; if it persists, look at the registry")
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
        "without a registry a name means Docker Hub, here {reference}; for another one, write \
         `registry.example.com/{}`",
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

/// The image's index lists an index, and so on.
pub(crate) fn nested(reference: &Reference, max: usize) -> Fault {
    let text = format!("{} is an index within an index, more than {max} deep", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint("use the image itself, by its digest")
}

/// The registry shows something else under the name, as Helm does.
pub(crate) fn no_image(reference: &Reference) -> Fault {
    let text = format!("{} is not a container image", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint(
        "`docker buildx imagetools inspect --raw` shows the manifest that the registry has under the name",
    )
}

/// The image's config lies about its layers.
pub(crate) fn forged(reference: &Reference) -> Fault {
    let text = format!("{} is refused: its config does not match its layers", reference.familiar());
    Fault::new(Reason::ImageForged, text)
        .hint("build and push the image again with the usual tools; their images have no such fault")
}

/// The engine cannot read the image's config. With the containerd store it pulls such an image, and then does not find
/// it.
pub(crate) fn unreadable(reference: &Reference) -> Fault {
    let text = format!("the engine cannot use {}: it cannot read the image's config", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint(
        "a field of the config may have the wrong type: build and push the image again with the usual tools",
    )
}

/// The image has layers of a media type that engines cannot unpack.
pub(crate) fn unknown_layers(reference: &Reference) -> Fault {
    let text = format!("{} has layers of an unknown media type", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint("use a container image whose layers are not encrypted")
}

/// Parts of the image would be fetched from servers that the image itself chooses.
pub(crate) fn elsewhere(reference: &Reference) -> Fault {
    let text = format!("{} has parts that are not in its registry (`urls`, `data`)", reference.familiar());
    Fault::new(Reason::ImageUnsupported, text).hint("push the image with all its layers to a registry")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(message: &str) -> Reason {
        let reference = Reference::parse("127.0.0.1:5000/app:1").unwrap();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let fault = pull(&reference, &platform, Error::DockerStreamError { error: message.into() });
        assert!(fault.text().contains("127.0.0.1:5000"), "{fault}");
        fault.reason()
    }

    /// The texts of engines 26.1 and 29.
    #[test]
    fn the_engines_own_failures_are_told_apart() {
        let other = "no matching manifest for linux/s390x in the manifest list entries";
        assert_eq!(reason(other), Reason::BaseImageNotFound);
        assert_eq!(reason("layers from manifest don't match image configuration"), Reason::ImageForged);
        assert_eq!(reason("number of layers and diffIDs don't match: 2 != 1"), Reason::ImageForged);
        for unreadable in [
            "parsing time \"\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"2006\"",
            "json: cannot unmarshal number into Go struct field Config.V1Image.config.Labels of type string",
            "too many non-empty layers in History section",
        ] {
            assert_eq!(reason(unreadable), Reason::ImageUnsupported, "{unreadable}");
        }
        assert_eq!(reason("failed to register layer: max depth exceeded"), Reason::ImageUnsupported);
        assert_eq!(reason("write /x: no space left on device"), Reason::EngineFailed);
        assert_eq!(reason("dial tcp 127.0.0.1:5000: connect: connection refused"), Reason::EngineFailed);
        assert_eq!(reason("something new"), Reason::EngineFailed);
    }

    #[test]
    fn an_engine_that_is_gone_is_not_the_callers_fault() {
        let gone = || Error::IOError { err: std::io::ErrorKind::ConnectionRefused.into() };
        assert_eq!(unexpected("list images", gone()).reason(), Reason::EngineUnavailable);
        let reference = Reference::parse("app").unwrap();
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        assert_eq!(pull(&reference, &platform, gone()).reason(), Reason::EngineUnavailable);
    }
}

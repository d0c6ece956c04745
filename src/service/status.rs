//! The mapping from faults to gRPC statuses. Only the public text of a fault is sent.

#![deny(clippy::wildcard_enum_match_arm, reason = "a new reason must be given its code")]

use http::Response;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{BUILD_MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::{
    fault::{Fault, Reason},
    wire::{
        error::{DOMAIN, HINT, LOGIN, name_of},
        v1::ErrorReason,
    },
};

/// A status travels in headers, and some clients accept only 8 KiB of headers (grpc-java). The text takes
/// up to three times its size: percent-encoded, and in the details, which are base64.
const TEXT_BYTES_MAX: usize = 1536;
const HINT_BYTES_MAX: usize = 512;
const FIELD_BYTES_MAX: usize = 256;
const CUT: &str = "… (cut)";

/// The status that a caller gets for `fault`: its public text, never its source.
pub(super) fn from_fault(fault: &Fault) -> Status {
    let (code, _) = describe(fault.reason());
    let mut metadata = Vec::new();
    if let Some(hint) = fault.hint_text() {
        metadata.push((HINT.to_owned(), cut(hint, HINT_BYTES_MAX)));
    }
    if let Some(host) = fault.login() {
        metadata.push((LOGIN.to_owned(), cut(host, FIELD_BYTES_MAX)));
    }
    let text = cut(fault.text(), TEXT_BYTES_MAX);
    let mut details = details(fault.reason(), metadata);
    if let Some(field) = fault.field() {
        details.add_bad_request_violation(cut(field, FIELD_BYTES_MAX), text.as_str());
    }
    if let Some(time) = fault.retry() {
        details.set_retry_info(Some(time));
    }
    Status::with_error_details(code, text, details)
}

fn details(reason: Reason, metadata: Vec<(String, String)>) -> ErrorDetails {
    let (_, name) = describe(reason);
    ErrorDetails::with_error_info(
        name_of(name),
        DOMAIN,
        metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
    )
}

/// The gRPC code and the API's reason for each of wharfd's reasons, as `proto/wharf/v1/error.proto` documents them.
fn describe(reason: Reason) -> (Code, ErrorReason) {
    match reason {
        Reason::InvalidInput => (Code::InvalidArgument, ErrorReason::InvalidInput),
        Reason::UnknownCaller => (Code::Unauthenticated, ErrorReason::UnknownCaller),
        Reason::NamespaceDenied => (Code::PermissionDenied, ErrorReason::NamespaceDenied),
        Reason::SourceDenied => (Code::PermissionDenied, ErrorReason::SourceDenied),
        Reason::GraphDenied => (Code::PermissionDenied, ErrorReason::GraphDenied),
        Reason::PolicyDenied => (Code::PermissionDenied, ErrorReason::PolicyDenied),
        Reason::ImageNotFound => (Code::NotFound, ErrorReason::ImageNotFound),
        Reason::BaseImageNotFound => (Code::NotFound, ErrorReason::BaseImageNotFound),
        Reason::RegistryDenied => (Code::PermissionDenied, ErrorReason::RegistryDenied),
        Reason::RegistryUnavailable => (Code::Unavailable, ErrorReason::RegistryUnavailable),
        Reason::ImageForged => (Code::FailedPrecondition, ErrorReason::ImageForged),
        Reason::ImageUnsupported => (Code::FailedPrecondition, ErrorReason::ImageUnsupported),
        Reason::EngineUnavailable => (Code::Unavailable, ErrorReason::EngineUnavailable),
        Reason::EngineFailed => (Code::Internal, ErrorReason::EngineFailed),
        Reason::SessionNotFound => (Code::NotFound, ErrorReason::SessionNotFound),
        Reason::StreamBroken => (Code::FailedPrecondition, ErrorReason::StreamBroken),
        Reason::Cancelled => (Code::Cancelled, ErrorReason::Cancelled),
        Reason::ShuttingDown => (Code::Unavailable, ErrorReason::ShuttingDown),
        Reason::EngineLacks => (Code::FailedPrecondition, ErrorReason::EngineLacks),
        Reason::BuildStopsEngine => (Code::FailedPrecondition, ErrorReason::BuildStopsEngine),
        Reason::LimitReached => (Code::ResourceExhausted, ErrorReason::LimitReached),
        Reason::SourceUnavailable => (Code::Unavailable, ErrorReason::SourceUnavailable),
        Reason::Internal => (Code::Internal, ErrorReason::Internal),
    }
}

/// The fault for a message that tonic refused before a handler saw it; tonic's own text is about its
/// decoder.
fn undecoded(code: Code) -> Option<Fault> {
    if code == Code::OutOfRange {
        let text = format!(
            "a message is too large: at most {} MiB for a build's, {} KiB for any other request",
            BUILD_MESSAGE_BYTES_MAX >> 20,
            REQUEST_BYTES_MAX >> 10
        );
        return Some(Fault::new(Reason::LimitReached, text));
    }
    matches!(code, Code::Internal | Code::InvalidArgument)
        .then(|| Fault::new(Reason::InvalidInput, "a message does not match the API's definition"))
}

/// The fault for a broken stream of requests: a message is too large or malformed, or the client is gone.
pub(super) fn from_stream(status: Status) -> Fault {
    undecoded(status.code())
        .unwrap_or_else(|| Fault::new(Reason::Cancelled, "the client is gone"))
        .caused_by(status)
}

/// Adds the reason to a failed response whose request never reached a handler, since tonic's statuses carry
/// none. The statuses for unknown methods, of the health check and of reflection stay as they are. Passes
/// the fault to `refused`.
pub(super) fn complete(response: Response<Body>, refused: impl Fn(&Fault)) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if !status.details().is_empty() {
        return response;
    }
    let Some(fault) = undecoded(status.code()) else { return response };
    let fault = fault.caused_by(status);
    refused(&fault);
    refuse(&fault)
}

/// The answer to a call that never reaches a handler.
pub(super) fn refuse(fault: &Fault) -> Response<Body> {
    from_fault(fault).into_http()
}

/// `text`, cut where its percent-encoded form (gRPC over HTTP2, "Status-Message") passes `max`.
fn cut(text: &str, max: usize) -> String {
    let encoded = |c: char| match c {
        ' '..='~' if c != '%' => 1,
        other => 3 * other.len_utf8(),
    };
    let room = |max: usize| {
        let mut used = 0;
        let fits = |&(_, c): &(usize, char)| {
            used += encoded(c);
            used <= max
        };
        text.char_indices().take_while(fits).last().map_or(0, |(at, c)| at + c.len_utf8())
    };
    if room(max) == text.len() {
        return text.to_owned();
    }
    let mark: usize = CUT.chars().map(encoded).sum();
    let end = room(max.saturating_sub(mark));
    format!("{}{CUT}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reason; 23] = [
        Reason::InvalidInput,
        Reason::UnknownCaller,
        Reason::NamespaceDenied,
        Reason::SourceDenied,
        Reason::GraphDenied,
        Reason::PolicyDenied,
        Reason::ImageNotFound,
        Reason::BaseImageNotFound,
        Reason::RegistryDenied,
        Reason::RegistryUnavailable,
        Reason::ImageForged,
        Reason::ImageUnsupported,
        Reason::EngineUnavailable,
        Reason::EngineFailed,
        Reason::SessionNotFound,
        Reason::StreamBroken,
        Reason::Cancelled,
        Reason::ShuttingDown,
        Reason::EngineLacks,
        Reason::BuildStopsEngine,
        Reason::LimitReached,
        Reason::SourceUnavailable,
        Reason::Internal,
    ];

    /// Pairs such as `INVALID_INPUT` and its code, from error.proto's comments: "… INVALID_ARGUMENT."
    fn documented() -> Vec<(String, String)> {
        let proto = include_str!("../../proto/wharf/v1/error.proto");
        let mut comment = String::new();
        let mut found = Vec::new();
        for line in proto.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                comment.push_str(text);
            } else {
                let name = line.split_once(" = ").and_then(|(name, _)| name.strip_prefix("ERROR_REASON_"));
                if let Some(name) = name.filter(|_| !comment.contains("No longer used")) {
                    let code = comment.trim_end_matches('.').rsplit([' ', '.']).next().unwrap();
                    found.push((name.to_owned(), code.to_owned()));
                }
                comment.clear();
            }
        }
        found
    }

    #[test]
    fn every_reason_has_the_code_that_the_proto_documents() {
        let documented = documented();
        assert_eq!(documented.len(), ALL.len() + 1, "error.proto and fault.rs name the same reasons");
        for reason in ALL {
            let status = from_fault(&Fault::new(reason, "text"));
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.domain, "wharf");
            let code = format!("{:?}", status.code());
            let (_, expected) = documented.iter().find(|(name, _)| *name == info.reason).unwrap();
            assert_eq!(code.to_uppercase(), expected.replace('_', ""), "{}", info.reason);
        }
    }

    #[test]
    fn what_leaves_is_text_hint_and_field() {
        let fault = Fault::invalid("spec.tags[0]", "`A`: lower case").hint("try `a`").caused_by("secret");
        let status = from_fault(&fault);
        assert_eq!(status.message(), "`A`: lower case");
        assert_eq!(status.get_details_error_info().unwrap().metadata["hint"], "try `a`");
        let request = status.get_details_bad_request().unwrap();
        assert_eq!(request.field_violations[0].field, "spec.tags[0]");
        assert!(!format!("{status:?}").contains("secret"));
    }

    #[test]
    fn when_to_try_again_leaves_too() {
        let time = std::time::Duration::from_secs(30);
        let status = from_fault(&Fault::new(Reason::LimitReached, "full").retry_after(time));
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(time));
        assert!(from_fault(&Fault::new(Reason::LimitReached, "full")).get_details_retry_info().is_none());
    }

    #[test]
    fn a_long_text_is_cut_to_what_headers_hold() {
        for text in ["x".repeat(100_000), "é".repeat(100_000), "\u{1f600}%".repeat(50_000)] {
            let status = from_fault(&Fault::invalid(text.clone(), text.clone()).hint(text));
            assert!(status.message().ends_with(CUT));
            let response = status.into_http::<Body>();
            let size: usize =
                response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(size < 8 << 10, "{size}");
        }
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn a_message_that_is_too_large_is_told_so() {
        let tonics = Status::out_of_range("Error, decoded message length too large").into_http();
        let status = Status::from_header_map(complete(tonics, |_| {}).headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("2 MiB"));
        let unknown =
            Status::from_header_map(complete(Status::unimplemented("").into_http(), |_| {}).headers());
        assert_eq!(unknown.unwrap().code(), Code::Unimplemented);
    }
}

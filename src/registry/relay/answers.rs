//! The relay's own answers.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{super::answer::full, Body};

/// An answer with only a status.
pub(super) fn plain(status: StatusCode) -> Response<Body> {
    with(status, "", Bytes::new())
}

/// An error in the form of the distribution specification. No user sees the engine's message about it.
pub(super) fn refusal(status: StatusCode) -> Response<Body> {
    let code = if status == StatusCode::FORBIDDEN { "DENIED" } else { "UNKNOWN" };
    let body = serde_json::json!({"errors": [{"code": code, "message": "the registry refuses"}]});
    with(status, "application/json", body.to_string().into())
}

/// Requires a transfer's password.
pub(super) fn unauthorized() -> Response<Body> {
    let mut answer = plain(StatusCode::UNAUTHORIZED);
    let challenge = HeaderValue::from_static("Basic realm=\"wharfd\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

/// An answer with a body in memory.
pub(super) fn with(status: StatusCode, media_type: &str, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    if let Ok(value) = HeaderValue::from_str(media_type)
        && !media_type.is_empty()
    {
        answer.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    let version = HeaderValue::from_static("registry/2.0");
    answer.headers_mut().insert("docker-distribution-api-version", version);
    answer
}

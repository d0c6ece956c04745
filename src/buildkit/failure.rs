//! BuildKit's failures, reduced to known parts.
//!
//! BuildKit's statuses carry stack traces, JSON and names of private images. Only the parts in this module
//! are passed on.

use std::error::Error as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bollard_buildkit_proto::google::rpc::Status as RpcStatus;
use prost::Message as _;
use serde::Deserialize;
use tonic::{Code, Status};

use crate::{go_json::zero, names::shortened, progress::SourceLines};

/// How many lines are shown around the failed ones.
const LINES_AROUND: i32 = 4;
/// How much of one line, and of all lines, is shown: a line may be a whole file.
const LINE_BYTES_MAX: usize = 4 << 10;
const EXCERPT_BYTES_MAX: usize = 32 << 10;

/// The failure of a pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SolveFailure {
    /// BuildKit's message; names in it are the engine's.
    pub message: String,
    /// The vertex that failed.
    pub vertex: Option<String>,
    /// The exit code of the command that failed.
    pub exit_code: Option<i32>,
    /// The Dockerfile's lines that caused it.
    pub source: Option<SourceLines>,
}

#[derive(Deserialize)]
struct VertexDetail {
    digest: String,
}

#[derive(Deserialize)]
struct ExitDetail {
    #[serde(rename = "Code")]
    code: i64,
}

#[derive(Deserialize)]
struct SourceDetail {
    info: Option<InfoDetail>,
    #[serde(default, deserialize_with = "zero")]
    ranges: Vec<RangeDetail>,
}

#[derive(Deserialize)]
struct InfoDetail {
    #[serde(default, deserialize_with = "zero")]
    filename: String,
    #[serde(default, deserialize_with = "zero")]
    data: String,
}

#[derive(Deserialize)]
struct RangeDetail {
    start: Option<PositionDetail>,
    end: Option<PositionDetail>,
}

#[derive(Deserialize)]
struct PositionDetail {
    #[serde(default, deserialize_with = "zero")]
    line: i32,
}

impl SolveFailure {
    /// Reads the status of a failed call. The details of BuildKit's statuses are `Any`s with JSON in them;
    /// some failures BuildKit cannot send at all ([`is_untold`]).
    pub fn read(status: &Status) -> Self {
        let mut failure = Self { message: message(status), ..Self::default() };
        let Ok(details) = RpcStatus::decode(status.details()) else { return failure };
        for detail in &details.details {
            let kind = detail.type_url.rsplit_once('/').map_or(detail.type_url.as_str(), |(_, kind)| kind);
            let json = detail.value.as_slice();
            match kind {
                "errdefs.Vertex+json" => {
                    let vertex = serde_json::from_slice(json).ok().map(|vertex: VertexDetail| vertex.digest);
                    failure.vertex = vertex.or(failure.vertex);
                }
                "gatewayapi.ExitMessage+json" => {
                    let code = serde_json::from_slice(json).ok().map(|exit: ExitDetail| exit.code);
                    failure.exit_code = code.and_then(|code| i32::try_from(code).ok()).or(failure.exit_code);
                }
                "errdefs.Source+json" if failure.source.is_none() => {
                    failure.source = serde_json::from_slice(json).ok().and_then(source_lines);
                }
                _ => {}
            }
        }
        failure
    }

    /// The Dockerfile's first line that has to do with it.
    pub fn line(&self) -> Option<u32> {
        self.source.as_ref().and_then(|source| u32::try_from(source.start).ok())
    }

    /// The source that the policy denied, if that is the failure. Treat it only as a request, since a
    /// Dockerfile can print the same sentence.
    pub fn denied_source(&self) -> Option<&str> {
        denied_source(&self.message)
    }
}

/// Reads `source "docker-image://…" denied by policy`, the last such phrase.
fn denied_source(message: &str) -> Option<&str> {
    let end = message.rfind("\" denied by policy")?;
    let before = message.get(..end)?;
    let phrase = "source \"";
    let start = before.rfind(phrase)? + phrase.len();
    // Go quotes the name, so one with a backslash is not a name that could be admitted.
    before.get(start..).filter(|name| !name.contains(['\\', '"']))
}

/// The first line of the message: stack traces begin on lines of their own.
fn message(status: &Status) -> String {
    if is_untold(status) {
        return "the builder failed and gave no reason, which happens when the Dockerfile is not UTF-8 text"
            .to_owned();
    }
    sentence(status.message())
}

/// The first line of an error of BuildKit's or of a step's, worded for a reader.
pub fn sentence(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if NOT_UTF8.iter().any(|phrase| line.ends_with(phrase)) {
        return "the Dockerfile is not UTF-8 text".to_owned();
    }
    let told = too_large(line).or_else(|| unsendable(line)).or_else(|| too_deep(line));
    told.unwrap_or_else(|| without_codes(line))
}

/// The message for an image of too many layers, which the drivers of the classic store refuse (overlay2: 128).
fn too_deep(line: &str) -> Option<String> {
    line.ends_with(": max depth exceeded").then(|| {
        "the image has more layers than the engine's storage takes, some 125: write several RUN or COPY as one, or copy \
         the result to a further stage"
            .to_owned()
    })
}

/// A message without the words that Go's gRPC puts before the text of the other end. It may be wharfd itself.
fn without_codes(line: &str) -> String {
    let (begin, end) = ("rpc error: code = ", " desc = ");
    let mut parts = line.split(begin);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(end) {
            Some((code, rest)) if code.bytes().all(|byte| byte.is_ascii_alphabetic()) => kept.push_str(rest),
            _ => kept.extend([begin, part]),
        }
    }
    kept
}

/// The phrases with which grpc-go and tonic refuse a message, each with the words between its size and the limit.
/// BuildKit 0.13 reads 4 MiB; 0.33 and wharfd take 16 MiB.
const TOO_LARGE: [(&str, &str); 3] = [
    ("received message larger than max (", " vs. "),
    ("trying to send message larger than max (", " vs. "),
    ("message length too large: found ", " bytes, the limit is: "),
];

/// The message for a graph that does not fit into one message of gRPC. Nothing else that is sent for a build alone
/// is large.
fn too_large(line: &str) -> Option<String> {
    let (sizes, between) =
        TOO_LARGE.iter().find_map(|(phrase, between)| Some((line.split_once(phrase)?.1, *between)))?;
    let (size, limit) = sizes.split_once(between)?;
    let limit = limit.split(|c: char| !c.is_ascii_digit()).next()?;
    let mib = |bytes: &str| Some(bytes.parse::<u64>().ok()?.div_ceil(1 << 20));
    Some(format!(
        "the Dockerfile makes a build graph of {} MiB, and the builder reads at most {} MiB: the graph contains each \
         here-document, and for each step its variables; move long texts into files of the context",
        mib(size)?,
        mib(limit)?,
    ))
}

/// The message for a request of BuildKit's that grpc-go does not send. BuildKit asks for the files of a context in
/// headers, and encodes a header's values only if one of them is not ASCII (`encodeStringForHeader`, 0.13 to 0.34).
fn unsendable(line: &str) -> Option<String> {
    let (before, _) = line.split_once("\" contains value with non-printable ASCII characters")?;
    let what = match before.rsplit_once("header key \"")?.1 {
        "exclude-patterns" => {
            "a pattern of the ignore file contains a control character, such as a tab or a carriage return that does \
             not end the line"
        }
        "followpaths" | "include-patterns" => {
            "a path that the Dockerfile copies contains a control character; copy its directory, or match the \
             character with `?`"
        }
        _ => return None,
    };
    Some(format!("{what}: BuildKit cannot ask for it"))
}

/// The messages with which BuildKit and wharfd's own decoder refuse a graph whose text is not UTF-8.
const NOT_UTF8: [&str; 2] = ["string field contains invalid UTF-8", "data is not UTF-8 encoded"];

/// Whether BuildKit failed but could not send its status. grpc-go cannot send a status that is not UTF-8 or
/// exceeds our limit (`writeStatus`), and resets the call instead.
pub fn is_untold(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::INTERNAL_ERROR);
        }
        source = error.source();
    }
    false
}

/// Whether the connection to BuildKit broke, as opposed to a failed build: for a failed step or a wrong
/// Dockerfile BuildKit sends `Unknown`. Errors of the connection have a source, which statuses from the
/// wire never have.
pub fn is_broken_off(status: &Status) -> bool {
    status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Cancelled)
}

fn source_lines(detail: SourceDetail) -> Option<SourceLines> {
    let info = detail.info?;
    let data = BASE64_STANDARD.decode(info.data).ok()?;
    let text = String::from_utf8_lossy(&data);
    let lines = |position: &Option<PositionDetail>| position.as_ref().map(|position| position.line);
    let start = detail.ranges.iter().filter_map(|range| lines(&range.start)).min()?;
    let end = detail.ranges.iter().filter_map(|range| lines(&range.end)).max().unwrap_or(start).max(start);
    Some(excerpt(info.filename, &text, start, end))
}

/// The lines `start..=end` of a file, with some lines around them.
pub fn excerpt(filename: String, text: &str, start: i32, end: i32) -> SourceLines {
    let first = start.saturating_sub(LINES_AROUND).max(1);
    let last = end.saturating_add(LINES_AROUND);
    let skip = usize::try_from(first - 1).unwrap_or(0);
    let take = usize::try_from(last - first + 1).unwrap_or(0).min(200);
    let mut left = EXCERPT_BYTES_MAX;
    let lines = text.lines().skip(skip).take(take).map(|line| shortened(line.to_owned(), LINE_BYTES_MAX));
    let text = lines
        .map_while(|line| {
            left = left.checked_sub(line.len())?;
            Some(line)
        })
        .collect();
    SourceLines { filename, start, end, text, first_text_line: first }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::google::protobuf::Any;

    use super::*;

    #[test]
    fn details_are_read_and_the_rest_is_left() {
        let any = |kind: &str, value: &str| Any {
            type_url: format!("github.com/moby/buildkit/{kind}"),
            value: value.into(),
        };
        let data = BASE64_STANDARD.encode("FROM a\nRUN false\n");
        let source = format!(
            r#"{{"info":{{"filename":"Dockerfile","data":"{data}"}},"ranges":[{{"start":{{"line":2}},"end":{{"line":2}}}}]}}"#
        );
        let details = RpcStatus {
            code: 2,
            message: "x".into(),
            details: vec![
                any("stack.Stack+json", r#"{"frames":[{"File":"/secret.go"}]}"#),
                any("errdefs.Vertex+json", r#"{"digest":"sha256:v"}"#),
                any("gatewayapi.ExitMessage+json", r#"{"Code":3}"#),
                any("errdefs.Source+json", &source),
                any("errdefs.Vertex+json", "{broken"),
            ],
        };
        let status =
            Status::with_details(tonic::Code::Unknown, "failed\nstack", details.encode_to_vec().into());
        let failure = SolveFailure::read(&status);
        assert_eq!(failure.message, "failed");
        assert_eq!(failure.vertex.as_deref(), Some("sha256:v"));
        assert_eq!(failure.exit_code, Some(3));
        let lines = failure.source.unwrap();
        assert_eq!((lines.start, lines.end, lines.text.len()), (2, 2, 2));
    }

    #[test]
    fn an_excerpt_is_bounded() {
        let long = "x".repeat(1 << 20);
        let text = [long.as_str(); 100].join("\n");
        let lines = excerpt("Dockerfile".to_owned(), &text, 1, 100);
        assert!(lines.text.iter().all(|line| line.len() <= LINE_BYTES_MAX + 10));
        assert!(lines.text.iter().map(String::len).sum::<usize>() <= EXCERPT_BYTES_MAX);
        assert_eq!(excerpt(String::new(), "a\nb\nc", 2, 2).text, ["a", "b", "c"]);
    }

    #[test]
    fn text_that_is_not_utf8_is_the_dockerfiles_fault() {
        for message in [
            "failed to marshal LLB definition: string field contains invalid UTF-8",
            "failed to decode Protobuf message: Ref.def: invalid string value: data is not UTF-8 encoded",
        ] {
            let failure = SolveFailure::read(&Status::internal(message));
            assert_eq!(failure.message, "the Dockerfile is not UTF-8 text");
        }
        let reset = |reason: h2::Reason| Status::from_error(Box::new(h2::Error::from(reason)));
        // wharfd made this reset itself, so BuildKit did not fail.
        assert!(!is_untold(&reset(h2::Reason::INTERNAL_ERROR)));
        assert!(!is_untold(&Status::internal("x")));
    }

    #[test]
    fn a_graph_that_is_too_large_is_the_dockerfiles_fault() {
        for message in [
            "grpc: received message larger than max (6044754 vs. 4194304)",
            "rpc error: code = ResourceExhausted desc = grpc: trying to send message larger than max (6044754 vs. 4194304)",
            "Error, decoded message length too large: found 6044754 bytes, the limit is: 4194304 bytes",
        ] {
            let said = SolveFailure::read(&Status::resource_exhausted(message)).message;
            assert!(said.contains("a build graph of 6 MiB") && said.contains("at most 4 MiB"), "{said}");
        }
        let other = "grpc: received message larger than max (x vs. y)";
        assert_eq!(SolveFailure::read(&Status::unknown(other)).message, other);
    }

    #[test]
    fn a_request_that_cannot_be_sent_is_told_by_its_kind() {
        let said = |key: &str| {
            sentence(&format!(
                "rpc error: code = Internal desc = header key \"{key}\" contains value with non-printable ASCII characters"
            ))
        };
        assert!(said("exclude-patterns").starts_with("a pattern of the ignore file "));
        assert!(said("followpaths").starts_with("a path that the Dockerfile copies "));
        assert_eq!(said("x"), "header key \"x\" contains value with non-printable ASCII characters");
    }

    #[test]
    fn an_image_of_too_many_layers_is_told() {
        let said = sentence("failed to prepare xq12nit74mkh as saoz48k491hz: max depth exceeded");
        assert!(said.starts_with("the image has more layers") && !said.contains("xq12"), "{said}");
        let other =
            "process \"/bin/sh -c echo : max depth exceeded\" did not complete successfully: exit code: 1";
        assert_eq!(sentence(other), other);
    }

    #[test]
    fn what_the_other_end_says_stands_alone() {
        let message = |text: &str| SolveFailure::read(&Status::unknown(text)).message;
        assert_eq!(
            message("a: rpc error: code = InvalidArgument desc = b: rpc error: code = X desc = c"),
            "a: b: c"
        );
        for other in ["rpc error: code = a b desc = c", "rpc error: code = ", "a desc = b"] {
            assert_eq!(message(other), other);
        }
    }

    #[test]
    fn a_denied_source_is_the_last_that_is_named() {
        let message = r#"source "x" denied by policy: failed: source "docker-image://docker.io/library/a:1" denied by policy (did you mean b?)"#;
        assert_eq!(denied_source(message), Some("docker-image://docker.io/library/a:1"));
        assert_eq!(denied_source("denied by policy"), None);
        assert_eq!(denied_source(r#"source "a\"b" denied by policy"#), None);
    }

    #[test]
    fn a_builder_that_goes_away_is_no_failed_step() {
        let cut = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(is_broken_off(&cut), "{cut:?}");
        assert!(is_broken_off(&Status::unavailable("the engine ends")));
        assert!(!is_broken_off(&Status::unknown("process \"false\" did not complete successfully")));
    }
}

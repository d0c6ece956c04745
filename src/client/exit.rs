//! The end of a command: exit statuses and failure messages.

#![deny(clippy::wildcard_enum_match_arm, reason = "a new reason must be given its status")]

use std::{error::Error, fmt, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    names::{job::NamespaceError, printable, reference::ReferenceError},
    wire::{
        error::{DOMAIN, HINT, LOGIN, reason_of},
        v1::ErrorReason,
    },
};

/// An exit status; [`HELP`] documents each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command did what it says.
    Done,
    /// The build failed, or the command failed in another way.
    Failed,
    /// The command line is wrong, or something that it names.
    Usage,
    /// Not allowed.
    Denied,
    /// wharfd does not answer.
    NoDaemon,
    /// wharfd answers, but something it needs does not: the engine, a registry.
    Unavailable,
    /// No such image.
    NotFound,
    /// SIGHUP.
    HungUp,
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

/// The table of exit statuses, for `--help`.
pub(crate) const HELP: &str = "\
Exit status:
    0  done
    1  the build failed (its Dockerfile or a step of it), or the command failed in another way
    2  bad usage: a flag, a value, or a file that the command line names
    3  not allowed: by wharfd's policy, or by a registry with these credentials
    4  cannot connect to wharfd, or the connection was lost
    5  the engine or a registry is unavailable, or a limit is reached: try again later
    6  no such image
  129  stopped by SIGHUP; 130 by SIGINT (Ctrl-C); 143 by SIGTERM";

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NoDaemon => 4,
            Self::Unavailable => 5,
            Self::NotFound => 6,
            // As in shells: 128 plus the signal's number.
            Self::HungUp => 128 + 1,
            Self::Interrupted => 128 + 2,
            Self::Terminated => 128 + 15,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

/// The reason why a command stops early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A failure that has not been reported yet.
    Failed(Failure),
    /// A failure that has been reported.
    Reported(Exit),
    /// A signal stopped it.
    Cancelled(Exit),
    /// Standard output was closed by its reader.
    OutputClosed,
}

/// A failure, as it is shown to the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The status to exit with.
    pub(crate) exit: Exit,
    /// The error, and its place. May contain hostile text: only `print` may write it.
    pub(crate) text: String,
    /// The remedy.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure that ends in `exit`.
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), hint: None }
    }

    /// A failure because the command line is wrong, or something that it names.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// The connection to wharfd broke in the middle of a call.
    pub(crate) fn lost() -> Self {
        Self::new(Exit::NoDaemon, "lost the connection to wharfd")
            .hint("wharfd may have been stopped or restarted: its log says why; run the command again once it is up")
    }

    /// Adds a hint for the user.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.text))
    }
}

impl Error for Failure {}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(status.into())
    }
}

impl From<ReferenceError> for Failure {
    fn from(error: ReferenceError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<ReferenceError> for Stop {
    fn from(error: ReferenceError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<NamespaceError> for Failure {
    fn from(error: NamespaceError) -> Self {
        Self::usage(error.to_string())
            .hint("name it `JOB#RUN` with --namespace or WHARF_NAMESPACE, for example `acme/app/main#42`")
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
            return without_info(&status);
        };
        let reason = reason_of(&info.reason);
        // A newer wharfd may have reasons that are unknown here.
        let exit = reason.map_or_else(|| of_code(status.code()), |reason| of_reason(reason, status.code()));
        let field = details.bad_request().and_then(|bad| bad.field_violations.first());
        let field = field.map(|violation| violation.field.as_str()).unwrap_or_default();
        // wharfd does not know its client, so this client adds its own commands and flags.
        let login = info.metadata.get(LOGIN).map(|host| format!("log in: wharf login {}", printable(host)));
        let own = match reason {
            Some(ErrorReason::NamespaceDenied) => {
                Some("`--namespace` or WHARF_NAMESPACE names it".to_owned())
            }
            Some(ErrorReason::ImageNotFound) => Some("`wharf images` lists what is there".to_owned()),
            _ => flag_of(field).map(|flag| format!("see `{flag}`")),
        };
        let hints: Vec<String> =
            [login, info.metadata.get(HINT).cloned(), own].into_iter().flatten().collect();
        let hint = (!hints.is_empty()).then(|| hints.join("; "));
        Self { exit, text: status.message().to_owned(), hint }
    }
}

/// The flag that a request's field comes from.
fn flag_of(field: &str) -> Option<&'static str> {
    if field == "force" {
        return Some("--force");
    }
    let name = field.strip_prefix("spec.")?.split(['[', '.']).next()?;
    let flags = [
        ("tags", "--tag"),
        ("push", "--tag"),
        ("dockerfile", "--file"),
        ("target", "--target"),
        ("platform", "--platform"),
        ("network", "--network"),
        ("build_args", "--build-arg"),
        ("labels", "--label"),
        ("add_hosts", "--add-host"),
        ("shm_size", "--shm-size"),
        ("ulimits", "--ulimit"),
    ];
    flags.iter().find_map(|(known, flag)| (*known == name).then_some(*flag))
}

/// A status that did not come from wharfd itself, but from the connection, the transport or another server.
fn without_info(status: &Status) -> Failure {
    if status.source().is_some() || status.code() == Code::Unavailable {
        return Failure::lost();
    }
    match status.code() {
        Code::Unimplemented => Failure::new(
            Exit::Failed,
            "the server at this address does not know the command",
        )
        .hint(
            "check that the address is wharfd's, and that wharfd is as new as this client: `wharf version` shows both versions",
        ),
        Code::OutOfRange | Code::ResourceExhausted => {
            Failure::new(Exit::Failed, format!("a message is too large: {}", status.message()))
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            Failure::new(Exit::Denied, format!("not allowed: {}", status.message()))
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Failure::new(
            of_code(status.code()),
            format!("the server at this address does not answer like wharfd: {}", status.message()),
        )
        .hint("check that --addr or WHARF_ADDR names wharfd's socket"),
    }
}

fn of_reason(reason: ErrorReason, code: Code) -> Exit {
    match reason {
        ErrorReason::Unspecified => of_code(code),
        ErrorReason::InvalidInput => Exit::Usage,
        ErrorReason::UnknownCaller
        | ErrorReason::NamespaceDenied
        | ErrorReason::SourceDenied
        | ErrorReason::GraphDenied
        | ErrorReason::PolicyDenied
        | ErrorReason::RegistryDenied
        | ErrorReason::ImageForged => Exit::Denied,
        ErrorReason::ImageNotFound | ErrorReason::BaseImageNotFound => Exit::NotFound,
        ErrorReason::RegistryUnavailable
        | ErrorReason::SourceUnavailable
        | ErrorReason::EngineUnavailable
        | ErrorReason::LimitReached => Exit::Unavailable,
        ErrorReason::ShuttingDown => Exit::NoDaemon,
        ErrorReason::EngineFailed
        | ErrorReason::SessionNotFound
        | ErrorReason::StreamBroken
        | ErrorReason::Cancelled
        | ErrorReason::PushConflict
        | ErrorReason::ImageUnsupported
        | ErrorReason::EngineLacks
        | ErrorReason::BuildStopsEngine
        | ErrorReason::Internal => Exit::Failed,
    }
}

fn of_code(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::NotFound => Exit::NotFound,
        Code::Unavailable | Code::ResourceExhausted => Exit::Unavailable,
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn of_wharfd(code: Code, reason: &str) -> Failure {
        let metadata = HashMap::from([("hint".to_owned(), "do this".to_owned())]);
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(code, "what is wrong", details).into()
    }

    #[test]
    fn a_reason_decides_the_status() {
        let failure = of_wharfd(Code::PermissionDenied, "REGISTRY_DENIED");
        assert_eq!(failure, Failure::new(Exit::Denied, "what is wrong").hint("do this"));
        assert_eq!(of_wharfd(Code::NotFound, "BASE_IMAGE_NOT_FOUND").exit, Exit::NotFound);
        assert_eq!(of_wharfd(Code::Unavailable, "ENGINE_UNAVAILABLE").exit, Exit::Unavailable);
        assert_eq!(of_wharfd(Code::Unavailable, "SHUTTING_DOWN").exit, Exit::NoDaemon);
        assert_eq!(of_wharfd(Code::InvalidArgument, "INVALID_INPUT").exit, Exit::Usage);
    }

    #[test]
    fn a_hint_is_in_the_words_of_the_command_line() {
        let hint = |reason: &str, metadata: &[(&str, &str)], field: &str| {
            let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let mut details =
                ErrorDetails::with_error_info(reason, DOMAIN, metadata.collect::<HashMap<_, _>>());
            details.add_bad_request_violation(field, "x");
            Failure::from(Status::with_error_details(Code::InvalidArgument, "x", details)).hint
        };
        let login = [("login", "reg.example"), ("hint", "or not")];
        assert_eq!(
            hint("REGISTRY_DENIED", &login, "").as_deref(),
            Some("log in: wharf login reg.example; or not")
        );
        assert_eq!(hint("INVALID_INPUT", &[], "spec.tags[1]").as_deref(), Some("see `--tag`"));
        assert_eq!(hint("INVALID_INPUT", &[], "namespace.job"), None);
    }

    #[test]
    fn a_reason_of_a_newer_wharfd_is_judged_by_its_code() {
        assert_eq!(of_wharfd(Code::PermissionDenied, "NOT_TODAY").exit, Exit::Denied);
        assert_eq!(of_wharfd(Code::Aborted, "NOT_TODAY").exit, Exit::Failed);
    }

    #[test]
    fn a_broken_transport_is_a_lost_connection() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!(Failure::from(broken).exit, Exit::NoDaemon);
        assert_eq!(Failure::from(Status::unavailable("connection closed")).exit, Exit::NoDaemon);
    }

    #[test]
    fn the_table_has_every_status() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Denied,
            Exit::NoDaemon,
            Exit::Unavailable,
            Exit::NotFound,
            Exit::HungUp,
            Exit::Interrupted,
            Exit::Terminated,
        ] {
            let status = exit.status().to_string();
            let listed = HELP.split(|c: char| !c.is_ascii_digit()).any(|number| number == status);
            assert!(listed, "{status} is not in the table");
        }
    }
}

//! The environment variables that wharfd reads, in one table.

use std::{env, ffi::OsString, fmt::Write as _};

/// The variables of the flags; `--help` shows each with its flag.
macro_rules! of_flags {
    ($($name:ident)+) => { $(pub(super) const $name: &str = stringify!($name);)+ };
}

of_flags! {
    WHARFD_LISTEN
    WHARFD_LISTEN_MODE
    WHARFD_LISTEN_GROUP
    WHARFD_METRICS_LISTEN
    WHARFD_ENGINE
    WHARFD_STATE_DIR
    WHARFD_CLIENT_DIR
    WHARFD_FRONTEND_FILE
    WHARFD_CONFIG
    WHARFD_GRACE_PERIOD
    WHARFD_NAMESPACE_TTL
    WHARFD_MAX_BUILDS
    WHARFD_MAX_BUILDS_PER_JOB
    WHARFD_LOG_FORMAT
    WHARFD_LOG_LEVEL
    WHARFD_AUDIT_LOG
}

/// All others, with what `--help` says about them.
macro_rules! others {
    ($($(#[doc = $about:literal])+ $name:ident;)+) => {
        $($(#[doc = $about])+
        pub(crate) const $name: &str = stringify!($name);)+

        const OTHERS: &[(&str, &str)] = &[$(($name, concat!($($about),+))),+];
    };
}

others! {
    /// The default engine's socket, unless --engine or the configuration names it
    DOCKER_HOST;
    /// The proxy for registries without TLS; also in lower case
    HTTP_PROXY;
    /// The proxy for registries with TLS; also in lower case
    HTTPS_PROXY;
    /// Hosts that need no proxy; also in lower case
    NO_PROXY;
    /// Certificate authorities instead of the system's; likewise SSL_CERT_DIR
    SSL_CERT_FILE;
    /// Where systemd waits for wharfd to serve
    NOTIFY_SOCKET;
}

/// The table of the variables that belong to no flag, for `--help`.
pub(super) fn help() -> String {
    let width = OTHERS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::from("Environment, beside the variables of the flags:\n");
    for (name, about) in OTHERS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<width$} {about}");
    }
    text
}

/// A variable's value, unless it is empty.
pub(crate) fn value_os(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The same of a text; `None` for one that is not UTF-8.
pub(crate) fn value(name: &str) -> Option<String> {
    value_os(name)?.into_string().ok()
}

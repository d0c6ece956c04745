//! Why wharfd cannot start, with the operator's remedy.

use std::io;

use super::client_dir::ClientError;
use crate::{
    audit::OpenError,
    fault::Fault,
    identity::IssuerError,
    naming::KeyError,
    store::StoreError,
    transport::{BindError, TlsError, unix},
};

/// The reason why wharfd cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("{text}{}", .hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    Engine { text: String, hint: Option<String>, source: Fault },
    #[error("{}{}", .0, store_remedy(.0))]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Audit(#[from] OpenError),
    #[error("cannot listen on loopback for the engines")]
    Relay(#[source] io::Error),
    #[error("cannot listen: {}{}", .0, bind_remedy(.0))]
    Bind(#[from] BindError),
    #[error("cannot listen for scrapes of metrics: {}{}", .0, bind_remedy(.0))]
    Metrics(#[source] BindError),
    #[error("cannot listen for the kubelet: {0}")]
    Kubelet(#[source] BindError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot describe the API")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
}

/// The operator's remedy, in wharfd's flags: only this module knows that there are flags.
fn store_remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Locked { .. } => ": stop it, or choose another --state-dir",
        StoreError::Directory { .. } | StoreError::File { .. } => "",
    }
}

/// The same for a socket.
fn bind_remedy(error: &BindError) -> &'static str {
    match error {
        BindError::Unix(unix::UnixBindError::InUse(_)) => "; stop it, or choose another --listen",
        BindError::Unix(unix::UnixBindError::NotASocket(_)) => "; remove it, or choose another --listen",
        BindError::Unix(
            unix::UnixBindError::Locked(_)
            | unix::UnixBindError::ForeignLock(_)
            | unix::UnixBindError::Io { .. },
        ) => "",
        BindError::Tcp { source, .. } => match source.kind() {
            io::ErrorKind::AddrInUse => {
                "; stop the process that has it, or choose another port (`[::]` takes the port of IPv4, too)"
            }
            io::ErrorKind::AddrNotAvailable => {
                "; the node has no such address: choose one that it has, or `0.0.0.0`"
            }
            io::ErrorKind::PermissionDenied => {
                "; wharfd's user may not take a port below 1024: choose a higher one"
            }
            _ => "",
        },
    }
}

/// Shows the operator the fault that stopped the start, with its causes.
impl From<Fault> for StartError {
    fn from(source: Fault) -> Self {
        Self::Engine { text: source.text().to_owned(), hint: source.hint_text().map(str::to_owned), source }
    }
}

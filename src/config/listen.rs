//! The addresses to serve on, and TLS for network addresses.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{ConfigError, Flags, file::File, place};
use crate::names::ListenAddress;

const LISTEN: &str = "unix:///run/wharf/wharf.sock";

/// The files for TLS, all with absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of this wharfd, and those that lead to its authority.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The authorities of the clients' certificates; `None` asks for none.
    pub client_ca: Option<PathBuf>,
}

/// The addresses to serve on.
pub(super) fn addresses(flags: &Flags, written: &File) -> Result<Vec<ListenAddress>, ConfigError> {
    let mut listen = if flags.listen.is_empty() { written.listen.clone() } else { flags.listen.clone() };
    if listen.is_empty() {
        listen = LISTEN.parse().into_iter().collect();
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = listen.iter().find(|address| !seen.insert(*address)) {
        return Err(ConfigError::ListenTwice(twice.clone()));
    }
    Ok(listen)
}

/// TLS for the network addresses among `listen`. Without it they are refused, unless the operator has said
/// that this is known.
pub(super) fn tls(
    listen: &[ListenAddress],
    is_plain: bool,
    written: &File,
    (path, text): (&Path, &str),
) -> Result<Option<TlsFiles>, ConfigError> {
    let tcp = listen.iter().find(|address| matches!(address, ListenAddress::Tcp(_)));
    match (&written.tls, tcp) {
        (None, Some(address)) if !is_plain => Err(ConfigError::PlainTcp(address.clone())),
        (None, _) => Ok(None),
        (Some(_), _) if is_plain => Err(ConfigError::PlainTcpWithTls),
        (Some(tls), _) => {
            let said = tls.as_ref();
            let error = |message| ConfigError::File { place: place(path, text, Some(tls.span())), message };
            for (key, file) in [
                ("certificate", Some(&said.certificate)),
                ("key", Some(&said.key)),
                ("client_ca", said.client_ca.as_ref()),
            ] {
                if let Some(relative) = file.filter(|file| !file.is_absolute()) {
                    let text = format!("tls.{key}: {} is not an absolute path", relative.display());
                    return Err(error(text));
                }
            }
            let (certificate, key, client_ca) =
                (said.certificate.clone(), said.key.clone(), said.client_ca.clone());
            Ok(Some(TlsFiles { certificate, key, client_ca }))
        }
    }
}

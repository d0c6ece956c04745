//! `[csi]`: sockets for the pods of a Kubernetes node.

use std::path::{Path, PathBuf};

use super::{ConfigError, Serve, Who, file::File, place};
use crate::names::{IssuerName, Pattern, SocketPath};

const KUBELET_DIR: &str = "/var/lib/kubelet";

/// The name of the driver. The manifests in `deploy/` name it, too.
pub const DRIVER: &str = "csi.wharf.dev";

/// The kubelet's places, all below its `--root-dir`, under the paths that the kubelet itself uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csi {
    /// The kubelet's `--root-dir`.
    pub kubelet_dir: PathBuf,
    /// The Kubernetes namespaces whose pods have to present a job's token.
    pub tokens_only: Vec<Pattern>,
    /// The driver's socket.
    pub socket: SocketPath,
    /// The socket at which the kubelet finds the driver.
    pub registration: SocketPath,
}

impl Csi {
    /// Where the kubelet keeps what belongs to pods.
    pub fn pods_dir(&self) -> PathBuf {
        self.kubelet_dir.join("pods")
    }
}

/// The table of the file, if it has one.
pub(super) fn csi(
    written: &File,
    serve: &[Serve],
    (path, text): (&Path, &str),
) -> Result<Option<Csi>, ConfigError> {
    let pods = IssuerName::of_pods();
    let Some(spanned) = &written.csi else { return Ok(None) };
    let said = spanned.as_ref();
    let error = |message| ConfigError::File { place: place(path, text, Some(spanned.span())), message };
    if written.issuers.contains_key(&pods) {
        return Err(error(format!(
            "csi: pods are proven under the name `{pods}`, which [issuers.{pods}] has, too: give that issuer \
             another name"
        )));
    }
    let serves = |who: &Who| *who == Who::Issuer(pods.clone());
    if said.tokens_only.is_empty() && !serve.iter().any(|serve| serves(&serve.who)) {
        return Err(error(format!("csi: no [[serve]] entry serves pods: it has `issuer = \"{pods}\"`")));
    }
    let is_token = |who: &Who| matches!(who, Who::Token { .. } | Who::Issuer(_)) && !serves(who);
    if !said.tokens_only.is_empty() && !serve.iter().any(|serve| is_token(&serve.who)) {
        let text =
            "csi.tokens_only: no [[serve]] entry has a `token`, or the `issuer` of a token, to present";
        return Err(error(text.to_owned()));
    }
    let kubelet_dir = said.kubelet_dir.clone().unwrap_or_else(|| KUBELET_DIR.into());
    if !kubelet_dir.is_absolute() {
        return Err(error(format!("csi.kubelet_dir: {} is not an absolute path", kubelet_dir.display())));
    }
    let socket = |below: &str| {
        let path = format!("unix://{}/{below}", kubelet_dir.display());
        path.parse::<SocketPath>().map_err(|cause| error(format!("csi.kubelet_dir: {cause}")))
    };
    let registration = socket(&format!("plugins_registry/{DRIVER}-reg.sock"))?;
    let driver = socket(&format!("plugins/{DRIVER}/csi.sock"))?;
    Ok(Some(Csi { tokens_only: said.tokens_only.clone(), socket: driver, registration, kubelet_dir }))
}

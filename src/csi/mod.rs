//! The driver `csi.wharf.dev` of a Kubernetes node: the kubelet requests a volume for a pod from it, and the
//! volume is a directory with a socket that is the pod's own. Every connection there counts as this pod's
//! (`identity`). When the kubelet removes the volume, the pod's namespace ends.
//!
//! The kubelet speaks gRPC with it on two Unix sockets: one for the driver (Container Storage Interface), and one at
//! which it finds the driver.

mod ends;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod place;
mod request;
mod rpc;
mod volumes;

use std::sync::Arc;

pub use rpc::serve;
pub use volumes::{Driver, Resources, ServeSocket};

use crate::fault::Fault;

/// `csi.v1`: `proto/kubelet/csi`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod api {
    tonic::include_proto!("csi.v1");
}

/// `pluginregistration`: `proto/kubelet/pluginregistration`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// Why a volume is not made, or not removed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A volume of this name is there, and is another one.
    #[error("{0}")]
    Another(String),
    /// It may work later: the kubelet asks again and again.
    #[error("{0}")]
    Later(#[from] Fault),
}

type Shared = Arc<Driver>;

#[cfg(test)]
mod tests;

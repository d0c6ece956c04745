//! The API's generated types, and what turns them into the project's own.

pub mod build;
pub mod credentials;
pub mod error;
pub mod mode;
pub mod progress;

/// `wharf.v1`, as `proto/wharf/v1` documents it.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("wharf.v1");

    /// The protos' descriptors, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wharf.v1.bin"));
}

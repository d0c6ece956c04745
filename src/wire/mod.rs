//! The API's generated types, and conversions that its door and its client share.

pub mod error;
mod namespace;
pub mod progress;

/// `wharf.v1`, documented in `proto/wharf/v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("wharf.v1");

    /// The protos' descriptors, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wharf.v1.bin"));
}

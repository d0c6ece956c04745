//! Registries, asked by wharfd itself: manifests and blobs, hashed as they come.
//!
//! What a registry shows to a caller's login is the proof that the caller may use an image, so wharfd
//! looks at the bytes. It goes where the engine goes: the same mirrors, insecure registries, CAs and
//! proxies. A login goes to the registry that it is for, and to the token server that this one names.

mod answer;
mod auth;
mod certs;
mod challenge;
mod client;
mod connect;
mod error;
#[cfg(fuzzing)]
pub mod fuzz;
mod meter;
mod proxy;
mod reach;
mod relay;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Blob, Client, Manifest, Repository, Target};
pub use error::{Error, Kind};
pub use meter::{LOOK, Meter, Reading, SLOW_BYTES};
pub use reach::Reach;
pub use relay::{Relay, Transfer, Watch, Watcher};

//! wharfd's own client for registries: manifests and blobs, hashed as they come; and for the URLs of `ADD`.
//!
//! An image that a registry shows to a caller's login is one that the caller may use. This is the proof, so
//! wharfd looks at the bytes itself. wharfd uses the same mirrors, insecure registries, CAs and proxies as
//! the engine. It sends a login only to the login's registry and to the token server that this registry
//! names.

mod again;
mod answer;
mod auth;
mod blob;
mod certs;
mod challenge;
mod client;
mod connect;
mod error;
mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod lookups;
mod meter;
mod proxy;
mod reach;
mod relay;
mod server;
#[cfg(test)]
mod tests;

pub use blob::Blob;
pub use client::{CONFIG_BYTES_MAX, Client, Manifest, Repository, Target};
pub use error::{Error, Kind};
pub use file::{File, Files, Got, NotGot, Validators};
pub use lookups::{LOOKUPS_MAX, LookupError, Lookups, Resolver};
pub use meter::{FASTER_BYTES, LOOK, Meter, Reading, SLOW_BYTES};
pub use reach::Reach;
pub use relay::{Layers, Parts, Puller, Relay, Transfer, Watch, Watcher};

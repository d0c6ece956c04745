//! Wharf builds container images for Jenkins jobs, each in a namespace of its own.
//!
//! A module uses only those listed above it, and `tests/layout.rs` enforces this. The client uses only `names`,
//! `go_json`, `go_mode`, `network` and `wire`; wharfd never uses the client.

// Words and tools that all share.

pub mod names;

pub mod fault;

pub mod go_json;
pub mod go_mode;

pub mod network;

pub mod telemetry;

pub mod tasks;

pub mod shares;

pub mod progress;

pub mod audit;

pub mod metrics;

pub mod config;

pub mod wire;

// All of `wharf`.

pub mod client;

// wharfd, in the order of a build: the connection, its caller, the engine and its images, the call, the build, and the
// clean-up.

pub mod transport;

pub mod policy;

pub mod identity;

pub mod naming;

pub mod store;

pub mod buildkit;

pub mod engine;

pub mod registry;

pub mod images;

pub mod engines;

pub mod front;

pub mod build;

pub mod janitor;

// wharfd's doors, and its life.

pub mod service;

pub mod csi;

pub mod scrape;

pub mod firewall;

pub mod daemon;

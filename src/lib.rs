//! Wharf builds container images for Jenkins jobs, each in a namespace of its own.
//!
//! A module uses only those listed above it: first the words that all of them share, last the service and the
//! daemon. The daemon never uses `client`; `client` uses `names`, `fault`, `go_json`, `go_mode`, `network`
//! and `wire` only.

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

pub mod config;

pub mod wire;

pub mod client;

pub mod transport;

pub mod policy;

pub mod firewall;

pub mod identity;

pub mod naming;

pub mod store;

pub mod buildkit;

pub mod engine;

pub mod registry;

pub mod images;

pub mod engines;

pub mod build;

pub mod front;

pub mod janitor;

pub mod service;

pub mod csi;

pub mod daemon;

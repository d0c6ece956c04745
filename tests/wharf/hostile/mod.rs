//! Attacks of one job on the node or on another job. Each is first shown to work on the engine's bare socket,
//! and then tried through Wharf.

pub(crate) mod archives;
pub(crate) mod cache;
pub(crate) mod descriptors;
pub(crate) mod files;
pub(crate) mod forged;
pub(crate) mod frontend;
pub(crate) mod graph;
pub(crate) mod layers;
pub(crate) mod listings;
pub(crate) mod metadata;
pub(crate) mod proof;
pub(crate) mod pushes;
pub(crate) mod quotas;
pub(crate) mod receiver;
pub(crate) mod repository;
pub(crate) mod slow;
pub(crate) mod sources;
pub(crate) mod streams;
pub(crate) mod tar;
pub(crate) mod unpacked;
pub(crate) mod users;

//! The parameters of a build.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    buildkit::solve::{Form, Layout},
    config::StepNetwork,
    names::Reference,
};

/// Linux's PATH_MAX, of a path and of a link's target: no file can have a longer one.
pub const PATH_BYTES_MAX: usize = 4096;

/// A well-formed build.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildSpec {
    /// The references that the image gets, each with a tag.
    pub tags: Vec<Reference>,
    /// The Dockerfile's path within its directory, or within the tar.
    pub dockerfile: String,
    /// The stage to build; empty means the last.
    pub target: String,
    /// Values of ARGs.
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Run every step again, without the cache.
    pub no_cache: bool,
    /// Ask the registry again which image a tag names.
    pub pull: bool,
    /// Push every tag.
    pub push: bool,
    /// Further lines for /etc/hosts.
    pub add_hosts: Vec<(String, IpAddr)>,
    /// The network of RUN steps.
    pub network: StepNetwork,
    /// Size of /dev/shm in bytes; 0 means the engine's default.
    pub shm_size: u64,
    /// Limits of RUN steps: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// The platforms that the client asked for; an empty one means the engine's own.
    pub platforms: Vec<String>,
    /// The results, at least one; at most one is an image.
    pub outputs: Vec<Output>,
}

/// One result of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An image in the namespace.
    Image,
    /// Files for the client.
    Files(Form),
    /// An image in an archive for the client, with these references.
    Archive(Layout, Vec<Reference>),
    /// Nothing but the cache.
    CacheOnly,
}

impl BuildSpec {
    /// Whether an image stays in the namespace.
    pub fn makes_image(&self) -> bool {
        self.outputs.contains(&Output::Image)
    }

    /// Whether the client receives something, for which it needs a session.
    pub fn has_streams(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output, Output::Files(_) | Output::Archive(..)))
    }

    /// The archives among the outputs, each with its position.
    pub fn archives(&self) -> impl Iterator<Item = (usize, Layout, &[Reference])> {
        self.outputs.iter().enumerate().filter_map(|(position, output)| match output {
            Output::Archive(layout, names) => Some((position, *layout, names.as_slice())),
            Output::Image | Output::Files(_) | Output::CacheOnly => None,
        })
    }
}

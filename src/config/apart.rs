//! How far builds are kept apart inside an engine.

use serde::Deserialize;

use super::Config;

/// Where BuildKit's Dockerfile frontend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontendPlace {
    /// In the engine's own process: fast, but a Dockerfile that crashes the frontend crashes the engine.
    Builtin,
    /// In a container of its own: a Dockerfile can crash nothing else.
    Container,
}

/// The layers above a base image's. Shared by default: up to BuildKit 0.33 a build that ends while the own layers are
/// made can leave them unusable for its job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuiltLayers {
    /// As the Dockerfile makes them. The engine uses a job's layer for any image that has a layer with the same hash.
    #[default]
    Shared,
    /// They begin with two that no other job has, so that the engine uses them for the job's images alone.
    Own,
}

impl Config {
    /// Where Dockerfiles are read: in a container as soon as anyone but root and wharfd's own uid is
    /// served, unless the operator configured it.
    pub fn frontend(&self) -> FrontendPlace {
        match self.said_frontend {
            Some(said) => said,
            None if self.serve.is_empty() => FrontendPlace::Builtin,
            None => FrontendPlace::Container,
        }
    }
}

//! How a build ends.

use crate::{
    names::{Reference, reference::Digest},
    progress::SourceLines,
};

/// The end of a build. A failed step is an outcome, not a fault.
#[derive(Debug)]
pub enum BuildOutcome {
    /// Everything that was asked for is made.
    Built(Built),
    /// The Dockerfile or a step failed.
    Failed(Failed),
}

/// The image of a build; all of it is empty if there is none.
#[derive(Debug, Default)]
pub struct Built {
    /// The image's id in the engine.
    pub image_id: String,
    /// The digest of the image's config.
    pub config_digest: String,
    /// The digest of the image's manifest: at the registry, once it has been pushed; before that, only if the
    /// engine's image store has one.
    pub digest: Option<String>,
    /// The manifest's descriptor in JSON, if BuildKit has reported it.
    pub descriptor: Option<String>,
    /// The references that the image got, in full.
    pub references: Vec<Reference>,
    /// The references to which it was pushed, with the digest of the manifest at each.
    pub pushed: Vec<(Reference, Digest)>,
}

/// The failure of a build.
#[derive(Debug)]
pub struct Failed {
    /// The part of the build that failed.
    pub kind: FailureKind,
    /// The text for the client.
    pub message: String,
    /// The digest of the step that failed.
    pub vertex: Option<String>,
    /// The exit code of the step's command.
    pub exit_code: Option<i32>,
    /// The Dockerfile's lines that caused it.
    pub source: Option<SourceLines>,
}

/// A part of a build that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The Dockerfile cannot be read; no step has run.
    Dockerfile,
    /// A step, or the export.
    Step,
}

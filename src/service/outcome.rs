//! The end of a build in the API's form.

use crate::{
    build::outcome::{Built, Failed, FailureKind},
    wire::v1,
};

pub(super) fn built(built: Built) -> v1::BuildResult {
    let Built { image_id, config_digest, digest, descriptor, references, pushed } = built;
    let pushed = pushed.into_iter().map(|(reference, digest)| v1::PushedReference {
        reference: reference.to_string(),
        digest: digest.to_string(),
    });
    v1::BuildResult {
        image_id,
        digest: digest.unwrap_or_default(),
        config_digest,
        descriptor: descriptor.unwrap_or_default(),
        references: references.iter().map(ToString::to_string).collect(),
        pushed: pushed.collect(),
    }
}

pub(super) fn failed(failed: Failed) -> v1::BuildFailure {
    let Failed { kind, message, vertex, exit_code, source } = failed;
    let kind = match kind {
        FailureKind::Dockerfile => v1::BuildFailureKind::Dockerfile,
        FailureKind::Step => v1::BuildFailureKind::Step,
    };
    v1::BuildFailure {
        kind: kind.into(),
        message,
        vertex: vertex.unwrap_or_default(),
        exit_code: exit_code.unwrap_or_default(),
        source: source.map(Into::into),
    }
}

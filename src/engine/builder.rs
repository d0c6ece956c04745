//! The engine's builder: the BuildKit that is a part of Docker Engine. A `buildkitd` beside the engine would be
//! another one: with a socket of its own, and with an exporter that hands the image over.

use std::{collections::HashMap, path::Path};

use crate::{
    buildkit::{
        connection::{Connection, Dialler},
        probe::{self, Unanswered, probe},
        solve::{ExporterRequest, Form},
    },
    fault::{Fault, Reason},
    names::{EngineName, Reference},
    naming::ImageName,
    tasks::Group,
};

/// Docker's exporter: it puts the image into the engine's image store (`builder-next/exporter` in moby).
const EXPORTER: &str = "moby";
/// The LLB capabilities that wharfd requires, each with the first engine that has it.
const NEEDED: [(&str, &str); 1] = [("source.policy", "26.1")];

/// The builder of an engine.
pub struct Builder {
    dialler: Dialler,
    version: Option<(u32, u32)>,
}

impl Builder {
    /// The builder at the socket of the engine called `engine`, which is of `version`. Refuses one that lacks a capability
    /// which wharfd needs, or has a fault that every build of wharfd's would meet.
    pub(super) async fn find(
        engine: &EngineName,
        version: &str,
        socket: &Path,
        tasks: &Group,
    ) -> Result<Self, Fault> {
        let probed = probe(socket, tasks).await.map_err(|unanswered| match unanswered {
            Unanswered::Unreachable(fault) => fault,
            Unanswered::Silent(status) => Fault::new(
                Reason::EngineLacks,
                format!("the builder of the engine `{engine}` does not answer"),
            )
            .hint("wharfd needs Docker Engine 26.1 or newer, with BuildKit")
            .caused_by(status),
        })?;
        if writes_policies_at_once(probed.version, version) {
            let text =
                format!("the builder of the engine `{engine}` crashes on Dockerfiles with several images");
            return Err(Fault::new(Reason::EngineLacks, text)
                .hint("BuildKit 0.26 (Docker Engine 29.1) has that fault: upgrade the engine"));
        }
        let capabilities = probed.capabilities().await.map_err(|status| {
            let text = format!("the builder of the engine `{engine}` does not list its capabilities");
            Fault::new(Reason::EngineUnavailable, text).caused_by(status)
        })?;
        for (needed, since) in NEEDED {
            if !capabilities.iter().any(|capability| capability == needed) {
                let text = format!("the builder of the engine `{engine}` lacks `{needed}`");
                return Err(Fault::new(Reason::EngineLacks, text)
                    .hint(format!("Docker Engine {since} and newer have it: upgrade the engine")));
            }
        }
        let dialler = Dialler::new(socket.to_owned(), probed.dialling);
        Ok(Self { dialler, version: probed.version })
    }

    /// Its version, major and minor, if that is known.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        self.version
    }

    /// A new connection to BuildKit; `tasks` owns the connection's tasks.
    pub(super) async fn connect(&self, tasks: &Group) -> Result<Connection, Fault> {
        self.dialler.connect(tasks).await
    }

    /// The export of an image into the engine's image store, as `name`.
    pub(crate) fn export(&self, name: &ImageName) -> ExporterRequest {
        let attributes = HashMap::from([("name".to_owned(), name.to_string())]);
        ExporterRequest { kind: EXPORTER, attributes }
    }

    /// The export of the result's files to the session. `epoch` is the time that they all get; BuildKit takes it from
    /// the build's arguments only if it calls the frontend itself (`control.Solve`).
    pub(crate) fn export_files(&self, form: Form, epoch: Option<&str>) -> ExporterRequest {
        let epoch = epoch.map(|epoch| ("source-date-epoch".to_owned(), epoch.to_owned()));
        let kind = match form {
            Form::Tree => "local",
            Form::File => "tar",
        };
        ExporterRequest { kind, attributes: epoch.into_iter().collect() }
    }

    /// The export of an image to the session, as an archive with these names, by an exporter that the image store names
    /// ([`archive_exporter`](super::image_store::ImageStore::archive_exporter)).
    pub(crate) fn export_archive(&self, kind: &'static str, names: &[Reference]) -> ExporterRequest {
        let names: Vec<_> = names.iter().map(Reference::to_string).collect();
        let attributes = HashMap::from([("name".to_owned(), names.join(","))]);
        ExporterRequest { kind, attributes }
    }
}

/// Whether it is BuildKit 0.26, which judges all sources of a graph at once, and writes one map as it does
/// (`sourcepolicy`, fixed in 0.27): Go then ends the engine. A BuildKit that was built without its version is
/// known by its engine's.
fn writes_policies_at_once(own: Option<(u32, u32)>, engine: &str) -> bool {
    match own {
        None => probe::major_and_minor(engine) == Some((29, 1)),
        Some(known) => known == (0, 26),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildkit::probe::version;

    #[test]
    fn a_builder_that_every_build_may_end_is_known_by_its_version() {
        for (own, engine) in [
            ("v0.26.1", "29.1.0"),
            ("v0.26.0-rc1", "30.0.0"),
            ("v0.0.0+unknown", "29.1.3"),
            ("", "29.1.0-rc.1"),
        ] {
            assert!(writes_policies_at_once(version(own), engine), "{own} {engine}");
        }
        for (own, engine) in [
            ("v0.25.2", "29.0.0"),
            ("v0.27.0", "29.1.9"),
            ("v0.13.2", "26.1.5"),
            ("v0.0.0+unknown", "26.1.5"),
            ("", "29.2.0"),
            ("v0.2.6", "dev"),
        ] {
            assert!(!writes_policies_at_once(version(own), engine), "{own} {engine}");
        }
    }
}

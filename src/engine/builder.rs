//! The engine's builder: the BuildKit that is a part of Docker Engine. A `buildkitd` beside the engine would be
//! another one: with a socket of its own, and with an exporter that hands the image over.

use std::collections::HashMap;

use crate::{
    buildkit::{
        connection::{Connection, Dialler},
        solve::{ExporterRequest, Form, Layout},
    },
    fault::Fault,
    names::Reference,
    naming::ImageName,
    tasks::Group,
};

/// Docker's exporter: it puts the image into the engine's image store (`builder-next/exporter` in moby).
const EXPORTER: &str = "moby";

/// The builder of an engine.
pub struct Builder {
    dialler: Dialler,
}

impl Builder {
    pub(super) fn new(dialler: Dialler) -> Self {
        Self { dialler }
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

    /// The export of an image to the session, as an archive with these names. Only a builder with containerd's store has
    /// it ([`exports_archives`](super::image_store::ImageStore::exports_archives)).
    pub(crate) fn export_archive(&self, layout: Layout, names: &[Reference]) -> ExporterRequest {
        let kind = match layout {
            Layout::Oci => "oci",
            Layout::Docker => "docker",
        };
        let names: Vec<_> = names.iter().map(Reference::to_string).collect();
        let attributes = HashMap::from([("name".to_owned(), names.join(","))]);
        ExporterRequest { kind, attributes }
    }
}

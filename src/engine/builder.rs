//! The engine's builder: the BuildKit that is a part of Docker Engine. A `buildkitd` beside the engine would be
//! another one: with a socket of its own, and with an exporter that hands the image over.

use std::collections::HashMap;

use crate::{
    buildkit::{
        connection::{Connection, Dialler},
        solve::Export,
    },
    fault::Fault,
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
    pub(crate) fn export(&self, name: &ImageName) -> Export {
        let attributes = HashMap::from([("name".to_owned(), name.to_string())]);
        Export { kind: EXPORTER, attributes }
    }
}

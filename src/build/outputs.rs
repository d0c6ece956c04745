//! The outputs of a build that its client receives: BuildKit's exporters send them on the build's session, and they
//! go on to the client message by message. Only a few messages wait at a time.

pub(super) mod relay;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::SetOnce;
use tonic::Status;

use relay::{Listed, Told};

use super::{
    session::{Attached, Subject},
    spec::{BuildSpec, Output},
};
use crate::{
    buildkit::{
        session::Messages,
        solve::{ExporterRequest, Form, Layout},
    },
    engine::Engine,
    metrics::EngineMetrics,
    names::Reference,
    naming::ImageName,
    tasks::Group,
};

/// Whether the engine's store gets an image: one that stays, or one from which the store makes an archive.
pub(super) fn make_image(spec: &BuildSpec, engine: &Engine) -> bool {
    spec.makes_image() || stores_archives(spec, engine).next().is_some()
}

/// The archives that the engine's store makes of the image, each with its position among the build's outputs.
pub(super) fn stores_archives<'a>(
    spec: &'a BuildSpec,
    engine: &Engine,
) -> impl Iterator<Item = (usize, Layout, &'a [Reference])> {
    let store = engine.image_store();
    spec.archives().filter(move |(_, layout, _)| store.archive_exporter(*layout).is_none())
}

/// The outputs that BuildKit exports, each with its position among the build's.
fn exported<'a>(spec: &'a BuildSpec, engine: &Engine) -> impl Iterator<Item = (usize, &'a Output)> {
    let store = engine.image_store();
    spec.outputs.iter().enumerate().filter(move |(_, output)| match output {
        Output::Image | Output::Files(_) => true,
        Output::Archive(layout, _) => store.archive_exporter(*layout).is_some(),
        Output::CacheOnly => false,
    })
}

/// The exporters of a build, in the order in which BuildKit gets them. `name` is the image's, if the store gets one.
pub(super) fn exports(spec: &BuildSpec, engine: &Engine, name: Option<&ImageName>) -> Vec<ExporterRequest> {
    let epoch = spec.build_args.get("SOURCE_DATE_EPOCH").map(String::as_str);
    let epoch = epoch.filter(|epoch| epoch.parse::<i64>().is_ok());
    let exports = exported(spec, engine).filter_map(|(_, output)| match output {
        Output::Image => name.map(|name| engine.builder().export(name)),
        Output::Files(form) => Some(engine.builder().export_files(*form, epoch)),
        Output::Archive(layout, names) => {
            let exporter = engine.image_store().archive_exporter(*layout);
            exporter.map(|exporter| engine.builder().export_archive(exporter, names))
        }
        Output::CacheOnly => None,
    });
    // Behind all others, so that those keep their positions.
    let made = name.filter(|_| !spec.makes_image()).map(|name| engine.builder().export(name));
    exports.chain(made).collect()
}

/// The outputs that the client receives.
#[derive(Debug, Default)]
pub struct Outputs(Vec<Expected>);

/// One of them, which BuildKit sends once.
#[derive(Debug)]
pub struct Expected {
    /// The position of its exporter among [`exports`].
    exporter: usize,
    /// Its position in the build's outputs.
    output: usize,
    form: Form,
    begun: AtomicBool,
    /// Whether the client has all of it.
    is_whole: Arc<AtomicBool>,
    /// Counts the entries of all trees of the build.
    listed: Arc<Listed>,
}

impl Outputs {
    /// The outputs of a build.
    pub fn of(spec: &BuildSpec, engine: &Engine) -> Self {
        let listed = Arc::<Listed>::default();
        let expected = exported(spec, engine).enumerate().filter_map(|(exporter, (output, kind))| {
            let form = match kind {
                Output::Files(form) => *form,
                Output::Archive(..) => Form::File,
                Output::Image | Output::CacheOnly => return None,
            };
            let (begun, listed) = (AtomicBool::new(false), Arc::clone(&listed));
            Some(Expected { exporter, output, form, begun, is_whole: Arc::default(), listed })
        });
        Self(expected.collect())
    }

    /// Whether there are no outputs.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The position, among the build's outputs, of one that the client does not have.
    pub fn missing(&self) -> Option<usize> {
        let missing = self.0.iter().find(|expected| !expected.is_whole.load(Ordering::Acquire));
        missing.map(|expected| expected.output)
    }

    /// The one of this exporter. BuildKit sends nothing that the build has not asked for, and nothing twice.
    pub fn begin(&self, exporter: usize) -> Result<&Expected, Status> {
        let expected = self.0.iter().find(|expected| expected.exporter == exporter);
        let expected = expected.ok_or_else(|| Status::not_found("the build has no such output"))?;
        if expected.begun.swap(true, Ordering::Relaxed) {
            return Err(Status::already_exists("the output has been sent already"));
        }
        Ok(expected)
    }
}

impl Expected {
    /// The stream on which the client receives it.
    pub fn subject(&self) -> Subject {
        Subject::Output(self.output, self.form)
    }

    /// Connects BuildKit's messages with the client's stream; returns the messages for BuildKit. `tasks` are the
    /// build's, `refused` ends it, and `metrics` count the bytes.
    pub fn relay(
        &self,
        sent: Messages,
        stream: Attached,
        tasks: &Group,
        refused: &Arc<SetOnce<Status>>,
        metrics: &EngineMetrics,
    ) -> Messages {
        let (is_whole, refused) = (Arc::clone(&self.is_whole), Arc::clone(refused));
        let told = Told { is_whole, refused, listed: Arc::clone(&self.listed), metrics: metrics.clone() };
        relay::begin(self.form, sent, stream, tasks, relay::LIMITS, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_missing_until_its_client_has_all_of_it() {
        let expected = |exporter, output| Expected {
            exporter,
            output,
            form: Form::File,
            begun: AtomicBool::new(false),
            is_whole: Arc::default(),
            listed: Arc::default(),
        };
        let outputs = Outputs(vec![expected(0, 1), expected(1, 3)]);
        assert_eq!(outputs.missing(), Some(1));
        for (exporter, missing) in [(0, Some(3)), (1, None)] {
            let begun = outputs.begin(exporter).unwrap();
            assert!(outputs.missing().is_some(), "one that has only begun is missing");
            begun.is_whole.store(true, Ordering::Release);
            assert_eq!(outputs.missing(), missing);
        }
        assert!(outputs.begin(1).is_err() && outputs.begin(2).is_err());
        assert_eq!(Outputs::default().missing(), None);
    }
}

//! Decides which progress of a pass the client sees, and when: a denied pass is repeated and should not be
//! shown.

use std::{
    collections::{BTreeSet, HashMap},
    sync::OnceLock,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use tonic::{Code, Status};

use super::{convert, gate::Names, limits::Used, rename::Renaming};
use crate::{
    buildkit::solve::PassListener,
    metrics::EngineMetrics,
    progress::{Progress, Reporter},
    telemetry::each_second,
};

/// The limit on messages of a pass that may still be denied; a real pass has a few dozen.
const MESSAGES_HELD_MAX: usize = 1024;
/// How long a pass is held back: a denied pass takes about 20 ms.
const HOLD: Duration = Duration::from_millis(500);

/// The progress of a pass. It is held back for a moment, since a denied pass is repeated. If the pass takes longer,
/// its progress is shown as it comes, except errors, which may be the denial itself.
pub(super) struct PassProgress<'a> {
    reporter: &'a Reporter,
    used: &'a Used,
    renaming: &'a Renaming,
    /// The names of the steps, once the graph is known.
    steps: &'a OnceLock<Names>,
    begun: Instant,
    held: Vec<Progress>,
    /// The digests of this pass's steps that do not concern the job.
    hidden: BTreeSet<String>,
    runs: bool,
    ended: Ended,
    /// The reason why no more progress comes, until it has been reported.
    broken: Option<Status>,
}

impl<'a> PassProgress<'a> {
    pub(super) fn new(
        reporter: &'a Reporter,
        used: &'a Used,
        renaming: &'a Renaming,
        steps: &'a OnceLock<Names>,
    ) -> Self {
        Self {
            reporter,
            used,
            renaming,
            steps,
            begun: Instant::now(),
            held: Vec::new(),
            hidden: BTreeSet::new(),
            runs: false,
            ended: Ended { cached: HashMap::new(), metrics: used.metrics().clone() },
            broken: None,
        }
    }

    /// Notes the steps that have ended. Only those of the graph count, and not the transfer of the context: a pass
    /// that is denied, and the export, have others. BuildKit reports a step more than once.
    fn count(&mut self, status: &StatusResponse) {
        let Some(steps) = self.steps.get() else { return };
        let is_step = |digest: &str| steps.get(digest).is_some_and(|name| !name.starts_with("[internal]"));
        for vertex in status.vertexes.iter().filter(|vertex| vertex.completed.is_some()) {
            if is_step(&vertex.digest) {
                self.ended.cached.insert(vertex.digest.clone(), vertex.cached);
            }
        }
    }

    fn release(&mut self) {
        let mut rest = Vec::new();
        for mut progress in self.held.drain(..) {
            if !self.runs {
                let errors = progress.vertexes.extract_if(.., |vertex| !vertex.error.is_empty()).collect();
                rest.push(Progress { vertexes: errors, ..Progress::default() });
            }
            self.reporter.report(progress);
        }
        rest.retain(|progress| !progress.vertexes.is_empty());
        self.held = rest;
        if self.runs
            && let Some(why) = self.broken.take()
        {
            self.warn(&why);
        }
    }

    /// Tells the client that the log ends although the build continues.
    fn warn(&self, why: &Status) {
        let details = match why.code() {
            Code::ResourceExhausted | Code::OutOfRange => vec![
                "one message about the build was too large: each warning about a Dockerfile contains all of its text"
                    .to_owned(),
                "`# check=skip=all` as the Dockerfile's first line turns the warnings off".to_owned(),
            ],
            _ => Vec::new(),
        };
        let short = "the rest of the build's log is missing: BuildKit broke it off";
        self.reporter.warn(short, details);
    }
}

impl PassListener for PassProgress<'_> {
    fn report(&mut self, status: StatusResponse) {
        self.count(&status);
        // A warning contains the whole Dockerfile, and BuildKit keeps all of them as it keeps the steps' output.
        let warnings = status.warnings.iter().map(prost::Message::encoded_len);
        self.used.log(status.logs.iter().map(|log| log.msg.len()).chain(warnings).sum());
        if self.held.len() < MESSAGES_HELD_MAX {
            let status = self.renaming.status(status, self.steps.get(), &mut self.hidden);
            self.held.push(convert::progress(status));
        }
        if self.runs || self.begun.elapsed() > HOLD {
            self.release();
        }
    }

    fn broke_off(&mut self, why: Status) {
        each_second!(warn, error = why.to_string(), "BuildKit broke off the build's status");
        self.broken = Some(why);
        if self.runs {
            self.release();
        }
    }

    fn runs(&mut self) {
        self.runs = true;
        self.release();
    }
}

/// The steps of the graph that have ended, and whether each was in the cache. They are counted when it is dropped.
struct Ended {
    cached: HashMap<String, bool>,
    metrics: EngineMetrics,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let cached = self.cached.values().filter(|cached| **cached).count();
        self.metrics.steps(cached as u64, self.cached.len().saturating_sub(cached) as u64);
    }
}

/// The manifest's descriptor, which is JSON in base64 in the exporters' response.
pub(super) fn descriptor(response: &HashMap<String, String>) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(response.get("containerimage.descriptor")?).ok()?;
    String::from_utf8(bytes).ok()
}

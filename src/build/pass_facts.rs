//! What a client hears of a pass, and when: a pass that is denied is run again, and should not show.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use tonic::{Code, Status};

use super::{convert, rename::Renaming};
use crate::{
    buildkit::solve::Facts,
    progress::{Progress, Reporter},
};

/// Facts of a pass that may yet be denied; a pass makes a few dozen.
const FACTS_HELD_MAX: usize = 1024;
/// How long a pass is held back: a denied one takes some 20 ms.
const HOLD: Duration = Duration::from_millis(500);

/// Facts of a pass: held back for a moment, since one that is denied is run again. A pass that takes
/// longer than a moment is shown as it goes, but for its errors, which may be no more than the denial.
pub(super) struct PassFacts<'a> {
    reporter: &'a Reporter,
    renaming: &'a Renaming,
    begun: Instant,
    held: Vec<Progress>,
    /// What of the pass is none of the job's, by digest.
    hidden: BTreeSet<String>,
    runs: bool,
    /// Why no more facts come, until that was said.
    broken: Option<Status>,
}

impl<'a> PassFacts<'a> {
    pub(super) fn new(reporter: &'a Reporter, renaming: &'a Renaming) -> Self {
        Self {
            reporter,
            renaming,
            begun: Instant::now(),
            held: Vec::new(),
            hidden: BTreeSet::new(),
            runs: false,
            broken: None,
        }
    }

    async fn release(&mut self) {
        let mut rest = Vec::new();
        for mut progress in self.held.drain(..) {
            if !self.runs {
                let errors = progress.vertexes.extract_if(.., |vertex| !vertex.error.is_empty()).collect();
                rest.push(Progress { vertexes: errors, ..Progress::default() });
            }
            self.reporter.report(progress).await;
        }
        rest.retain(|progress| !progress.vertexes.is_empty());
        self.held = rest;
        if self.runs
            && let Some(why) = self.broken.take()
        {
            self.warn(&why).await;
        }
    }

    /// A log that ends in the middle of a build that goes on must say so.
    async fn warn(&self, why: &Status) {
        let details = match why.code() {
            Code::ResourceExhausted | Code::OutOfRange => vec![
                "one message about the build was too large: each warning about a Dockerfile carries all of it"
                    .to_owned(),
                "`# check=skip=all` as the Dockerfile's first line leaves the warnings out".to_owned(),
            ],
            _ => Vec::new(),
        };
        let short = "the rest of the build's log is missing: BuildKit broke it off";
        self.reporter.warn(short, details).await;
    }
}

impl Facts for PassFacts<'_> {
    async fn report(&mut self, facts: StatusResponse) {
        if self.held.len() < FACTS_HELD_MAX {
            let facts = self.renaming.facts(facts, &mut self.hidden);
            self.held.push(convert::progress(facts));
        }
        if self.runs || self.begun.elapsed() > HOLD {
            self.release().await;
        }
    }

    async fn broke_off(&mut self, why: Status) {
        tracing::warn!(error = %why, "BuildKit broke off the build's status");
        self.broken = Some(why);
        if self.runs {
            self.release().await;
        }
    }

    async fn runs(&mut self) {
        self.runs = true;
        self.release().await;
    }
}

/// The manifest's descriptor, which BuildKit gives as JSON in base64.
pub(super) fn descriptor(facts: &HashMap<String, String>) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(facts.get("containerimage.descriptor")?).ok()?;
    String::from_utf8(bytes).ok()
}

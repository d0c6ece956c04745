//! Builds that run: one solve each, in passes, until the frontend names no image or URL that was
//! not admitted and the gate lets its graph run.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error as _,
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tonic::{Code, Status};

use super::{
    client::BuildClient,
    gate::{self, Gate, Refusal},
    isolation::{self, JobKeys},
    pass_facts::PassFacts,
    sources::Sources,
    tar::Tar,
};
use crate::{
    buildkit::{
        connection::Connection,
        failure::{self, Failure},
        session::Session,
        solve::{self, Ended, Facts},
    },
    fault::{Fault, Reason},
    images::{Images, admission::CredentialSource},
    names::{Namespace, RESERVED_HOST, printable, random_id, shortened},
    policy::Permit,
    wire::{build::BuildSpec, progress::Reporter, v1},
};

/// A Dockerfile that names more images, or URLs one after the other, is no Dockerfile.
const PASSES_MAX: usize = 64;
/// What a failure says of itself; a step's command is in it, which may be anything.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// A build that was allowed.
#[derive(Debug)]
pub struct Order {
    /// Where it runs.
    pub namespace: Permit<Namespace>,
    /// What it builds.
    pub spec: BuildSpec,
    /// Who stands behind it.
    pub client: Arc<BuildClient>,
}

impl Order {
    /// The job that it is for.
    pub(super) fn job(&self) -> &str {
        self.namespace.subject().job()
    }
}

/// How a build ended. A failed step is an outcome, not a fault.
#[derive(Debug)]
pub enum Outcome {
    /// The image.
    Built(v1::BuildResult),
    /// The Dockerfile or a step failed.
    Failed(v1::BuildFailure),
}

/// Runs a build to its end. Dropping the future cancels the build on the engine.
pub async fn run(images: &Images, order: &Order, reporter: &Reporter) -> Result<Outcome, Fault> {
    let mut build = Build::new(images, order, reporter)?;
    let tasks = &order.client.tasks;
    let connection = images.engine().dial(tasks).await?;
    let session = Session::new(random_id()?);
    let shared_key = build.shared_key();
    let serving = session.serve(&connection, &shared_key, order.client.clone(), tasks);
    let exported = tokio::select! {
        ended = serving => match ended {
            Err(fault) => return Err(fault),
        },
        ended = build.passes(&connection, &session) => ended?,
    };
    match exported {
        Passed::Exported(facts) => build.finish(&facts).await.map(Outcome::Built),
        Passed::Failed(failure) => Ok(Outcome::Failed(failure)),
    }
}

enum Passed {
    Exported(HashMap<String, String>),
    Failed(v1::BuildFailure),
}

/// What follows from a pass.
enum Next {
    /// Another pass, once these sources are admitted.
    Admit(Vec<String>),
    End(Result<Passed, Fault>),
}

struct Build<'a> {
    images: &'a Images,
    order: &'a Order,
    spec: BuildSpec,
    reporter: &'a Reporter,
    keys: JobKeys,
    sources: Sources<'a>,
}

impl<'a> Build<'a> {
    fn new(images: &'a Images, order: &'a Order, reporter: &'a Reporter) -> Result<Self, Fault> {
        let mut spec = order.spec.clone();
        let own = images.engine().platform().to_string();
        if !spec.platform.is_empty() && spec.platform != own {
            return Err(gate::foreign_platform(&spec.platform, &own));
        }
        let job = order.job();
        // A client may divide its own job's cache mounts further, never leave the job.
        let divided = spec.build_args.remove("BUILDKIT_CACHE_MOUNT_NS");
        let keys = JobKeys {
            salt: images.keys().salt(job),
            cache_mounts: images.keys().cache_mounts(job, divided.as_deref()),
        };
        Ok(Self { images, order, spec, reporter, keys, sources: Sources::new(images, order, reporter) })
    }

    /// What the context sync is compared with: the job's own earlier syncs of the same directories.
    fn shared_key(&self) -> String {
        let session = self.order.client.session.as_ref();
        let directories: Vec<(&str, &str)> = session
            .iter()
            .flat_map(|session| &session.offer().directories)
            .map(|(name, path)| (name.as_str(), path.as_str()))
            .collect();
        self.images.keys().shared_key(self.order.job(), &directories)
    }

    /// Passes until one runs. The first proves what the job's Dockerfile used last time, so that an
    /// unchanged rebuild takes one.
    async fn passes(&mut self, connection: &Connection, session: &Session) -> Result<Passed, Fault> {
        let names = self.private_names().await?;
        let before = self.images.engine().ids_of(names.iter().map(String::as_str)).await?;
        self.sources.admit_bases().await?;
        for pass in 1..=PASSES_MAX {
            tracing::debug!(pass, "a pass of the frontend");
            self.sources.hold_again().await?;
            let mut facts = PassFacts::new(self.reporter, self.sources.renaming());
            let (ended, used) = Box::pin(self.pass(connection, session, &names, &mut facts)).await?;
            match self.next(ended) {
                Next::Admit(sources) => {
                    for source in &sources {
                        self.sources.admit(source).await?;
                    }
                }
                Next::End(end) => {
                    facts.runs().await;
                    if matches!(end, Ok(Passed::Exported(_))) {
                        self.images.keep_replaced(self.order.namespace.subject(), before).await?;
                        self.sources.remember_bases(&used).await?;
                    }
                    return end;
                }
            }
        }
        let text = format!("the Dockerfile names more than {PASSES_MAX} images and URLs one after the other");
        Err(Fault::new(Reason::LimitReached, text))
    }

    /// One pass: how it ended, and the images that its graph uses.
    async fn pass(
        &self,
        connection: &Connection,
        session: &Session,
        names: &[String],
        facts: &mut PassFacts<'_>,
    ) -> Result<(Ended<Refusal>, BTreeSet<String>), Fault> {
        let tar = self.order.client.tar.as_ref().map(Tar::url);
        let sources = self.sources.list();
        let fetched = isolation::fetched(&sources, &self.keys);
        let order = solve::Order {
            reference: random_id()?,
            session: session.id().to_owned(),
            attributes: isolation::attributes(&self.spec, &self.keys, tar.as_deref()),
            policy: isolation::policy(&sources, &fetched),
            names: names.to_vec(),
        };
        let targets = self.sources.targets();
        let platform = self.images.engine().platform().to_string();
        let gate = Gate {
            session: session.id(),
            keys: &self.keys,
            platform: &platform,
            images: &targets,
            fetched: &fetched,
        };
        let (mut used, mut syntax) = (BTreeSet::new(), None);
        let judge = |answer: solve::Answer| {
            let judged = gate.judge(answer)?;
            syntax = judged.syntax().map(str::to_owned);
            used = judged.images().clone();
            Ok(judged)
        };
        let ended = solve::pass(connection, order, judge, facts).await;
        // Once, by the pass that runs.
        if let Some(syntax) = syntax.filter(|_| matches!(ended, Ended::Exported(_) | Ended::Failed(_))) {
            let short =
                format!("`# syntax={}` is ignored: the builder's own frontend is used", printable(&syntax));
            self.reporter.warn(short, Vec::new()).await;
        }
        Ok((ended, used))
    }

    /// What follows from how a pass ended.
    fn next(&self, ended: Ended<Refusal>) -> Next {
        match ended {
            Ended::Exported(exported) => Next::End(Ok(Passed::Exported(exported))),
            Ended::Refused(Refusal::Refused(fault)) => Next::End(Err(fault)),
            Ended::Refused(Refusal::NeedsUrls(urls)) => Next::Admit(urls.into_iter().collect()),
            Ended::Frontend(status) => {
                let failure = Failure::read(&status);
                match failure.denied_source() {
                    Some(source) => Next::Admit(vec![source.to_owned()]),
                    // An image is held for the engine's platform alone: for another one BuildKit goes
                    // and asks the network for the hold's name, which nobody answers.
                    None if failure.message.contains(RESERVED_HOST) => {
                        Next::End(Err(self.foreign_platform(&failure)))
                    }
                    None => Next::End(self.failed(v1::BuildFailureKind::Dockerfile, &status, failure)),
                }
            }
            Ended::Failed(status) => {
                let failure = Failure::read(&status);
                match failure.denied_source() {
                    Some(source) if !self.sources.has_been_asked_for(source) => {
                        Next::Admit(vec![source.to_owned()])
                    }
                    _ => Next::End(self.failed(v1::BuildFailureKind::Step, &status, failure)),
                }
            }
        }
    }

    fn foreign_platform(&self, failure: &Failure) -> Fault {
        let line =
            failure.source.as_ref().map_or(String::new(), |source| format!("Dockerfile:{}: ", source.start));
        let own = self.images.engine().platform();
        let text = format!("{line}the stage asks for another platform than the engine's, which is `{own}`");
        Fault::new(Reason::GraphDenied, text).hint(gate::PLATFORM_HINT)
    }

    /// The names that the image gets in the engine. One without a tag needs one too: the image is
    /// the namespace's.
    async fn private_names(&self) -> Result<Vec<String>, Fault> {
        let namespace = self.order.namespace.subject();
        if self.spec.tags.is_empty() {
            return Ok(vec![self.images.keys().names(namespace).untagged(&random_id()?)]);
        }
        let mut private = Vec::with_capacity(self.spec.tags.len());
        for tag in &self.spec.tags {
            private.push(self.images.private_name(namespace, tag).await?.as_str().to_owned());
        }
        Ok(private)
    }

    fn failed(&self, kind: v1::BuildFailureKind, status: &Status, failure: Failure) -> Result<Passed, Fault> {
        if let Some(cause) = self.order.client.tasks.cancelled_by() {
            return Err(cause.into());
        }
        if is_broken_off(status) && !failure::is_untold(status) {
            return Err(Fault::new(Reason::EngineUnavailable, "the engine's builder broke the build off")
                .hint("try the build again")
                .caused_by(status.clone()));
        }
        let mut message = shortened(self.sources.renaming().error(&failure.message), MESSAGE_BYTES_MAX);
        if failure::is_untold(status) && self.order.client.tar.is_some() {
            message.push_str(", or the context not a tar archive");
        }
        Ok(Passed::Failed(v1::BuildFailure {
            kind: kind.into(),
            message,
            vertex: failure.vertex.unwrap_or_default(),
            exit_code: failure.exit_code.unwrap_or_default(),
            source: failure.source,
        }))
    }

    /// The image is made: what is it, and does it go to a registry?
    async fn finish(&self, facts: &HashMap<String, String>) -> Result<v1::BuildResult, Fault> {
        let fact = |key: &str| facts.get(key).cloned().unwrap_or_default();
        let id = fact("containerimage.digest");
        let config = facts.get("containerimage.config.digest").unwrap_or(&id).clone();
        let store = self.images.engine().image_store();
        let digest = store.manifest_digest(&id).unwrap_or_default().to_owned();
        let mut result = v1::BuildResult {
            image_id: id,
            config_digest: config,
            digest,
            descriptor: descriptor(facts).unwrap_or_default(),
            references: self.spec.tags.iter().map(ToString::to_string).collect(),
            ..v1::BuildResult::default()
        };
        if self.spec.push {
            let client: &BuildClient = &self.order.client;
            // By id: the run may build the same tag twice at once.
            let image = self.images.find_image(&self.order.namespace, &result.image_id).await?;
            for tag in &self.spec.tags {
                let login = CredentialSource::credentials(client, tag.host()).await?;
                let pushing =
                    self.images.push(&self.order.namespace, &image, tag, login.as_ref(), self.reporter);
                let digest = pushing.await?.to_string();
                result.digest.clone_from(&digest);
                result.pushed.push(v1::PushedReference { reference: tag.to_string(), digest });
            }
        }
        Ok(result)
    }
}

/// Whether BuildKit went away, and did not say that the build failed: it says `Unknown` for a failed
/// step and for a Dockerfile that is wrong. What broke on the way here has a source, which no status
/// from the wire has.
fn is_broken_off(status: &Status) -> bool {
    status.source().is_some() || matches!(status.code(), Code::Unavailable | Code::Cancelled)
}

/// The manifest's descriptor, which BuildKit gives as JSON in base64.
fn descriptor(facts: &HashMap<String, String>) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(facts.get("containerimage.descriptor")?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_that_goes_away_is_no_failed_step() {
        let cut = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(is_broken_off(&cut), "{cut:?}");
        assert!(is_broken_off(&Status::unavailable("the engine ends")));
        assert!(!is_broken_off(&Status::unknown("process \"false\" did not complete successfully")));
    }
}

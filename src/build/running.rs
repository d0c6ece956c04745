//! Running builds. A build is one solve in passes, until the frontend uses only admitted images and URLs and
//! the gate lets its graph run.

mod finish;

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use tonic::Status;

use super::{
    archives::TreesOf,
    client::BuildClient,
    gate::{self, Gate, Names, Refusal},
    input::PassEnd,
    isolation::{self, JobKeys},
    outcome::{BuildOutcome, Failed, FailureKind},
    outputs,
    pass_progress::PassProgress,
    sources::Sources,
    spec::BuildSpec,
    stop::unless_stopped,
    tar::Tar,
};
use crate::{
    buildkit::{
        connection::Connection,
        failure::{self, SolveFailure},
        session::Session,
        solve::{self, Ended, PassListener},
    },
    fault::{Fault, Reason},
    images::{Images, exports::Export, frontend},
    names::{Job, Namespace, RESERVED_HOST, Reference, printable, random_id, shortened},
    naming::ImageName,
    policy::Permit,
    progress::Reporter,
};

/// No real Dockerfile names more images, or more URLs one after the other.
const PASSES_MAX: usize = 64;
/// How long a session may take to report why it has ended, once BuildKit has noticed the end.
const TELLING_TIMEOUT: Duration = Duration::from_secs(1);
/// The limit on a failure's message, which contains the step's command and so arbitrary text.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// A build that has been permitted.
#[derive(Debug)]
pub struct Order {
    /// The namespace in which it runs.
    pub namespace: Permit<Namespace>,
    /// The references that the image gets, each with a tag, and to which it is pushed if the build says so.
    pub tags: Vec<Reference>,
    /// The build itself.
    pub spec: BuildSpec,
    /// The client behind it.
    pub client: Arc<BuildClient>,
}

impl Order {
    /// The job of the build.
    pub(super) fn job(&self) -> &Job {
        self.namespace.subject().job()
    }
}

/// Runs a build to its end. Watches its client's tasks itself, and must not be dropped: a cancelled build
/// waits until BuildKit has ended it, and removes its results.
pub async fn run(images: &Images, order: &Order, reporter: &Reporter) -> Result<BuildOutcome, Fault> {
    let mut build = Build::new(images, order, reporter)?;
    let tasks = &order.client.tasks;
    let export = match outputs::make_image(&order.spec, images.engine()) {
        true => Some(images.begin_export(&order.namespace).await?),
        false => None,
    };
    let name = export.as_ref().map(Export::name);
    if let Some(name) = name {
        build.sources.show_export(name);
    }
    let passed = build.make(name).await;
    build.sources.release().await;
    // A build that is cancelled at the last moment counts as cancelled.
    let passed = match tasks.cancelled_by() {
        Some(cause) if passed.is_ok() => Err(Unmade { fault: cause.into(), is_over: true }),
        _ => passed,
    };
    let Some(export) = export else {
        return match passed {
            Ok(Passed::Exported(response)) => Ok(BuildOutcome::Built(build.built(&response, None))),
            Ok(Passed::Failed { failure, .. }) => Ok(BuildOutcome::Failed(failure)),
            Err(Unmade { fault, .. }) => Err(fault),
        };
    };
    match passed {
        Ok(Passed::Exported(response)) => {
            // Must not be cancelled: a name and the image that it replaces change together.
            let image = match export.tag(&order.tags).await {
                Ok(image) => image,
                Err(fault) => {
                    // The image keeps the references that it has got; without one it goes.
                    export.discard(true).await;
                    return Err(fault);
                }
            };
            let finished = tasks.unless_cancelled(build.finish(&response, &image)).await;
            match order.spec.makes_image() {
                true => export.release().await?,
                false => export.discard(true).await,
            }
            finished?.map(BuildOutcome::Built)
        }
        Ok(Passed::Failed { failure, is_over }) => {
            export.discard(is_over).await;
            Ok(BuildOutcome::Failed(failure))
        }
        Err(Unmade { fault, is_over }) => {
            export.discard(is_over).await;
            Err(fault)
        }
    }
}

enum Passed {
    Exported(HashMap<String, String>),
    Failed { failure: Failed, is_over: bool },
}

/// The reason why there is no result.
struct Unmade {
    fault: Fault,
    /// Whether BuildKit has ended the build, so that no image can appear later.
    is_over: bool,
}

impl From<Fault> for Unmade {
    fn from(fault: Fault) -> Self {
        Self { fault, is_over: true }
    }
}

/// The step after a pass.
enum Next {
    /// Another pass, after this image is admitted, which the Dockerfile names in this line, if it is known.
    Admit(String, Option<u32>),
    /// Another pass, after these URLs are admitted.
    Fetch(gate::Urls),
    End(Result<Passed, Unmade>),
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
        gate::own_platforms(images.engine(), &spec.platforms)?;
        let job = order.job();
        // A client may subdivide its own job's cache mounts, but not leave the job.
        let divided = spec.build_args.remove("BUILDKIT_CACHE_MOUNT_NS");
        let keys = JobKeys {
            salt: images.keys().salt(job),
            cache_mounts: images.keys().cache_mounts(job, divided.as_deref()),
            layers: images.own_layers(job),
        };
        Ok(Self { images, order, spec, reporter, keys, sources: Sources::new(images, order, reporter) })
    }

    /// The key of the earlier syncs with which the context is compared: the job's own, of the same directories in
    /// the same state. A client that names a false state finds no more than its own job's files.
    fn shared_key(&self) -> String {
        let session = self.order.client.session.as_ref();
        let directories = session.map(|session| session.offer().synced()).unwrap_or_default();
        self.images.keys().shared_key(self.order.job(), &directories)
    }

    /// Makes BuildKit build the outputs; `name` is the image's name in the engine, if one is made.
    async fn make(&mut self, name: Option<&ImageName>) -> Result<Passed, Unmade> {
        let (client, engine) = (&self.order.client, self.images.engine());
        // Not the build's tasks: it, and the session on it, must live until BuildKit has ended the build.
        let connection = client.tasks.unless_cancelled(engine.dial(engine.tasks())).await;
        let connection = connection.map_err(Fault::from)??;
        let session = Session::new(random_id().map_err(Fault::internal)?);
        let shared_key = self.shared_key();
        let (told, mut ended) = oneshot::channel();
        // Served to the end of the pass, even after a stop: BuildKit waits for some streams, whatever it cancels.
        let serving = async {
            let Err(fault) = session.serve(&connection, &shared_key, client.clone(), &client.tasks).await;
            let _ = told.send(fault);
            std::future::pending::<Infallible>().await
        };
        let stop = pin!(async {
            let fault = tokio::select! {
                biased;
                cause = client.tasks.cancelled() => cause.into(),
                fault = client.used.watch() => fault,
                refused = client.refused.wait() => Fault::new(Reason::StreamBroken, refused.message().to_owned()),
                Ok(fault) = &mut ended => fault,
            };
            client.downloads.end();
            fault
        });
        tokio::select! {
            passed = Box::pin(self.passes(&connection, &session, name, stop)) => passed,
            never = serving => match never {},
        }
    }

    /// Runs passes until one is allowed to run. Sources that the job's Dockerfile used last time are admitted
    /// before the first pass, so an unchanged rebuild needs only one.
    async fn passes(
        &mut self,
        connection: &Connection,
        session: &Session,
        name: Option<&ImageName>,
        mut stop: Pin<&mut (impl Future<Output = Fault> + Send)>,
    ) -> Result<Passed, Unmade> {
        unless_stopped(stop.as_mut(), self.sources.admit_bases()).await??;
        for pass in 1..=PASSES_MAX {
            unless_stopped(stop.as_mut(), self.sources.begin_pass(pass)).await??;
            let client = &self.order.client;
            let begun = client.input.begin(self.sources.bases(), client.dockerfile.judge().texts());
            unless_stopped(stop.as_mut(), begun).await??;
            let steps = OnceLock::new();
            let mut progress =
                PassProgress::new(self.reporter, &client.used, self.sources.renaming(), &steps);
            let (ended, used) =
                Box::pin(self.pass(connection, session, name, &steps, &mut progress, stop.as_mut())).await?;
            let is_stopped = matches!(ended, Ended::Stopped { .. });
            match self.next(ended) {
                Next::Admit(source, line) => {
                    unless_stopped(stop.as_mut(), self.sources.admit(&source, line)).await??;
                }
                Next::Fetch(urls) => {
                    if let Err(not) = unless_stopped(stop.as_mut(), self.sources.fetch(urls)).await? {
                        return self.not_fetched(not, true);
                    }
                }
                Next::End(end) => {
                    // The end of a stopped build is not shown.
                    if !is_stopped && (end.is_ok() || self.order.client.tasks.cancelled_by().is_none()) {
                        progress.runs();
                    }
                    if matches!(end, Ok(Passed::Exported(_))) {
                        self.sources.remember_bases(&used).await?;
                    }
                    return end;
                }
            }
        }
        let text = format!("the Dockerfile names more than {PASSES_MAX} images and URLs one after the other");
        Err(Fault::new(Reason::LimitReached, text).into())
    }

    /// Runs one pass. Returns how it ended, and the images that its graph uses.
    async fn pass(
        &self,
        connection: &Connection,
        session: &Session,
        name: Option<&ImageName>,
        steps: &OnceLock<Names>,
        progress: &mut PassProgress<'_>,
        mut stop: Pin<&mut (impl Future<Output = Fault> + Send)>,
    ) -> Result<(Ended<Refusal>, BTreeSet<String>), Fault> {
        let (tar, sources) = (self.order.client.tar.as_ref().map(Tar::url), self.sources.list());
        let platform = self.images.engine().platform().to_string();
        let zstd = self.images.engine().frees_decoders();
        let context = format!("{} {}", self.images.engine().name(), self.shared_key());
        let (namespace, trees) = (&self.order.namespace, &self.order.client.trees);
        let trees = TreesOf { trees, caller: namespace.caller(), context };
        let gate = Gate::new(session.id(), namespace, &self.keys, &platform, zstd, &trees, &sources);
        let frontend = self.images.hold_frontend().await?;
        let order = solve::PassRequest {
            reference: random_id().map_err(Fault::internal)?,
            session: session.id().to_owned(),
            attributes: isolation::attributes(&self.spec, &self.keys, tar.as_deref()),
            policy: isolation::policy(&sources, gate.fetched(), frontend.as_ref()),
            frontend: frontend.map(|image| image.to_string()),
            exports: outputs::exports(&self.spec, self.images.engine(), name),
        };
        let (mut used, mut syntax) = (BTreeSet::new(), None);
        let judge = async |answer: solve::Answer| {
            let judged = self.order.client.dockerfile.here(|| gate.judge(answer)).await?;
            self.order.client.input.handed();
            self.order.client.awaited.send_replace(judged.awaited().cloned());
            self.order.client.matching.send_replace(judged.matching());
            syntax = judged.syntax().map(str::to_owned);
            used = judged.images().clone();
            // Set only once, since a pass has one answer.
            let _ = steps.set(judged.names().clone());
            Ok(judged)
        };
        let mut ended = solve::pass(connection, order, judge, progress, stop.as_mut()).await;
        let end = PassEnd::of(&ended);
        self.order.client.input.end(end).await;
        if let Some(fault) = self.order.client.input.refused() {
            ended = Ended::Stopped { fault, is_over: end != PassEnd::Lost };
        }
        if let Ended::Frontend(status) | Ended::Failed(status) = &ended
            && failure::is_broken_off(status)
            // BuildKit may report the end of its session before the session has given the reason.
            && let Ok(fault) = timeout(TELLING_TIMEOUT, stop.as_mut()).await
        {
            ended = Ended::Stopped { fault, is_over: false };
        }
        // Warns only once, in the pass that runs.
        let syntax = syntax.filter(|syntax| !self.images.has_syntax(syntax));
        if let Some(syntax) = syntax.filter(|_| matches!(ended, Ended::Exported(_) | Ended::Failed(_))) {
            let short =
                format!("`# syntax={}` is ignored: the builder's own frontend is used", printable(&syntax));
            self.reporter.warn(short, Vec::new());
        }
        Ok((ended, used))
    }

    /// Decides the step after a pass.
    fn next(&self, ended: Ended<Refusal>) -> Next {
        if let Some(fault) = self.order.client.used.refused() {
            return Next::End(Err(Unmade { fault, is_over: ended.is_over() }));
        }
        if let Some(panicked) = self.order.client.dockerfile.panicked() {
            return Next::End(Err(Unmade { fault: panicked.into(), is_over: ended.is_over() }));
        }
        if let Some(not) = self.order.client.downloads.failed() {
            return Next::End(self.not_fetched(not, ended.is_over()));
        }
        if let Some(refused) = self.order.client.refused.get() {
            return Next::End(self.refused(refused, ended.is_over()));
        }
        match ended {
            Ended::Exported(exported) => Next::End(self.made(exported)),
            Ended::Refused(Refusal::Refused(fault)) => Next::End(Err(fault.into())),
            Ended::Stopped { fault, is_over } => Next::End(Err(Unmade { fault, is_over })),
            Ended::Refused(Refusal::NeedsUrls(urls)) => Next::Fetch(urls),
            Ended::Frontend(status) => {
                let may_end =
                    self.images.frontend().is_some() && self.order.client.tasks.cancelled_by().is_none();
                let status = may_end.then(|| frontend::own_end(&status)).flatten().unwrap_or(status);
                let failure = SolveFailure::read(&status);
                match failure.denied_source() {
                    Some(source) => Next::Admit(source.to_owned(), failure.line()),
                    // An image is held only for the engine's platform. For another platform BuildKit asks the
                    // network for the hold's name, which cannot be resolved.
                    None if failure.message.contains(RESERVED_HOST) => {
                        Next::End(Err(self.foreign_platform(&failure).into()))
                    }
                    None => Next::End(self.failed(FailureKind::Dockerfile, &status, failure)),
                }
            }
            Ended::Failed(status) => {
                let failure = SolveFailure::read(&status);
                match failure.denied_source() {
                    Some(source) if !self.sources.has_been_asked_for(source) => {
                        Next::Admit(source.to_owned(), failure.line())
                    }
                    _ => Next::End(self.failed(FailureKind::Step, &status, failure)),
                }
            }
        }
    }

    /// The message of a failure for the client.
    fn told(&self, failure: &SolveFailure) -> String {
        shortened(self.sources.renaming().error(&failure.message), MESSAGE_BYTES_MAX)
    }

    fn failed(&self, kind: FailureKind, status: &Status, failure: SolveFailure) -> Result<Passed, Unmade> {
        // Either BuildKit has answered, or the build's state is unknown.
        let is_over = !failure::is_broken_off(status);
        if let Some(cause) = self.order.client.tasks.cancelled_by() {
            return Err(Unmade { fault: cause.into(), is_over });
        }
        if !is_over && !failure::is_untold(status) {
            let fault = Fault::new(Reason::EngineUnavailable, "the engine's builder broke off the build")
                .hint("try the build again")
                .caused_by(status.clone());
            return Err(Unmade { fault, is_over });
        }
        let mut message = self.told(&failure);
        if failure::is_untold(status) && self.order.client.tar.is_some() {
            message.push_str(", or the context not a tar archive");
        }
        let SolveFailure { vertex, exit_code, source, .. } = failure;
        let failure = Failed { kind, message, vertex, exit_code, source };
        Ok(Passed::Failed { failure, is_over })
    }
}

//! A build from its place in the queue to its end.

use std::{mem, sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::TAR_PIECE_BYTES_MAX;
use crate::{
    build::{
        archives::Trees,
        client::{Asked, BuildClient},
        dockerfile::{Frontend, Judge, ReadingRules, judging::Judging},
        downloads::{self, Downloads},
        input::{Hear, Input},
        limits::Used,
        outcome::BuildOutcome,
        outputs::Outputs,
        patience::Patience,
        running::{self, Order},
        session::ClientSession,
        spec::BuildSpec,
        tar::{Findings, Passage, Tar},
    },
    fault::Fault,
    front::{Call, Front, Turn, Waiting},
    identity::Kept,
    names::{Logins, Namespace},
    policy::Permit,
    progress::Reporter,
    shares::Places,
    tasks::Group,
    wire::v1::{self, build_request},
};

/// Whether the image of a build may get its references, and be pushed to them: a build whose image may not be pushed does
/// not run. The image itself is judged once more when it is there.
pub(super) fn check_references(namespace: &Permit<Namespace>, spec: &BuildSpec) -> Result<(), Fault> {
    for (index, tag) in spec.tags.iter().enumerate() {
        let field = format!("start.spec.tags[{index}]");
        match spec.push {
            true => namespace.push_to(field, tag.clone()).map(drop)?,
            false => namespace.tag_as(field, tag.clone()).map(drop)?,
        }
    }
    Ok(())
}

/// A build whose call has been checked. Until its turn it has nothing of the engine, and nothing of its context is read.
pub(super) struct Queued {
    pub(super) front: Arc<Front>,
    /// The places for judgements of Dockerfiles.
    pub(super) judged: Arc<Places>,
    /// The trees that engines keep.
    pub(super) trees: Arc<Trees>,
    /// What the downloads of all builds share.
    pub(super) downloads: Arc<downloads::Shared>,
    pub(super) call: Call,
    pub(super) kept: Kept,
    pub(super) namespace: Permit<Namespace>,
    pub(super) spec: BuildSpec,
    pub(super) logins: Logins,
    pub(super) session: Option<Arc<ClientSession>>,
    pub(super) requests: Streaming<v1::BuildRequest>,
    pub(super) tasks: Group,
}

impl Queued {
    /// Waits for the build's turn, and builds. Like [`running::run`] it watches its tasks itself.
    pub(super) async fn run(mut self, waiting: Waiting, reporter: &Reporter) -> Result<BuildOutcome, Fault> {
        let tasks = self.tasks.clone();
        let _turn = tasks.unless_cancelled(self.turn(waiting, reporter)).await??;
        let again = async {
            let namespace = self.front.authorize_again(&self.call, &self.kept, &self.namespace).await?;
            Ok::<_, Fault>((namespace, self.call.images().await?))
        };
        let (namespace, images) = tasks.unless_cancelled(again).await??;
        self.call.engine().has_room()?;
        let Self { judged, trees, downloads, call, mut spec, logins, session, requests, .. } = self;
        check_references(&namespace, &spec)?;
        let tags = mem::take(&mut spec.tags);

        let synced = session.as_ref().is_some_and(|session| session.offer().directory("context").is_some());
        let frontend = match images.frontend() {
            Some(_) => Frontend::Contained,
            None => Frontend::Builtin(images.engine().buildkit()),
        };
        let caller = call.caller().id();
        let judge = Arc::new(Judge::new(ReadingRules::new(&spec, frontend)));
        let dockerfile = Judging::new(Arc::clone(&judge), judged, caller.clone(), tasks.clone());
        let dockerfile = Arc::new(dockerfile);
        let input = Arc::new(Input::new(&images, caller, &spec));
        let used =
            Arc::new(Used::nothing(&namespace).on(call.engine().disk(), call.engine().metrics().clone()));
        let tar = if synced {
            None
        } else {
            let found = Arc::new(Findings::new(images.engine().frees_decoders()));
            let (tar, pieces) = Tar::new(Arc::clone(&found))?;
            let passage = Passage::new(&spec.dockerfile, Arc::clone(&judge), found);
            let hear = dockerfile.before(Input::hearing(&input, judge.texts()));
            let sent = Sent { requests, patience: Patience::begin(), used: Arc::clone(&used) };
            tasks.spawn("tar", feed(sent, passage, Arc::clone(&dockerfile), hear, pieces, tasks.clone()));
            Some(tar)
        };
        let details = call.details().clone();
        let outputs = Outputs::of(&spec, images.engine());
        let downloads = Downloads::new(downloads, Arc::clone(&used));
        let client = BuildClient {
            session,
            tar,
            logins,
            dockerfile,
            input,
            used,
            tasks,
            details,
            awaited: watch::Sender::default(),
            matching: watch::Sender::default(),
            trees,
            outputs,
            refused: Arc::default(),
            asked: Asked::default(),
            downloads,
        };
        let order = Order { namespace, tags, spec, client: Arc::new(client) };
        running::run(&images, &order, reporter).await
    }

    /// Waits for the build's turn. Its client is shown how many builds are ahead, unless the turn has come already.
    async fn turn(&mut self, waiting: Waiting, reporter: &Reporter) -> Result<Turn, Fault> {
        let begun = Instant::now();
        let mut step = None;
        let turn = waiting.turn(|ahead| {
            step.get_or_insert_with(|| reporter.step("wait for a turn")).waits(ahead);
        });
        let turn = turn.await?;
        if let Some(step) = step {
            step.done(false);
            self.call.waited(begun.elapsed());
        }
        Ok(turn)
    }
}

/// The messages that the client sends after the start.
pub(super) struct Sent {
    pub(super) requests: Streaming<v1::BuildRequest>,
    pub(super) patience: Patience,
    pub(super) used: Arc<Used>,
}

/// Passes the tar on as fast as BuildKit takes it.
pub(super) async fn feed(
    Sent { mut requests, patience, used }: Sent,
    mut passage: Passage,
    judging: Arc<Judging>,
    hear: Hear,
    pieces: mpsc::Sender<Result<bytes::Bytes, Status>>,
    tasks: Group,
) {
    let fed = async {
        let last = loop {
            let message = match patience.wait(requests.message()).await {
                Ok(message) => message,
                Err(silent) => break Err(silent),
            };
            let piece = match message {
                Ok(None) => match judging.here(|| passage.end()).await {
                    Ok(last) => break hear().await.map(|()| last),
                    Err(status) => break Err(status),
                },
                Ok(Some(v1::BuildRequest { request: Some(build_request::Request::Tar(piece)) }))
                    if piece.len() <= TAR_PIECE_BYTES_MAX =>
                {
                    piece
                }
                Ok(Some(_)) => {
                    break Err(Status::invalid_argument(format!(
                        "only pieces of a tar, of at most {} MiB, follow the start",
                        TAR_PIECE_BYTES_MAX >> 20
                    )));
                }
                Err(status) => break Err(Status::new(status.code(), "the client broke the tar off")),
            };
            passage.take(piece);
            let refused = loop {
                match judging.here(|| passage.passed()).await {
                    Ok(Some(piece)) if piece.is_empty() => {}
                    Ok(Some(piece)) => {
                        if !used.context(piece.len()) {
                            // The limit itself ends the build.
                            break Some(Status::resource_exhausted("the context is too large"));
                        }
                        if let Err(status) = hear().await {
                            break Some(status);
                        }
                        if pieces.send(Ok(piece)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break None,
                    Err(status) => break Some(status),
                }
            };
            if let Some(status) = refused {
                break Err(status);
            }
        };
        let _ = pieces.send(last).await;
    };
    if tasks.unless_cancelled(fed).await.is_err() {
        // Without this error, the tar would seem to end here.
        let _ = pieces.send(Err(Status::cancelled("the build was cancelled"))).await;
    }
}

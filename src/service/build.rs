//! `BuildService`: sessions, the streams that clients attach to, and the builds themselves.

mod queued;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    accept, attach, authorize, begin,
    credentials::logins,
    outcome, spec, status,
    stream::{Responses, guarded},
};
use crate::{
    build::{
        archives::Trees,
        dockerfile::judging,
        downloads,
        outcome::BuildOutcome,
        patience::minutes,
        session::{self, Attached, Sessions},
    },
    fault::{Fault, Reason},
    front::{Call, End, Front, WorkKind},
    identity::Kept,
    progress::{Progress, Reporter},
    shares::Places,
    tasks::{Cause, Group},
    wire::v1::{
        self, attach_request, build_request, build_response, build_service_server, session_request,
        session_response,
    },
};
use queued::{Queued, check_references};

/// How long a client may take to send the first message of a call. Until then the call does nothing.
pub(super) const FIRST_MESSAGE: Duration = Duration::from_secs(30);
pub(super) const TAR_PIECE_BYTES_MAX: usize = 1 << 20;

/// `wharf.v1.BuildService`.
#[derive(Debug)]
pub(super) struct Build {
    front: Arc<Front>,
    sessions: Sessions,
    /// Places for judgements of Dockerfiles.
    judged: Arc<Places>,
    /// The trees that engines keep.
    trees: Arc<Trees>,
    /// What the downloads of all builds share.
    downloads: Arc<downloads::Shared>,
}

impl Build {
    pub(super) fn new(front: Arc<Front>) -> Self {
        Self {
            front,
            sessions: Sessions::default(),
            judged: judging::places(),
            trees: Arc::default(),
            downloads: Arc::default(),
        }
    }

    async fn open(
        &self,
        call: &Call,
        mut requests: Streaming<v1::SessionRequest>,
    ) -> Result<Responses<v1::SessionResponse>, Fault> {
        let Some(session_request::Request::Open(open)) = first(&mut requests, FIRST_MESSAGE).await?.request
        else {
            return Err(Fault::invalid("open", "the first request must open the session"));
        };
        let permit = authorize(&self.front, call, open.namespace.clone()).await?;
        let offer = attach::offer(open)?;
        let member = self.front.begin(call, &permit, WorkKind::Session).await?;
        let tasks = member.tasks().clone();
        let (session, announcements) = self.sessions.open(permit, offer, tasks.clone())?;
        let opened = v1::SessionOpened { session_id: session.id().to_owned() };
        let (sessions, watched, ending) = (self.sessions.clone(), tasks.clone(), call.clone());
        tasks.spawn("session", async move {
            let _member = member;
            let ended = async { while let Ok(Some(_)) = requests.message().await {} };
            match watched.unless_cancelled(ended).await {
                Ok(()) => {
                    watched.cancel(Cause::ClientGone);
                    ending.ended(&End::Done);
                }
                // A session ends when its client leaves, in whatever way.
                Err(Cause::ClientGone) => ending.ended(&End::Done),
                Err(cause) => ending.ended(&End::Fault(&cause.into())),
            }
            sessions.close(&session);
        });
        let opened = stream::iter([Ok(session_response::Response::Opened(opened))]);
        let announced = ReceiverStream::new(announcements)
            .map(|opened| Ok(session_response::Response::Stream(attach::opened(opened))));
        let guard = tasks.cancel_on_drop(Cause::ClientGone);
        let responses = until_cancelled(opened.chain(announced).boxed(), tasks)
            .map(|response| response.map(|response| v1::SessionResponse { response: Some(response) }));
        Ok(guarded(responses, guard))
    }

    async fn attached(
        &self,
        call: &Call,
        mut incoming: Streaming<v1::AttachRequest>,
    ) -> Result<Responses<v1::AttachResponse>, Fault> {
        let Some(attach_request::Request::StreamId(id)) = first(&mut incoming, FIRST_MESSAGE).await?.request
        else {
            return Err(Fault::invalid("stream_id", "the first request must name the stream"));
        };
        let (outgoing, messages) = session::outgoing();
        let attached = Attached { incoming: attach::incoming(incoming), outgoing };
        call.acts_in(&self.sessions.attach(call.caller().id(), &id, attached)?);
        let responses = ReceiverStream::new(messages)
            .map(|message| message.map(|message| v1::AttachResponse { message }));
        Ok(to_the_end(responses, call.clone()))
    }

    async fn start(
        &self,
        call: &Call,
        kept: Kept,
        mut requests: Streaming<v1::BuildRequest>,
    ) -> Result<Responses<v1::BuildResponse>, Fault> {
        let Some(build_request::Request::Start(start)) = first(&mut requests, FIRST_MESSAGE).await?.request
        else {
            return Err(Fault::invalid("start", "the first request must start the build"));
        };
        let namespace = authorize(&self.front, call, start.namespace).await?;
        let spec = start.spec.ok_or_else(|| Fault::invalid("start.spec", "there is nothing to build"))?;
        let spec = spec::spec(spec)?;
        spec.tags.iter().for_each(|tag| call.details().reference(tag));
        call.details().target(&spec.target);
        check_references(&namespace, &spec)?;
        let logins = logins("start.credentials", start.credentials)?;
        let session = if start.session_id.is_empty() {
            None
        } else {
            let session = self.sessions.find(call.caller().id(), &start.session_id);
            let session = session.map_err(|fault| fault.hint("open one with `Session` first"))?;
            if session.namespace().subject() != namespace.subject() {
                return Err(Fault::invalid("start.namespace", "the session is open in another namespace"));
            }
            Some(session)
        };
        if spec.has_streams() && session.is_none() {
            let text = "an output for the client needs a session, and the build has none";
            return Err(
                Fault::invalid("start.spec.outputs", text).hint("open a session, and name it in the start")
            );
        }
        call.engine().has_room()?;
        // Once here for an engine that is down, and again when the build has its turn.
        let processors = call.images().await?.engine().processors();
        let waiting = self.front.queue(call, &namespace, processors)?;
        let member = self.front.begin(call, &namespace, WorkKind::Build).await?;
        // A build in a session ends with it.
        let tasks = match &session {
            Some(session) => session.tasks().enter("build")?,
            None => member.tasks().clone(),
        };
        let queued = Queued {
            front: Arc::clone(&self.front),
            judged: Arc::clone(&self.judged),
            trees: Arc::clone(&self.trees),
            downloads: Arc::clone(&self.downloads),
            call: call.clone(),
            kept,
            namespace,
            spec,
            logins,
            session,
            requests,
            tasks: tasks.clone(),
        };
        let work = |reporter: Reporter| async move { Box::pin(queued.run(waiting, &reporter)).await };
        let progress = |progress: Progress| response(build_response::Response::Progress(progress.into()));
        Ok(super::stream::run(call, tasks, member, work, progress, |outcome| {
            let (end, outcome) = match outcome {
                BuildOutcome::Built(built) => {
                    (End::Done, build_response::Response::Result(outcome::built(built)))
                }
                BuildOutcome::Failed(failed) => {
                    let failure = outcome::failed(failed);
                    (End::Failed(kind_of(&failure)), build_response::Response::Failure(failure))
                }
            };
            (end, response(outcome))
        }))
    }
}

/// The name of a failure's kind for the log: `COMMAND`. Its message belongs to the job.
fn kind_of(failure: &v1::BuildFailure) -> &'static str {
    failure.kind().as_str_name().trim_start_matches("BUILD_FAILURE_KIND_")
}

fn response(response: build_response::Response) -> v1::BuildResponse {
    v1::BuildResponse { response: Some(response) }
}

#[tonic::async_trait]
impl build_service_server::BuildService for Build {
    type SessionStream = Responses<v1::SessionResponse>;
    type AttachStream = Responses<v1::AttachResponse>;
    type BuildStream = Responses<v1::BuildResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let call = accept(&self.front, &request, "BuildService/Session")?;
        begin(&call, self.open(&call, request.into_inner())).await
    }

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let call = accept(&self.front, &request, "BuildService/Attach")?;
        begin(&call, self.attached(&call, request.into_inner())).await
    }

    async fn build(
        &self,
        request: Request<Streaming<v1::BuildRequest>>,
    ) -> Result<Response<Self::BuildStream>, Status> {
        let call = accept(&self.front, &request, "BuildService/Build")?;
        let kept = request.extensions().get::<Kept>().cloned();
        let started = async {
            let kept = kept.ok_or_else(|| Fault::internal("a build without the proof of its caller"))?;
            self.start(&call, kept, request.into_inner()).await
        };
        begin(&call, started).await
    }
}

/// The first message of a client's stream, which must come within this time.
async fn first<T: Default>(requests: &mut Streaming<T>, within: Duration) -> Result<T, Fault> {
    match tokio::time::timeout(within, requests.message()).await {
        Ok(Ok(message)) => Ok(message.unwrap_or_default()),
        Ok(Err(status)) => Err(status::from_stream(status)),
        Err(_) => {
            let text = format!("the client sent no message for {}", minutes(within));
            Err(Fault::new(Reason::StreamBroken, text))
        }
    }
}

/// The response stream of an attached call; its end is the call's end.
fn to_the_end<T: Send + 'static>(
    responses: impl stream::Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
    call: Call,
) -> Responses<T> {
    stream::unfold((responses, call), |(mut responses, call)| async move {
        let item = responses.next().await;
        if item.is_none() {
            call.ended(&End::Done);
        }
        item.map(|item| (item, (responses, call)))
    })
    .boxed()
}

/// Passes the stream on until `tasks` are cancelled; then yields the reason and ends.
fn until_cancelled<T: Send + 'static>(
    stream: BoxStream<'static, Result<T, Status>>,
    tasks: Group,
) -> impl stream::Stream<Item = Result<T, Status>> + Send {
    stream::unfold(Some((stream, tasks)), |state| async move {
        let (mut stream, tasks) = state?;
        tokio::select! {
            biased;
            cause = tasks.cancelled() => match cause {
                Cause::ClientGone | Cause::Done => None,
                cause => Some((Err(status::from_fault(&cause.into())), None)),
            },
            item = stream.next() => item.map(|item| (item, Some((stream, tasks)))),
        }
    })
}

#[cfg(test)]
mod tests;

//! One pass of a build: `Control.Solve` without a frontend, and beside it, as BuildKit's gateway
//! client, the frontend's call, the gate's judgement and the return of what may run.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bollard_buildkit_proto::moby::buildkit::v1::{
    Exporter, SolveRequest, StatusRequest, StatusResponse,
    frontend::{self, result},
    sourcepolicy::Policy,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, metadata::AsciiMetadataValue};

use super::{
    connection::Connection,
    wire_form::{Field, PLAIN, Shape, is_understood},
};
use crate::fault::Fault;

/// The metadata key by which a call of the gateway names its build.
const BUILD: &str = "buildkit-controlapi-buildid";
/// How often BuildKit is asked about a build that it does not know yet; it waits 3 to 10 seconds each
/// time.
const ATTEMPTS: usize = 20;
/// How long BuildKit may take for its next facts once the build is over; it has them at hand.
const LAST_FACTS: Duration = Duration::from_secs(10);
/// How long a pass that was stopped may take to end. The classic store's export looks at no cancel, and
/// reads the whole image.
const STOP: Duration = Duration::from_secs(120);

/// What a pass asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Names the pass in BuildKit; unguessable, never used twice.
    pub reference: String,
    /// The session's id.
    pub session: String,
    /// The frontend's attributes.
    pub attributes: HashMap<String, String>,
    /// The image that reads the Dockerfile in a container; none: BuildKit itself reads it.
    pub frontend: Option<String>,
    /// The source policy.
    pub policy: Policy,
    /// The name that the image gets in the engine.
    pub name: String,
}

/// What the frontend has answered.
#[derive(Debug)]
pub struct Answer {
    sent: Bytes,
    read: frontend::SolveResponse,
}

impl Answer {
    /// Reads a `SolveResponse`.
    pub fn read(sent: Bytes) -> Result<Self, Status> {
        let read = frontend::SolveResponse::decode(sent.clone());
        Ok(Self { read: read.map_err(|error| Status::internal(error.to_string()))?, sent })
    }

    /// What it says, if nothing of it is unknown here: BuildKit keeps the answer, and would run what is
    /// not seen here with what is judged.
    pub fn understood(self) -> Option<frontend::Result> {
        is_understood(&self.sent, &self.read.encode_to_vec(), &SOLVE_RESPONSE)
            .then(|| self.read.result.unwrap_or_default())
    }
}

/// Where maps are in an answer.
static SOLVE_RESPONSE: Shape = Shape(&[(3, Field::Message(&RESULT))]);
static RESULT: Shape = Shape(&[
    (3, Field::Message(&REF)),
    (4, Field::Message(&REF_MAP)),
    (10, Field::Map(&PLAIN)),
    (12, Field::Map(&ATTESTATIONS)),
]);
static REF_MAP: Shape = Shape(&[(1, Field::Map(&REF))]);
static REF: Shape = Shape(&[(2, Field::Message(&DEFINITION))]);
static DEFINITION: Shape = Shape(&[(2, Field::Map(&OP_METADATA)), (3, Field::Message(&SOURCE))]);
static OP_METADATA: Shape = Shape(&[(2, Field::Map(&PLAIN)), (5, Field::Map(&PLAIN))]);
static SOURCE: Shape = Shape(&[(1, Field::Map(&PLAIN)), (2, Field::Message(&SOURCE_INFO))]);
static SOURCE_INFO: Shape = Shape(&[(3, Field::Message(&DEFINITION))]);
static ATTESTATIONS: Shape = Shape(&[(1, Field::Message(&ATTESTATION))]);
static ATTESTATION: Shape = Shape(&[(2, Field::Map(&PLAIN)), (3, Field::Message(&REF))]);

/// A result of the frontend's whose graph may run. Only a judge makes one, so that no result reaches
/// BuildKit unjudged.
pub trait Judged {
    /// The result as it is returned to BuildKit.
    fn into_result(self) -> frontend::Result;
}

/// How a pass ended, for a judge that refuses with an `R`.
#[derive(Debug)]
pub enum Ended<R> {
    /// The image is made; BuildKit's facts about it.
    Exported(HashMap<String, String>),
    /// The frontend failed, or a source was denied. No step has run.
    Frontend(Status),
    /// The judge did not let the graph run.
    Refused(R),
    /// A step, or the export, failed.
    Failed(Status),
    /// The pass was stopped.
    Stopped {
        /// Why.
        fault: Fault,
        /// BuildKit has ended it, too: what it has not made by now it never will.
        is_over: bool,
    },
}

/// Where the facts of a pass go, and from when on they count.
pub trait Facts: Send {
    /// Facts, as BuildKit reports them. Awaited: a reader that is slow slows BuildKit down.
    fn report(&mut self, facts: StatusResponse) -> impl Future<Output = ()> + Send;

    /// BuildKit has broken off, with this: no more facts come, although the build goes on.
    fn broke_off(&mut self, why: Status) -> impl Future<Output = ()> + Send;

    /// The graph runs now: what was reported so far, and all that follows, stands.
    fn runs(&mut self) -> impl Future<Output = ()> + Send;
}

/// Runs a pass to its end, or until `stop` ends. To stop is two things: the call that keeps BuildKit's
/// steps running is dropped, and BuildKit is waited for, which may be in the middle of an export.
/// Dropping the future does the first alone.
pub async fn pass<F: Facts, J: Judged, R>(
    connection: &Connection,
    order: Order,
    judge: impl FnOnce(Answer) -> Result<J, R> + Send,
    facts: &mut F,
    stop: Pin<&mut (impl Future<Output = Fault> + Send)>,
) -> Ended<R> {
    let build = match AsciiMetadataValue::try_from(order.reference.as_str()) {
        Ok(value) => value,
        Err(error) => return Ended::Failed(Status::internal(error.to_string())),
    };
    let reference = order.reference.clone();
    let reference = reference.as_str();
    let stopped = AtomicBool::new(false);
    let status = once_known(reference, &stopped, || {
        let request = StatusRequest { r#ref: reference.to_owned() };
        let mut control = connection.control();
        async move { control.status(request).await.map(Response::into_inner) }
    });
    let mut told = std::pin::pin!(facts_of(status));
    let driven = Box::pin(drive(connection, order, &build, judge, facts, told.as_mut()));
    let fault = tokio::select! {
        biased;
        fault = stop => fault,
        ended = driven => return ended,
    };
    stopped.store(true, Ordering::Relaxed);
    // Its status ends when BuildKit has let go of the build.
    let over = async {
        loop {
            match told.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return is_unknown(&status, reference),
                None => return true,
            }
        }
    };
    Ended::Stopped { fault, is_over: tokio::time::timeout(STOP, over).await.unwrap_or(false) }
}

/// The calls of a pass, from the solve to its end.
async fn drive<F: Facts, J: Judged, R>(
    connection: &Connection,
    order: Order,
    build: &AsciiMetadataValue,
    judge: impl FnOnce(Answer) -> Result<J, R> + Send,
    facts: &mut F,
    mut told: Pin<&mut (impl Stream<Item = Result<StatusResponse, Status>> + Send)>,
) -> Ended<R> {
    let reference = order.reference.clone();
    let (solve, asked) = requests(order);
    let mut control = connection.control();
    let solve = control.solve(solve);
    let never = AtomicBool::new(false);
    let frontend = once_known(&reference, &never, || {
        let request = of_build(build, Bytes::from(asked.encode_to_vec()));
        async { Answer::read(connection.raw("/moby.buildkit.v1.frontend.LLBBridge/Solve", request).await?) }
    });
    tokio::pin!(solve, frontend);

    let answer = loop {
        tokio::select! {
            ended = &mut solve => return match ended {
                // It waits for `Return`, so an end before that is a failure whatever it says.
                Ok(_) => Ended::Failed(Status::internal("the build ended before it began")),
                Err(status) => Ended::Failed(status),
            },
            answer = &mut frontend => match answer {
                Ok(answer) => break answer,
                Err(status) => return Ended::Frontend(status),
            },
            Some(answer) = told.next() => tell(facts, answer).await,
        }
    };
    let judged = match judge(answer) {
        Ok(judged) => judged,
        Err(refusal) => return Ended::Refused(refusal),
    };
    facts.runs().await;
    let returned = hand_back(connection, build, judged.into_result());
    tokio::pin!(returned);
    let mut waiting = true;
    let ended = loop {
        tokio::select! {
            ended = &mut solve => break ended,
            answer = &mut returned, if waiting => match answer {
                Ok(()) => waiting = false,
                Err(status) => return Ended::Failed(status),
            },
            Some(answer) = told.next() => tell(facts, answer).await,
        }
    };
    // The last facts, the failed step's output among them, come after the solve's answer. A reader may
    // take as long as it likes for them; BuildKit may not.
    loop {
        match tokio::time::timeout(LAST_FACTS, told.next()).await {
            Ok(Some(answer)) => tell(facts, answer).await,
            Ok(None) => break,
            Err(_) => {
                tracing::warn!("BuildKit did not end its status after the build");
                break;
            }
        }
    }
    match ended {
        Ok(response) => Ended::Exported(response.into_inner().exporter_response),
        Err(status) => Ended::Failed(status),
    }
}

/// What BuildKit is asked for, and what its frontend is.
fn requests(order: Order) -> (SolveRequest, frontend::SolveRequest) {
    let attributes = HashMap::from([("name".to_owned(), order.name)]);
    let solve = SolveRequest {
        r#ref: order.reference,
        session: order.session,
        source_policy: Some(order.policy),
        // Out of the engine's build history, which shows every build's arguments to everyone.
        internal: true,
        exporters: vec![Exporter { r#type: "moby".to_owned(), attrs: attributes }],
        ..SolveRequest::default()
    };
    let mut attributes = order.attributes;
    let kind = match order.frontend {
        None => "dockerfile.v0",
        Some(image) => {
            attributes.insert("source".to_owned(), image);
            "gateway.v0"
        }
    };
    let frontend = frontend::SolveRequest {
        frontend: kind.to_owned(),
        frontend_opt: attributes,
        allow_result_return: true,
        allow_result_array_ref: true,
        ..frontend::SolveRequest::default()
    };
    (solve, frontend)
}

/// The facts that BuildKit tells, until it ends or breaks off with an error.
fn facts_of(
    opening: impl Future<Output = Result<Streaming<StatusResponse>, Status>>,
) -> impl Stream<Item = Result<StatusResponse, Status>> {
    stream::once(opening).try_flatten().fuse()
}

async fn tell<F: Facts>(facts: &mut F, answer: Result<StatusResponse, Status>) {
    match answer {
        Ok(response) => facts.report(response).await,
        Err(status) => facts.broke_off(status).await,
    }
}

/// Returns what runs now; first a graph that BuildKit does not know becomes one that it does.
async fn hand_back(
    connection: &Connection,
    build: &AsciiMetadataValue,
    mut result: frontend::Result,
) -> Result<(), Status> {
    let mut gateway = connection.gateway();
    let references: Vec<&mut frontend::Ref> = match &mut result.result {
        Some(result::Result::Ref(reference)) => vec![reference],
        Some(result::Result::Refs(map)) => map.refs.values_mut().collect(),
        Some(result::Result::RefDeprecated(_) | result::Result::RefsDeprecated(_)) | None => Vec::new(),
    };
    for reference in references {
        let Some(definition) = reference.def.take() else { continue };
        let asked = frontend::SolveRequest {
            definition: Some(definition),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..frontend::SolveRequest::default()
        };
        let known =
            gateway.solve(of_build(build, asked)).await?.into_inner().result.and_then(|result| result.result);
        let Some(result::Result::Ref(known)) = known else {
            return Err(Status::internal("the builder did not take the graph"));
        };
        reference.id = known.id;
    }
    let returned = frontend::ReturnRequest { result: Some(result), error: None };
    gateway.r#return(of_build(build, returned)).await.map(drop)
}

/// A gateway's call about the build of that name.
pub(super) fn of_build<T>(build: &AsciiMetadataValue, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(BUILD, build.clone());
    request
}

/// Whether BuildKit says that it has no such build. With its name, which nobody can guess: a Dockerfile
/// may print the phrase.
fn is_unknown(status: &Status, reference: &str) -> bool {
    status.message().contains(&format!("no such job {reference}"))
}

/// Asks about the build `reference` until BuildKit knows it. It waits some seconds for a build that
/// it has not come to, and a busy engine needs longer for each of many. Once `stopped`, a build that is
/// not known is over.
pub(super) async fn once_known<T, F>(
    reference: &str,
    stopped: &AtomicBool,
    mut ask: impl FnMut() -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    for _ in 1..ATTEMPTS {
        match ask().await {
            Err(status) if is_unknown(&status, reference) && !stopped.load(Ordering::Relaxed) => {}
            answer => return answer,
        }
    }
    ask().await
}

#[cfg(test)]
mod tests;

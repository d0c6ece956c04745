//! One pass of a build: `Control.Solve` without a frontend. Beside it wharfd acts as BuildKit's gateway
//! client: it calls the frontend, lets the gate judge the graph, and returns the graph if it may run.

mod begun;
mod status;

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
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tonic::{Request, Response, Status, metadata::AsciiMetadataValue};

use super::{
    connection::Connection,
    failure::is_broken_off,
    wire_form::{Field, PLAIN, Shape, is_understood},
};
use crate::fault::Fault;
use begun::Begun;
use status::{last_status, status_of, tell};

/// The metadata key by which a call of the gateway names its build.
const BUILD: &str = "buildkit-controlapi-buildid";
/// How many times BuildKit is asked about a build that it does not know yet. It waits 3 to 10 seconds each
/// time.
const ATTEMPTS: usize = 20;
/// How long BuildKit may take for its next status after the build is over; it already has it.
const LAST_STATUS: Duration = Duration::from_secs(10);
/// How long a stop waits for the processes of steps. A job with steps that begin again and again does not
/// delay its own end.
const PROCESSES: Duration = Duration::from_secs(30);
/// How long a stopped pass may take to end. The classic store's export ignores a cancel and reads the whole
/// image.
const STOP: Duration = Duration::from_secs(120);

/// The parameters of a pass.
#[derive(Clone, Debug)]
pub struct PassRequest {
    /// Names the pass in BuildKit; unguessable, never used twice.
    pub reference: String,
    /// The session's id.
    pub session: String,
    /// The frontend's attributes.
    pub attributes: HashMap<String, String>,
    /// The image that reads the Dockerfile in a container; with `None`, BuildKit itself reads it.
    pub frontend: Option<String>,
    /// The source policy.
    pub policy: Policy,
    /// Where the results go; BuildKit names each exporter by its position here.
    pub exports: Vec<ExporterRequest>,
}

/// One export of a pass's result.
#[derive(Clone, Debug)]
pub struct ExporterRequest {
    /// The name of BuildKit's exporter.
    pub kind: &'static str,
    /// The exporter's attributes.
    pub attributes: HashMap<String, String>,
}

/// The form in which an export's content comes to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A directory tree, which the receiver gets by fsutil's protocol.
    Tree,
    /// One file.
    File,
}

/// The layout of an image's archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// An OCI image layout.
    Oci,
    /// The same with `manifest.json`, which `docker load` reads.
    Docker,
}

/// The frontend's answer.
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

    /// The decoded answer, if it contains no unknown fields. BuildKit keeps the answer as it was and would
    /// run the unseen parts along with the judged ones.
    pub fn understood(self) -> Option<frontend::Result> {
        is_understood(&self.sent, &self.read.encode_to_vec(), &SOLVE_RESPONSE)
            .then(|| self.read.result.unwrap_or_default())
    }
}

/// The positions of maps in an answer.
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

/// A result of the frontend whose graph may run. Only a judge makes such a value, so that no result
/// reaches BuildKit unjudged.
pub trait JudgedResult {
    /// The result to return to BuildKit.
    fn into_result(self) -> frontend::Result;
}

/// The end of a pass; `R` is the judge's refusal.
#[derive(Debug)]
pub enum Ended<R> {
    /// The results were made and taken; the exporters' response, which describes the image, if there is one.
    Exported(HashMap<String, String>),
    /// The frontend failed, or a source was denied. No step has run.
    Frontend(Status),
    /// The judge refused the graph.
    Refused(R),
    /// A step, or the export, failed.
    Failed(Status),
    /// The pass was stopped.
    Stopped {
        /// Why.
        fault: Fault,
        /// Whether BuildKit has ended it, too. If so, an image that is not there yet never comes.
        is_over: bool,
    },
}

impl<R> Ended<R> {
    /// Whether BuildKit has ended the pass, so that an image that is not there yet never comes.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Exported(_) | Self::Refused(_) => true,
            Self::Frontend(status) | Self::Failed(status) => !is_broken_off(status),
            Self::Stopped { is_over, .. } => *is_over,
        }
    }
}

/// Receives the status of a pass.
pub trait PassListener: Send {
    /// Takes status as BuildKit reports it. It waits for nobody: BuildKit would keep all that is not taken, without a
    /// limit, and continue.
    fn report(&mut self, status: StatusResponse);

    /// Called when BuildKit's status broke off with `why`: no more of it arrives, although the build
    /// continues.
    fn broke_off(&mut self, why: Status);

    /// Called when the graph begins to run: the status so far, and all that follows, is final.
    fn runs(&mut self);
}

/// Runs a pass to its end, or until `stop` ends. Stopping takes two steps: it drops the call that keeps
/// BuildKit's steps running, as soon as BuildKit ends them all with it, and then waits for BuildKit, which may be in
/// the middle of an export. Dropping the future does only the first, and at once.
pub async fn pass<F: PassListener, J: JudgedResult, R, G: Future<Output = Result<J, R>> + Send>(
    connection: &Connection,
    order: PassRequest,
    judge: impl FnOnce(Answer) -> G + Send,
    listener: &mut F,
    stop: Pin<&mut (impl Future<Output = Fault> + Send)>,
) -> Ended<R> {
    let build = match AsciiMetadataValue::try_from(order.reference.as_str()) {
        Ok(value) => value,
        Err(error) => return Ended::Failed(Status::internal(error.to_string())),
    };
    let reference = order.reference.clone();
    let reference = reference.as_str();
    let stopped = AtomicBool::new(false);
    let opening = once_known(reference, &stopped, || {
        let request = StatusRequest { r#ref: reference.to_owned() };
        let mut control = connection.control();
        async move { control.status(request).await.map(Response::into_inner) }
    });
    let begun = Begun::default();
    let told = status_of(opening).inspect_ok(|status| begun.note(status));
    let told = told.inspect_err(|status| begun.status_broke_off(is_unknown(status, reference)));
    let mut told = std::pin::pin!(told);
    let mut driven = Box::pin(drive(connection, order, &build, judge, listener, told.as_mut(), &begun));
    let fault = tokio::select! {
        biased;
        fault = stop => fault,
        ended = &mut driven => return ended,
    };
    stopped.store(true, Ordering::Relaxed);
    tokio::select! {
        _ = tokio::time::timeout(PROCESSES, begun.have_processes()) => {}
        _ = &mut driven => {}
    }
    drop(driven);
    // The status stream ends when BuildKit has released the build.
    let over = async {
        while told.next().await.is_some() {}
        !begun.is_lost()
    };
    Ended::Stopped { fault, is_over: tokio::time::timeout(STOP, over).await.unwrap_or(false) }
}

/// The calls of a pass, from the solve to its end.
async fn drive<F: PassListener, J: JudgedResult, R, G: Future<Output = Result<J, R>> + Send>(
    connection: &Connection,
    order: PassRequest,
    build: &AsciiMetadataValue,
    judge: impl FnOnce(Answer) -> G + Send,
    listener: &mut F,
    mut told: Pin<&mut (impl Stream<Item = Result<StatusResponse, Status>> + Send)>,
    begun: &Begun,
) -> Ended<R> {
    let reference = order.reference.clone();
    if order.frontend.is_some() {
        begun.frontend();
    }
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
                // The solve waits for `Return`, so an end before that is a failure in any case.
                Ok(_) => Ended::Failed(Status::internal("the build ended before it began")),
                Err(status) => Ended::Failed(status),
            },
            answer = &mut frontend => match answer {
                Ok(answer) => break answer,
                Err(status) => return Ended::Frontend(status),
            },
            Some(answer) = told.next() => tell(listener, answer),
        }
    };
    let judged = match judge(answer).await {
        Ok(judged) => judged,
        Err(refusal) => return Ended::Refused(refusal),
    };
    listener.runs();
    begun.runs();
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
            Some(answer) = told.next() => tell(listener, answer),
        }
    };
    last_status(listener, told, LAST_STATUS).await;
    match ended {
        Ok(response) => Ended::Exported(response.into_inner().exporter_response),
        Err(status) => Ended::Failed(status),
    }
}

/// The requests to BuildKit and to its frontend.
fn requests(order: PassRequest) -> (SolveRequest, frontend::SolveRequest) {
    let exporter =
        |ExporterRequest { kind, attributes }| Exporter { r#type: kind.to_owned(), attrs: attributes };
    let solve = SolveRequest {
        r#ref: order.reference,
        session: order.session,
        source_policy: Some(order.policy),
        // Keeps the build out of the engine's history, which shows every build's arguments to
        // everyone.
        internal: true,
        exporters: order.exports.into_iter().map(exporter).collect(),
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

/// Returns the graph that runs now. A graph that BuildKit does not know yet is sent to it first.
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

/// A gateway request about the build with this name.
pub(super) fn of_build<T>(build: &AsciiMetadataValue, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(BUILD, build.clone());
    request
}

/// Whether BuildKit says that it has no such build. The message must contain the unguessable name, since a
/// Dockerfile may print the phrase.
fn is_unknown(status: &Status, reference: &str) -> bool {
    status.message().contains(&format!("no such job {reference}"))
}

/// Asks about the build `reference` until BuildKit knows it. BuildKit waits some seconds for a build that
/// it has not started yet, and a busy engine with many builds needs longer. Once `stopped`, an unknown
/// build is over.
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

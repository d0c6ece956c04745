//! One pass of a build: `Control.Solve` without a frontend, and beside it, as BuildKit's gateway
//! client, the frontend's call, the gate's judgement and the return of what may run.

use std::{collections::HashMap, time::Duration};

use bollard_buildkit_proto::moby::buildkit::v1::{
    Exporter, SolveRequest, StatusRequest, StatusResponse,
    frontend::{self, result},
    sourcepolicy::Policy,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
};

use super::{
    connection::Connection,
    gate::{Judged, Refusal},
};

/// The metadata key by which a call of the gateway names its pass.
const BUILD: &str = "buildkit-controlapi-buildid";
/// How often BuildKit is asked anew about a pass that it does not know yet; it waits 3 to 10 seconds
/// each time.
const ATTEMPTS: usize = 20;
/// How long the last facts may take once the build is over; BuildKit has them at hand.
const LAST_FACTS: Duration = Duration::from_secs(10);

/// What a pass asks for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Names the pass in BuildKit; unguessable, never used twice.
    pub reference: String,
    /// The session's id.
    pub session: String,
    /// The frontend's attributes.
    pub attributes: HashMap<String, String>,
    /// The source policy.
    pub policy: Policy,
    /// The names that the image gets in the engine.
    pub names: Vec<String>,
}

/// How a pass ended.
#[derive(Debug)]
pub enum Ended {
    /// The image is made; BuildKit's facts about it.
    Exported(HashMap<String, String>),
    /// The frontend failed, or a source was denied. No step has run.
    Frontend(Status),
    /// The gate did not let the graph run.
    Refused(Refusal),
    /// A step, or the export, failed.
    Failed(Status),
}

/// Where the facts of a pass go, and from when on they count.
pub trait Facts: Send {
    /// Facts, as BuildKit reports them. Awaited: a reader that is slow slows BuildKit down.
    fn report(&mut self, facts: StatusResponse) -> impl Future<Output = ()> + Send;

    /// The graph runs now: what was reported so far, and all that follows, stands.
    fn runs(&mut self) -> impl Future<Output = ()> + Send;
}

/// Runs a pass to its end. Dropping the future cancels it: the call that it drops is what keeps
/// BuildKit's steps running.
pub async fn pass<F: Facts>(
    connection: &Connection,
    order: Order,
    judge: impl FnOnce(frontend::Result) -> Result<Judged, Refusal> + Send,
    facts: &mut F,
) -> Ended {
    let named = match MetadataValue::try_from(order.reference.as_str()) {
        Ok(value) => value,
        Err(error) => return Ended::Failed(Status::internal(error.to_string())),
    };
    let build = named.clone();
    let mut control = connection.control();
    let mut status_control = connection.control();
    let mut gateway = connection.gateway();
    let attributes = HashMap::from([("name".to_owned(), order.names.join(","))]);
    let solve = control.solve(SolveRequest {
        r#ref: order.reference.clone(),
        session: order.session,
        source_policy: Some(order.policy),
        // Out of the engine's build history, which shows every build's arguments to everyone.
        internal: true,
        exporters: vec![Exporter { r#type: "moby".to_owned(), attrs: attributes }],
        ..SolveRequest::default()
    });
    let frontend = async {
        let asked = frontend::SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            frontend_opt: order.attributes,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..frontend::SolveRequest::default()
        };
        let mut attempts = ATTEMPTS;
        loop {
            let mut request = Request::new(asked.clone());
            request.metadata_mut().insert(BUILD, build.clone());
            match gateway.solve(request).await {
                Err(status) if attempts > 0 && is_not_yet_known(&status) => attempts -= 1,
                answer => return answer,
            }
        }
    };
    let status = async {
        let mut attempts = ATTEMPTS;
        loop {
            let request = StatusRequest { r#ref: order.reference.clone() };
            match status_control.status(request).await {
                Err(status) if attempts > 0 && is_not_yet_known(&status) => attempts -= 1,
                answer => return answer.map(tonic::Response::into_inner),
            }
        }
    };
    tokio::pin!(solve, frontend, status);

    let mut stream = None;
    let mut facts_open = true;
    let result = loop {
        tokio::select! {
            ended = &mut solve => return match ended {
                // It waits for `Return`, so an end before that is a failure whatever it says.
                Ok(_) => Ended::Failed(Status::internal("the build ended before it began")),
                Err(status) => Ended::Failed(status),
            },
            answer = &mut frontend => match answer {
                Ok(response) => break response.into_inner().result.unwrap_or_default(),
                Err(status) => return Ended::Frontend(status),
            },
            answer = next_facts(&mut status, &mut stream), if facts_open => match answer {
                Some(response) => facts.report(response).await,
                None => facts_open = false,
            },
        }
    };
    let judged = match judge(result) {
        Ok(judged) => judged,
        Err(refusal) => return Ended::Refused(refusal),
    };
    facts.runs().await;
    let returned = hand_back(connection, named, judged.into_result());
    tokio::pin!(returned);
    let mut waiting = true;
    let ended = loop {
        tokio::select! {
            ended = &mut solve => break ended,
            answer = &mut returned, if waiting => match answer {
                Ok(()) => waiting = false,
                Err(status) => return Ended::Failed(status),
            },
            answer = next_facts(&mut status, &mut stream), if facts_open => match answer {
                Some(response) => facts.report(response).await,
                None => facts_open = false,
            },
        }
    };
    // The last facts, the failed step's output among them, come after the solve's answer.
    let rest = async {
        while let Some(response) = next_facts(&mut status, &mut stream).await {
            facts.report(response).await;
        }
    };
    if facts_open && tokio::time::timeout(LAST_FACTS, rest).await.is_err() {
        tracing::warn!("BuildKit did not end its status after the build");
    }
    match ended {
        Ok(response) => Ended::Exported(response.into_inner().exporter_response),
        Err(status) => Ended::Failed(status),
    }
}

/// Returns what runs now; first a graph that BuildKit does not know becomes one that it does.
async fn hand_back(
    connection: &Connection,
    build: MetadataValue<Ascii>,
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
        let mut request = Request::new(frontend::SolveRequest {
            definition: Some(definition),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..frontend::SolveRequest::default()
        });
        request.metadata_mut().insert(BUILD, build.clone());
        let known = gateway.solve(request).await?.into_inner().result.and_then(|result| result.result);
        let Some(result::Result::Ref(known)) = known else {
            return Err(Status::internal("the builder did not take the graph"));
        };
        reference.id = known.id;
    }
    let mut request = Request::new(frontend::ReturnRequest { result: Some(result), error: None });
    request.metadata_mut().insert(BUILD, build);
    gateway.r#return(request).await.map(drop)
}

/// Whether BuildKit has not come to the pass itself yet. It waits some seconds for it, which a busy
/// engine may need for each of many builds.
fn is_not_yet_known(status: &Status) -> bool {
    status.message().contains("no such job")
}

async fn next_facts<F>(
    opening: &mut std::pin::Pin<&mut F>,
    stream: &mut Option<tonic::Streaming<StatusResponse>>,
) -> Option<StatusResponse>
where
    F: Future<Output = Result<tonic::Streaming<StatusResponse>, Status>>,
{
    let stream = match stream {
        Some(stream) => stream,
        None => match opening.as_mut().await {
            Ok(opened) => stream.insert(opened),
            Err(error) => {
                tracing::debug!(%error, "no status from BuildKit");
                return None;
            }
        },
    };
    match stream.message().await {
        Ok(message) => message,
        Err(error) => {
            tracing::debug!(%error, "status from BuildKit broke off");
            None
        }
    }
}

//! The client's side of a session: answers the requests of BuildKit and wharfd during a build.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bollard_buildkit_proto::moby::{
    buildkit::secrets::v1::GetSecretResponse, filesync::v1::CredentialsResponse,
};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    connect::{Connection, MESSAGE_BYTES_MAX, STREAMS_MAX},
    context::{BuildFiles, Tree},
    credentials::{Credentials, DockerConfig},
    exit::{Exit, Failure},
    output::{SAID_MAX, Sinks},
    secrets::Secrets,
    sync,
};
use crate::wire::v1::{
    AttachRequest, AttachResponse, FileSync, LocalDirectory, OutputStream, SessionOpen, SessionRequest,
    SessionResponse, StreamError, StreamOpened, attach_request, build_service_client::BuildServiceClient,
    session_request, session_response, stream_opened,
};

/// A client of the build service.
pub(crate) type Client = BuildServiceClient<Connection>;

/// A client over `connection`.
pub(crate) fn client(connection: Connection) -> Client {
    Client::new(connection)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Everything the client answers with.
#[derive(Debug)]
pub(crate) struct Answers {
    credentials: DockerConfig,
    secrets: Secrets,
    /// Where the build's outputs go.
    pub(crate) sinks: Sinks,
    directories: Vec<LocalDirectory>,
    trees: BTreeMap<String, Arc<Tree>>,
    /// The first request that could not be answered. wharfd sees only that the build failed; this is why.
    failure: Mutex<Option<Failure>>,
    /// The last secret that was requested but not given.
    missing: Mutex<Option<String>>,
}

impl Answers {
    /// Answers from these.
    pub(crate) fn new(
        credentials: DockerConfig,
        secrets: Secrets,
        source: &BuildFiles,
        sinks: Sinks,
    ) -> Self {
        let directories = source.directories();
        let names = directories.iter().map(|directory| directory.name.clone());
        let trees = names.filter_map(|name| source.tree(&name).map(|tree| (name, tree))).collect();
        Self {
            credentials,
            secrets,
            sinks,
            directories,
            trees,
            failure: Mutex::default(),
            missing: Mutex::default(),
        }
    }

    /// The directories that the client can sync.
    pub(crate) fn directories(&self) -> Vec<LocalDirectory> {
        self.directories.clone()
    }

    /// The first request that could not be answered.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The last secret that was requested but not given. The step may not need it.
    pub(crate) fn missing_secret(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, failure: Failure) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}

/// An open session. Ending or dropping it cancels its builds.
#[derive(Debug)]
pub(crate) struct OpenSession {
    id: String,
    // The request side, held open for as long as the session is.
    requests: mpsc::Sender<SessionRequest>,
    announced: Streaming<SessionResponse>,
}

impl OpenSession {
    /// Opens a session.
    pub(crate) async fn open(client: &mut Client, open: SessionOpen) -> Result<Self, Failure> {
        let (requests, sent) = mpsc::channel(1);
        let open = SessionRequest { request: Some(session_request::Request::Open(open)) };
        requests.send(open).await.map_err(|_| Failure::lost())?;
        let mut announced = client.session(ReceiverStream::new(sent)).await?.into_inner();
        match announced.message().await?.and_then(|message| message.response) {
            Some(session_response::Response::Opened(opened)) => {
                Ok(Self { id: opened.session_id, requests, announced })
            }
            Some(session_response::Response::Stream(_)) | None => Err(Failure::lost()),
        }
    }

    /// The id by which builds name the session.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Splits off the handle that ends the session: dropping it tells wharfd that nothing more follows.
    pub(crate) fn split(self) -> (mpsc::Sender<SessionRequest>, Serving) {
        (self.requests, Serving { announced: self.announced })
    }
}

/// The answering side of a session.
#[derive(Debug)]
pub(crate) struct Serving {
    announced: Streaming<SessionResponse>,
}

impl Serving {
    /// Answers each stream that is announced, until wharfd ends the session.
    pub(crate) async fn serve(mut self, client: Client, answers: Arc<Answers>) -> Failure {
        // Dropped with this future: no answer outlives its session.
        let mut running = JoinSet::new();
        loop {
            let message = tokio::select! {
                message = self.announced.message(), if running.len() < STREAMS_MAX => message,
                Some(_) = running.join_next() => continue,
            };
            match message {
                Ok(Some(SessionResponse { response: Some(session_response::Response::Stream(stream)) })) => {
                    running.spawn(answer(client.clone(), Arc::clone(&answers), stream));
                }
                // Unknown to this client; a newer wharfd may send more.
                Ok(Some(SessionResponse {
                    response: Some(session_response::Response::Opened(_)) | None,
                })) => {}
                Ok(None) => return Failure::lost(),
                Err(status) => return status.into(),
            }
        }
    }
}

/// Serves one stream. wharfd reports its failure, unless `answers` notes it.
async fn answer(mut client: Client, answers: Arc<Answers>, announced: StreamOpened) {
    let first = AttachRequest { request: Some(attach_request::Request::StreamId(announced.stream_id)) };
    // A refused or broken stream shows in the build's own result.
    let _ = match announced.subject {
        Some(stream_opened::Subject::FileSync(request)) => sync(&mut client, &answers, first, request).await,
        Some(stream_opened::Subject::Credentials(query)) => {
            tell(&mut client, &answers, first, credentials(&answers, &query.host)).await
        }
        Some(stream_opened::Subject::Secret(query)) => {
            tell(&mut client, &answers, first, async { secret(&answers, &query.id) }).await
        }
        Some(stream_opened::Subject::Output(stream)) => output(&mut client, &answers, first, stream).await,
        None => tell(&mut client, &answers, first, async { Err(NoAnswer::unknown()) }).await,
    };
}

/// Receives an output on a stream.
async fn output(
    client: &mut Client,
    answers: &Answers,
    first: AttachRequest,
    stream: OutputStream,
) -> Result<(), Status> {
    let (requests, sent) = mpsc::channel(SAID_MAX);
    let (said, messages) = mpsc::channel(SAID_MAX);
    let message = |packet| AttachRequest { request: Some(attach_request::Request::Message(packet)) };
    let requested = stream::once(async { first })
        .chain(ReceiverStream::new(messages).map(message))
        .chain(ReceiverStream::new(sent));
    let mut responses = client.attach(requested).await?.into_inner();
    let content = responses.by_ref().map(|response| response.map(|response| response.message));
    if let Err(message) = answers.sinks.receive(stream.output, stream.form(), content, said).await {
        let error = StreamError { code: Code::Unknown.into(), message };
        let _ = requests.send(AttachRequest { request: Some(attach_request::Request::Error(error)) }).await;
    }
    // The end of this side says that everything is written.
    drop(requests);
    drain(&mut responses).await
}

/// Syncs a directory on a stream.
async fn sync(
    client: &mut Client,
    answers: &Answers,
    first: AttachRequest,
    request: FileSync,
) -> Result<(), Status> {
    let Some(tree) = answers.trees.get(&request.directory).map(|tree| tree.answering(&request)) else {
        return tell(client, answers, first, async { Err(NoAnswer::unknown()) }).await;
    };
    let (out, packets) = sync::channel();
    let message = |packet| AttachRequest { request: Some(attach_request::Request::Message(packet)) };
    let requests = stream::once(async { first }).chain(packets.map(message));
    let mut responses = client.attach(requests).await?.into_inner();
    let asked = responses.by_ref().map(|response| response.map(|response| response.message));
    match sync::send(tree, request, asked, out).await {
        // wharfd has the better reason for a broken or refused stream.
        Ok(()) | Err(sync::Error::Refused(_) | sync::Error::Broken(_)) => {}
        Err(
            error @ (sync::Error::Context(_)
            | sync::Error::Shrank(_)
            | sync::Error::UnknownFile(_)
            | sync::Error::Protocol(_)
            | sync::Error::Failed(_)),
        ) => answers.fail(Failure::new(Exit::Failed, format!("cannot send the build context: {error}"))),
    }
    drain(&mut responses).await
}

/// Sends the one message that a stream asks for.
async fn tell(
    client: &mut Client,
    answers: &Answers,
    first: AttachRequest,
    message: impl Future<Output = Result<Vec<u8>, NoAnswer>>,
) -> Result<(), Status> {
    let (requests, sent) = mpsc::channel(2);
    // Attach first: a credential helper may take longer than wharfd waits.
    let attached = client.attach(stream::once(async { first }).chain(ReceiverStream::new(sent)));
    let answered = async {
        let request = match message.await {
            Ok(message) => attach_request::Request::Message(message.into()),
            Err(why) => attach_request::Request::Error(why.into_wire(answers)),
        };
        // If the stream is gone, nobody is waiting for the answer.
        let _ = requests.send(AttachRequest { request: Some(request) }).await;
        drop(requests);
    };
    let (attached, ()) = tokio::join!(attached, answered);
    drain(&mut attached?.into_inner()).await
}

/// Reads a stream to its end: dropping it earlier would reset it and lose what was sent.
async fn drain(responses: &mut Streaming<AttachResponse>) -> Result<(), Status> {
    while responses.message().await?.is_some() {}
    Ok(())
}

/// The reason why a stream gets no answer.
enum NoAnswer {
    /// It does not exist; the requester decides whether that is an error.
    NotFound(String),
    /// It could not be read.
    Failed(Failure),
}

impl NoAnswer {
    fn unknown() -> Self {
        Self::Failed(Failure::new(
            Exit::Failed,
            "wharfd asked for something that this version of wharf does not have",
        ))
    }

    fn into_wire(self, answers: &Answers) -> StreamError {
        match self {
            Self::NotFound(message) => StreamError { code: Code::NotFound.into(), message },
            Self::Failed(failure) => {
                let message = failure.text.clone();
                answers.fail(failure);
                StreamError { code: Code::Unknown.into(), message }
            }
        }
    }
}

async fn credentials(answers: &Answers, host: &str) -> Result<Vec<u8>, NoAnswer> {
    let found = answers.credentials.of(host).await.map_err(NoAnswer::Failed)?;
    // BuildKit's own client does the same: a secret without a username is an identity token.
    let (username, secret) = match found {
        Some(Credentials::Password { username, password }) => (username, password.expose().clone()),
        Some(Credentials::IdentityToken(token)) => (String::new(), token.expose().clone()),
        None => (String::new(), String::new()),
    };
    Ok(CredentialsResponse { username, secret }.encode_to_vec())
}

fn secret(answers: &Answers, id: &str) -> Result<Vec<u8>, NoAnswer> {
    match answers.secrets.get(id) {
        Some(value) => Ok(GetSecretResponse { data: value.expose().clone() }.encode_to_vec()),
        None => {
            *answers.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
            Err(NoAnswer::NotFound(format!("there is no secret `{id}`")))
        }
    }
}

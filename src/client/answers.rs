//! The session: what BuildKit and wharfd ask the client for while they build.

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
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    connect::{MESSAGE_BYTES_MAX, STREAMS_MAX},
    context::{Source, Tree},
    credentials::{Credentials, DockerConfig},
    exit::{Exit, Failure},
    secrets::Secrets,
    sync,
};
use crate::wire::v1::{
    AttachRequest, AttachResponse, FileSync, LocalDirectory, SessionOpen, SessionRequest, SessionResponse,
    StreamError, StreamOpened, attach_request, build_service_client::BuildServiceClient, session_request,
    session_response, stream_opened,
};

/// A client of the build service.
pub(crate) type Client = BuildServiceClient<Channel>;

/// A client over `channel`.
pub(crate) fn client(channel: Channel) -> Client {
    Client::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// What the client answers with.
#[derive(Debug)]
pub(crate) struct Answers {
    credentials: DockerConfig,
    secrets: Secrets,
    directories: Vec<LocalDirectory>,
    trees: BTreeMap<String, Arc<Tree>>,
    /// The first answer that could not be given: why a build failed, where wharfd only sees that.
    failure: Mutex<Option<Failure>>,
    /// The last secret that was asked for and is not there.
    missing: Mutex<Option<String>>,
}

impl Answers {
    /// Answers from these.
    pub(crate) fn new(credentials: DockerConfig, secrets: Secrets, source: &Source) -> Self {
        let directories = source.directories();
        let names = directories.iter().map(|directory| directory.name.clone());
        let trees = names.filter_map(|name| source.tree(&name).map(|tree| (name, tree))).collect();
        Self {
            credentials,
            secrets,
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

    /// The first answer that could not be given.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The last secret that was asked for and is not there. A step may do without it.
    pub(crate) fn missing_secret(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, failure: Failure) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}

/// An open session. Its end, also by being dropped, cancels its builds.
#[derive(Debug)]
pub(crate) struct Session {
    id: String,
    // The request side: held open as long as the session is.
    requests: mpsc::Sender<SessionRequest>,
    announced: Streaming<SessionResponse>,
}

impl Session {
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

    /// Names the session in its builds.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What ends the session in order: dropping it tells wharfd that nothing more comes.
    pub(crate) fn split(self) -> (mpsc::Sender<SessionRequest>, Serving) {
        (self.requests, Serving { announced: self.announced })
    }
}

/// The side of a session that answers.
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
                // Nothing that this client knows; a newer wharfd may say more.
                Ok(Some(SessionResponse {
                    response: Some(session_response::Response::Opened(_)) | None,
                })) => {}
                Ok(None) => return Failure::lost(),
                Err(status) => return status.into(),
            }
        }
    }
}

/// Carries one stream. Its failure is wharfd's to report, or is noted in `answers`.
async fn answer(mut client: Client, answers: Arc<Answers>, announced: StreamOpened) {
    let first = AttachRequest { request: Some(attach_request::Request::StreamId(announced.stream_id)) };
    // A stream that is refused or cut off shows in the build's own answer.
    let _ = match announced.subject {
        Some(stream_opened::Subject::FileSync(request)) => sync(&mut client, &answers, first, request).await,
        Some(stream_opened::Subject::Credentials(query)) => {
            tell(&mut client, &answers, first, credentials(&answers, &query.host)).await
        }
        Some(stream_opened::Subject::Secret(query)) => {
            tell(&mut client, &answers, first, secret(&answers, &query.id)).await
        }
        None => tell(&mut client, &answers, first, async { Err(NoAnswer::unknown()) }).await,
    };
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
        // What broke on the way, or was refused, wharfd knows better.
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
    // Attached at once: wharfd does not wait as long as a credential helper may take.
    let attached = client.attach(stream::once(async { first }).chain(ReceiverStream::new(sent)));
    let answered = async {
        let request = match message.await {
            Ok(message) => attach_request::Request::Message(message.into()),
            Err(why) => attach_request::Request::Error(why.into_wire(answers)),
        };
        // A stream that is gone has nobody to tell.
        let _ = requests.send(AttachRequest { request: Some(request) }).await;
        drop(requests);
    };
    let (attached, ()) = tokio::join!(attached, answered);
    drain(&mut attached?.into_inner()).await
}

/// Reads a stream to its end, so that what was sent is not cut off by a reset.
async fn drain(responses: &mut Streaming<AttachResponse>) -> Result<(), Status> {
    while responses.message().await?.is_some() {}
    Ok(())
}

/// Why a stream gets no answer.
enum NoAnswer {
    /// There is no such thing; whether that is an error is the asker's business.
    NotFound(String),
    /// It cannot be told.
    Failed(Failure),
}

impl NoAnswer {
    fn unknown() -> Self {
        Self::Failed(Failure::new(Exit::Failed, "wharfd asks for what this wharf does not have"))
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
    // As BuildKit's own client has it: a secret without a user's name is an identity token.
    let (username, secret) = match found {
        Some(Credentials::Password { username, password }) => (username, password.expose().clone()),
        Some(Credentials::IdentityToken(token)) => (String::new(), token.expose().clone()),
        None => (String::new(), String::new()),
    };
    Ok(CredentialsResponse { username, secret }.encode_to_vec())
}

async fn secret(answers: &Answers, id: &str) -> Result<Vec<u8>, NoAnswer> {
    match answers.secrets.get(id).await {
        Ok(Some(value)) => Ok(GetSecretResponse { data: value.expose().clone() }.encode_to_vec()),
        Ok(None) => {
            *answers.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
            Err(NoAnswer::NotFound(format!("there is no secret `{id}`")))
        }
        Err(failure) => Err(NoAnswer::Failed(failure)),
    }
}

//! The client of a build: a session, a tar, or both.

mod secrets;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard_buildkit_proto::moby::{
    buildkit::secrets::v1::GetSecretResponse, filesync::v1::CredentialsResponse,
};
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use prost::Message;
use tokio::sync::{SetOnce, watch};
use tonic::{Code, Status};

use super::{
    add,
    archives::{Awaited, Synced, Trees},
    dockerfile::judging::Judging,
    downloads::Downloads,
    gate::Matching,
    ignored::IgnoreFiles,
    input::{Hear, Input},
    limits::Used,
    outputs::Outputs,
    packets::{Judge, told},
    patience::{Patience, minutes},
    session::{Attached, ClientSession, FromClient, Subject},
    tar::Tar,
};
use crate::{
    audit::Details,
    buildkit::{
        filesync::DirectoryRequest,
        session::{Messages, SessionClient},
    },
    fault::{Fault, Reason},
    images::admission::CredentialSource,
    names::{Login, Logins, Secret},
    tasks::Group,
};

pub use secrets::Asked;

/// The limit on a client's username or password for a registry; the tokens of some have 16 KiB.
const LOGIN_BYTES_MAX: usize = 64 << 10;

/// How long an attached client may take to answer one request.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// The client of one build.
#[derive(Debug)]
pub struct BuildClient {
    /// The session that syncs directories and answers requests for secrets and credentials, if there is one.
    pub session: Option<Arc<ClientSession>>,
    /// The context, if it comes as a tar.
    pub tar: Option<Tar>,
    /// Logins that came with the call.
    pub logins: Logins,
    /// Judges its Dockerfile.
    pub dockerfile: Arc<Judging>,
    /// Its input, with which the engine may have crashed before.
    pub input: Arc<Input>,
    /// The used part of its policy's limits.
    pub used: Arc<Used>,
    /// The build's tasks.
    pub tasks: Group,
    /// The details of the build, for the audit log.
    pub details: Details,
    /// Why a sync was refused, an ignore file could not be read, or an output was not taken; this ends the
    /// build. BuildKit alone might not: it goes on without an ignore file (`frontend/dockerui`), and BuildKit
    /// 0.13 reports either the sync's error or the cancel that follows.
    pub refused: Arc<SetOnce<Status>>,
    /// The archives that its graph unpacks from the context's directory.
    pub awaited: watch::Sender<Option<Arc<Awaited>>>,
    /// What its graph's copies make BuildKit do with the context.
    pub matching: watch::Sender<Matching>,
    /// The trees that engines keep.
    pub trees: Arc<Trees>,
    /// The outputs that its client receives.
    pub outputs: Outputs,
    /// The questions to its client.
    pub asked: Asked,
    /// The files that it fetches by URL.
    pub downloads: Downloads,
}

impl BuildClient {
    pub(super) fn session(&self) -> Result<&ClientSession, Status> {
        self.session.as_deref().ok_or_else(|| Status::unimplemented("the build has no session"))
    }

    /// Asks the client one question, and returns its one message. The time is limited, since a silent client
    /// takes up a build's place; it is long, since a credential helper may ask a person.
    async fn ask<M: Message + Default>(&self, subject: Subject) -> Result<M, Status> {
        let _turn = self.asked.turn().await?;
        let Attached { incoming, outgoing: _outgoing } = self.session()?.stream(subject).await?;
        answer(incoming, ANSWER_TIMEOUT).await
    }
}

/// The client's one message on a stream, which must come within this time.
async fn answer<M: Message + Default>(
    mut incoming: BoxStream<'static, Result<FromClient, Status>>,
    within: Duration,
) -> Result<M, Status> {
    let answer = tokio::time::timeout(within, incoming.next()).await;
    let answer = answer.map_err(|_| {
        Status::deadline_exceeded(format!("the client gave no answer within {}", minutes(within)))
    })?;
    let message = match answer.transpose()? {
        Some(FromClient::Message(message)) => message,
        Some(FromClient::Error(code, message)) => return Err(client_error(code, &message)),
        Some(FromClient::Empty) | None => return Err(Status::aborted("the client gave no answer")),
    };
    M::decode(message).map_err(|_| Status::aborted("the client's answer cannot be read"))
}

/// Refuses a login that is too large.
fn small(login: CredentialsResponse) -> Result<CredentialsResponse, Status> {
    if login.username.len().max(login.secret.len()) > LOGIN_BYTES_MAX {
        let kib = LOGIN_BYTES_MAX >> 10;
        return Err(Status::invalid_argument(format!("a username or password has more than {kib} KiB")));
    }
    Ok(login)
}

/// The client's side of a sync.
struct ClientSide {
    incoming: BoxStream<'static, Result<FromClient, Status>>,
    judge: Arc<Mutex<Judge>>,
    ignored: IgnoreFiles,
    archives: Option<Synced>,
    /// Judges the texts of Dockerfiles.
    dockerfile: Arc<Judging>,
    /// Lets the judged texts into BuildKit, if the sync brings any.
    hear: Option<Hear>,
    patience: Patience,
    used: Arc<Used>,
    /// Receives the refusal that ends the build.
    refused: Arc<SetOnce<Status>>,
}

impl ClientSide {
    /// The judged messages, up to the end or the first error.
    fn messages(self) -> Messages {
        let next = |side: Option<Self>| async move {
            let mut side = side?;
            let message = side.next().await?;
            let goes_on = message.is_ok();
            Some((message, goes_on.then_some(side)))
        };
        stream::unfold(Some(self), next).boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let said = match self.patience.wait(self.incoming.next()).await {
            Ok(Some(said)) => said,
            Ok(None) if !lock(&self.judge).is_over() => {
                return Some(Err(self.failed(Status::aborted("the client ended a sync too early"))));
            }
            Ok(None) => return None,
            Err(silent) => return Some(Err(self.failed(silent))),
        };
        Some(match said {
            // The limit itself ends the build.
            Ok(FromClient::Message(message)) if !self.used.context(message.len()) => {
                Err(Status::resource_exhausted("the context is too large"))
            }
            Ok(FromClient::Message(message)) => {
                match (self.judge(message).await, &self.hear) {
                    // If it is refused, the input says so itself.
                    (Ok(message), Some(hear)) => hear().await.map(|()| message),
                    (Ok(message), None) => Ok(message),
                    (Err(status), _) => Err(self.refuse(status)),
                }
            }
            Ok(FromClient::Error(code, message)) => Err(self.failed(client_error(code, &message))),
            Ok(FromClient::Empty) => {
                Err(self.failed(Status::invalid_argument("a message of the stream is empty")))
            }
            Err(status) => Err(self.failed(Status::new(status.code(), "the client broke off the sync"))),
        })
    }

    /// Judges a message, and the texts that are whole with it.
    async fn judge(&mut self, message: Bytes) -> Result<Bytes, Status> {
        let message = lock(&self.judge).client_says(message)?;
        if self.hear.is_some() {
            self.dockerfile.texts().await?;
        }
        if let Some(archives) = &mut self.archives
            && let Some(heavy) = archives.note(&message)?
        {
            // Others may have the place between two parts.
            for part in heavy.parts() {
                self.dockerfile.here(|| archives.judge(part)).await?;
            }
        }
        self.ignored.pass(message)
    }

    /// BuildKit ends a build whose sync fails, except if it is the sync of an ignore file.
    fn failed(&self, status: Status) -> Status {
        if self.ignored.are_synced() { self.refuse(status) } else { status }
    }

    /// Ends the build.
    fn refuse(&self, status: Status) -> Status {
        // The first reason counts.
        let _ = self.refused.set(status.clone());
        status
    }
}

/// Locks the judge of both directions: each side's packets are judged by the packets of the other side.
fn lock(sync: &Mutex<Judge>) -> MutexGuard<'_, Judge> {
    // Nothing panics while it holds the lock.
    sync.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client's own error text. It goes to BuildKit and comes back in a failure.
pub(super) fn client_error(code: Code, message: &str) -> Status {
    let code = match code {
        // These say that the engine broke the build off, which is not for a client to say.
        Code::Ok | Code::Unavailable | Code::Cancelled => Code::Unknown,
        code => code,
    };
    Status::new(code, told(message))
}

impl SessionClient for BuildClient {
    fn sync(
        &self,
        request: DirectoryRequest,
        mut packets: Messages,
    ) -> BoxFuture<'_, Result<Messages, Status>> {
        Box::pin(async move {
            let session = self.session()?;
            if session.offer().directory(&request.name).is_none() {
                return Err(Status::not_found(format!("the client offers no directory `{}`", request.name)));
            }
            let mut judge = Judge::of(&request, self.dockerfile.judge());
            if request.name == "context" {
                judge.limit(*self.matching.borrow());
            }
            // A context has many messages.
            let hear =
                judge.takes_texts().then(|| Input::hearing(&self.input, self.dockerfile.judge().texts()));
            let (judge, ignored) = (Arc::new(Mutex::new(judge)), IgnoreFiles::of(&request));
            let awaited = self.awaited.borrow().clone().filter(|_| request.name == "context");
            let archives = awaited.map(Synced::new);
            let Attached { incoming, outgoing } = session.stream(Subject::Sync(request)).await?;
            let tasks = self.tasks.clone();
            let of_both = Arc::clone(&judge);
            self.tasks.spawn("file sync", async move {
                // Ends with BuildKit's side; the client's side is the response below.
                let relay = async {
                    while let Some(Ok(message)) = packets.next().await {
                        let judged = lock(&of_both).builder_says(message);
                        let goes_on = judged.is_ok();
                        if outgoing.send(judged).await.is_err() || !goes_on {
                            break;
                        }
                    }
                };
                let _ = tasks.unless_cancelled(relay).await;
            });
            let (patience, refused) = (Patience::begin(), Arc::clone(&self.refused));
            let (dockerfile, used) = (Arc::clone(&self.dockerfile), Arc::clone(&self.used));
            let side =
                ClientSide { incoming, judge, ignored, archives, dockerfile, hear, patience, used, refused };
            Ok(side.messages())
        })
    }

    fn credentials<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Result<CredentialsResponse, Status>> {
        // A build's images are admitted before the build and pushed after it. BuildKit itself must not ask a
        // registry, so it gets no credentials.
        Box::pin(async { Ok(CredentialsResponse::default()) })
    }

    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Secret<Vec<u8>>, Status>> {
        Box::pin(async move {
            let offers = self.session.as_ref().is_some_and(|session| session.offer().secrets);
            // BuildKit asks for a login for each URL, by its host: the session takes none.
            let is_of_url = id.starts_with("HTTP_AUTH_") && id.ends_with(add::SESSION_HOST);
            if !offers || is_of_url {
                return Err(Status::not_found(format!("secret {id}: not found")));
            }
            let answer: GetSecretResponse = self.ask(Subject::Secret(id.to_owned())).await?;
            let secret = Secret::new(answer.data);
            self.asked.add(id, secret.expose().len()).inspect_err(|status| {
                // The first reason counts.
                let _ = self.refused.set(status.clone());
            })?;
            Ok(secret)
        })
    }

    fn upload(&self, path: &str) -> Result<Messages, Status> {
        match self.tar.as_ref().filter(|tar| tar.is_at(path)) {
            Some(tar) => tar.read(path),
            None => self.downloads.read(path),
        }
    }

    fn takes_exports(&self) -> bool {
        !self.outputs.are_none()
    }

    fn export(&self, exporter: usize, messages: Messages) -> BoxFuture<'_, Result<Messages, Status>> {
        Box::pin(async move {
            let expected = self.outputs.begin(exporter)?;
            let stream = self.session()?.stream(expected.subject()).await?;
            Ok(expected.relay(messages, stream, &self.tasks, &self.refused, self.used.metrics()))
        })
    }
}

impl CredentialSource for BuildClient {
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Login>, Fault>> {
        Box::pin(async move {
            if let Some(login) = self.logins.of(host) {
                return Ok(Some(login.clone()));
            }
            let asks = self.session.as_ref().is_some_and(|session| session.offer().credentials);
            if !asks {
                return Ok(None);
            }
            let answer = self.ask::<CredentialsResponse>(Subject::Credentials(host.to_owned())).await;
            match answer.and_then(small) {
                Ok(answer) if answer.secret.is_empty() => Ok(None),
                // As in BuildKit: a secret without a username is an identity token.
                Ok(answer) if answer.username.is_empty() => Ok(Some(Login {
                    username: String::new(),
                    password: Secret::new(String::new()),
                    identity_token: Secret::new(answer.secret),
                })),
                Ok(answer) => Ok(Some(Login {
                    username: answer.username,
                    password: Secret::new(answer.secret),
                    identity_token: Secret::new(String::new()),
                })),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(Fault::new(
                    Reason::StreamBroken,
                    format!(
                        "the client could not answer for the credentials of {host}: {}",
                        status.message()
                    ),
                )),
            }
        })
    }
}

#[cfg(test)]
mod tests;

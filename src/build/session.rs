//! Clients' sessions: the streams that BuildKit has opened, and the clients that attach to them.
//!
//! A session belongs to the caller that opened it, and a stream belongs to its session. Both have ids that
//! cannot be guessed, and a caller that uses another caller's id gets the same answer as for an id that does
//! not exist.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status};

use super::patience::minutes;
use crate::{
    buildkit::{filesync::DirectoryRequest, solve::Form},
    fault::{Fault, Reason},
    names::{CallerId, Namespace, random_id},
    policy::Permit,
    tasks::Group,
};

/// A live client attaches within milliseconds.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages on their way to a client: enough to keep it busy, little to hold for one that stalls.
const OUTGOING_MESSAGES: usize = 4;
const ANNOUNCEMENTS: usize = 16;

/// All open sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<String, Arc<ClientSession>>,
    streams: HashMap<String, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    namespace: Permit<Namespace>,
    attached: oneshot::Sender<Attached>,
}

/// A stream that BuildKit has opened, announced to the client that is to attach to it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The stream's id.
    pub id: String,
    /// The stream's purpose.
    pub subject: Subject,
}

/// The purpose of a stream to a client.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The client sends a directory.
    Sync(DirectoryRequest),
    /// The client answers with the secret of this id.
    Secret(String),
    /// The client answers with its login for the registry at this host.
    Credentials(String),
    /// The client receives the output at this position of the build's outputs, in this form.
    Output(usize, Form),
}

/// A message from a client on a stream.
#[derive(Clone, Debug)]
pub enum FromClient {
    /// The stream's next message, in BuildKit's form.
    Message(Bytes),
    /// The client's own error, with which it ends the stream.
    Error(Code, String),
    /// A message that a door could not read.
    Empty,
}

/// The messages to a client on a stream. Dropping it ends the stream for the client.
pub type Outgoing = mpsc::Sender<Result<Bytes, Status>>;

/// The two ends of a stream that a client has attached to.
pub struct Attached {
    /// Messages from the client.
    pub incoming: BoxStream<'static, Result<FromClient, Status>>,
    /// Messages to the client.
    pub outgoing: Outgoing,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attached")
    }
}

/// A directory that a client offers.
#[derive(Clone, Debug)]
pub struct Offered {
    /// `context` or `dockerfile`.
    pub name: String,
    /// The path that keys its sync.
    pub path: String,
    /// The state that keys it, too.
    pub state: String,
}

/// A client's offer at the opening of its session, checked.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Directories, each of another name.
    pub directories: Vec<Offered>,
    /// Whether it answers for secrets.
    pub secrets: bool,
    /// Whether the client answers requests for registry credentials.
    pub credentials: bool,
}

impl Offer {
    /// Name, path and state of each directory.
    pub fn synced(&self) -> Vec<[&str; 3]> {
        let offered = self.directories.iter();
        offered.map(|own| [own.name.as_str(), own.path.as_str(), own.state.as_str()]).collect()
    }

    /// The path of the directory of that name, if it is offered.
    pub fn directory(&self, name: &str) -> Option<&str> {
        self.directories.iter().find(|own| own.name == name).map(|own| own.path.as_str())
    }
}

/// One client's session.
#[derive(Debug)]
pub struct ClientSession {
    id: String,
    namespace: Permit<Namespace>,
    offer: Offer,
    announcements: mpsc::Sender<Opened>,
    /// How long the client may take to attach to an announced stream.
    attach_within: Duration,
    sessions: Sessions,
    tasks: Group,
}

impl Sessions {
    /// Opens a session of the namespace's caller. Returns it with the announcements for its client. The session ends
    /// with `tasks`.
    pub fn open(
        &self,
        namespace: Permit<Namespace>,
        offer: Offer,
        tasks: Group,
    ) -> Result<(Arc<ClientSession>, mpsc::Receiver<Opened>), Fault> {
        let (announcements, receiver) = mpsc::channel(ANNOUNCEMENTS);
        let session = Arc::new(ClientSession {
            id: random_id()?,
            namespace,
            offer,
            announcements,
            attach_within: ATTACH_TIMEOUT,
            sessions: self.clone(),
            tasks,
        });
        self.lock().sessions.insert(session.id.clone(), Arc::clone(&session));
        Ok((session, receiver))
    }

    /// Forgets a session. Streams stop waiting for its client.
    pub fn close(&self, session: &ClientSession) {
        self.lock().sessions.remove(&session.id);
    }

    /// The caller's session with that id.
    pub fn find(&self, caller: &CallerId, id: &str) -> Result<Arc<ClientSession>, Fault> {
        let found =
            self.lock().sessions.get(id).filter(|session| session.namespace.caller() == caller).cloned();
        found.ok_or_else(|| Fault::new(Reason::SessionNotFound, "there is no such session"))
    }

    /// Passes a stream's ends to the task that waits for them; returns the namespace of the session.
    pub fn attach(
        &self,
        caller: &CallerId,
        id: &str,
        attached: Attached,
    ) -> Result<Permit<Namespace>, Fault> {
        let not_found =
            || Fault::new(Reason::SessionNotFound, "there is no such stream, or it is attached already");
        let waiting = {
            let mut state = self.lock();
            match state.streams.get(id) {
                Some(waiting) if waiting.namespace.caller() == caller => state.streams.remove(id),
                Some(_) | None => None,
            }
        };
        let Waiting { namespace, attached: waits } = waiting.ok_or_else(not_found)?;
        waits.send(attached).map_err(|_| not_found())?;
        Ok(namespace)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the maps are valid at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSession {
    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The namespace of the session's builds.
    pub fn namespace(&self) -> &Permit<Namespace> {
        &self.namespace
    }

    /// The client's offer.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The group that ends with the session.
    pub fn tasks(&self) -> &Group {
        &self.tasks
    }

    /// Opens a stream to the client, and waits until the client has attached.
    pub async fn stream(&self, subject: Subject) -> Result<Attached, Status> {
        let id = random_id().map_err(|error| Status::internal(error.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting { namespace: self.namespace.clone(), attached: sender };
        self.sessions.lock().streams.insert(id.clone(), waiting);
        let _forget = Forget { sessions: &self.sessions, id: &id };
        let opened = Opened { id: id.clone(), subject };
        let gone = || Status::unavailable("the client has gone");
        let attached = async {
            self.announcements.send(opened).await.map_err(|_| gone())?;
            receiver.await.map_err(|_| gone())
        };
        tokio::select! {
            attached = tokio::time::timeout(self.attach_within, attached) => {
                attached.unwrap_or_else(|_| {
                    let text = format!("the client did not attach within {}", minutes(self.attach_within));
                    Err(Status::deadline_exceeded(text))
                })
            }
            _ = self.tasks.cancelled() => Err(gone()),
        }
    }
}

/// Removes a stream to which nobody has attached, once its opener stops waiting.
struct Forget<'a> {
    sessions: &'a Sessions,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.sessions.lock().streams.remove(self.id);
    }
}

/// A channel for messages to a client on a stream.
pub fn outgoing() -> (Outgoing, mpsc::Receiver<Result<Bytes, Status>>) {
    mpsc::channel(OUTGOING_MESSAGES)
}

#[cfg(test)]
mod tests;

//! The places into which outputs are written.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bollard_buildkit_proto::moby::filesync::v1::BytesMessage;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinSet};
use tonic::Status;

use super::{
    Place,
    out::{Out, Whole},
    receive,
    tree::Destination,
};
use crate::{
    client::exit::{Exit, Failure, Stop},
    wire::v1::OutputForm,
};

/// As docker has it: before the umask.
const MODE: u32 = 0o666;
/// Packets that wait for the disk.
const PACKETS_MAX: usize = 4;

/// The places of a build's outputs, by the position of each.
#[derive(Debug, Default)]
pub(crate) struct Sinks {
    open: Mutex<Vec<Option<Sink>>>,
    /// Files that appear once the build has succeeded.
    whole: Mutex<Vec<Whole>>,
    /// Why the first output that could not be written was not.
    stopped: Mutex<Option<Stop>>,
}

#[derive(Debug)]
enum Sink {
    Tree(Destination),
    File(Out),
}

/// The reason why an output was not received.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// The fault is this client's, or its disk's.
    Here(Stop),
    /// wharfd or BuildKit broke off; the build's own end says why.
    There,
}

impl From<Failure> for Unwritten {
    fn from(failure: Failure) -> Self {
        Self::Here(failure.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sinks {
    pub(super) fn open(places: Vec<Option<Place>>, workspace: Option<&Path>) -> Result<Self, Failure> {
        let open =
            places.into_iter().map(|place| place.map(|place| Sink::open(place, workspace)).transpose());
        Ok(Self { open: Mutex::new(open.collect::<Result<_, _>>()?), ..Self::default() })
    }

    /// Receives the output at this position; `sent` are wharfd's messages, `said` takes this client's. The error is for
    /// wharfd.
    pub(crate) async fn receive(
        &self,
        position: i32,
        form: OutputForm,
        sent: impl Stream<Item = Result<Bytes, Status>> + Unpin,
        said: mpsc::Sender<Bytes>,
    ) -> Result<(), String> {
        let sink = usize::try_from(position).ok().and_then(|at| lock(&self.open).get_mut(at)?.take());
        let received = match (sink, form) {
            (Some(Sink::Tree(to)), OutputForm::Tree) => tree(to, sent, said).await,
            (Some(Sink::File(out)), OutputForm::File) => {
                file(out, sent).await.map(|whole| lock(&self.whole).push(whole))
            }
            (Some(_), OutputForm::Tree | OutputForm::File | OutputForm::Unspecified) | (None, _) => {
                Err(Failure::new(Exit::Failed, "wharfd sends an output that was not asked for").into())
            }
        };
        match received {
            Ok(()) => Ok(()),
            Err(Unwritten::Here(stop)) => {
                let text = match &stop {
                    Stop::Failed(failure) => failure.text.clone(),
                    Stop::OutputClosed => "standard output was closed".to_owned(),
                    Stop::Reported(_) | Stop::Cancelled(_) => "the client stops".to_owned(),
                };
                lock(&self.stopped).get_or_insert(stop);
                Err(text)
            }
            Err(Unwritten::There) => Err("the output broke off".to_owned()),
        }
    }

    /// Why an output could not be written.
    pub(crate) fn take_stop(&self) -> Option<Stop> {
        lock(&self.stopped).take()
    }

    /// Lets the files appear. The build has succeeded.
    pub(crate) fn complete(&self) -> Result<(), Failure> {
        lock(&self.whole).drain(..).try_for_each(Whole::appear)
    }
}

impl Sink {
    fn open(place: Place, workspace: Option<&Path>) -> Result<Self, Failure> {
        match place {
            Place::Tree(path) => {
                let destination = Destination::new(path, workspace);
                destination.look().map(|()| Self::Tree(destination))
            }
            Place::File(path) => Out::open(path.as_deref(), MODE, "a tar", "dest=FILE").map(Self::File),
        }
    }
}

/// Writes a file to its end.
async fn file(
    mut out: Out,
    mut sent: impl Stream<Item = Result<Bytes, Status>> + Unpin,
) -> Result<Whole, Unwritten> {
    while let Some(message) = sent.next().await {
        let message = message.map_err(|_| Unwritten::There)?;
        let piece = BytesMessage::decode(message).map_err(|_| Unwritten::There)?;
        out.write(&piece.data).await.map_err(Unwritten::Here)?;
    }
    out.end().await.map_err(Unwritten::Here)
}

/// Writes a tree. The thread that writes ends with this future.
async fn tree(
    to: Destination,
    mut sent: impl Stream<Item = Result<Bytes, Status>> + Unpin,
    said: mpsc::Sender<Bytes>,
) -> Result<(), Unwritten> {
    let (packets, waiting) = mpsc::channel(PACKETS_MAX);
    let mut thread = JoinSet::new();
    thread.spawn_blocking(move || receive::receive(&to, waiting, &said));
    let mut packets = Some(packets);
    let written = loop {
        tokio::select! {
            Some(written) = thread.join_next() => break written,
            message = sent.next(), if packets.is_some() => match (message, &packets) {
                // If the thread has ended, its own end says why.
                (Some(Ok(message)), Some(packets)) => drop(packets.send(message).await),
                _ => packets = None,
            },
            else => return Err(Unwritten::There),
        }
    };
    written.map_err(|_| Unwritten::from(Failure::new(Exit::Failed, "a thread that writes files failed")))?
}

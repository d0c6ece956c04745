//! The places into which outputs are written.

use std::sync::{Mutex, MutexGuard, PoisonError};

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
    client::{
        checkouts::Checkouts,
        exit::{Exit, Failure, Stop},
    },
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
    /// Those that are not whole yet, by their names for people.
    missing: Mutex<Vec<Option<String>>>,
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
    pub(super) fn open(places: Vec<Option<Place>>, checkouts: &Checkouts) -> Result<Self, Failure> {
        let missing = places.iter().map(|place| place.as_ref().map(Place::name)).collect();
        let open =
            places.into_iter().map(|place| place.map(|place| Sink::open(place, checkouts)).transpose());
        let open = open.collect::<Result<_, _>>()?;
        Ok(Self { open: Mutex::new(open), missing: Mutex::new(missing), ..Self::default() })
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
        let at = usize::try_from(position).unwrap_or(usize::MAX);
        let sink = lock(&self.open).get_mut(at).and_then(Option::take);
        // The build may end, and with it this future, as soon as the sender knows that all has come.
        let is_whole = || drop(lock(&self.missing).get_mut(at).and_then(Option::take));
        let received = match (sink, form) {
            (Some(Sink::Tree(to)), OutputForm::Tree) => match tree(to, sent, said.clone()).await {
                Ok(last) => {
                    is_whole();
                    said.send(last).await.map_err(|_| Unwritten::There)
                }
                Err(unwritten) => Err(unwritten),
            },
            (Some(Sink::File(out)), OutputForm::File) => file(out, sent).await.map(|whole| {
                lock(&self.whole).push(whole);
                is_whole();
            }),
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

    /// Lets the files appear. The build has succeeded, and every output must have come.
    pub(crate) fn complete(&self) -> Result<(), Failure> {
        if let Some(missing) = lock(&self.missing).iter().flatten().next() {
            let text = format!("the build has ended well, but its output to {missing} has not come");
            return Err(Failure::new(Exit::Failed, text).hint("try the build again"));
        }
        lock(&self.whole).drain(..).try_for_each(Whole::appear)
    }
}

impl Sink {
    fn open(place: Place, checkouts: &Checkouts) -> Result<Self, Failure> {
        match place {
            Place::Tree(path) => {
                let destination = Destination::new(path, checkouts);
                destination.look().map(|()| Self::Tree(destination))
            }
            Place::File(path) => {
                Out::open(path.as_deref(), MODE, checkouts, "a tar", "dest=FILE").map(Self::File)
            }
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

/// Writes a tree; returns the last packet for its sender. The thread that writes ends with this future.
async fn tree(
    to: Destination,
    mut sent: impl Stream<Item = Result<Bytes, Status>> + Unpin,
    said: mpsc::Sender<Bytes>,
) -> Result<Bytes, Unwritten> {
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use futures_util::stream;

    use super::*;

    /// A packet, or a piece of a file: a message with one field.
    fn message(data: &[u8]) -> Result<Bytes, Status> {
        Ok(BytesMessage { data: data.to_vec() }.encode_to_vec().into())
    }

    /// The end of a tree's list: a STAT without a file.
    fn listed() -> Result<Bytes, Status> {
        Ok(Bytes::new())
    }

    fn sinks(directory: &std::path::Path) -> Sinks {
        let file = |name: &str| Some(Place::File(Some(directory.join(name))));
        let places = vec![None, file("a"), Some(Place::Tree(directory.join("tree"))), file("b")];
        Sinks::open(places, &Checkouts::default()).unwrap()
    }

    async fn received(sinks: &Sinks, at: i32, form: OutputForm, sent: Vec<Result<Bytes, Status>>) -> bool {
        let (said, mut heard) = mpsc::channel(8);
        let ended = sinks.receive(at, form, stream::iter(sent), said).await;
        // A tree's last word.
        assert_eq!(heard.recv().await.is_some(), ended.is_ok() && form == OutputForm::Tree);
        ended.is_ok()
    }

    /// wharfd, or the builder behind it, may say that a build was made without having sent all of it.
    #[tokio::test]
    async fn a_build_is_complete_only_with_every_output() {
        let directory: PathBuf = std::env::temp_dir().join(format!("wharf-sinks-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let all = sinks(&directory);
        for (at, form, sent, missing) in
            [(1, OutputForm::File, vec![message(b"x")], "tree`"), (2, OutputForm::Tree, vec![listed()], "b`")]
        {
            assert!(received(&all, at, form, sent).await);
            let failure = all.complete().unwrap_err();
            assert!(failure.text.contains(missing), "{failure}");
            assert_eq!(failure.exit, Exit::Failed);
            assert!(!directory.join("a").exists(), "nothing appears before all is there");
        }
        assert!(received(&all, 3, OutputForm::File, Vec::new()).await);
        all.complete().unwrap();
        assert_eq!(fs::read(directory.join("a")).unwrap(), b"x");
        // Nor is one that breaks off.
        let broken = sinks(&directory);
        for at in [1, 3] {
            assert!(received(&broken, at, OutputForm::File, vec![message(b"x")]).await);
        }
        assert!(!received(&broken, 2, OutputForm::Tree, Vec::new()).await);
        assert!(broken.complete().unwrap_err().text.contains("tree`"));
        fs::remove_dir_all(&directory).unwrap();
    }
}

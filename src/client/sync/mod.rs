//! Incremental context sync: announces a directory's entries, and sends the files that are requested.
//!
//! The protocol is fsutil's DiffCopy (tonistiigi/fsutil, `receive.go`). This module knows no transport:
//! encoded packets come in as a stream and go out through [`Packets`].

mod files;
mod outgoing;

use std::{
    error::Error as StdError,
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bytes::{BufMut as _, Bytes, BytesMut};
use files::{File, Files};
use futures_util::{Stream, StreamExt as _};
use prost::{Message as _, encoding};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::timeout,
};

pub use self::outgoing::{Outgoing, Packets, channel};
use super::context::{self, Entry, Tree};
use crate::{names::printable, wire::v1::FileSync};

/// The size of a file's pieces; larger pieces are slower, smaller ones no faster.
const CHUNK_BYTES: usize = 64 * 1024;

/// How many files are read at once.
const READERS: usize = 4;

/// How many files may wait for a reader before no more requests are read.
const QUEUE: usize = 128;

/// How long a failed sync tries to tell the receiver the reason; the receiver may not be reading.
const FAREWELL: Duration = Duration::from_secs(2);

/// The reason why a directory could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory's files cannot be read.
    #[error(transparent)]
    Context(#[from] context::Error),
    /// A file has fewer bytes than announced.
    #[error("{0:?} became shorter while the build was reading it")]
    Shrank(PathBuf),
    /// The receiver requested an entry that is not a file, or requested a file twice.
    #[error("the builder asked for entry {0}, which is not a file of this context, or asked twice")]
    UnknownFile(u32),
    /// The receiver sent bytes that are not a packet, or a packet that only senders send.
    #[error("the builder broke the context sync's protocol: {0}")]
    Protocol(String),
    /// The receiver gave up.
    #[error("the builder refused the context: {0}")]
    Refused(String),
    /// The stream ended before the sync did.
    #[error("the context sync was cut off")]
    Broken(#[source] Option<Box<dyn StdError + Send + Sync>>),
    /// A thread of this client failed.
    #[error("the context sync failed")]
    Failed(#[source] JoinError),
}

/// Sends the part of `tree` that matches `request` to `out`, as the receiver requests it in `requests`,
/// and returns when the receiver has everything it wants. Memory use is constant but for a table of the
/// files' paths. Dropping the future stops the sync.
///
/// # Errors
/// When the files cannot be read or the receiver breaks off. The receiver is told as well.
pub async fn send<E>(
    tree: Arc<Tree>,
    request: FileSync,
    requests: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
    out: Outgoing,
) -> Result<(), Error>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let stop = Stop::default();
    let sender = Arc::new(Sender {
        tree,
        out: out.clone(),
        runtime: Handle::current(),
        files: Mutex::default(),
        stopped: stop.0.clone(),
    });
    let outcome = serve(&sender, request, requests).await;
    drop(stop);
    match outcome {
        Ok(()) => {
            // The receiver has everything, so it does not matter whether this packet still arrives.
            let _ = out.send(packet(PacketType::PacketFin, &[])).await;
            Ok(())
        }
        Err(error) => {
            if !matches!(error, Error::Refused(_) | Error::Broken(_)) {
                let text = error.to_string();
                let _ = timeout(FAREWELL, out.send(packet(PacketType::PacketErr, text.as_bytes()))).await;
            }
            Err(error)
        }
    }
}

/// Tells the threads that nobody waits for them any more, when dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The reason why a thread ended early.
enum Stopped {
    Error(Error),
    /// Nobody reads the packets; the stream of requests has the reason.
    Closed,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<context::Error> for Stopped {
    fn from(error: context::Error) -> Self {
        Self::Error(error.into())
    }
}

impl From<outgoing::Closed> for Stopped {
    fn from(_: outgoing::Closed) -> Self {
        Self::Closed
    }
}

/// Runs the walk and the readers, and passes the requests to the readers.
async fn serve<E>(
    sender: &Arc<Sender>,
    request: FileSync,
    mut requests: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
) -> Result<(), Error>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut threads = JoinSet::new();
    let walker = sender.clone();
    threads.spawn_blocking(move || walker.walk(&request));
    let (queue, waiting) = mpsc::channel(QUEUE);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..READERS {
        let (reader, waiting) = (sender.clone(), waiting.clone());
        threads.spawn_blocking(move || reader.read_files(&waiting));
    }
    drop(waiting);

    let mut closed = false;
    loop {
        let ask = async {
            // Reserve room first: a received request must not be lost.
            let room = queue.reserve().await.ok();
            if closed {
                (room, timeout(FAREWELL, requests.next()).await.ok().flatten())
            } else {
                (room, requests.next().await)
            }
        };
        let (room, message) = tokio::select! {
            asked = ask => asked,
            Some(thread) = threads.join_next(), if !closed => {
                match thread.map_err(Error::Failed)? {
                    Ok(()) => {}
                    Err(Stopped::Error(error)) => return Err(error),
                    Err(Stopped::Closed) => closed = true,
                }
                continue;
            }
        };
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(Error::Broken(Some(error.into()))),
            None => return Err(Error::Broken(None)),
        };
        let packet = Packet::decode(message).map_err(|error| Error::Protocol(error.to_string()))?;
        match packet.r#type() {
            PacketType::PacketReq => {
                let file = sender.ask(packet.id).ok_or(Error::UnknownFile(packet.id))?;
                if let Some(room) = room {
                    room.send(file);
                }
            }
            PacketType::PacketFin => break,
            PacketType::PacketErr => {
                return Err(Error::Refused(printable(&String::from_utf8_lossy(&packet.data))));
            }
            PacketType::PacketStat | PacketType::PacketData => {
                return Err(Error::Protocol(format!("{} from the receiver", packet.r#type().as_str_name())));
            }
        }
    }
    drop(queue);
    while let Some(thread) = threads.join_next().await {
        match thread.map_err(Error::Failed)? {
            Ok(()) => {}
            Err(Stopped::Error(error)) => return Err(error),
            Err(Stopped::Closed) => return Err(Error::Broken(None)),
        }
    }
    Ok(())
}

/// State shared by the threads of a sync.
struct Sender {
    tree: Arc<Tree>,
    out: Outgoing,
    runtime: Handle,
    files: Mutex<Files>,
    stopped: Arc<AtomicBool>,
}

impl Sender {
    fn ask(&self, id: u32) -> Option<File> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).ask(id)
    }

    fn put(&self, packet: Bytes) -> Result<(), Stopped> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Stopped::Closed);
        }
        Ok(self.out.send_blocking(&self.runtime, packet)?)
    }

    /// Announces every entry, then the end.
    fn walk(&self, request: &FileSync) -> Result<(), Stopped> {
        for entry in self.tree.entries(request)? {
            let entry = entry?;
            self.files.lock().unwrap_or_else(PoisonError::into_inner).announce(&entry);
            self.put(announcement(entry))?;
        }
        self.put(packet(PacketType::PacketStat, &[]))
    }

    /// Sends the waiting files until no more come.
    fn read_files(&self, waiting: &Mutex<mpsc::Receiver<File>>) -> Result<(), Stopped> {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(file) = next else { return Ok(()) };
            self.read(&file)?;
        }
    }

    /// Sends a file: as many bytes as announced, then the packet that ends it.
    fn read(&self, file: &File) -> Result<(), Stopped> {
        let mut left = file.size;
        // An empty file is not opened: it may be a socket, which cannot be opened.
        let mut bytes = (left > 0).then(|| self.tree.open(&file.path)).transpose()?;
        while let Some(bytes) = bytes.as_mut().filter(|_| left > 0) {
            let length = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let chunk = chunk(file.id, length, bytes).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::Shrank(file.path.as_str().into()),
                _ => context::Error::read(&file.path, error).into(),
            })?;
            self.put(chunk)?;
            left -= length as u64;
        }
        self.put(
            Packet { r#type: PacketType::PacketData.into(), id: file.id, ..Packet::default() }
                .encode_to_vec()
                .into(),
        )
    }
}

fn packet(kind: PacketType, data: &[u8]) -> Bytes {
    Packet { r#type: kind.into(), data: data.to_vec(), ..Packet::default() }.encode_to_vec().into()
}

fn announcement(entry: Entry) -> Bytes {
    let stat: Stat = entry.stat;
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
        .encode_to_vec()
        .into()
}

/// Encodes the next `length` bytes of a file as a packet, read directly into the packet's buffer.
fn chunk(id: u32, length: usize, bytes: &mut dyn Read) -> io::Result<Bytes> {
    let head = Packet { r#type: PacketType::PacketData.into(), id, ..Packet::default() };
    let mut packet = BytesMut::with_capacity(head.encoded_len() + 16 + length);
    head.encode_raw(&mut packet);
    encoding::encode_key(DATA_FIELD, encoding::WireType::LengthDelimited, &mut packet);
    encoding::encode_varint(length as u64, &mut packet);
    let start = packet.len();
    packet.put_bytes(0, length);
    bytes.read_exact(packet.get_mut(start..).unwrap_or_default())?;
    Ok(packet.freeze())
}

/// `data` in `fsutil.types.Packet`.
const DATA_FIELD: u32 = 4;

#[cfg(test)]
pub(super) mod tests;

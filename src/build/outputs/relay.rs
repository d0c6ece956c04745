//! One output on its way from BuildKit to the client.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bollard_buildkit_proto::fsutil::types::{Packet, packet::PacketType};
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message;
use tokio::{sync::mpsc::OwnedPermit, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::{
    build::{
        client::client_error,
        packets::told,
        patience::minutes,
        session::{Attached, FromClient, Outgoing},
    },
    buildkit::{session::Messages, solve::Form},
    tasks::Group,
};

/// How long one output may take. Meanwhile the build keeps its place at the engine.
#[derive(Clone, Copy, Debug)]
pub(in crate::build) struct Limits {
    /// How long nothing may move, in either direction.
    idle: Duration,
    /// How long all of it may last, for a client that takes a little now and then.
    whole: Duration,
}

/// Those of a sync: a client on a slow disk still takes something now and then.
pub(in crate::build) const LIMITS: Limits =
    Limits { idle: Duration::from_secs(300), whole: Duration::from_secs(2 * 3600) };

/// How many files of a tree a client may have asked for that BuildKit has not sent yet. BuildKit takes 128 and four more,
/// and then waits for room without an end, even when the build is over (fsutil, `send.go`). `wharf` asks for 32.
const ASKED_MAX: usize = 64;

/// Passes BuildKit's messages on to the client, and returns the client's.
pub(in crate::build) fn begin(
    form: Form,
    sent: Messages,
    stream: Attached,
    tasks: &Group,
    limits: Limits,
) -> Messages {
    let Attached { incoming, outgoing } = stream;
    let Ok(last) = outgoing.clone().try_reserve_owned() else {
        return stream::iter([Err(Status::aborted("the client has gone"))]).boxed();
    };
    let line = Arc::new(Line::new(form));
    let ended = CancellationToken::new();
    let up = Up {
        line: Arc::clone(&line),
        incoming,
        begun: Instant::now(),
        limits,
        _ended: ended.clone().drop_guard(),
    };
    let (down, watched) = (Down { line, last: Some(last) }, tasks.clone());
    tasks.spawn("output", async move {
        let passed = ended.run_until_cancelled(down.pass(sent, outgoing));
        let _ = watched.unless_cancelled(passed).await;
    });
    up.messages()
}

/// The state that both directions share.
#[derive(Debug)]
struct Line {
    form: Form,
    /// When a message has last come or gone.
    moved: Mutex<Instant>,
    /// How many files of a tree have been asked for and not been sent yet.
    asked: AtomicUsize,
    /// Whether BuildKit has sent all of a file.
    is_sent: AtomicBool,
    /// Whether the client has all of a tree.
    is_taken: AtomicBool,
    /// Whether BuildKit has said that it knows that. It fails to say so, and the build with it, if the stream has ended.
    is_known: CancellationToken,
}

impl Line {
    fn new(form: Form) -> Self {
        Self {
            form,
            moved: Mutex::new(Instant::now()),
            asked: AtomicUsize::new(0),
            is_sent: AtomicBool::new(false),
            is_taken: AtomicBool::new(false),
            is_known: CancellationToken::new(),
        }
    }

    fn moves(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn still_for(&self) -> Duration {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Counts a file that the client asks for; `false` if there are too many.
    fn asks(&self) -> bool {
        self.asked.fetch_add(1, Ordering::AcqRel) < ASKED_MAX
    }

    /// Counts a file that BuildKit has sent.
    fn has_one_more(&self) {
        let _ = self.asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, |asked| asked.checked_sub(1));
    }

    /// Whether the client may end the stream.
    fn is_whole(&self) -> bool {
        match self.form {
            Form::Tree => self.is_taken.load(Ordering::Acquire),
            Form::File => self.is_sent.load(Ordering::Acquire),
        }
    }
}

/// From BuildKit to the client.
struct Down {
    line: Arc<Line>,
    /// The place of the last message, which says that the output is not whole: the end alone would say that it is, and a
    /// client that does not read must not keep it from being said.
    last: Option<OwnedPermit<Result<Bytes, Status>>>,
}

impl Down {
    async fn pass(self, mut sent: Messages, outgoing: Outgoing) {
        while let Some(message) = sent.next().await {
            let Ok(message) = message else { return };
            self.line.moves();
            let packet = self.packet(&message);
            let kind = packet.as_ref().map(|packet| packet.kind);
            // A file ends with a packet without data.
            if packet
                .is_some_and(|packet| packet.kind == PacketType::PacketData as i32 && packet.data.is_empty())
            {
                self.line.has_one_more();
            }
            // BuildKit's error may contain paths of the engine; the build's failure has it without them.
            let is_error = kind == Some(PacketType::PacketErr as i32);
            let message = if is_error { error("the builder cannot read the files") } else { message };
            let sent = outgoing.send(Ok(message)).await;
            if kind == Some(PacketType::PacketFin as i32) {
                self.line.is_known.cancel();
            }
            if sent.is_err() {
                return;
            }
            self.line.moves();
        }
        self.line.is_sent.store(true, Ordering::Release);
    }

    /// A tree's packet.
    fn packet(&self, message: &Bytes) -> Option<Head> {
        let is_packet = self.line.form == Form::Tree;
        is_packet.then(|| Head::decode(message.clone()).ok()).flatten()
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        if let Some(last) = self.last.take().filter(|_| !self.line.is_whole()) {
            last.send(Err(Status::aborted("the output is not whole")));
        }
    }
}

/// A packet without the description of a file.
#[derive(Clone, PartialEq, Eq, Message)]
struct Head {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

fn error(text: &str) -> Bytes {
    let data = text.as_bytes().to_vec();
    Packet { r#type: PacketType::PacketErr.into(), data, ..Packet::default() }.encode_to_vec().into()
}

/// From the client to BuildKit.
struct Up {
    line: Arc<Line>,
    incoming: BoxStream<'static, Result<FromClient, Status>>,
    begun: Instant,
    limits: Limits,
    /// Ends the other direction with this one, which BuildKit drops with its call.
    _ended: DropGuard,
}

impl Up {
    /// The judged messages, up to the end or the first error.
    fn messages(self) -> Messages {
        let next = |up: Option<Self>| async move {
            let mut up = up?;
            let message = up.next().await?;
            let goes_on = message.is_ok();
            Some((message, goes_on.then_some(up)))
        };
        stream::unfold(Some(self), next).boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let said = match self.said().await {
            Ok(said) => said,
            Err(silent) => return Some(Err(silent)),
        };
        Some(match said {
            Some(Ok(FromClient::Message(message))) => self.judge(&message),
            Some(Ok(FromClient::Error(code, message))) => Err(client_error(code, &message)),
            Some(Ok(FromClient::Empty)) => Err(Status::invalid_argument("a message of the stream is empty")),
            Some(Err(status)) => Err(Status::new(status.code(), "the client broke off an output")),
            None if self.line.is_whole() => {
                if self.line.form == Form::Tree {
                    let _ = timeout(self.limits.idle, self.line.is_known.cancelled()).await;
                }
                return None;
            }
            None => Err(Status::aborted("the client ended an output too early")),
        })
    }

    /// The client's next message. The client has nothing to say while much is sent to it.
    async fn said(&mut self) -> Result<Option<Result<FromClient, Status>>, Status> {
        loop {
            let left = self.limits.whole.saturating_sub(self.begun.elapsed());
            let patience = self.limits.idle.saturating_sub(self.line.still_for());
            if let Ok(said) = timeout(left.min(patience), self.incoming.next()).await {
                self.line.moves();
                return Ok(said);
            }
            if self.begun.elapsed() >= self.limits.whole {
                let text =
                    format!("the client has not taken an output within {}", minutes(self.limits.whole));
                return Err(Status::deadline_exceeded(text));
            }
            if self.line.still_for() >= self.limits.idle {
                let text = format!("an output has not moved for {}", minutes(self.limits.idle));
                return Err(Status::deadline_exceeded(text));
            }
        }
    }

    /// The message for BuildKit: of a tree, what an honest receiver says, encoded again.
    fn judge(&self, message: &Bytes) -> Result<Bytes, Status> {
        let unexpected = || Status::invalid_argument("the client may not say that to an output");
        if self.line.form == Form::File || self.line.is_whole() {
            return Err(unexpected());
        }
        let said = Packet::decode(message.clone()).map_err(|_| unexpected())?;
        let packet = Packet { r#type: said.r#type, ..Packet::default() };
        Ok(match said.r#type() {
            PacketType::PacketReq if !self.line.asks() => {
                let text = format!("the client asks for more than {ASKED_MAX} files of an output at once");
                return Err(Status::invalid_argument(text));
            }
            PacketType::PacketReq => Packet { id: said.id, ..packet }.encode_to_vec().into(),
            PacketType::PacketFin => {
                self.line.is_taken.store(true, Ordering::Release);
                packet.encode_to_vec().into()
            }
            PacketType::PacketErr => error(&told(&String::from_utf8_lossy(&said.data))),
            PacketType::PacketStat | PacketType::PacketData => return Err(unexpected()),
        })
    }
}

#[cfg(test)]
mod tests;

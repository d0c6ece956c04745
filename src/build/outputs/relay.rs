//! Passes one output from BuildKit to the client.

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
use tokio::{
    sync::{SetOnce, mpsc::OwnedPermit},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::{
    build::{
        client::client_error,
        packets::{ENTRIES_BYTES_MAX, ENTRIES_MAX, told},
        patience::minutes,
        session::{Attached, FromClient, Outgoing},
    },
    buildkit::{session::Messages, solve::Form},
    metrics::EngineMetrics,
    tasks::Group,
};

/// How long one output may take. Meanwhile the build keeps its place at the engine.
#[derive(Clone, Copy, Debug)]
pub(in crate::build) struct Limits {
    /// How long a client may do nothing that it is waited for.
    idle: Duration,
    /// How long all of it may last, for a client that takes a little now and then.
    whole: Duration,
    /// How many entries all trees of a build may have: BuildKit keeps the paths of all files until the client has them.
    entries: usize,
    /// How many bytes may be said of them.
    bytes: usize,
}

/// Those of a sync: a client on a slow disk still takes something now and then.
pub(in crate::build) const LIMITS: Limits = Limits {
    idle: Duration::from_secs(300),
    whole: Duration::from_secs(2 * 3600),
    entries: ENTRIES_MAX,
    bytes: ENTRIES_BYTES_MAX,
};

/// How many files of a tree a client may have asked for that BuildKit has not sent yet. BuildKit takes 128 and four more,
/// and then waits for room without an end, even when the build is over (fsutil, `send.go`). `wharf` asks for 32.
const ASKED_MAX: usize = 64;

/// What the relay tells the build.
#[derive(Clone, Debug, Default)]
pub(in crate::build) struct Told {
    /// Whether the client has all of the output.
    pub(in crate::build) is_whole: Arc<AtomicBool>,
    /// Why the build has to end: BuildKit does not end it while it waits for a client that does not read.
    pub(in crate::build) refused: Arc<SetOnce<Status>>,
    /// Counts the entries of all trees of the build.
    pub(in crate::build) listed: Arc<Listed>,
    /// Counts the bytes that the client takes.
    pub(in crate::build) metrics: EngineMetrics,
}

/// Passes BuildKit's messages on to the client, and returns the client's.
pub(in crate::build) fn begin(
    form: Form,
    sent: Messages,
    stream: Attached,
    tasks: &Group,
    limits: Limits,
    told: Told,
) -> Messages {
    let Attached { incoming, outgoing } = stream;
    let Ok(last) = outgoing.clone().try_reserve_owned() else {
        return stream::iter([Err(Status::aborted("the client has gone"))]).boxed();
    };
    let line = Arc::new(Line { form, told, state: Mutex::default(), is_known: CancellationToken::new() });
    let ended = CancellationToken::new();
    let up = Up { line: Arc::clone(&line), incoming, limits, _ended: ended.clone().drop_guard() };
    let (clocked, clock) = (ended.clone(), Arc::clone(&line));
    tasks.spawn("output's clock", async move {
        clocked.run_until_cancelled(clock.watch(limits)).await;
    });
    let (down, watched) = (Down { line, last: Some(last), limits }, tasks.clone());
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
    told: Told,
    state: Mutex<State>,
    /// Whether BuildKit has acknowledged that the client has all of a tree. If the stream has already closed,
    /// it cannot, and the build fails.
    is_known: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a message waits for the client.
    is_offered: bool,
    /// Whether all entries of a tree have been sent.
    is_listed: bool,
    /// How many files of a tree have been asked for and not been sent yet.
    asked: usize,
    /// Whether BuildKit has sent all.
    is_sent: bool,
    /// Whether the client has all of a tree.
    is_taken: bool,
    /// Since when the client has been waited for; not while it is BuildKit's turn.
    since: Option<Instant>,
}

impl State {
    /// Whether it is the client's turn: to read, to ask for a tree's files or say that it has them, or to end the stream.
    fn is_clients_turn(&self) -> bool {
        let has_all = self.is_listed && self.asked == 0 && !self.is_taken;
        self.is_offered || self.is_sent || has_all
    }
}

impl Line {
    /// Notes that something has moved.
    fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = change(&mut state);
        state.since = state.is_clients_turn().then(Instant::now);
        noted
    }

    fn waited(&self) -> Duration {
        let since = self.state.lock().unwrap_or_else(PoisonError::into_inner).since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the client is too slow, and has the build end. A clock of its own: hyper asks for the client's next
    /// message only when BuildKit reads it.
    async fn watch(&self, limits: Limits) {
        let begun = Instant::now();
        let text = loop {
            let left = limits.whole.saturating_sub(begun.elapsed());
            let patience = limits.idle.saturating_sub(self.waited());
            if left.is_zero() {
                break format!("the client has not taken an output within {}", minutes(limits.whole));
            }
            if patience.is_zero() {
                break format!("the client has not gone on with an output for {}", minutes(limits.idle));
            }
            sleep(left.min(patience)).await;
        };
        // The first reason counts.
        let _ = self.told.refused.set(Status::deadline_exceeded(text));
    }

    /// Counts a file that the client asks for; `false` if there are too many.
    fn asks(&self) -> bool {
        self.note(|state| {
            state.asked += 1;
            state.asked <= ASKED_MAX
        })
    }

    /// Whether the client may end the stream.
    fn is_whole(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.form {
            Form::Tree => state.is_taken,
            Form::File => state.is_sent,
        }
    }

    /// The client has all of the output.
    fn becomes_whole(&self) {
        self.told.is_whole.store(true, Ordering::Release);
    }
}

/// From BuildKit to the client.
struct Down {
    line: Arc<Line>,
    /// A reserved slot for the error that marks the output as incomplete: a plain end would mean success, and
    /// a client that does not read must not block it.
    last: Option<OwnedPermit<Result<Bytes, Status>>>,
    limits: Limits,
}

/// What has been said of the entries of all trees of a build.
#[derive(Debug, Default)]
pub(in crate::build) struct Listed {
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

impl Listed {
    /// Counts an entry, of which so many bytes are said.
    fn add(&self, bytes: usize, limits: Limits) -> Result<(), Status> {
        let Limits { entries, bytes: most, .. } = limits;
        let count = self.entries.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let said = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let what = if count > entries {
            format!("more than {entries} entries")
        } else if said > most {
            format!("entries with paths, links and attributes of more than {} MiB", most >> 20)
        } else {
            return Ok(());
        };
        let text =
            format!("the trees of the outputs have {what}: leave some out, or use `--output type=tar`");
        Err(Status::resource_exhausted(text))
    }
}

impl Down {
    async fn pass(self, mut sent: Messages, outgoing: Outgoing) {
        while let Some(message) = sent.next().await {
            let Ok(message) = message else { return };
            let packet = self.packet(&message);
            let kind = packet.as_ref().map(|packet| packet.kind);
            let is = |other: PacketType| kind == Some(other as i32);
            let stat = packet.as_ref().and_then(|packet| packet.stat.as_ref());
            if let Some(stat) = stat.filter(|_| is(PacketType::PacketStat))
                && let Err(refused) = self.line.told.listed.add(stat.len(), self.limits)
            {
                // The first reason counts.
                let _ = self.line.told.refused.set(refused);
                return;
            }
            // BuildKit's error may contain paths of the engine; the build's failure has it without them.
            let message = match is(PacketType::PacketErr) {
                true => error("the builder cannot read the files"),
                false => message,
            };
            self.line.note(|state| state.is_offered = true);
            let bytes = message.len();
            let sent = outgoing.send(Ok(message)).await;
            if is(PacketType::PacketFin) {
                self.line.is_known.cancel();
            }
            if sent.is_err() {
                return;
            }
            self.line.told.metrics.output(bytes);
            self.line.note(|state| {
                state.is_offered = false;
                state.is_listed |=
                    is(PacketType::PacketStat) && packet.as_ref().is_some_and(Head::has_no_stat);
                // A file ends with a packet without data.
                if is(PacketType::PacketData) && packet.as_ref().is_some_and(|packet| packet.data.is_empty())
                {
                    state.asked = state.asked.saturating_sub(1);
                }
            });
        }
        self.line.note(|state| state.is_sent = true);
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
    #[prost(bytes = "bytes", optional, tag = "2")]
    stat: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

impl Head {
    /// Of STATs, the one without a file ends the list.
    fn has_no_stat(&self) -> bool {
        self.stat.is_none()
    }
}

fn error(text: &str) -> Bytes {
    let data = text.as_bytes().to_vec();
    Packet { r#type: PacketType::PacketErr.into(), data, ..Packet::default() }.encode_to_vec().into()
}

/// From the client to BuildKit.
struct Up {
    line: Arc<Line>,
    incoming: BoxStream<'static, Result<FromClient, Status>>,
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
        let said = tokio::select! {
            refused = self.line.told.refused.wait() => return Some(Err(refused.clone())),
            said = self.incoming.next() => said,
        };
        Some(match said {
            Some(Ok(FromClient::Message(message))) => self.judge(&message),
            Some(Ok(FromClient::Error(code, message))) => Err(client_error(code, &message)),
            Some(Ok(FromClient::Empty)) => Err(Status::invalid_argument("a message of the stream is empty")),
            Some(Err(status)) => Err(Status::new(status.code(), "the client broke off an output")),
            None if self.line.is_whole() => {
                match self.line.form {
                    Form::Tree => drop(timeout(self.limits.idle, self.line.is_known.cancelled()).await),
                    Form::File => self.line.becomes_whole(),
                }
                return None;
            }
            None => Err(Status::aborted("the client ended an output too early")),
        })
    }

    /// The message for BuildKit: of a tree, what an honest receiver says, encoded again.
    fn judge(&self, message: &Bytes) -> Result<Bytes, Status> {
        let unexpected = || Status::invalid_argument("the client may not send that to an output");
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
                self.line.note(|state| state.is_taken = true);
                self.line.becomes_whole();
                packet.encode_to_vec().into()
            }
            PacketType::PacketErr => error(&told(&String::from_utf8_lossy(&said.data))),
            PacketType::PacketStat | PacketType::PacketData => return Err(unexpected()),
        })
    }
}

#[cfg(test)]
mod tests;

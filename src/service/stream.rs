//! A call whose answer is a stream: progress while its work runs, then the result.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Call, Member};
use crate::{
    fault::Fault,
    tasks::{CancelOnDrop, Cause},
    wire::{progress::Reporter, v1},
};

/// Facts between the work and the pump.
const PROGRESS_MESSAGES: usize = 16;

/// A stream of responses.
pub(super) type Responses<T> = BoxStream<'static, Result<T, Status>>;

/// Runs `work` as a task of `member` and streams what it reports, then what it comes to. The end of
/// the stream, or of the client, cancels the work. A client that does not read does not hold the
/// work up, which may hold what other jobs wait for: it gets fewer, newer facts.
pub(super) fn run<R, T, F>(
    call: &Call,
    member: Member,
    work: impl FnOnce(Reporter) -> F,
    progress: fn(v1::Progress) -> T,
    result: fn(R) -> T,
) -> Responses<T>
where
    R: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<R, Fault>> + Send + 'static,
{
    let (reporter, facts) = Reporter::channel(PROGRESS_MESSAGES);
    let (newest, shown) = mpsc::channel(1);
    let (sender, outcome) = oneshot::channel();
    let tasks = (*member).clone();
    let guard = tasks.cancel_on_drop(Cause::ClientGone);
    drop(tasks.spawn("progress", pump(facts, newest)));
    let work = work(reporter);
    drop(tasks.spawn("work", async move {
        let outcome = member.unless_cancelled(work).await.unwrap_or_else(|cause| Err(cause.into()));
        // The client may be gone: nobody wants the answer.
        let _ = sender.send(outcome);
    }));
    let call = call.clone();
    let ended = stream::once(async move {
        match outcome.await {
            Ok(Ok(outcome)) => Ok(result(outcome)),
            Ok(Err(fault)) => Err(call.failed(&fault)),
            Err(_) => Err(call.failed(&Fault::internal("the task of a call has ended without an answer"))),
        }
    });
    let shown = ReceiverStream::new(shown).map(move |facts| Ok(progress(facts)));
    Guarded { inner: shown.chain(ended).boxed(), _guard: guard }.boxed()
}

/// Passes facts on as fast as they are taken; those that wait are made one.
async fn pump(mut facts: mpsc::Receiver<v1::Progress>, newest: mpsc::Sender<v1::Progress>) {
    let mut waiting: Option<v1::Progress> = None;
    let mut open = true;
    while open || waiting.is_some() {
        tokio::select! {
            fact = facts.recv(), if open => match (fact, &mut waiting) {
                (Some(fact), Some(waiting)) => merge(waiting, fact),
                (Some(fact), None) => waiting = Some(fact),
                (None, _) => open = false,
            },
            place = newest.reserve(), if waiting.is_some() => match place {
                Ok(place) => place.send(mem::take(&mut waiting).unwrap_or_default()),
                Err(_) => return,
            },
        }
    }
}

/// "A later fact about the same vertex or status replaces the earlier one" (progress.proto).
fn merge(into: &mut v1::Progress, facts: v1::Progress) {
    for vertex in facts.vertexes {
        match into.vertexes.iter_mut().find(|known| known.digest == vertex.digest) {
            Some(known) => *known = vertex,
            None => into.vertexes.push(vertex),
        }
    }
    for status in facts.statuses {
        let same = |known: &&mut v1::VertexStatus| known.vertex == status.vertex && known.id == status.id;
        match into.statuses.iter_mut().find(same) {
            Some(known) => *known = status,
            None => into.statuses.push(status),
        }
    }
    into.logs.extend(facts.logs);
    into.warnings.extend(facts.warnings);
}

/// A stream that cancels its work when it is dropped.
struct Guarded<T> {
    inner: Responses<T>,
    _guard: CancelOnDrop,
}

impl<T> Stream for Guarded<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: &str, current: i64) -> v1::Progress {
        let status =
            v1::VertexStatus { id: id.into(), vertex: "v".into(), current, ..v1::VertexStatus::default() };
        v1::Progress { statuses: vec![status], ..v1::Progress::default() }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_holds_nothing_up_and_gets_the_newest() {
        let (sender, facts) = mpsc::channel(1);
        let (newest, mut shown) = mpsc::channel(1);
        let pumped = pump(facts, newest);
        let reported = async move {
            for current in 0..1000 {
                sender.send(status(if current % 2 == 0 { "a" } else { "b" }, current)).await.unwrap();
            }
        };
        let read = async {
            let mut last = std::collections::HashMap::new();
            while let Some(progress) = shown.recv().await {
                last.extend(progress.statuses.into_iter().map(|status| (status.id, status.current)));
            }
            last
        };
        // Nobody reads before all is reported.
        let pumped = async {
            tokio::pin!(pumped);
            tokio::select! {
                () = &mut pumped => panic!("the pump waits for its reader"),
                () = reported => {}
            }
            tokio::join!(pumped, read).1
        };
        let last = pumped.await;
        assert_eq!((last["a"], last["b"]), (998, 999));
    }
}

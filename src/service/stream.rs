//! A call whose answer is a stream: progress while its work runs, then the result.

use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use tokio::sync::oneshot;
use tonic::Status;

use super::status;
use crate::{
    fault::Fault,
    front::{Call, End, Member},
    progress::{Progress, Reporter},
    tasks::{CancelOnDrop, Cause, Group},
};

/// A stream of responses.
pub(super) type Responses<T> = BoxStream<'static, Result<T, Status>>;

/// Runs `work` as a task of `tasks` and streams its progress, then its result. Dropping the stream cancels
/// `tasks`, which the work watches. After a cancel the client is answered at once, while the call and
/// `member` end only with the work.
pub(super) fn run<R, T, F>(
    call: &Call,
    tasks: Group,
    member: Member,
    work: impl FnOnce(Reporter) -> F,
    progress: fn(Progress) -> T,
    result: fn(R) -> (End<'static>, T),
) -> Responses<T>
where
    R: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<R, Fault>> + Send + 'static,
{
    let result = move |outcome| {
        let (end, answer) = result(outcome);
        (end, Some(answer))
    };
    run_beside(call, tasks, member, work, progress, stream::empty(), result)
}

/// The same, with responses that come `beside` the progress until the work ends, and a result that may be no response.
pub(super) fn run_beside<R, T, F>(
    call: &Call,
    tasks: Group,
    member: Member,
    work: impl FnOnce(Reporter) -> F,
    progress: fn(Progress) -> T,
    beside: impl Stream<Item = T> + Send + 'static,
    result: impl FnOnce(R) -> (End<'static>, Option<T>) + Send + 'static,
) -> Responses<T>
where
    R: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Result<R, Fault>> + Send + 'static,
{
    let (reporter, receiver) = Reporter::channel();
    let (sender, outcome) = oneshot::channel();
    let guard = tasks.cancel_on_drop(Cause::ClientGone);
    let work = Box::pin(work(reporter));
    let owned = tasks.clone();
    let call = call.clone();
    drop(tasks.spawn("work", async move {
        let _member = member;
        let mut work = work;
        let answer = match owned.unless_cancelled(&mut work).await {
            Ok(Ok(outcome)) => {
                let (end, answer) = result(outcome);
                call.ended(&end);
                Ok(answer)
            }
            Ok(Err(fault)) => {
                call.ended(&End::Fault(&fault));
                Err(status::from_fault(&fault))
            }
            Err(cause) => {
                let fault = Fault::from(cause);
                let _ = sender.send(Err(status::from_fault(&fault)));
                // The work has only begun to stop: wait until it has stopped.
                drop(work.await);
                call.ended(&End::Fault(&fault));
                return;
            }
        };
        // The client may be gone; then nobody reads the answer.
        let _ = sender.send(answer);
    }));
    let ended = stream::once(async move {
        let panicked = |_| Err(status::from_fault(&Fault::internal("the task of a call has panicked")));
        outcome.await.unwrap_or_else(panicked).transpose()
    });
    let shown = stream::select(receiver.into_stream().map(progress), beside);
    guarded(shown.map(Ok).chain(ended.filter_map(std::future::ready)), guard)
}

/// A stream that cancels its work when it is dropped.
pub(super) fn guarded<T>(
    responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
    guard: CancelOnDrop,
) -> Responses<T> {
    responses
        .map(move |response| {
            let _held = &guard;
            response
        })
        .boxed()
}

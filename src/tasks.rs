//! Ownership of running tasks: a tree of groups, each cancelled with a cause. Tasks are spawned only here.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{Instrument as _, Span};

use crate::{
    fault::{Fault, Reason},
    telemetry::each_second,
};

/// The reason for cancelling a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client ended its call, or its connection broke.
    ClientGone,
    /// The namespace was deleted.
    NamespaceDeleted,
    /// wharfd is shutting down.
    ShuttingDown,
    /// A sibling failed; its error says why.
    Failed,
    /// The work is over: the tasks beside it have nothing left to do.
    Done,
}

impl Cause {
    /// The cause in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "the client is gone",
            Self::NamespaceDeleted => "the namespace was deleted",
            Self::ShuttingDown => "wharfd is shutting down",
            Self::Failed => "another part of it failed",
            Self::Done => "it is over",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Cause {}

/// A caller that still waits for cancelled work gets this failure.
impl From<Cause> for Fault {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::ShuttingDown => {
                Self::new(Reason::ShuttingDown, "wharfd is shutting down").hint("try again in a moment")
            }
            Cause::ClientGone | Cause::NamespaceDeleted | Cause::Failed | Cause::Done => {
                Self::new(Reason::Cancelled, format!("cancelled: {cause}"))
            }
        }
    }
}

/// Tasks that live and end together: those of the process, of a namespace, of a build or of a part of a
/// build. Cancelling a group cancels its children; waiting for a group includes its children. A clone is
/// cheap and is the same group.
#[derive(Clone)]
pub struct Group {
    node: Arc<Node>,
}

struct Node {
    name: &'static str,
    parent: Option<Group>,
    tracker: TaskTracker,
    token: CancellationToken,
    cause: OnceLock<Cause>,
    draining: AtomicBool,
}

impl Group {
    /// The group of the whole process.
    pub fn root() -> Self {
        Self::new("process", None, CancellationToken::new())
    }

    /// A new child group.
    pub fn child(&self, name: &'static str) -> Self {
        Self::new(name, Some(self.clone()), self.node.token.child_token())
    }

    fn new(name: &'static str, parent: Option<Self>, token: CancellationToken) -> Self {
        let (tracker, cause, draining) = (TaskTracker::new(), OnceLock::new(), AtomicBool::new(false));
        Self { node: Arc::new(Node { name, parent, tracker, token, cause, draining }) }
    }

    /// A child group for new work; an error if this group or one of its ancestors is cancelled or draining.
    pub fn enter(&self, name: &'static str) -> Result<Self, Cause> {
        if let Some(cause) = self.cancelled_by() {
            return Err(cause);
        }
        if self.upwards().any(|group| group.node.draining.load(Ordering::Acquire)) {
            return Err(Cause::ShuttingDown);
        }
        Ok(self.child(name))
    }

    /// Refuses new work ([`enter`](Self::enter)); running work continues.
    pub fn drain(&self) {
        self.node.draining.store(true, Ordering::Release);
    }

    /// This group and its ancestors.
    fn upwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |group| group.node.parent.as_ref())
    }

    /// Runs `future` to its end, in a span called `name`. A cancel does not stop it: the future itself watches
    /// [`cancelled`](Self::cancelled) or uses [`unless_cancelled`](Self::unless_cancelled).
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let held = self.hold();
        let tracked = async move {
            let outcome = told(name, AssertUnwindSafe(future).catch_unwind().await);
            drop(held);
            outcome
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns: a group owns the task")]
        let handle = tokio::spawn(tracked.instrument(span_of(name)));
        Task { name, handle }
    }

    /// Runs `work`, which blocks, to its end on a thread for blocking work, in a span called `name`. Nothing
    /// stops it from outside: it must end by itself when its input ends.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        let (held, span) = (self.hold(), span_of(name));
        let tracked = move || {
            let outcome = span.in_scope(|| told(name, catch_unwind(AssertUnwindSafe(work))));
            drop(held);
            outcome
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns: a group owns the task")]
        let handle = tokio::task::spawn_blocking(tracked);
        Task { name, handle }
    }

    /// Runs `future` until it ends; if the group is cancelled first, `future` is dropped at its current await.
    pub async fn unless_cancelled<F: Future>(&self, future: F) -> Result<F::Output, Cause> {
        tokio::select! {
            biased;
            cause = self.cancelled() => Err(cause),
            output = future => Ok(output),
        }
    }

    /// Cancels the group and its children. A later cause does not replace the first.
    pub fn cancel(&self, cause: Cause) {
        if self.node.token.is_cancelled() {
            return;
        }
        // Set before the token, so that a woken task finds the cause.
        let _ = self.node.cause.set(cause);
        tracing::debug!(group = self.node.name, %cause, "cancelled");
        self.node.token.cancel();
    }

    /// Waits until the group is cancelled and returns the cause.
    pub async fn cancelled(&self) -> Cause {
        self.node.token.cancelled().await;
        self.cause()
    }

    /// The cause, if the group is cancelled.
    pub fn cancelled_by(&self) -> Option<Cause> {
        self.node.token.is_cancelled().then(|| self.cause())
    }

    /// The nearest cause upwards: the group itself or an ancestor was cancelled.
    fn cause(&self) -> Cause {
        self.upwards().find_map(|group| group.node.cause.get()).copied().unwrap_or(Cause::Done)
    }

    /// Cancels the group when the guard is dropped. A call's handler holds such a guard, so that the work
    /// ends with the call.
    pub fn cancel_on_drop(&self, cause: Cause) -> CancelOnDrop {
        CancelOnDrop { group: self.clone(), cause }
    }

    /// A guard that keeps [`close_and_wait`](Self::close_and_wait) waiting until it is dropped.
    pub fn hold(&self) -> Hold {
        Hold { _tokens: self.upwards().map(|group| group.node.tracker.token()).collect() }
    }

    /// Waits until no task runs in the group or in a group below it. Does not cancel.
    pub async fn close_and_wait(&self) {
        self.node.tracker.close();
        self.node.tracker.wait().await;
    }

    /// The number of tasks that run in the group and in the groups below it.
    pub fn running(&self) -> usize {
        self.node.tracker.len()
    }
}

/// The span of a task. At a level that has no task spans, the task stays in its spawner's span, which
/// names the call.
fn span_of(task: &'static str) -> Span {
    let span = tracing::debug_span!("task", task);
    if span.is_disabled() { Span::current() } else { span }
}

fn told<T>(task: &'static str, outcome: thread::Result<T>) -> Result<T, Panicked> {
    outcome.map_err(|_| {
        each_second!(error, task, "a task panicked");
        Panicked(task)
    })
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Group");
        debug.field("name", &self.node.name).field("running", &self.running());
        debug.field("cancelled_by", &self.cancelled_by()).finish_non_exhaustive()
    }
}

/// hyper's own tasks, one for each HTTP/2 stream, belong to their connection's group.
impl<F> hyper::rt::Executor<F> for Group
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.spawn("stream", future));
    }
}

/// Work that is not a task but must be waited for; see [`Group::hold`].
#[derive(Debug)]
pub struct Hold {
    _tokens: Vec<TaskTrackerToken>,
}

/// See [`Group::cancel_on_drop`].
#[derive(Debug)]
#[must_use = "dropping it cancels the group"]
pub struct CancelOnDrop {
    group: Group,
    cause: Cause,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.group.cancel(self.cause);
    }
}

/// A spawned task; await it for its output. Dropping it does not stop the task.
#[derive(Debug)]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<Result<T, Panicked>>,
}

impl<T> Future for Task<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        // Nobody aborts a task; only the runtime does, when the process ends.
        Pin::new(&mut self.handle).poll(context).map(|joined| joined.unwrap_or(Err(Panicked(name))))
    }
}

/// A task that panicked, by name. The panic itself is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task `{0}` panicked")]
pub struct Panicked(&'static str);

impl From<Panicked> for Fault {
    fn from(panicked: Panicked) -> Self {
        Self::internal(panicked)
    }
}

#[cfg(test)]
mod tests;

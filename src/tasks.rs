//! Who owns what runs: a tree of groups, each cancelled with a cause. The one place that spawns.

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

use crate::fault::{Fault, Reason};

/// Why a group was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client ended its call, or its connection broke.
    ClientGone,
    /// The namespace was deleted.
    NamespaceDeleted,
    /// wharfd ends.
    ShuttingDown,
    /// A sibling failed; its error says why.
    Failed,
    /// The work is over: what still runs beside it has nothing left to do.
    Done,
}

impl Cause {
    /// What a person reads.
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

/// What was cancelled is a failed call to whoever still waits for it.
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

/// Tasks that live and end together: the process, a namespace, a build, a part of one. What cancels
/// a group cancels its children; waiting for it waits for theirs too. Cheap to clone: a clone is the
/// same group.
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
    /// The process's group.
    pub fn root() -> Self {
        Self::new("process", None, CancellationToken::new())
    }

    /// A group below this one.
    pub fn child(&self, name: &'static str) -> Self {
        Self::new(name, Some(self.clone()), self.node.token.child_token())
    }

    fn new(name: &'static str, parent: Option<Self>, token: CancellationToken) -> Self {
        let (tracker, cause, draining) = (TaskTracker::new(), OnceLock::new(), AtomicBool::new(false));
        Self { node: Arc::new(Node { name, parent, tracker, token, cause, draining }) }
    }

    /// A group below this one for work that begins; an error once this group, or one above it, is
    /// cancelled or drains.
    pub fn enter(&self, name: &'static str) -> Result<Self, Cause> {
        if let Some(cause) = self.cancelled_by() {
            return Err(cause);
        }
        if self.upwards().any(|group| group.node.draining.load(Ordering::Acquire)) {
            return Err(Cause::ShuttingDown);
        }
        Ok(self.child(name))
    }

    /// Lets nothing [`enter`](Self::enter) any more; what runs goes on.
    pub fn drain(&self) {
        self.node.draining.store(true, Ordering::Release);
    }

    /// This group and all above it.
    fn upwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |group| group.node.parent.as_ref())
    }

    /// Runs `future` to its end, in a span of that name. It is not stopped by a cancel: it watches
    /// [`cancelled`](Self::cancelled), or runs under [`unless_cancelled`](Self::unless_cancelled).
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

    /// Runs `work`, which blocks, to its end on a thread for such work, in a span of that name. Nothing
    /// stops it from outside: it ends by itself once nobody feeds it.
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

    /// Runs `future` until it ends or the group is cancelled; then it is dropped where it stands.
    pub async fn unless_cancelled<F: Future>(&self, future: F) -> Result<F::Output, Cause> {
        tokio::select! {
            biased;
            cause = self.cancelled() => Err(cause),
            output = future => Ok(output),
        }
    }

    /// Cancels the group and its children. The first cause stays.
    pub fn cancel(&self, cause: Cause) {
        if self.node.token.is_cancelled() {
            return;
        }
        // Before the token, so that whoever wakes finds it.
        let _ = self.node.cause.set(cause);
        tracing::debug!(group = self.node.name, %cause, "cancelled");
        self.node.token.cancel();
    }

    /// Ends when the group is cancelled, with the cause.
    pub async fn cancelled(&self) -> Cause {
        self.node.token.cancelled().await;
        self.cause()
    }

    /// Why the group was cancelled, if it was.
    pub fn cancelled_by(&self) -> Option<Cause> {
        self.node.token.is_cancelled().then(|| self.cause())
    }

    /// The nearest cause upwards: a group is cancelled by itself or by one above it.
    fn cause(&self) -> Cause {
        self.upwards().find_map(|group| group.node.cause.get()).copied().unwrap_or(Cause::Done)
    }

    /// Cancels the group when the guard is dropped: a call's handler holds one, so that the work
    /// ends with the call.
    pub fn cancel_on_drop(&self, cause: Cause) -> CancelOnDrop {
        CancelOnDrop { group: self.clone(), cause }
    }

    /// Keeps whoever waits for the group waiting until it is dropped.
    pub fn hold(&self) -> Hold {
        Hold { _tokens: self.upwards().map(|group| group.node.tracker.token()).collect() }
    }

    /// Waits until no task of the group or of a group below runs. Does not cancel.
    pub async fn close_and_wait(&self) {
        self.node.tracker.close();
        self.node.tracker.wait().await;
    }

    /// How many tasks run in the group and the groups below.
    pub fn running(&self) -> usize {
        self.node.tracker.len()
    }
}

/// The span of a task. Without one of its own it stays in its spawner's, which says whose call it is.
fn span_of(task: &'static str) -> Span {
    let span = tracing::debug_span!("task", task);
    if span.is_disabled() { Span::current() } else { span }
}

fn told<T>(task: &'static str, outcome: thread::Result<T>) -> Result<T, Panicked> {
    outcome.map_err(|_| {
        tracing::error!(task, "a task panicked");
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

/// hyper's own tasks (an HTTP/2 stream each) belong to their connection's group.
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
        // A task is never aborted from outside; the runtime does it when the process ends.
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

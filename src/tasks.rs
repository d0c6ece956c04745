//! Ownership of running tasks: a tree of groups, each cancelled with a cause. Tasks are spawned only here.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
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

/// How many tasks a line of the log names.
const NAMED_MAX: usize = 32;

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
    /// Whose work it is, printable, for the log.
    whose: Option<String>,
    parent: Option<Group>,
    /// Of the whole process.
    live: Arc<Mutex<Live>>,
    tracker: TaskTracker,
    token: CancellationToken,
    cause: OnceLock<Cause>,
    draining: AtomicBool,
}

/// Everything that runs: what [`Group::running`] names.
#[derive(Default)]
struct Live {
    next: u64,
    /// The group of each task, and the task's name; a [`Hold`] has none.
    all: BTreeMap<u64, (Group, Option<&'static str>)>,
}

impl Group {
    /// The group of the whole process.
    pub fn root() -> Self {
        Self::new("process", None, None, CancellationToken::new())
    }

    /// A new child group.
    pub fn child(&self, name: &'static str) -> Self {
        Self::new(name, None, Some(self.clone()), self.node.token.child_token())
    }

    fn new(
        name: &'static str,
        whose: Option<String>,
        parent: Option<Self>,
        token: CancellationToken,
    ) -> Self {
        let (tracker, cause, draining) = (TaskTracker::new(), OnceLock::new(), AtomicBool::new(false));
        let live = parent.as_ref().map(|parent| Arc::clone(&parent.node.live)).unwrap_or_default();
        Self { node: Arc::new(Node { name, whose, parent, live, tracker, token, cause, draining }) }
    }

    /// A child group for new work; an error if this group or one of its ancestors is cancelled or draining.
    pub fn enter(&self, name: &'static str) -> Result<Self, Cause> {
        self.enter_for(name, None)
    }

    /// The same for work that is somebody's: a printable name for the log.
    pub fn enter_for(&self, name: &'static str, whose: Option<String>) -> Result<Self, Cause> {
        if let Some(cause) = self.cancelled_by() {
            return Err(cause);
        }
        if self.upwards().any(|group| group.node.draining.load(Ordering::Acquire)) {
            return Err(Cause::ShuttingDown);
        }
        Ok(Self::new(name, whose, Some(self.clone()), self.node.token.child_token()))
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
        let held = self.held(Some(name));
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
        let (held, span) = (self.held(Some(name)), span_of(name));
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
        self.held(None)
    }

    fn held(&self, task: Option<&'static str>) -> Hold {
        let live = Arc::clone(&self.node.live);
        let id = lock(&live).add(self.clone(), task);
        Hold { _tokens: self.upwards().map(|group| group.node.tracker.token()).collect(), id, live }
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

    /// The tasks that run in the group and in the groups below it, for the log: each as the groups that lead to it from
    /// this one, and its own name, such as `namespace of acme/app#42, build: pull`. Names the oldest ones.
    pub fn names(&self) -> Vec<String> {
        let live = lock(&self.node.live);
        let named = live.all.values().filter_map(|(group, task)| group.name_below(self, *task));
        named.take(NAMED_MAX).collect()
    }

    /// The name of one of the group's tasks; `None` if the group is not `above`, or below it.
    fn name_below(&self, above: &Self, task: Option<&'static str>) -> Option<String> {
        let mut groups = Vec::new();
        for group in self.upwards() {
            if Arc::ptr_eq(&group.node, &above.node) {
                groups.reverse();
                let groups = groups.join(", ");
                return Some(match task {
                    Some(task) if groups.is_empty() => task.to_owned(),
                    Some(task) => format!("{groups}: {task}"),
                    None => groups,
                });
            }
            let Node { name, whose, .. } = &*group.node;
            groups.push(
                whose.as_ref().map_or_else(|| (*name).to_owned(), |whose| format!("{name} of {whose}")),
            );
        }
        None
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
pub struct Hold {
    _tokens: Vec<TaskTrackerToken>,
    id: u64,
    live: Arc<Mutex<Live>>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Dropped after the lock: it may be the last of its group.
        let _ended = lock(&self.live).all.remove(&self.id);
    }
}

impl Live {
    fn add(&mut self, group: Group, task: Option<&'static str>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.all.insert(id, (group, task));
        id
    }
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
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

//! The steps of a pass that have just begun.
//!
//! Up to some version before 0.33 BuildKit does not kill a step whose build is cancelled after the step has
//! begun and before its process exists (`runcProcessHandle` in `executor/runcexecutor`: "nothing to kill").
//! The step would continue without its build, perhaps for ever. BuildKit 0.33 kills runc instead, which has
//! made a cgroup for the step: the cgroup stays, empty.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use tokio::time::{Instant, sleep_until};

/// After this time a step has its process: it takes milliseconds, on a busy machine a second.
const PROCESS: Duration = Duration::from_secs(2);
/// And this much more for each step that may begin at the same time: sixteen took 3 s on two busy processors.
const EACH: Duration = Duration::from_millis(500);

/// The frontend's container, among the digests of steps.
const FRONTEND: &str = "frontend";

/// The steps that have begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Whether the graph runs. Before that there are no steps but the frontend.
    runs: AtomicBool,
    /// When each was first seen, by its digest; `None` once it has written something. The frontend's container is one.
    steps: Mutex<HashMap<String, Option<Instant>>>,
    /// Whether BuildKit's status of the pass broke off: then it is not known whether the pass is over.
    lost: AtomicBool,
}

impl Begun {
    /// The frontend's container is about to begin.
    pub(super) fn frontend(&self) {
        self.steps().insert(FRONTEND.to_owned(), Some(Instant::now()));
    }

    /// The frontend has answered, and the graph begins to run.
    pub(super) fn runs(&self) {
        self.steps().remove(FRONTEND);
        self.runs.store(true, Ordering::Relaxed);
    }

    /// BuildKit's status has ended with an error; or it is of a pass that BuildKit does not know any more.
    pub(super) fn status_broke_off(&self, is_over: bool) {
        self.lost.store(!is_over, Ordering::Relaxed);
    }

    /// Whether the status broke off before the pass was over.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Notes BuildKit's status as it comes.
    pub(super) fn note(&self, status: &StatusResponse) {
        if !self.runs.load(Ordering::Relaxed) {
            return;
        }
        let mut steps = self.steps();
        for vertex in &status.vertexes {
            if vertex.completed.is_some() {
                steps.remove(&vertex.digest);
            } else if vertex.started.is_some() {
                steps.entry(vertex.digest.clone()).or_insert_with(|| Some(Instant::now()));
            }
        }
        for log in &status.logs {
            steps.entry(log.vertex.clone()).and_modify(|since| *since = None);
        }
    }

    /// Returns once every step that runs has its process. The graph's other steps continue meanwhile.
    pub(super) async fn have_processes(&self) {
        while let Some(until) = self.until().filter(|until| *until > Instant::now()) {
            sleep_until(until).await;
        }
    }

    /// When all steps that run will have their processes, if one may have none.
    fn until(&self) -> Option<Instant> {
        let steps = self.steps();
        let silent = steps.values().flatten();
        let each = EACH * u32::try_from(silent.clone().count()).unwrap_or(u32::MAX);
        silent.max().map(|youngest| *youngest + PROCESS + each)
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<String, Option<Instant>>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::{Vertex, VertexLog};
    use futures_util::FutureExt as _;

    use super::*;

    fn vertex(digest: &str, ended: bool) -> StatusResponse {
        let (started, completed) = (Some(Default::default()), ended.then(Default::default));
        let vertex = Vertex { digest: digest.into(), started, completed, ..Vertex::default() };
        StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
    }

    #[test]
    fn a_stop_waits_for_the_youngest_step() {
        let begun = Begun::default();
        begun.note(&vertex("frontend", false));
        assert_eq!(begun.until(), None, "no graph runs");
        begun.runs();
        begun.note(&vertex("a", false));
        let first = begun.until().unwrap();
        while Instant::now() + PROCESS + EACH <= first {}
        begun.note(&vertex("a", false));
        assert_eq!(begun.until(), Some(first), "it has begun once");
        begun.note(&vertex("b", false));
        assert!(begun.until() > Some(first + EACH));
        begun.note(&vertex("b", true));
        assert_eq!(begun.until(), Some(first), "the other has ended");
        let log = VertexLog { vertex: "a".into(), ..VertexLog::default() };
        begun.note(&StatusResponse { logs: vec![log], ..StatusResponse::default() });
        begun.note(&vertex("a", false));
        assert_eq!(begun.until(), None, "it has written");
    }

    #[test]
    fn a_stop_waits_for_the_frontend() {
        let begun = Begun::default();
        begun.frontend();
        begun.note(&vertex("a", false));
        assert!(begun.until() > Some(Instant::now()));
        begun.runs();
        assert_eq!(begun.until(), None, "it has answered");
    }

    #[tokio::test]
    async fn a_stop_of_steps_with_processes_does_not_wait() {
        let begun = Begun::default();
        begun.runs();
        begun.note(&vertex("a", true));
        assert!(begun.have_processes().now_or_never().is_some());
        begun.note(&vertex("a", false));
        assert!(begun.have_processes().now_or_never().is_none());
    }
}

//! Groups and the end of their tasks.

use tokio::sync::oneshot;

use super::*;

#[tokio::test]
async fn a_cancel_reaches_children_and_not_parents() {
    let root = Group::root();
    let build = root.child("build");
    let part = build.child("part");
    build.cancel(Cause::ClientGone);
    assert_eq!(part.cancelled().await, Cause::ClientGone);
    assert_eq!(build.cancelled_by(), Some(Cause::ClientGone));
    assert_eq!(root.cancelled_by(), None);
    assert_eq!(build.child("late").cancelled_by(), Some(Cause::ClientGone));
}

#[tokio::test]
async fn the_first_cause_stays() {
    let root = Group::root();
    let build = root.child("build");
    build.cancel(Cause::NamespaceDeleted);
    build.cancel(Cause::ClientGone);
    root.cancel(Cause::ShuttingDown);
    assert_eq!(build.cancelled_by(), Some(Cause::NamespaceDeleted));
    let other = root.child("other");
    other.cancel(Cause::Failed);
    assert_eq!(other.cancelled_by(), Some(Cause::ShuttingDown));
}

#[tokio::test]
async fn what_drains_lets_nothing_in_and_what_runs_go_on() {
    let root = Group::root();
    let build = root.enter("build").unwrap();
    root.drain();
    assert_eq!(root.enter("build").unwrap_err(), Cause::ShuttingDown);
    assert_eq!(build.enter("part").unwrap_err(), Cause::ShuttingDown);
    assert_eq!(build.cancelled_by(), None);
    assert_eq!(build.child("part").cancelled_by(), None);
}

#[tokio::test]
async fn waiting_for_a_group_waits_for_its_children() {
    let root = Group::root();
    let build = root.child("build");
    let (finish, finished) = oneshot::channel::<()>();
    let task = build.spawn("work", async move { finished.await.is_ok() });
    {
        let wait = root.close_and_wait();
        tokio::pin!(wait);
        assert!(wait.as_mut().now_or_never().is_none(), "a child's task runs");
        finish.send(()).unwrap();
        wait.await;
    }
    assert_eq!(root.running(), 0);
    assert_eq!(task.await, Ok(true));
}

#[tokio::test]
async fn a_cancel_stops_what_runs_under_it_only() {
    let group = Group::root();
    let inner = group.clone();
    let stopped =
        group.spawn("stopped", async move { inner.unless_cancelled(std::future::pending::<()>()).await });
    let (finish, finished) = oneshot::channel::<()>();
    let cleanup = group.spawn("cleanup", async move { finished.await.is_ok() });
    drop(group.cancel_on_drop(Cause::ClientGone));
    assert_eq!(stopped.await, Ok(Err(Cause::ClientGone)));
    finish.send(()).unwrap();
    assert_eq!(cleanup.await, Ok(true));
}

#[tokio::test]
async fn a_task_stays_in_the_span_of_whoever_spawns_it() {
    let written = Arc::new(Mutex::new(Vec::new()));
    // At the level of an operator's log there are no task spans.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer({
            let written = Arc::clone(&written);
            move || Written(Arc::clone(&written))
        })
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let group = Group::root();
    let spawned = tracing::info_span!("call", caller = 7).in_scope(|| {
        let inner = group.clone();
        group.spawn("outer", async move {
            inner.spawn("inner", async { tracing::info!("something happens") }).await
        })
    });
    spawned.await.unwrap().unwrap();
    let log = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    assert!(log.contains("call{caller=7}"), "{log}");
}

#[tokio::test]
async fn a_group_waits_for_what_blocks() {
    let group = Group::root();
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let task = group.spawn_blocking("work", move || finished.recv().is_ok());
    group.cancel(Cause::ClientGone);
    assert_eq!(group.running(), 1);
    assert!(group.close_and_wait().now_or_never().is_none(), "it blocks");
    finish.send(()).unwrap();
    group.close_and_wait().await;
    assert_eq!(task.await, Ok(true));
    let broken = group.spawn_blocking("broken", || panic!("on purpose"));
    assert_eq!(broken.await.map(|()| "fine"), Err(Panicked("broken")));
}

#[tokio::test]
async fn who_keeps_a_group_open_is_named() {
    let root = Group::root();
    let work = root.child("work");
    let namespace = work.enter_for("namespace", Some("acme/app#42".to_owned())).unwrap();
    let (finish, finished) = oneshot::channel::<()>();
    let _other = root.child("other").hold();
    let build = namespace.enter("build").unwrap();
    let held = build.hold();
    let pull = build.child("pull").spawn("pull", async move { finished.await.is_ok() });
    let blocking = work.spawn_blocking("blocks", || ()).await;
    assert_eq!(blocking, Ok(()));
    let build = "namespace of acme/app#42, build";
    assert_eq!(work.names(), [build.to_owned(), format!("{build}, pull: pull")]);
    assert_eq!(namespace.names(), ["build", "build, pull: pull"]);
    drop(held);
    finish.send(()).unwrap();
    assert_eq!(pull.await, Ok(true));
    work.close_and_wait().await;
    assert_eq!(work.names(), Vec::<String>::new());
    assert_eq!(root.names(), ["other"]);
}

struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_panic_is_an_error_of_its_task_alone() {
    let group = Group::root();
    let task = group.spawn("broken", async { panic!("on purpose") });
    assert_eq!(task.await.map(|()| "fine"), Err(Panicked("broken")));
    group.close_and_wait().await;
    assert_eq!(group.cancelled_by(), None);
}

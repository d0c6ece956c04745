//! Builds that were in the engine when it crashed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::process::Signal;

use crate::harness::{
    Engine, PATIENCE, Test, Wharf, cases,
    engine::tool,
    image::context_tar,
    process::{Background, Output},
    wait_for,
};

cases![
    a_build_that_crashes_the_engine_is_refused,
    of_two_builds_the_innocent_is_cleared,
    an_engine_that_is_stopped_blames_nobody,
];

/// A build whose step runs until it is stopped, or ends at once: its context says so, which is no part of its
/// input.
fn build(test: &Test, name: &str, is_endless: bool) -> PathBuf {
    let dockerfile = format!(
        "FROM scratch\nENV NAME={name}\nCOPY busybox seconds /\n\
         RUN [\"/busybox\", \"sh\", \"-c\", \"echo it-$((1))-runs; exec /busybox sleep `/busybox cat /seconds`\"]\n"
    );
    let seconds = if is_endless { "100000" } else { "0" };
    let context =
        test.context(&format!("{name}-{seconds}"), &[("Dockerfile", &dockerfile), ("seconds", seconds)]);
    fs::copy(tool("WHARF_BUSYBOX"), context.join("busybox")).unwrap();
    context
}

/// Starts an endless build, whose step then runs.
async fn start(job: &Wharf, context: &Path, flags: &[&str]) -> Background {
    let args = [&["build", "--progress=plain"], flags, &[context.to_str().unwrap()]].concat();
    let running = job.start(args);
    running.says("the step to run", |line| line.ends_with("it-1-runs").then_some(())).await;
    running
}

async fn stop(running: Background) {
    running.signal(Signal::INT);
    running.wait(PATIENCE).await.unwrap();
}

/// Waits until the build has lost its engine.
async fn lost(running: Background) {
    let ended = wait_for("the build to end", async || running.ended().await).await;
    assert_eq!(ended.code(), Some(5), "{:?}", running.lines());
}

/// Starts the engine again, in which it is empty, and waits until wharfd uses it.
async fn again(test: &Test, engine: &Engine, name: &str, job: &Wharf) {
    test.start_engine(engine.kind(), name).await;
    wait_for("the engine", async || (job.run(["images"]).await.status == 0).then_some(())).await;
}

async fn a_build_that_crashes_the_engine_is_refused(test: Arc<Test>) {
    let (name, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let endless = build(&test, "one", true);
    let running = start(&job, &endless, &[]).await;
    engine.crash().await;
    lost(running).await;
    again(&test, &engine, &name, &job).await;

    let refused = async |job: &Wharf| {
        let refused = job.build(&endless, &[]).await.ended(1);
        let refused =
            refused.says(&["this build has stopped the engine once, and", "another version of the engine"]);
        assert!(!refused.stderr.contains("try"), "{refused}");
    };
    refused(&job).await;
    // Another run, and another job that the same caller may act for.
    refused(&job.in_namespace("job#2")).await;
    refused(&job.in_namespace("other#1")).await;
    let dockerfile = fs::read_to_string(endless.join("Dockerfile")).unwrap();
    let tar = context_tar(&[("Dockerfile", &dockerfile)]);
    Output::of(job.command(["build", "-"]), &tar, PATIENCE)
        .await
        .ended(1)
        .says(&["has stopped the engine once"]);
    // Others may use the engine, and the same Dockerfile with other arguments.
    job.build(build(&test, "other", false), &[]).await.ok();
    stop(start(&job, &endless, &["--build-arg", "A=1"]).await).await;
    assert_eq!(wharfd.terminate().await, 0);
    wharfd.start().await;
    refused(&job).await;

    test.stop_engine(&name).await;
    test.start_engine(engine.kind().other(), &name).await;
    wait_for("the other engine", async || (job.run(["images"]).await.status == 0).then_some(())).await;
    stop(start(&job, &endless, &[]).await).await;
}

async fn of_two_builds_the_innocent_is_cleared(test: Arc<Test>) {
    let (name, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let (one, two) = (Wharf::new(&test, &wharfd, "one#1"), Wharf::new(&test, &wharfd, "two#1"));
    let (innocent, guilty) = (build(&test, "innocent", true), build(&test, "guilty", true));
    let running = tokio::join!(start(&one, &innocent, &[]), start(&two, &guilty, &[]));
    engine.crash().await;
    tokio::join!(lost(running.0), lost(running.1));
    again(&test, &engine, &name, &one).await;

    // Both may try again, one after the other. The first is cleared.
    let running = start(&two, &guilty, &[]).await;
    let waiting = one.start(["build", "--progress=plain", build(&test, "innocent", false).to_str().unwrap()]);
    engine.crash().await;
    lost(running).await;
    waiting.wait(PATIENCE).await.unwrap();
    again(&test, &engine, &name, &one).await;
    two.build(&guilty, &[]).await.ended(1).says(&["has stopped the engine once"]);
    one.build(build(&test, "innocent", false), &[]).await.ok();
    stop(start(&one, &innocent, &[]).await).await;
}

async fn an_engine_that_is_stopped_blames_nobody(test: Arc<Test>) {
    let (name, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let endless = build(&test, "one", true);
    for _ in 0..2 {
        let running = start(&job, &endless, &[]).await;
        test.stop_engine(&name).await;
        lost(running).await;
        again(&test, &engine, &name, &job).await;
    }
    stop(start(&job, &endless, &[]).await).await;
}

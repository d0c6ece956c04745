//! The limits of a policy: each ends its own build, and says which it is.

use std::sync::Arc;

use rustix::process::Signal;

use crate::harness::{PATIENCE, Test, Wharf, cases, image::context_tar, wait_for};

cases![each_limit_ends_its_own_build, a_client_that_does_not_read_its_log_is_under_its_limit];

async fn each_limit_ends_its_own_build(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let endless = "RUN while :; do echo y; sleep 0.1; done";
    let noisy = "RUN yes | head -c 300000";
    let large = "z".repeat(200 << 10);
    let context = |name: &str, text: &str, files: &[(&str, &str)]| {
        let text = format!("FROM {base}\n{text}\n");
        test.context(name, &[&[("Dockerfile", &*text)][..], files].concat())
    };
    let [endless, noisy] =
        [("endless", endless), ("noisy", noisy)].map(|(name, step)| context(name, step, &[]));
    let large_tar = context_tar(&[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", &large)]);
    let large = context("large", "COPY file /", &[("file", &large)]);
    let small = context("small", "RUN echo small", &[]);

    // Without limits all of them but the endless one end well.
    let pull = "pull = [\"*\"]\n";
    let mut config = format!("[[policy]]\nname = \"free\"\njobs = [\"free\"]\n{pull}");
    for (job, key) in [
        ("time", "build_time = \"5s\""),
        ("context", "context_size = \"100KiB\""),
        ("log", "log_size = \"100KiB\""),
        ("images", "images = 1"),
    ] {
        config += &format!("[[policy]]\nname = \"{job}\"\njobs = [\"{job}\"]\n{pull}{key}\n");
    }
    let wharfd = test.wharfd_with(Some(&config), &[]).await;
    let [free, time, sent, log, images] = ["free", "time", "context", "log", "images"]
        .map(|job| Wharf::new(&test, &wharfd, &format!("{job}#1")));
    for context in [&noisy, &large, &small] {
        free.build(context, &[]).await.ok();
    }
    free.run_with(["build", "-"], &large_tar).await.ok();

    let beside = free.start(["build", "--progress=plain", endless.to_str().unwrap()]);
    beside.says("the step to run", |line| line.ends_with(" y").then_some(())).await;
    time.build(&endless, &[]).await.ended(3).says(&["over a limit of policy `time`: `build_time` is 5 s"]);
    let says = ["over a limit of policy `context`: `context_size` is 100 KiB"];
    sent.build(&large, &[]).await.ended(3).says(&says);
    sent.run_with(["build", "-"], &large_tar).await.ended(3).says(&says);
    log.build(&noisy, &[]).await.ended(3).says(&["over a limit of policy `log`: `log_size` is 100 KiB"]);
    for job in [&time, &sent, &log] {
        assert_eq!(job.images().await, [], "an image of a build that was ended");
    }
    // Not by `time`: on a loaded machine any build may be over its limit.
    for job in [&sent, &log] {
        job.build(&small, &[]).await.ok();
    }

    images.build(&small, &["-t", "app:1"]).await.ok();
    let says = ["over a limit of policy `images`: `images` is 1", "remove images"];
    images.build(&noisy, &["-t", "app:2"]).await.ended(3).says(&says);
    images.run(["pull", &base]).await.ended(3).says(&says);
    images.run(["rmi", "app:1"]).await.ok();
    images.build(&noisy, &["-t", "app:2"]).await.ok();

    assert!(beside.ended().await.is_none(), "another job's build has ended, too: {:?}", beside.lines());
    beside.signal(Signal::TERM);
    let _ = beside.wait(PATIENCE).await;
}

/// BuildKit keeps whatever nobody takes, and its steps go on.
async fn a_client_that_does_not_read_its_log_is_under_its_limit(test: Arc<Test>) {
    let registry = test.registry().await;
    let base = test.base(&registry).await;
    let policy = "[[policy]]\nname = \"log\"\njobs = [\"*\"]\npull = [\"*\"]\nlog_size = \"300KiB\"\n";
    let wharfd = test.wharfd_with(Some(policy), &[]).await;
    let job = Wharf::new(&test, &wharfd, "silent#1");
    // BuildKit takes 100 KiB of the first second of a step.
    let steps = "RUN echo begun; yes $(seq 200) | head -c 90000\n".repeat(12);
    let context = test.context("silent", &[("Dockerfile", &format!("FROM {base}\n{steps}"))]);
    let build = job.start(["build", "--no-cache", "--progress=plain", context.to_str().unwrap()]);
    build.says("the first step", |line| line.ends_with(" begun").then_some(())).await;
    build.signal(Signal::STOP);
    let is_over = |line: &String| line.contains("BuildService/Build") && line.contains("log_size");
    wait_for("the end of the build", async || wharfd.log().iter().any(is_over).then_some(())).await;
    build.signal(Signal::CONT);
    let ended = build.wait(PATIENCE).await.unwrap();
    assert_eq!(ended.code(), Some(3), "{:?}", build.lines());
}

//! Dockerfiles that crash the frontend; inside the engine they crash the engine.

use std::sync::Arc;

use tokio::net::UnixStream;

use crate::harness::{Test, Wharf, cases, wait_for};

cases![a_dockerfile_cannot_crash_the_engine];

/// Each line doubles the value of the line before.
fn doubling() -> String {
    let doubled = "ARG A=${A}${A}\n".repeat(30);
    format!("FROM scratch\nARG A={}\n{doubled}LABEL x=$A\n", "a".repeat(32))
}

async fn a_dockerfile_cannot_crash_the_engine(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_with_frontend_on(&engine).await;
    let job = Wharf::new(&test, &wharfd, "job#1");
    let good =
        test.context("good", &[("Dockerfile", "# syntax=docker/dockerfile:1.7\nFROM scratch\nCOPY . /\n")]);
    let built = job.build(&good, &["-t", "app:1"]).await.ok();
    assert!(!built.stderr.contains("syntax") && !built.stderr.contains("private image"), "{built}");
    let child = test.context("child", &[("Dockerfile", "FROM app:1\nCOPY Dockerfile /child\n")]);
    job.build(&child, &[]).await.ok();

    let no_stage = test.context("no-stage", &[("Dockerfile", "ARG A=1\n")]);
    job.build(&no_stage, &[]).await.ended(1).says(&["no stages"]);
    let doubling = test.context("doubling", &[("Dockerfile", &doubling())]);
    // Either the text itself is refused, or the container's limits end it.
    let ended = job.build(&doubling, &[]).await;
    assert!(matches!(ended.status, 1..=3), "{ended}");
    job.build(&good, &[]).await.ok();

    // The frontend's own image cannot be a base, and is loaded again if somebody removes it.
    let prefix = format!("{}frontend/", wharfd.prefix());
    // The containerd store also lists its digest.
    let tags = async || {
        let mut names = engine.names_with_prefix(&prefix).await;
        names.retain(|name| !name.contains('@'));
        names
    };
    let image = tags().await.pop().unwrap();
    let thief = test.context("thief", &[("Dockerfile", &format!("FROM {image}\n"))]);
    let stolen = job.build(&thief, &[]).await;
    assert_ne!(stolen.status, 0, "{stolen}");
    engine.remove_image(&image).await;
    job.build(&good, &["--no-cache"]).await.ok();
    assert_eq!(tags().await, [image]);

    // The newest engine's own frontend survives this Dockerfile.
    if !engine.is_containerd() && !test.engine.is_containerd() {
        assert_eq!(wharfd.terminate().await, 0);
        std::fs::remove_dir_all(wharfd.state_dir()).unwrap();
        let home = test.new_dir("bare");
        let killed = engine.buildx_build(&home, &no_stage, &[]).await;
        assert_ne!(killed.status, 0, "{killed}");
        wait_for("the engine to end", async || {
            UnixStream::connect(engine.socket()).await.is_err().then_some(())
        })
        .await;
    }
}

//! Pipes that the engine opens to look up a step's user, and waits at for ever.

use std::{fmt::Write as _, fs, sync::Arc};

use tokio::net::UnixStream;

use crate::harness::{
    Engine, Test, Wharf, cases,
    engine::tool,
    image::{self, File},
    process::Background,
    wait_for,
};

cases![pipes_block_few_threads_of_the_engine];

const STAGES: usize = 100;
const BASE: &str = "busybox:1";

/// Many stages based on one stage, whose `/etc/passwd` is a pipe.
fn dockerfile() -> String {
    let mut text =
        format!("FROM {BASE} AS base\nRUN mkdir -p /etc && rm -f /etc/passwd && mkfifo /etc/passwd\n");
    let mut last = "FROM scratch\n".to_owned();
    for stage in 0..STAGES {
        let _ = write!(text, "FROM base AS s{stage}\nRUN echo {stage} >/stage\n");
        let _ = writeln!(last, "COPY --from=s{stage} /stage /{stage}");
    }
    text + &last
}

/// The number of threads of the engine's process.
async fn threads(engine: &Engine) -> usize {
    let peer = UnixStream::connect(engine.socket()).await.unwrap().peer_cred().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid().unwrap())).unwrap();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    threads.unwrap().trim().parse().unwrap()
}

/// On an engine of its own: its threads are never freed.
async fn pipes_block_few_threads_of_the_engine(test: Arc<Test>) {
    let (_, engine) = test.throw_away_engine().await;
    let wharfd = test.wharfd_on(&engine).await;
    let busybox = fs::read(tool("WHARF_BUSYBOX")).unwrap();
    let links = ["sh", "mkdir", "rm", "mkfifo"].map(|name| (format!("bin/{name}"), File::Link("busybox")));
    let links = links.iter().map(|(path, link)| (path.as_str(), link.clone()));
    let program = [("bin/busybox", File::Content(&busybox, 0o755))];
    let (repository, tag) = BASE.split_once(':').unwrap();
    engine.import(repository, tag, image::tar(program.into_iter().chain(links))).await;
    let hostile = test.context("hostile", &[("Dockerfile", &dockerfile())]);
    let job = Wharf::new(&test, &wharfd, "job#1");

    // The graph is refused before any step has run.
    let refused = job.build(&hostile, &[]).await.ended(3);
    let refused = refused.says(&["/etc/passwd", &STAGES.to_string(), "build single stages"]);
    assert!(!refused.stderr.contains("mkfifo"), "{refused}");
    assert!(threads(&engine).await < STAGES / 2);

    // Steps that look up nobody take the bridge's ports.
    let running = (0..STAGES).fold(format!("FROM {BASE} AS base\nUSER 0:0\n"), |text, stage| {
        format!("{text}FROM base AS s{stage}\nRUN echo {stage} >/stage\n")
    });
    let gathered = (0..STAGES).fold("FROM scratch\n".to_owned(), |text, stage| {
        format!("{text}COPY --from=s{stage} /stage /{stage}\n")
    });
    let running = test.context("running", &[("Dockerfile", &(running + &gathered))]);
    job.build(&running, &[]).await.ended(3).says(&[&STAGES.to_string(), "at the same time"]);

    let before = threads(&engine).await;
    let _bare = Background::start({
        let mut build = engine.buildx(&test.new_dir("bare"));
        build.arg(&hostile);
        build
    });
    wait_for("the engine to have a thread for each stage", async || {
        (threads(&engine).await >= before + STAGES * 9 / 10).then_some(())
    })
    .await;
}
